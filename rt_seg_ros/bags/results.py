"""What the node would publish, written into a recording: label, overlay, confidence, class masks, label info."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags.types import CLASS_MASKS, LABEL_INFO
from rt_seg_ros.bags.writer import BagWriter
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.masks import ClassMask, class_masks

DEFAULT_NAMESPACE = "/segmentation"


class ResultTopics:
    """The node's topics in a recording, under the node's names.

    :param writer: open for writing
    :param namespace: the node's full name, under which its topics lie
    :param threshold: confidence below which pixels were left unlabelled, 0 to 1
    """

    def __init__(
        self, writer: BagWriter, space: LabelSpace, namespace: str = DEFAULT_NAMESPACE, threshold: float = 0.0
    ) -> None:
        self._writer = writer
        self._space = space
        self._namespace = namespace.rstrip("/")
        self._threshold = threshold
        self._begun = False

    def add(
        self,
        stamp_ns: int,
        frame_id: str,
        labels: NDArray[np.uint8],
        overlay: NDArray[np.uint8] | None = None,
        confidence: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write one frame's results.

        :param stamp_ns: stamp of the image that they belong to
        :param frame_id: frame id of that image
        :param labels: uint8 (H, W), 255 where unlabelled
        :param overlay: uint8 (H, W, 3), BGR
        :param confidence: uint8 (H, W)
        :raises UserError: if the disk does not take it
        """
        writer, name = self._writer, self._namespace
        if not self._begun:
            self._begun = True
            writer.write(f"{name}/label_info", self._label_info(stamp_ns, frame_id), stamp_ns, latched=True)
        writer.add_label(f"{name}/label", stamp_ns, frame_id, labels)
        if overlay is not None:
            writer.add_image(f"{name}/overlay", stamp_ns, frame_id, overlay, "bgr8")
        if confidence is not None:
            writer.add_image(f"{name}/confidence", stamp_ns, frame_id, confidence, "mono8")
        height, width = labels.shape
        masks = writer.message(
            CLASS_MASKS,
            header=writer.header(stamp_ns, frame_id),
            height=height,
            width=width,
            masks=[self._mask(mask) for mask in class_masks(labels, self._space)],
        )
        writer.write(f"{name}/class_masks", masks, stamp_ns)

    def _mask(self, mask: ClassMask) -> Any:
        x, y, width, height = mask.box
        box = self._writer.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=x, y_offset=y, height=height, width=width, do_rectify=False
        )
        return self._writer.message(
            "rt_seg_ros/msg/ClassMask",
            id=mask.id,
            name=mask.name,
            pixel_count=mask.pixel_count,
            bounding_box=box,
            runs=mask.runs,
        )

    def _label_info(self, stamp_ns: int, frame_id: str) -> Any:
        writer = self._writer
        classes = [
            writer.message("vision_msgs/msg/VisionClass", class_id=entry.id, class_name=entry.name)
            for entry in self._space.classes
        ]
        header = writer.header(stamp_ns, frame_id)
        return writer.message(LABEL_INFO, header=header, class_map=classes, threshold=self._threshold)
