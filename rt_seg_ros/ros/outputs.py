"""What is published of one camera. Each output is computed only while somebody subscribes to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from rt_seg_ros import masks
from rt_seg_ros.drawing import Painter
from rt_seg_ros.images import Frame
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.msg import ClassMasks, SegmentationStats
from rt_seg_ros.pipeline import Segmentation
from rt_seg_ros.resampling import resize_pixels
from rt_seg_ros.ros import messages, qos
from rt_seg_ros.ros.names import full_name

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher


#: Outputs that are published frame by frame, with their types; docs/contributing.md says what else names them.
_TYPES: dict[str, type] = {
    "label": Image,
    "label/compressed": CompressedImage,
    "confidence": Image,
    "overlay": Image,
    "class_masks": ClassMasks,
    "camera_info": CameraInfo,
}


@dataclass(frozen=True)
class Drawing:
    """How the overlay is drawn."""

    alpha: float = 0.5
    legend: bool = True


@dataclass(frozen=True)
class Wanted:
    """Outputs that somebody subscribes to, by name; ``masks`` by class id."""

    names: frozenset[str] = frozenset()
    masks: Mapping[int, Any] = field(default_factory=dict)
    stats: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __bool__(self) -> bool:
        return bool(self.names or self.masks or self.stats)


class Outputs:
    """The publishers of one camera.

    Publishers come and go on the executor's thread, frames are published from the worker's: a lock keeps one from
    being destroyed under the other.

    :param prefix: ``~`` or ``~/<camera>``
    """

    def __init__(self, node: Node, prefix: str) -> None:
        self._node = node
        self._prefix = prefix
        self._lock = threading.Lock()
        self._publishers: dict[str, Publisher] = {}
        self._masks: dict[int, Publisher] = {}
        self._space: LabelSpace | None = None
        self._label_info: Publisher | None = None
        self._painter: Painter | None = None
        self._stats: Publisher | None = None
        try:
            self._stats = self._create(SegmentationStats, "stats", qos.sensor_data(qos.RELIABLE))  # small, and counted
            for name, kind in _TYPES.items():
                self._publishers[name] = self._create(kind, name)
            info_type = messages.label_info_type()
            if info_type is not None:
                self._label_info = self._create(info_type, "label_info", qos.latched())
        except BaseException:  # a quality of service that cannot be had
            self.close()
            raise

    def _create(self, kind: type, name: str, profile: Any = None) -> Publisher:
        topic = f"{self._prefix}/{name}"
        base, _, transport = topic.rpartition("/")
        resolve = self._node.resolve_topic_name
        if transport == "compressed" and resolve(topic) == resolve(topic, only_expand=True):
            topic = f"{resolve(base)}/compressed"  # as image_transport has it, where the base is remapped
        options = qos.overriding(self._node, self._node.resolve_topic_name(topic), "publisher")
        return self._node.create_publisher(kind, topic, profile or qos.sensor_data(), qos_overriding_options=options)

    def _all(self) -> Iterator[Publisher]:
        if self._stats is not None:
            yield self._stats
        yield from self._publishers.values()
        yield from self._masks.values()
        if self._label_info is not None:
            yield self._label_info

    def topics(self) -> list[str]:
        """Return the full names of all topics."""
        return [publisher.topic_name for publisher in self._all()]

    def remarks(self) -> list[str]:
        """Return which subscriptions get nothing for their quality of service, as far as the graph tells."""
        result = []
        for publisher in self._all():
            topic = publisher.topic_name
            if self._node.count_subscribers(topic) <= publisher.get_subscription_count():
                continue  # which costs less to ask
            # By the name that it was given: this one is remapped.
            for other in self._node.get_subscriptions_info_by_topic(publisher.topic):
                reason = self._mismatch(publisher, other)
                if reason:
                    who = full_name(other.node_namespace, other.node_name)
                    result.append(f"{who} gets nothing of {topic}, QoS does not match: {reason} (see qos_overrides)")
        return result

    def _mismatch(self, publisher: Publisher, subscription: Any) -> str:
        me = self._node.get_name(), self._node.get_namespace()
        for info in self._node.get_publishers_info_by_topic(publisher.topic):
            # As the graph has it: a publisher's own profile has other words for what it does not limit.
            if (info.node_name, info.node_namespace) == me:
                return qos.mismatch(info.qos_profile, subscription.qos_profile)
        return ""

    def announce(self, space: LabelSpace, threshold: float, tokens: Mapping[int, str]) -> None:
        """Tell the names of the classes (where vision_msgs is installed), and publish labels of no other space.

        :param threshold: confidence below which a pixel has no label
        :param tokens: classes that have a mask: by id, part of the topic's name
        """
        with self._lock:
            self._space = space
            if self._label_info is not None:
                header = Header(stamp=self._node.get_clock().now().to_msg())
                self._label_info.publish(messages.label_info(header, space, threshold))
            wanted = {i: self._node.resolve_topic_name(f"{self._prefix}/mask/{t}") for i, t in tokens.items()}
            for class_id in [i for i, p in self._masks.items() if wanted.get(i) != p.topic_name]:
                self._node.destroy_publisher(self._masks.pop(class_id))
            for class_id, token in tokens.items():
                if class_id not in self._masks:
                    self._masks[class_id] = self._create(Image, f"mask/{token}")

    def close(self) -> None:
        """Destroy all publishers."""
        with self._lock:
            for publisher in self._all():
                self._node.destroy_publisher(publisher)
            self._publishers = {}
            self._masks = {}
            self._stats = self._label_info = None

    def wanted(self, calibration: bool = True) -> Wanted:
        """Return the outputs that have a subscriber now.

        :param calibration: ``camera_info`` is published; otherwise its subscribers do not count
        """
        with self._lock:
            return Wanted(
                frozenset(
                    name
                    for name, p in self._publishers.items()
                    if (calibration or name != "camera_info") and p.get_subscription_count()
                ),
                {i: p for i, p in self._masks.items() if p.get_subscription_count()},
                self._stats is not None and bool(self._stats.get_subscription_count()),
            )

    def publish(
        self,
        wanted: Wanted,
        header: Header,
        frame: Frame,
        result: Segmentation,
        space: LabelSpace,
        drawing: Drawing,
        info: CameraInfo | None = None,
    ) -> bool:
        """Publish what is wanted of one frame; what other nodes wait for goes first, what people look at last.

        :param header: the source's
        :param info: calibration of the source, where labels are not at its size
        :return: False for a frame that was in the network while the label space changed: nothing is published, for
            who looks up its ids in ``label_info`` would find other classes
        """
        labels = result.labels
        with self._lock:
            if self._space is not None and self._space != space:
                return False
            if "label" in wanted:
                self._send("label", messages.image(header, labels, "mono8"))
            if "confidence" in wanted and result.confidence is not None:
                self._send("confidence", messages.image(header, result.confidence, "mono8"))
            if "camera_info" in wanted and info is not None:
                self._send(
                    "camera_info", messages.scaled_camera_info(info, header, (frame.height, frame.width), *labels.shape)
                )
            for class_id, mask in wanted.masks.items():
                if mask in self._masks.values():  # else it was destroyed meanwhile
                    mask.publish(messages.image(header, masks.binary_mask(labels, class_id), "mono8"))
            if "class_masks" in wanted:
                self._send("class_masks", messages.class_masks(header, labels, space))
            if "label/compressed" in wanted:
                self._send("label/compressed", messages.png(header, labels))
            if "overlay" in wanted:
                self._send("overlay", self._overlay(header, frame, labels, space, drawing))
        return True

    def publish_stats(self, stats: SegmentationStats) -> None:
        """Publish what the frame cost."""
        with self._lock:
            if self._stats is not None:
                self._stats.publish(stats)

    def _send(self, name: str, message: Any) -> None:
        publisher = self._publishers.get(name)
        if publisher is not None:
            publisher.publish(message)

    def _overlay(
        self, header: Header, frame: Frame, labels: NDArray[np.uint8], space: LabelSpace, drawing: Drawing
    ) -> Image:
        painter = self._painter
        asked = space, drawing.alpha, drawing.legend
        if painter is None or (painter.space, painter.alpha, painter.legend) != asked:
            # A class stays in the legend for a second or so after it was last seen: no flicker.
            painter = self._painter = Painter(*asked, linger=10)
        picture = frame.bgr()
        if picture.shape[:2] != labels.shape:
            picture = resize_pixels(picture, (labels.shape[0], labels.shape[1]))
        message, canvas = messages.canvas(header, *labels.shape)
        painter.overlay(picture, labels, canvas)
        return message
