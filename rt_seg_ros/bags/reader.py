"""Reading rosbag2 recordings: sqlite3 and mcap, compressed by message or by file, whole or cut off."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError

from rt_seg_ros.bags import torn_sqlite
from rt_seg_ros.bags.torn import Channel
from rt_seg_ros.bags.torn_mcap import TornMcap
from rt_seg_ros.bags.torn_sqlite import TornSqlite
from rt_seg_ros.bags.types import COMPRESSED_IMAGE, IMAGE, typestore_for
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected, frame_from_compressed, frame_from_ros
from rt_seg_ros.label_images import label_pixels
from rt_seg_ros.recordings import PACKED_SUFFIX, is_storage_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TopicInfo:
    """A topic of a bag: its message type and how many messages it has."""

    type: str
    count: int

    @property
    def is_image(self) -> bool:
        """Whether its messages are images, raw or compressed."""
        return self.type in (IMAGE, COMPRESSED_IMAGE)


class BagImage(NamedTuple):
    """An image of a bag: stamp of its header in nanoseconds, frame_id, pixels."""

    stamp_ns: int
    frame_id: str
    frame: Frame


def open_bag(path: str | Path) -> BagReader:
    """Open a recording: its folder, or one ``.mcap`` or ``.db3`` file of it.

    :raises UserError: nothing there, no recording, or one that cannot be read at all.
    """
    return BagReader(path)


class BagReader:
    """A rosbag2, to be read as often as wanted. Open until :meth:`close`; a context manager.

    ``damage`` says what is missing of a recording that was cut off, and is empty for a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it, as :func:`open_bag` does."""
        self.path = Path(path)
        self.damage = ""
        self._stack = ExitStack()
        try:
            self._sources = self._open()
        except BaseException:
            self._stack.close()
            raise
        self._topics: dict[str, TopicInfo] = {}
        definitions = []
        for channel in self._channels():
            count = sum(source.counts.get(channel.topic, 0) for source in self._sources)
            self._topics[channel.topic] = TopicInfo(channel.type, count)
            definitions.append((channel.type, channel.definition))
        #: Types of the messages, for :meth:`messages` and for who wants to decode :meth:`raw_messages`.
        self.types = typestore_for(definitions)

    # ---- opening -----------------------------------------------------------------------------------

    def _open(self) -> list[_Source]:
        path = self.path
        if not path.exists():
            raise UserError(f"there is no recording at {path}")
        if path.is_file():
            if not is_storage_file(path):
                raise UserError(f"{path} is no recording: a rosbag2 is a folder, or a file ending in .mcap or .db3")
            return self._open_files([path])
        if (path / "metadata.yaml").is_file():
            torn = [f for f in path.glob("*.db3") if torn_sqlite.is_torn(f)]
            try:
                if not torn:
                    return _whole(path, self._stack)
                problem = f"{torn[0].name} was cut off"
            except _Unreadable as error:
                problem = str(error)
        else:
            problem = "metadata.yaml is missing"
        files = sorted((f for f in path.iterdir() if is_storage_file(f)), key=_in_order)
        # Where a recorder was ended while it compressed a file, both are there.
        files = [f for f in files if f.suffix != PACKED_SUFFIX or f.with_suffix("") not in files]
        if not files:
            raise UserError(
                f"{path} cannot be read as a recording: {problem}, and there is no .mcap or .db3 file in it; "
                f"it holds: {', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing'}"
            )
        self.damage = problem
        return self._open_files(files)

    def _open_files(self, files: list[Path]) -> list[_Source]:
        """Open storage files one by one, in their order; cut off ones as far as they go.

        :raises UserError: where nothing can be read of any
        """
        sources: list[_Source] = []
        damage: list[str] = []
        nothing: list[UserError] = []
        for stored in files:
            file, unpacked = self._unpacked(stored)
            try:
                opened, ending = _whole_file(file, self._stack), ""
            except _Unreadable as error:
                try:
                    torn = _salvaged(file, str(error))
                except UserError as told:  # a recorder that is killed leaves its last file empty
                    nothing.append(told)
                    damage.append(f"{stored.name} holds nothing that can be read")
                    continue
                opened, ending = [torn], _ending(torn)
            sources += opened
            if not unpacked:
                ending = ending or "was cut off"
            if ending:
                kept = sum(opened[-1].counts.values())
                damage.append(f"{stored.name} {ending}; {kept} messages before the break can be read")
        if not sources:
            raise nothing[0]
        self.damage = "; ".join(damage) or self.damage
        return sources

    def _unpacked(self, file: Path) -> tuple[Path, bool]:
        """Return a storage file as it was before it was compressed, and whether all of it was there."""
        if file.suffix != PACKED_SUFFIX:
            return file, True
        folder = self._stack.enter_context(TemporaryDirectory(prefix="rt_seg_ros_"))
        plain = Path(folder) / file.stem
        decompressor = zstd.ZstdDecompressor()
        try:
            with file.open("rb") as source, plain.open("wb") as target:
                while not decompressor.eof and (block := source.read(_BLOCK)):
                    target.write(decompressor.decompress(block))
        except zstd.ZstdError:
            return plain, False
        except OSError as error:
            raise UserError(f"{file} cannot be unpacked into {folder}: {error.strerror or error}") from error
        return plain, decompressor.eof

    def close(self) -> None:
        """Close all files."""
        self._sources = []
        self._stack.close()

    def __enter__(self) -> BagReader:
        """Return itself; it is open already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _channels(self) -> list[Channel]:
        return [channel for source in self._sources for channel in source.channels.values()]

    # ---- what there is -----------------------------------------------------------------------------

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Topics by name."""
        return dict(self._topics)

    @property
    def start_ns(self) -> int:
        """Time of recording of the first message, nanoseconds; 0 where there is none."""
        return min((source.first_ns for source in self._sources if source.counts), default=0)

    @property
    def duration_ns(self) -> int:
        """Time from the first to the last message, nanoseconds."""
        end = max((source.last_ns for source in self._sources if source.counts), default=0)
        return max(0, end - self.start_ns)

    def image_topics(self) -> list[str]:
        """Return topics of camera images, raw or compressed: all but label images and what a node made beside them."""
        made = {
            f"{name.removesuffix('/compressed').removesuffix('label')}{output}"
            for name in self.label_topics()
            for output in ("overlay", "confidence", "mask")
        }
        return [
            name
            for name, info in self._topics.items()
            if info.is_image and not _is_label(name) and not made & set(_above(name.removesuffix("/compressed")))
        ]

    def label_topics(self) -> list[str]:
        """Return topics of label images: by convention their last name is ``label``."""
        return [name for name, info in self._topics.items() if info.is_image and _is_label(name)]

    def image_topic(self, topic: str | None = None) -> str:
        """Return ``topic`` if it is one of images, or the only one there is.

        :raises UserError: no such topic, no images on it, none or several to choose from; the message lists the
            topics there are.
        """
        return self._choose(topic, self.image_topics(), "camera")

    def label_topic(self, topic: str | None = None) -> str:
        """Return ``topic`` if it is one of label images, or the only one there is.

        :raises UserError: as :meth:`image_topic`
        """
        return self._choose(topic, self.label_topics(), "label")

    def _choose(self, topic: str | None, candidates: list[str], what: str) -> str:
        if topic:
            info = self._topics.get(topic) or self._topics.get(f"/{topic}")
            if info is None:
                raise UserError(f"{self.path} has no topic '{topic}'; {self._listing()}")
            if not info.is_image:
                raise UserError(f"topic '{topic}' of {self.path} holds {info.type}, not images; {self._listing()}")
            return topic if topic in self._topics else f"/{topic}"
        with_messages = [name for name in candidates if self._topics[name].count]
        if len(with_messages) == 1:
            return with_messages[0]
        if not with_messages:
            raise UserError(f"{self.path} has no {what} images; {self._listing()}")
        raise UserError(
            f"{self.path} has several topics of {what} images ({', '.join(with_messages)}): choose one of them "
            f"({'--truth, of compare --topics' if what == 'label' else '--topic'})"
        )

    def _listing(self) -> str:
        if not self._topics:
            return "it has no topics at all"
        width = max(map(len, self._topics))
        lines = [
            f"  {name:<{width}}  {info.type}, {info.count} messages{'  <- images' if info.is_image else ''}"
            for name, info in sorted(self._topics.items())
        ]
        return "its topics are:\n" + "\n".join(lines)

    def offered_qos(self, topic: str) -> list[Any]:
        """Return the QoS profiles (rosbags' ``Qos``) under which a topic was recorded; none where unknown."""
        return [profile for channel in self._channels() if channel.topic == topic for profile in channel.qos]

    def is_latched(self, topic: str) -> bool:
        """Return whether a topic was offered to subscribers that came late, too (transient local)."""
        return any("TRANSIENT_LOCAL" in str(profile.durability) for profile in self.offered_qos(topic))

    # ---- messages ----------------------------------------------------------------------------------

    def raw_messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, type, time of recording in ns, message as CDR) in the order of recording.

        :param topics: those wanted; None yields all
        :raises UserError: where the file turns out to be damaged on the way.
        """
        for source in self._sources:
            try:
                for topic, kind, stamp, data in source.messages(topics):
                    yield topic, kind, stamp, _plain(data)
            except Exception as error:  # each storage has errors of its own for bytes that make no sense
                raise UserError(f"{self.path} is damaged: {error}") from error

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, time of recording in ns, message); arrays in messages are numpy's.

        :raises UserError: a message that cannot be decoded, or of a type that neither the bag nor this package defines
        """
        for topic, kind, stamp, data in self.raw_messages(topics):
            try:
                message = self._decoded(topic, kind, data)
            except _Undecodable as error:
                raise UserError(f"{self.path} is damaged: {error}") from error
            yield topic, stamp, message

    def images(self, topic: str | None = None) -> Iterator[BagImage]:
        """Yield the images of a topic, raw or compressed, in the order of recording.

        :param topic: may be left out where there is only one topic of camera images
        :raises UserError: as :meth:`image_topic`
        :raises ImageRejected: for an image that cannot be used
        """
        name = self.image_topic(topic)
        for _, kind, recorded, data in self.raw_messages([name]):
            yield self.decode_image(name, kind, recorded, data)

    def labels(self, topic: str | None = None) -> Iterator[tuple[int, str, NDArray[np.uint8]]]:
        """Yield (stamp in ns, frame_id, labels uint8 (H, W)) of a topic of label images.

        :param topic: may be left out where there is only one whose last name is ``label``
        :raises UserError: as :meth:`label_topic`, or where the images have more than one channel, or more than 8 bits
        :raises ImageRejected: for an image that cannot be used
        """
        name = self.label_topic(topic)
        for _, kind, recorded, data in self.raw_messages([name]):
            header, labels = self._class_ids(name, kind, data)
            yield _stamp_ns(header) or recorded, header.frame_id, labels

    def decode_image(self, topic: str, kind: str, recorded: int, data: bytes) -> BagImage:
        """Decode a message of :meth:`raw_messages` that is an image; its stamp is ``recorded`` where it has none.

        :raises ImageRejected: for an image that cannot be used
        """
        message = self._decoded_image(topic, kind, data)
        return BagImage(_stamp_ns(message.header) or recorded, message.header.frame_id, _frame(message, kind))

    def decode_labels(self, topic: str, kind: str, data: bytes) -> NDArray[np.uint8]:
        """Decode a message of :meth:`raw_messages` that is a label image: uint8 (H, W).

        :raises ImageRejected: for an image that cannot be used
        :raises UserError: where it has more than one channel, or more than 8 bits
        """
        return self._class_ids(topic, kind, data)[1]

    def _class_ids(self, topic: str, kind: str, data: bytes) -> tuple[Any, NDArray[np.uint8]]:
        """Return a label image's header, and its class ids as they are."""
        message = self._decoded_image(topic, kind, data)
        labels = _frame(message, kind).pixels  # the checks of size and of integrity
        try:
            if kind == COMPRESSED_IMAGE:
                labels = label_pixels(bytes(message.data))
            elif message.encoding not in ("mono8", "8UC1"):
                raise UserError(f"encoding '{message.encoding}'; mono8 is needed, whose values are class ids")
        except UserError as error:
            raise UserError(f"topic '{topic}' of {self.path} holds no label images: {error}") from None
        return message.header, labels

    def _decoded_image(self, topic: str, kind: str, data: bytes) -> Any:
        try:
            return self._decoded(topic, kind, data)
        except _Undecodable as error:
            raise ImageRejected("corrupt", str(error)) from error

    def _decoded(self, topic: str, kind: str, data: bytes) -> Any:
        try:
            return self.types.deserialize_cdr(data, kind)
        except KeyError as error:
            raise UserError(f"topic '{topic}' of {self.path} holds {kind}, whose definition is not known") from error
        except (SerdeError, ValueError, IndexError, OverflowError, AssertionError) as error:
            raise _Undecodable(f"a message of topic '{topic}' cannot be decoded: {error}") from error


