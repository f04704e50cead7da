"""A topic's images for the live view, raw or compressed, of whatever type and reliability it has just now.

It takes what the graph has at each look, and a change may cost images: a node's own way to its cameras, which loses
none, is :mod:`rt_seg_ros.ros.image_subscription`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import CompressedImage, Image

from rt_seg_ros.images import Frame, Read
from rt_seg_ros.ros import conversions, qos
from rt_seg_ros.ros.watch.status import Pace

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

# What an image may come as, and how it is decoded.
_TYPES: dict[str, tuple[type, Callable[[Any], Frame]]] = {
    "sensor_msgs/msg/Image": (Image, conversions.frame_from_image),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, conversions.frame_from_compressed_image),
}


def image_topics(topics: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the names of those topics that carry images, in order.

    :param topics: names and types, as rclpy has them
    """
    return sorted(topic for topic, types in topics if set(types) & _TYPES.keys())


class FollowedImages:
    """A subscription to images that follows the topic's publishers in type and reliability.

    :param topic: there may be ``TOPIC/compressed`` beside it
    :param take: is handed each message, and what decodes it
    """

    def __init__(self, node: Node, topic: str, take: Callable[[Any, Read], None]) -> None:
        self._node = node
        self._take = take
        self._subscription: Subscription | None = None
        self._subscribed: tuple[str, str, Any] | None = None  # topic, type and reliability
        self.topic = topic
        self.pace = Pace()

    def follow(self, compressed_first: bool = False) -> bool:
        """Subscribe, or subscribe anew where the publishers have changed; return whether there are any."""
        topics = self.topic, f"{self.topic}/compressed"
        for topic in reversed(topics) if compressed_first else topics:
            publishers = [p for p in self._node.get_publishers_info_by_topic(topic) if p.topic_type in _TYPES]
            if publishers:
                reliability, _ = qos.match(publishers)
                self._subscribe(topic, publishers[0].topic_type, reliability)
                return True
        return False

    def leave(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribed = None

    def _subscribe(self, topic: str, kind: str, reliability: Any) -> None:
        wanted = (topic, kind, reliability)
        if self._subscribed == wanted:
            return
        self.leave()
        message_type, decode = _TYPES[kind]
        callback = partial(self._on_message, decode)
        profile = qos.sensor_data(reliability)
        self._subscription = self._node.create_subscription(message_type, topic, callback, profile)
        self._subscribed = wanted
        self.pace.begin()

    def _on_message(self, decode: Callable[[Any], Frame], message: Any) -> None:
        self.pace.came()
        self._take(message, partial(decode, message))
