"""What recordings without their end have in common, whatever their storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from rosbags.interfaces import MessageDefinition, Qos
from rosbags.rosbag2.metadata import parse_qos


@dataclass(frozen=True)
class Channel:
    """A topic as a storage file has it; ``qos``: the profiles under which it was recorded."""

    topic: str
    type: str
    definition: MessageDefinition
    encoding: str
    qos: Collection[Qos] = ()


class Torn(ABC):
    """A file without its end: ``channels`` by id, ``counts`` by topic, first and last time of recording in ns."""

    channels: dict[int, Channel]
    counts: dict[str, int]
    first_ns: int = 0
    last_ns: int = 0

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, time of recording in ns, serialised message) until the file breaks off."""

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, type, time of recording in ns, message as CDR) in the order of the file.

        :param topics: those wanted; None yields all
        """
        for number, stamp, data in self.rows():
            channel = self.channels.get(number)
            if channel is not None and channel.encoding == "cdr" and (topics is None or channel.topic in topics):
                yield channel.topic, channel.type, stamp, data

    def _survey(self) -> None:
        """Go through the file once for its counts and times."""
        counts: Counter[str] = Counter()
        first = last = None
        for topic, _, stamp, _ in self.messages():
            counts[topic] += 1
            first = stamp if first is None else min(first, stamp)
            last = stamp if last is None else max(last, stamp)
        self.counts = counts
        self.first_ns, self.last_ns = first or 0, last or 0


def qos_profiles(text: str) -> Collection[Qos]:
    """Return the QoS profiles that a storage file has as YAML; none where they make no sense."""
    try:
        return parse_qos(text)
    except Exception:  # it fails in many ways, and the messages can be read without
        return ()
