"""What a model is evaluated on: frames of a data set or of a recorded drive, with their truth where there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import BagReader, open_bag
from rt_seg_ros.bags.cdr import stamp_of
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE
from rt_seg_ros.bags.types import CLASS_MASKS, LABEL_INFO, STATS
from rt_seg_ros.data.datasets import Dataset, check_dataset, folder_name, ids_outside, open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.matching import (
    DEFAULT_TOLERANCE,
    SPELLINGS,
    FolderTruth,
    Matcher,
    Matching,
    TopicTruth,
    Truth,
)
from rt_seg_ros.evaluation.stored import told_classes
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.labels import LabelSpace, in_short
from rt_seg_ros.overlap import reading_threads
from rt_seg_ros.recordings import is_recording
from rt_seg_ros.resampling import resize_labels

Labels = NDArray[np.uint8]
NO_TRUTH = "none"

_NANO = 1_000_000_000
#: Other topics' messages between two images that wait for the second, and bytes of them; more do not, as the images may
#: have ended.
_WAITING, _WAITING_BYTES = 1000, 64 * 2**20


@dataclass(frozen=True)
class Item:
    """One frame, decoded when it is asked for.

    ``index`` counts all frames from 0; ``stamp_ns`` is the source's, ``recorded_ns`` when it was recorded (both 0 in
    a data set); ``truth_ns`` is the stamp of its truth, None where it has none.
    """

    index: int
    name: str
    stamp_ns: int
    recorded_ns: int
    frame_id: str
    truth_ns: int | None
    _frame: Callable[[], Frame] = field(repr=False)
    _truth: Callable[[tuple[int, int]], Labels | None] = field(repr=False)

    def frame(self) -> Frame:
        """Decode the image.

        :raises ImageRejected: where it cannot be used
        """
        return self._frame()

    def truth(self, size: tuple[int, int]) -> Labels | None:
        """Decode the truth, uint8 (H, W), 255 = void; None where there is none, or it cannot be used.

        :param size: of the frame; a drive's truth of another size is resized to it
        :raises UserError: of a data set, where it cannot be used; of a drive, ids outside the label space before any
            truth was accepted
        """
        return self._truth(size)


@dataclass(frozen=True)
class Message:
    """A message of a drive that goes into its result bag as it is."""

    topic: str
    type: str
    recorded_ns: int
    data: bytes


class Frames(ABC):
    """Frames in their order; iterating starts from the first one each time.

    ``name`` says what they are, ``path`` where; ``truth_name`` what truth is looked for, empty: none; ``matching`` how
    it came together with the frames in the last iteration; ``damage`` what is missing of a recording that was cut off;
    ``results`` are topics of labels that were taken for a node's instead of truth, where there is no other; ``remark``
    says what is assumed of truth that does not tell it.
    """

    name: str
    path: Path
    is_drive: bool
    topic: str = ""
    damage: str = ""
    truth_name: str = ""
    results: Collection[str] = ()
    remark: str = ""
    matching: Matching

    def check(self) -> None:  # noqa: B027 - of a drive that takes as long as evaluating it
        """Look for what would end an evaluation on the way, as far as that is quickly done.

        :raises UserError: what it is, by name
        """

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of frames, at most."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """Yield the frames."""

    @property
    def rate(self) -> float:
        """Frames a second in the recording, on average; 0 where there is no time."""
        return 0.0

    def with_messages(self) -> Iterator[Item | Message]:
        """Yield the frames and, of a drive, all its messages in the order of recording, each image before its item."""
        return iter(self)

    def pick(self, indices: Collection[int]) -> Iterator[Item]:
        """Yield these frames only; of the others nothing is decoded."""
        last = max(indices, default=-1)
        for item in self:
            if item.index in indices:
                yield item
            if item.index >= last:
                return


def open_frames(
    path: str | Path,
    space: LabelSpace,
    split: str | None = None,
    topic: str = "",
    truth: str = "",
    tolerance: float = DEFAULT_TOLERANCE,
) -> Frames:
    """Open a data set's folder or a recorded drive.

    :param space: the label space that the truth is in
    :param split: of a data set: ``train``, ``val``, ``test``...
    :param topic: image topic of a drive; may be left out where it has only one
    :param truth: of a drive: topic of label images, or folder of them named by stamp; empty: the drive's own topic
        where it has one, ``none``: no truth
    :param tolerance: seconds that truth and frame may lie apart
    :raises UserError: nothing there, no known layout, no such split or topic, or an option of the other kind
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(f"there is nothing at {root}")
    if is_recording(root):
        if split is not None:
            raise UserError(f"--split is for data sets; {root} is a recorded drive: leave it out")
        if not 0 <= tolerance < 3600:
            raise UserError(f"--tolerance is {tolerance}; give seconds, from 0")
        return _Drive(root, space, topic, truth, round(tolerance * _NANO))
    if topic or truth:
        raise UserError(f"topics and --truth are for recorded drives; {root} is a data set: leave them out")
    return _DatasetFrames(open_dataset(root, split, space), root)


