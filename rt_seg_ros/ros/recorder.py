"""Recording what is published, as it comes: serialised messages straight into a rosbag2."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from rt_seg_ros.bags import BagWriter
from rt_seg_ros.errors import in_words
from rt_seg_ros.ros import qos

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

_DEPTH = 100


class Recorder:
    """Subscribes to topics and writes every message, stamped with the time of its arrival.

    Nothing is lost on the way, and best-effort publishers are not heard. A message that cannot be written (a full
    disk) ends the recording; ``problem`` then says why.

    :param node: whose executor receives the messages
    :param writer: open for writing while this records
    :param topics: full names of topics with their message types
    """

    def __init__(self, node: Node, writer: BagWriter, topics: Mapping[str, type]) -> None:
        self._node = node
        self._writer = writer
        self._lock = threading.Lock()
        self._closed = False
        self.problem = ""
        self.counts: Counter[str] = Counter()
        self.subscriptions: dict[str, Subscription] = {}
        for topic, kind in topics.items():
            write = partial(self._write, topic, _type_name(kind))
            self.subscriptions[topic] = node.create_subscription(kind, topic, write, qos.keep_last(_DEPTH), raw=True)

    def _write(self, topic: str, kind: str, data: bytes) -> None:
        with self._lock:
            if self._closed or self.problem:
                return
            try:
                self._writer.write_raw(topic, kind, bytes(data), self._node.get_clock().now().nanoseconds)
            except Exception as error:  # the executor's thread is to live on
                self.problem = in_words(error)
                return
            self.counts[topic] += 1

    def unmatched(self) -> list[str]:
        """Return the topics that nobody publishes yet."""
        return [topic for topic in self.subscriptions if not self._node.count_publishers(topic)]

    def close(self) -> None:
        """Stop recording; the writer stays open, and nothing is written to it any more."""
        with self._lock:
            self._closed = True
        for subscription in self.subscriptions.values():
            self._node.destroy_subscription(subscription)
        self.subscriptions = {}


def _type_name(kind: type) -> str:
    package = kind.__module__.split(".")[0]
    return f"{package}/msg/{kind.__name__}"