class _Source(Protocol):
    """A recording, or a file of one: ``channels`` by id, ``counts`` by topic, first and last time of recording."""

    channels: dict[int, Channel]
    counts: dict[str, int]
    first_ns: int
    last_ns: int

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, type, time of recording in ns, message as CDR)."""


class _Whole:
    """What rosbags can open."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.channels = {
            c.id: Channel(c.topic, c.msgtype, c.msgdef, "cdr", getattr(c.ext, "offered_qos_profiles", ()))
            for c in reader.connections
        }
        counts: Counter[str] = Counter()
        for connection in reader.connections:
            counts[connection.topic] += connection.msgcount
        self.counts: dict[str, int] = +counts  # without those that have no messages, as of torn ones
        self.first_ns, self.last_ns = reader.start_time, reader.end_time - 1  # rosbags has the moment after it

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        connections = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if connections:  # none at all would mean every one to rosbags
            for connection, stamp, data in self._reader.messages(connections=connections):
                yield connection.topic, connection.msgtype, stamp, data


class _Undecodable(Exception):
    """A message whose bytes do not make sense."""


class _Unreadable(Exception):
    """A recording that rosbags cannot open."""


def _opened(path: Path, stack: ExitStack) -> Reader:
    try:
        reader = Reader(path)
        reader.open()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ReaderError as error:
        raise _Unreadable(" ".join(str(error).split()).rstrip(".")) from error
    except Exception as error:  # a file cut anywhere makes its parsers fail in many ways
        raise _Unreadable(" ".join(f"{type(error).__name__} {error}".split())) from error
    stack.callback(reader.close)
    return reader