class _DatasetFrames(Frames):
    is_drive = False

    def __init__(self, dataset: Dataset, path: Path) -> None:
        self.name = dataset.name.replace("/", " ")
        self.path = path
        self.matching = Matching()
        self.truth_name = "the data set's labels"
        self._dataset = dataset
        self._checked = False

    def check(self) -> None:
        if not self._checked:
            check_dataset(self._dataset, threads=reading_threads())
            self._checked = True

    @property
    def total(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Item]:
        return (self._item(i) for i in range(len(self._dataset)))

    def pick(self, indices: Collection[int]) -> Iterator[Item]:
        return (self._item(i) for i in sorted(indices))

    def _item(self, i: int) -> Item:
        return Item(
            index=i,
            name=self._dataset.pairs[i].name,
            stamp_ns=0,
            recorded_ns=0,
            frame_id="",
            truth_ns=0,
            _frame=lambda: Frame(self._dataset.image(i)),
            _truth=lambda size: self._labels(i, size),
        )

    def _labels(self, i: int, size: tuple[int, int]) -> Labels:
        labels = self._dataset.labels(i)
        if labels.shape != size:  # in a data set that is a mistake, and is told as one
            self._dataset[i]
        return labels


class _Drive(Frames):
    is_drive = True

    def __init__(self, path: Path, space: LabelSpace, topic: str, truth: str, tolerance_ns: int) -> None:
        self.name = folder_name(path)
        self.path = path
        self.matching = Matching()
        self._space = space
        # Looked up by OpenCV: a fraction of the time, and beside the other threads.
        every = np.arange(256, dtype=np.uint8)
        self._canonical = space.from_raw(every)
        self._strange = np.isin(every, ids_outside(every, space)).astype(np.uint8)
        self._accepted = False  # over all iterations: what the first one took shows that the label space is right
        self._tolerance = tolerance_ns
        self._truths: TopicTruth | FolderTruth | None = None
        self._told: tuple[str, ...] = ()
        with open_bag(path) as bag:
            self.damage = self._opening_damage = bag.damage
            self.topic = bag.image_topic(topic or None)
            self._total = bag.topics[self.topic].count
            self._seconds = bag.duration_ns / 1e9
            if truth != NO_TRUTH:
                self._truths = self._open_truth(bag, truth)
        if isinstance(self._truths, FolderTruth):
            strange = f"; not named by a stamp: {left}" if (left := self._truths.left_out) else ""
            self.truth_name = f"{self._truths.path} ({self._truths.count} label images{strange})"
            self._check_overlap(self._truths)
        elif self._truths is not None:
            self.truth_name = f"topic {self._truths.topic} ({self._truths.count} label images)"
        if self._truths is not None and not self._told:
            self.remark = f"truth is taken as ids of {space.name}: it names no classes"

    @property
    def total(self) -> int:
        return self._total

    @property
    def rate(self) -> float:
        return (self._total - 1) / self._seconds if self._total > 1 and self._seconds > 0 else 0.0

    def _open_truth(self, bag: BagReader, truth: str) -> TopicTruth | FolderTruth | None:
        if not truth:
            every = [t for t in bag.label_topics() if bag.topics[t].count]
            topics = [t for t in every if not _is_a_result(bag, t)]
            if not topics:
                self.results = every
                return None
            namespace = _own_namespace(bag, self.topic)
            own = [t for t in topics if t.startswith(namespace)]
            choice = f"say which is the truth (--truth TOPIC), or --truth {NO_TRUTH}"
            if not own:
                raise UserError(
                    f"{bag.path} has several topics of images, and none of label images below {namespace} as "
                    f"{self.topic} is, but {', '.join(topics)}: {choice}"
                )
            if len(own) > 1:
                raise UserError(f"{bag.path} has several topics of label images ({', '.join(own)}): {choice}")
            return self._topic_truth(bag, own[0])
        if truth not in bag.topics and f"/{truth}" not in bag.topics and Path(truth).expanduser().is_dir():
            return FolderTruth(Path(truth).expanduser())
        return self._topic_truth(bag, bag.label_topic(truth))

    def _topic_truth(self, bag: BagReader, topic: str) -> TopicTruth:
        names = self._space.names
        told = self._told = told_classes(bag, topic)
        # What comes after the classes may be void, as in the label space itself.
        if told and [name.casefold() for name in told[: len(names)]] != [name.casefold() for name in names]:
            raise UserError(
                f"the label info of {topic} in {bag.path} tells other classes ({in_short(told)}) than label space "
                f"'{self._space.name}' has ({in_short(names)}): give the truth's with --label-space"
            )
        return TopicTruth(bag.path, topic)

    def _check_overlap(self, truths: FolderTruth) -> None:
        """Refuse a folder of another drive's truth before any frame is segmented.

        :raises UserError: where not one image has a stamp among the truth's
        """
        low, high = truths.first_ns - self._tolerance, truths.last_ns + self._tolerance
        stamps: list[int] = []
        with open_bag(self.path) as bag:
            for message in self._read(bag, [self.topic]):
                stamps.append(stamp_of(message.data) or message.recorded_ns)
                if low <= stamps[-1] <= high:
                    return
        if stamps:
            raise UserError(
                f"{truths.path} has truth for stamps {truths.first_ns} to {truths.last_ns} (ns), but the images of "
                f"{self.path} are from {min(stamps)} to {max(stamps)}: the names are no stamps of this drive; "
                f"names are read as {SPELLINGS}"
            )

    def __iter__(self) -> Iterator[Item]:
        for entry in self._entries([self.topic]):
            if isinstance(entry, Item):
                yield entry

    def with_messages(self) -> Iterator[Item | Message]:
        return self._entries(None)

    def _entries(self, topics: Collection[str] | None) -> Iterator[Item | Message]:
        self.matching = Matching()
        self.damage = self._opening_damage
        # A reader of its own for the truth: what waits does not grow with the length of the drive.
        truths = self._truths
        matcher = None
        if truths is not None:
            matcher = Matcher(truths.stamps(), truths.reader(), self._tolerance, self.matching)
        with open_bag(self.path) as bag:
            # An image is held back until the next one is known, whose stamp bounds the search for its truth. Messages
            # of other topics wait behind it, so that the order stays.
            count = 0
            pending: tuple[int, int, Message] | None = None
            waiting: list[Message] = []
            held = 0

            def let_go(following: int | None) -> Iterator[Item | Message]:
                nonlocal pending, held
                if pending is not None:
                    yield self._item(bag, *pending, matcher, following)
                yield from waiting
                pending, held = None, 0
                waiting.clear()

            for message in self._read(bag, topics):
                if message.topic != self.topic:
                    waiting.append(message)
                    held += len(message.data)
                    if pending is None or len(waiting) > _WAITING or held > _WAITING_BYTES:
                        yield from let_go(None)
                    continue
                stamp = stamp_of(message.data) or message.recorded_ns
                yield from let_go(stamp)
                if topics is None:
                    yield message
                pending = count, stamp, message
                count += 1
            yield from let_go(None)
        if matcher is not None:
            matcher.finish()
        if isinstance(truths, TopicTruth):
            self.damage = self.damage or truths.damage

    def _read(self, bag: BagReader, topics: Collection[str] | None) -> Iterator[Message]:
        """Yield messages as far as they can be read."""
        count = 0
        try:
            for topic, kind, recorded, data in bag.raw_messages(topics):
                count += topic == self.topic
                yield Message(topic, kind, recorded, data)
        except UserError as error:
            if not count:
                raise
            self.damage = f"{error}; {count} images before that were read"

    def _item(
        self, bag: BagReader, index: int, stamp: int, message: Message, matcher: Matcher | None, following: int | None
    ) -> Item:
        truth = matcher.pair(stamp, following) if matcher is not None else None
        kind, recorded, data = message.type, message.recorded_ns, message.data

        def frame() -> Frame:
            return bag.decode_image(self.topic, kind, recorded, data).frame

        return Item(
            index=index,
            name=f"{stamp / 1e9:.3f}",
            stamp_ns=stamp,
            recorded_ns=recorded,
            frame_id=_frame_id(data),
            truth_ns=truth.stamp_ns if truth is not None else None,
            _frame=frame,
            _truth=lambda size: self._labels(truth, size) if truth is not None else None,
        )

    def _labels(self, truth: Truth, size: tuple[int, int]) -> Labels | None:
        try:
            raw = truth.load()
        except ImageRejected as error:
            return self._rejected(str(error) if truth.name in str(error) else f"{truth.name}: {error}")
        if cv2.countNonZero(cv2.LUT(raw, self._strange)):
            ids = ", ".join(str(v) for v in ids_outside(raw, self._space)[:10])
            problem = f"{truth.name}: labels hold ids outside label space '{self._space.name}': {ids}"
            if not self._accepted:  # a wrong label space, in all likelihood: told at once
                raise UserError(problem)
            return self._rejected(problem)
        if not _same_proportions(raw.shape, size):
            own, wanted = (f"{width}x{height}" for height, width in (raw.shape, size))
            return self._rejected(f"{truth.name}: {own} does not have the image's proportions ({wanted})")
        self._accepted = True
        labels: Labels = cv2.LUT(raw, self._canonical)  # type: ignore[assignment]
        if labels.shape != size:
            self.matching.truth_resized += 1
            labels = resize_labels(labels, size)
        return labels

    def _rejected(self, problem: str) -> Labels | None:
        """Count truth that cannot be used, and return what stands for it: none."""
        self.matching.truth_rejected += 1
        self.matching.first_rejected = self.matching.first_rejected or problem
        return None


