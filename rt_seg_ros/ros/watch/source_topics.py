"""Where a node's cameras have their images from: by what it subscribes to, and as its parameters say."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import Parameter

from rt_seg_ros.log import get_logger
from rt_seg_ros.ros import names
from rt_seg_ros.ros.watch.followed_images import image_topics
from rt_seg_ros.ros.watch.node_services import NodeServices

if TYPE_CHECKING:
    from rclpy.node import Node

_log = get_logger(__name__)

#: What a node tells them by: where it changes, :meth:`SourceTopics.forget` is due.
CAMERA_PARAMETERS = ("camera_topics", "camera_names")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # s until a node is asked again that did not tell a camera's topic
_COMPRESSED = "/compressed"


@dataclass(frozen=True)
class _Told:
    """What a node's parameters and subscriptions told of its cameras' topics.

    :param of: what was known of the node then: once that is another, it is asked again
    :param topics: by camera, as far as they could be told
    :param misses: how often in a row they could not
    :param again: when to ask again for what is missing, by ``time.monotonic()``
    """

    of: tuple[Any, ...]
    topics: dict[str, str]
    misses: int = 0
    again: float = 0.0


class SourceTopics:
    """The topics of a node's cameras, for the graph's thread; the node is asked on a thread of its own.

    :param node: looks at the graph
    :param name: full name of the node whose cameras they are
    """

    def __init__(self, node: Node, name: str, services: NodeServices) -> None:
        self._node = node
        self._name = name
        self._services = services
        self._compressed: set[str] = set()  # base topics of which the node takes compressed images
        self._appearance = 0  # counts what may have changed the cameras' topics
        self._told: _Told | None = None
        self._asking: threading.Thread | None = None

    def find(self, camera: str, cameras: Collection[str]) -> tuple[str, bool]:
        """Return the base topic of a camera's images, and whether the node takes them compressed.

        The node is asked where there are several cameras: until it has answered the topic is "", as where nothing
        tells it.

        :param cameras: the names of all that the node has
        """
        subscribed = self._subscribed()
        if len(cameras) == 1:
            topic = subscribed[0] if len(subscribed) == 1 else ""
        else:
            topic = self._told_topic(camera, cameras, subscribed)
        return topic, topic in self._compressed

    def forget(self) -> None:
        """Take what the node told for no longer true."""
        self._appearance += 1

    def join(self) -> None:
        """Wait until a node that is being asked has answered, or is given up, as where the services are closed."""
        asking = self._asking
        if asking is not None:
            asking.join()

    def _subscribed(self) -> list[str]:
        """Return the base topics of the images that the node subscribes to, in order."""
        namespace, name = names.split_name(self._name)
        try:
            found = image_topics(self._node.get_subscriber_names_and_types_by_node(name, namespace))
        except Exception:  # rclpy has an error of its own for a node that is not there, which Humble names otherwise
            return []
        self._compressed = {topic.removesuffix(_COMPRESSED) for topic in found if topic.endswith(_COMPRESSED)}
        return sorted({topic.removesuffix(_COMPRESSED) for topic in found})

    def _told_topic(self, camera: str, cameras: Collection[str], subscribed: Sequence[str]) -> str:
        """Return what the node told; have it asked where that is due."""
        of = self._appearance, tuple(cameras), tuple(subscribed)
        told = self._told
        if told is None or told.of != of:
            told = _Told(of, {})
        is_asked = self._asking is not None and self._asking.is_alive()
        is_due = camera not in told.topics and time.monotonic() >= told.again
        if is_due and not is_asked and not self._services.closed:
            arguments = told, list(cameras), list(subscribed)
            self._asking = threading.Thread(target=self._ask, args=arguments, name="parameters", daemon=True)
            self._asking.start()
        return told.topics.get(camera, "")

    def _ask(self, told: _Told, cameras: list[str], subscribed: list[str]) -> None:
        """Learn the cameras' topics from the node's parameters; on a thread of its own.

        :param told: what was known before
        """
        topics: dict[str, str] = {}
        try:
            request = GetParameters.Request(names=list(CAMERA_PARAMETERS))
            values = self._services.call(GetParameters, "get_parameters", request).values
            given_topics, given_names = (
                Parameter.from_parameter_msg(ParameterMsg(name="", value=value)).value or [] for value in values
            )
            topics = _matched(
                cameras,
                subscribed,
                [names.expanded(topic, self._name) for topic in given_topics],
                [name for name in given_names if name],
            )
        except Exception:  # it does not answer, is another kind of node, or this one is leaving
            _log.debug("%s does not tell its cameras' topics", self._name, exc_info=True)
        misses = 0 if topics.keys() >= set(cameras) else told.misses + 1
        pause = min(_FIRST_PAUSE * 2.0 ** min(misses - 1, 10), _LONGEST_PAUSE) if misses else 0.0
        self._told = _Told(told.of, topics, misses, time.monotonic() + pause)


def _matched(
    cameras: Collection[str], subscribed: Collection[str], topics: Sequence[str], given: Sequence[str]
) -> dict[str, str]:
    """Return the topic of each camera, as far as it can be told; a node may have been started with remapped topics.

    :param cameras: their names, as the node has them
    :param subscribed: topics of images that it subscribes to
    :param topics: as its parameters have them; ``given``: the names that they give, or none
    :raises UserError: where the parameters contradict each other
    """
    found = dict(zip(names.camera_names(topics, given), topics, strict=True))
    if subscribed:
        found = {name: topic for name, topic in found.items() if name in cameras and topic in subscribed}
        if not given and len(subscribed) == len(cameras):  # the node makes names of remapped topics
            found = {**dict(zip(names.camera_names(list(subscribed)), subscribed, strict=True)), **found}
    result = {name: topic for name, topic in found.items() if name in cameras}
    left = [name for name in cameras if name not in result], [one for one in subscribed if one not in result.values()]
    if len(left[0]) == len(left[1]) == 1:
        result[left[0][0]] = left[1][0]
    return result
