"""Publishes a recording: in its own rhythm or at another rate, once or again and again.

Messages go out as they lie in the recording, without being decoded. By default a message that begins with a
std_msgs/Header gets a new stamp: the time at which it is due now. One recorded stamp becomes one new stamp, so an
image, its calibration and its labels still match, and what subscribes can tell how old a message is. A message
without a stamp (0) gets the time at which it is due itself. Stamps inside messages without a header of their own
(/tf) stay as they are.

What scores published labels against the recording needs the old stamps again: see ``on_published``.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException

from rt_seg_ros.bags.cdr import restamped, stamp_of
from rt_seg_ros.bags.reader import BagReader
from rt_seg_ros.errors import UserError
from rt_seg_ros.overlap import prefetch
from rt_seg_ros.ros import qos

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher

_DEPTH = 10
_NANO = 1_000_000_000
_SETTLE = 1.0
_ALONE = 1.0  # s between two rounds of a recording that has no topic with a rhythm
_LOOK = 100  # images in which the first stamp is looked for
_STEP = 60 * _NANO  # a stamp that is so much farther from its time of recording than those before is by another clock
_CLOCKS = 16  # kept at most
_LATEST = (1 << 31) * _NANO - 1  # seconds of a stamp are an int32

#: Called with (topic, recorded stamp, published stamp), in nanoseconds, for each message that has a header; the
#: recorded one is the time of recording where the message has none.
OnPublished = Callable[[str, int, int], None]


@dataclass
class Playback:
    """What was published: messages by topic, seconds it took, and by how much the latest message was late (s)."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    latest: float = 0.0


class Player:
    """A recording's topics as publishers on a node. They are reliable, so nothing is lost on the way.

    :param topics: those to publish; None: all
    :param rate: times the recording's own speed
    :param keep_stamps: leave stamps as recorded
    :param distinct: give no two messages of a topic the same new stamp: where they had the same, the next is later
        by a nanosecond
    :raises UserError: for a topic that the recording does not have, or none that can be published
    """

    def __init__(
        self,
        node: Node,
        bag: BagReader,
        topics: Collection[str] | None = None,
        rate: float = 1.0,
        keep_stamps: bool = False,
        distinct: bool = False,
    ) -> None:
        if not rate > 0:
            raise UserError(f"rate is {rate}; expected a number above 0")
        for topic in topics or ():
            if topic not in bag.topics:
                raise UserError(f"{bag.path} has no topic '{topic}'; it has: {', '.join(sorted(bag.topics))}")
        self._node = node
        self._bag = bag
        self._rate = rate
        self._keep_stamps = keep_stamps
        self._distinct = distinct
        self._publishers: dict[str, Publisher] = {}
        self._stamped: set[str] = set()
        #: Topics that cannot be published, with the reason.
        self.left_out: dict[str, str] = {}
        for topic, info in bag.topics.items():
            if info.count and (topics is None or topic in topics):
                self._add(topic, info.type)
        if not self._publishers:
            reasons = "; ".join(f"{topic}: {reason}" for topic, reason in self.left_out.items())
            raise UserError(f"{bag.path} has nothing to publish{f' ({reasons})' if reasons else ''}")

    def _add(self, topic: str, kind: str) -> None:
        package, _, name = kind.partition("/msg/")
        try:
            message_type = getattr(importlib.import_module(f"{package}.msg"), name)
        except (ImportError, AttributeError):
            self.left_out[topic] = f"{kind} is not installed"
            return
        durability = qos.TRANSIENT_LOCAL if self._bag.is_latched(topic) else qos.VOLATILE
        profile = qos.keep_last(_DEPTH, durability=durability)
        try:
            self._publishers[topic] = self._node.create_publisher(message_type, topic, profile)
        except InvalidTopicNameException as error:  # other writers of recordings allow it
            self.left_out[topic] = f"ROS 2 does not allow its name: {str(error).splitlines()[0].rstrip(':')}"
            return
        if begins_with_header(message_type):
            self._stamped.add(topic)

    @property
    def topics(self) -> list[str]:
        """Return the topics that are published."""
        return list(self._publishers)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers = {}

    def wait_for_subscribers(self, timeout: float, stop: threading.Event | None = None) -> bool:
        """Wait until somebody subscribes to an image, or to anything where there are none, and no more join.

        :param timeout: seconds
        :return: whether somebody does
        """
        stop = stop or threading.Event()
        images = [t for t in self._publishers if self._bag.topics[t].is_image]
        awaited = [self._publishers[t] for t in images or self._publishers]
        deadline = time.monotonic() + timeout
        present, since = 0, time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            subscribers = sum(publisher.get_subscription_count() for publisher in awaited)
            if subscribers != present:
                present, since = subscribers, now
            if present and now - since >= _SETTLE:
                return True
            if now >= deadline:
                return present > 0
            stop.wait(0.05)
        return False

    def play(
        self,
        loop: bool = False,
        stop: threading.Event | None = None,
        on_published: OnPublished | None = None,
    ) -> Playback:
        """Publish the recording.

        :param loop: begin again at its end, until ``stop`` is set
        :raises UserError: where the recording turns out to be damaged
        """
        stop = stop or threading.Event()
        playback = Playback()
        ahead = self._images_ahead()
        begin = time.monotonic()
        try:
            while not stop.is_set():
                period = self._play_once(playback, ahead, stop, on_published)
                if not loop:
                    break
                # The first message of another round follows the last of this one at the usual distance.
                stop.wait(period)
        finally:
            playback.seconds = time.monotonic() - begin
        return playback

    def _play_once(
        self, playback: Playback, ahead: int | None, stop: threading.Event, on_published: OnPublished | None
    ) -> float:
        """Publish each message once; return the usual distance of two messages as they are played (s)."""
        clock: _Timeline | None = None
        counts: Counter[str] = Counter()
        taken: dict[str, set[int]] = {topic: set() for topic in self._publishers}  # stamps, where they are distinct
        span: dict[str, tuple[int, int]] = {}  # times of recording of each topic's first and last message (ns)
        for topic, _, recorded, data in self._messages():
            stamped = topic in self._stamped
            if clock is None:
                now = self._node.get_clock().now().nanoseconds
                clocks = [] if ahead is None else [_Clock(ahead, ahead)]
                clock = _Timeline(recorded, time.monotonic(), now, self._rate, clocks)
            wait = clock.due(recorded) - time.monotonic()
            if stop.wait(max(wait, 0.0)):
                return 0.0
            playback.latest = max(playback.latest, -wait)
            old = stamp_of(data) if stamped else 0
            new = old
            if stamped and not self._keep_stamps:
                new = clock.stamp(old, recorded)
                if self._distinct:
                    while new in taken[topic]:
                        new += 1
                    taken[topic].add(new)
            self._publishers[topic].publish(bytes(data) if new == old else restamped(data, new))
            playback.counts[topic] += 1
            counts[topic] += 1
            span[topic] = span.get(topic, (recorded, 0))[0], recorded
            if stamped and on_published is not None:
                on_published(topic, old or recorded, new)
        for topic, count in counts.most_common():
            first, last = span[topic]
            if count > 1 and last > first:
                return (last - first) / _NANO / (count - 1) / self._rate
        return _ALONE / self._rate

    def _messages(self) -> Iterator[tuple[str, str, int, bytes]]:
        return prefetch(self._bag.raw_messages(list(self._publishers)), depth=8)

    def _images_ahead(self) -> int | None:
        """Return how far the images' clock is ahead of the times of recording (ns); None where they have no stamps.

        By this clock stamps are due, whatever else is recorded before the first image.
        """
        images = [topic for topic in self._bag.image_topics() if topic in self._publishers]
        for _, _, recorded, data in islice(self._bag.raw_messages(images) if images else (), _LOOK):
            if stamp := stamp_of(data):
                return stamp - recorded
        return None

    def wait_until_received(self, timeout: float) -> None:
        """Give reliable subscribers time to acknowledge the last messages.

        :param timeout: seconds
        """
        deadline = time.monotonic() + timeout
        for publisher in self._publishers.values():
            left = max(deadline - time.monotonic(), 0.0)
            if hasattr(publisher, "wait_for_all_acked"):
                publisher.wait_for_all_acked(Duration(nanoseconds=int(left * _NANO)))


