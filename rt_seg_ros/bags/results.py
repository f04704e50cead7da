"""What the node would publish, written into a recording: label, overlay, confidence, masks, label info, statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags.types import CLASS_MASKS, LABEL_INFO, STATS
from rt_seg_ros.bags.writer import BagWriter
from rt_seg_ros.labels import UNLABELLED, LabelSpace
from rt_seg_ros.masks import ClassMask, class_masks

DEFAULT_NAMESPACE = "/segmentation"

_NO_STATS: dict[str, Any] = {
    **dict.fromkeys(("camera", "model", "label_space", "backend", "device", "precision"), ""),
    **dict.fromkeys(("image_height", "image_width", "working_height", "working_width"), 0),
    **dict.fromkeys(("decode_ms", "wait_ms", "preprocess_ms", "network_ms", "postprocess_ms", "publish_ms"), 0.0),
    **{"total_ms": 0.0, "age_ms": math.nan},  # nothing was published
    **dict.fromkeys(("received", "processed", "dropped", "rejected"), 0),
}


class ResultTopics:
    """The node's topics in a recording, under the node's names.

    :param writer: open for writing
    :param threshold: confidence below which pixels were left unlabelled, 0 to 1
    """

    def __init__(self, writer: BagWriter, space: LabelSpace, threshold: float = 0.0) -> None:
        self._writer = writer
        self._space = space
        self._threshold = threshold
        self._begun = False

    def add(
        self,
        stamp_ns: int,
        frame_id: str,
        labels: NDArray[np.uint8],
        overlay: NDArray[np.uint8] | None = None,
        confidence: NDArray[np.uint8] | None = None,
        stats: Mapping[str, Any] | None = None,
        recorded_ns: int | None = None,
    ) -> None:
        """Write one frame's results.

        :param stamp_ns: stamp of the image that they belong to
        :param frame_id: frame id of that image
        :param labels: uint8 (H, W), 255 where unlabelled
        :param overlay: uint8 (H, W, 3), BGR
        :param confidence: uint8 (H, W)
        :param stats: fields of SegmentationStats by name; those that are not given are empty or 0, and the age NaN
        :param recorded_ns: time of recording, where it is not the stamp
        :raises UserError: if the disk does not take it
        """
        writer, name = self._writer, DEFAULT_NAMESPACE
        recorded = stamp_ns if recorded_ns is None else recorded_ns
        self.add_label_info(stamp_ns, frame_id, recorded)
        writer.add_label(f"{name}/label", stamp_ns, frame_id, labels, recorded)
        if overlay is not None:
            writer.add_image(f"{name}/overlay", stamp_ns, frame_id, overlay, "bgr8", recorded)
        if confidence is not None:
            writer.add_image(f"{name}/confidence", stamp_ns, frame_id, confidence, "mono8", recorded)
        height, width = labels.shape
        masks = writer.message(
            CLASS_MASKS,
            header=writer.header(stamp_ns, frame_id),
            height=height,
            width=width,
            masks=[self._mask(mask) for mask in class_masks(labels, self._space)],
        )
        writer.write(f"{name}/class_masks", masks, recorded)
        if stats is not None:
            header = writer.header(stamp_ns, frame_id)
            writer.write(f"{name}/stats", writer.message(STATS, header=header, **{**_NO_STATS, **stats}), recorded)

    def add_label_info(self, stamp_ns: int, frame_id: str, recorded_ns: int) -> None:
        """Write the names of the classes, the first time that this is called."""
        if not self._begun:
            self._begun = True
            info = label_info(self._writer, self._space, stamp_ns, frame_id, self._threshold)
            self._writer.write(f"{DEFAULT_NAMESPACE}/label_info", info, recorded_ns, latched=True)

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


def label_info(writer: BagWriter, space: LabelSpace, stamp_ns: int, frame_id: str, threshold: float = 0.0) -> Any:
    """Return the message that tells the names of the classes."""
    names = [(entry.id, entry.name) for entry in space.classes]
    classes = [
        writer.message("vision_msgs/msg/VisionClass", class_id=number, class_name=name)
        for number, name in [*names, (UNLABELLED, "unlabelled")]
    ]
    header = writer.header(stamp_ns, frame_id)
    return writer.message(LABEL_INFO, header=header, class_map=classes, threshold=threshold)