def _whole(path: Path, stack: ExitStack) -> list[_Source]:
    """Open a recording, or one file of it, that rosbags can open.

    :raises _Unreadable: where it cannot
    """
    reader = _opened(path, stack)
    files: list[Any] = getattr(reader.storage, "storages", [reader.storage])
    if any(getattr(file, "chunks", None) == [] for file in files):  # an MCAP's; a database has no such list
        # Without an index rosbags wants messages of all topics in the order of their times, which no recorder promises.
        return [TornMcap(file.path) for file in files]
    return [_Whole(reader)]


def _whole_file(file: Path, stack: ExitStack) -> list[_Source]:
    """Open a storage file as :func:`_whole` does, but no torn database, which rosbags would open, too.

    :raises _Unreadable: for such, and where :func:`_whole` raises it
    """
    if file.suffix == ".db3" and torn_sqlite.is_torn(file):
        raise _Unreadable("it was cut off")
    return _whole(file, stack)


def _salvaged(file: Path, problem: str) -> TornMcap | TornSqlite:
    """Open a storage file that was cut off.

    :raises UserError: where nothing of it can be read
    """
    try:
        torn = TornMcap(file) if file.suffix == ".mcap" else TornSqlite(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; {problem}") from error
    if not torn.counts:
        raise UserError(f"{file} cannot be read: it was cut off before its first message")
    return torn


def _ending(torn: TornMcap | TornSqlite) -> str:
    """Return how a file of :func:`_salvaged` ends, in words; empty where it has its end after all."""
    if isinstance(torn, TornMcap):
        return "" if torn.complete else "was cut off"  # whole, it holds something that rosbags does not know
    return "was cut off" if torn_sqlite.cut_off(torn.path) else "was never closed"


def _plain(data: bytes) -> bytes:
    """Return a message as it was before it was compressed; where metadata.yaml is missing only its bytes tell."""
    # A message in CDR begins with a zero.
    return bytes(zstd.decompress(data)) if data[:4] == _ZSTD_MAGIC else data


def _in_order(path: Path) -> tuple[int, str]:
    """Sort ``name_2.mcap`` before ``name_10.mcap``."""
    stem = path.with_suffix("").stem if path.suffix == PACKED_SUFFIX else path.stem
    tail = stem.rsplit("_", 1)[-1]
    return (int(tail) if tail.isdigit() else -1, path.name)


def _above(topic: str) -> tuple[str, str]:
    return topic, topic.rpartition("/")[0]


def _is_label(topic: str) -> bool:
    return topic.rstrip("/").removesuffix("/compressed").rpartition("/")[2] == "label"


def _frame(message: Any, kind: str) -> Frame:
    if kind == COMPRESSED_IMAGE:
        return frame_from_compressed(message.data, message_format=message.format)
    return frame_from_ros(
        message.encoding, message.height, message.width, message.step, message.data, bool(message.is_bigendian)
    )


def _stamp_ns(header: Any) -> int:
    return int(header.stamp.sec * 1_000_000_000 + header.stamp.nanosec)