@dataclass
class _Clock:
    """A clock that stamps are by: how far it was ahead of the time of recording (ns), at first and at last."""

    first: int
    last: int


@dataclass
class _Timeline:
    """When a recording's messages are due, and what their stamps become.

    :param first: time of recording of the first message (ns)
    :param begin: when it is published, by ``time.monotonic()`` (s)
    :param now: the same by the node's clock (ns)
    :param clocks: those that stamps are known to be by; those of others are added as they come
    """

    first: int
    begin: float
    now: int
    rate: float
    clocks: list[_Clock]

    def due(self, recorded: int) -> float:
        return self.begin + (recorded - self.first) / _NANO / self.rate

    def stamp(self, old: int, recorded: int) -> int:
        """Return what a stamp becomes, by the node's clock."""
        if not old:
            return self._by_node(recorded)
        # Stamps may be by another clock than the times of recording, by several (a sensor counts from when it was
        # switched on), or by one that is set on the way: each counts from when the first of its messages is due.
        ahead = old - recorded
        for clock in self.clocks:
            if abs(ahead - clock.last) < _STEP:
                clock.last = ahead
                return self._by_node(old - clock.first)
        if len(self.clocks) < _CLOCKS:
            self.clocks.append(_Clock(ahead, ahead))
        return self._by_node(recorded)

    def _by_node(self, recorded: int) -> int:
        return min(max(0, self.now + round((recorded - self.first) / self.rate)), _LATEST)


def begins_with_header(message_type: Any) -> bool:
    """Return whether a message type's first field is a std_msgs/Header."""
    fields = message_type.get_fields_and_field_types()
    return bool(fields) and next(iter(fields.values())) == "std_msgs/Header"