def _same_proportions(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether, but for a pixel of the smaller one's sides, two sizes are one another's multiples."""
    (height, width), (large_height, large_width) = sorted((one, other), key=lambda size: size[0] * size[1])
    return abs(height * large_width - width * large_height) <= large_height + large_width


def _is_a_result(bag: BagReader, topic: str) -> bool:
    """Return whether a label topic is the output of a segmentation node.

    It lies under the node's default name, or one of the node's other topics lies beside it.
    """
    if f"{DEFAULT_NAMESPACE}/" in topic:
        return True
    namespace = topic.removesuffix("/compressed").rpartition("/")[0]
    for name, info in bag.topics.items():
        if not name.startswith(f"{namespace}/"):
            continue
        below = name.removeprefix(f"{namespace}/").removesuffix("/compressed")
        if info.type in (STATS, CLASS_MASKS) or (info.type == LABEL_INFO and "/" not in below):
            return True
        if info.is_image and (below in ("overlay", "confidence") or below.startswith("mask/")):
            return True
    return False


def _own_namespace(bag: BagReader, topic: str) -> str:
    """Return what only the names of one camera's topics begin with: as far as the first part that tells it from others.

    It ends in a slash, and is empty where there is one camera.
    """
    # An image topic's compressed twin is no other camera.
    cameras = {t.removesuffix("/compressed") for t in bag.image_topics() if bag.topics[t].count}
    parts = topic.removesuffix("/compressed").split("/")
    others = cameras - {"/".join(parts)}
    shared = 0
    for other in others:
        equal = next((i for i, (a, b) in enumerate(zip(parts, other.split("/"), strict=False)) if a != b), len(parts))
        shared = max(shared, equal)
    return "/".join(parts[: shared + 1]) + "/" if others else ""


def _frame_id(data: bytes) -> str:
    """Return the frame id of a serialised message that begins with a header."""
    order = "little" if len(data) > 1 and data[1] & 1 else "big"
    length = int.from_bytes(data[12:16], order)  # type: ignore[arg-type]
    return bytes(data[16 : 16 + length]).rstrip(b"\0").decode("utf-8", "replace") if length < 1024 else ""
