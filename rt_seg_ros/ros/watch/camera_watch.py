"""Looking on a camera's topic, for the live view: subscribed to only while somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType

from rt_seg_ros.images import Read
from rt_seg_ros.ros import conversions
from rt_seg_ros.ros.graph import GraphThread
from rt_seg_ros.ros.watch.followed_images import FollowedImages, image_topics
from rt_seg_ros.ros.watch.status import LOOK_PERIOD, Status, Teller


class CameraWatch:
    """Follows a camera's topic, and waits for it where it is not there yet.

    :param topic: of Image or CompressedImage; where there is none of this name, ``TOPIC/compressed``
    :param take: is handed each image's stamp (ns), its frame_id, and what decodes it
    :param tell: is told ``running`` or ``waiting``, and why
    :param wanted: whether anybody watches
    """

    def __init__(
        self,
        graph: GraphThread,
        topic: str,
        take: Callable[[int, str, Read], None],
        tell: Status,
        wanted: Callable[[], bool],
    ) -> None:
        self._node = graph.node
        self._hand_on = take
        self._tell = Teller(tell)
        self._wanted = wanted
        self._images = FollowedImages(self._node, topic, self._on_image)
        self._node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_image(self, message: Any, read: Read) -> None:
        self._hand_on(conversions.stamp_nanoseconds(message.header), message.header.frame_id, read)

    def _look(self) -> None:
        if not self._wanted():
            self._images.leave()
            return
        topic = self._images.topic
        if not self._images.follow():
            self._images.leave()
            others = image_topics(self._node.get_topic_names_and_types())
            listing = "\n".join(["Image topics there are:", *others]) if others else "There is no image topic at all."
            self._tell("waiting", f"Nobody publishes images on {topic} yet. {listing}")
        elif self._images.pace.ceased:
            self._tell("waiting", f"{topic} has a publisher, but no image comes.")
        else:
            self._tell("running", "")
