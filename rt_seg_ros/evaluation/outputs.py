"""What an evaluation writes while it runs: a row for each frame, labels, the overlay as a video, a result bag.

Each kind is written by a thread of its own. One that cannot be written (a full disk) is given up with a word in
``problems``, and what the others write, and the figures, stay.
"""

from __future__ import annotations

import csv
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import BagReader, BagWriter, open_bag
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE, ResultTopics
from rt_seg_ros.drawing import Painter
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.frames import Item, Message
from rt_seg_ros.evaluation.scores import FrameScores
from rt_seg_ros.evaluation.stored import BAG_SUFFIX, LabelBag, LabelFolder
from rt_seg_ros.evaluation.timeline import Timeline
from rt_seg_ros.files import NOT_UTF8, remove_leftovers
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.overlap import Background
from rt_seg_ros.video import VideoWriter

Image = NDArray[np.uint8]

#: Frames for which a class stays in the legend after it was last seen.
_LINGER = 10
_DEPTH = 6


@dataclass(frozen=True)
class FrameResult:
    """What became of one frame.

    ``image``: BGR, None where only the node saw it; ``overlay``: as the node published it, where it did; ``stats``:
    fields of SegmentationStats by name.
    """

    item: Item
    labels: Image
    image: Image | None = None
    confidence: Image | None = None
    overlay: Image | None = None
    stats: Mapping[str, Any] | None = None


class Sink(ABC):
    """Takes results one after the other, on its own thread.

    ``what`` it writes, in words; ``complete`` once all of it is in its place.
    """

    what: str
    complete = False

    @abstractmethod
    def take(self, entry: FrameResult | Message) -> None:
        """Write one frame's results, or a message of the source.

        :raises UserError: if the disk does not take it
        """

    @abstractmethod
    def context(self) -> AbstractContextManager[object]:
        """Return what opens, finishes and, after an error, discards it."""


class Outputs:
    """The sinks of one run, each on a thread of its own; a context manager.

    Left with an error, nothing half-written stays. Where a sink fails in one of its last calls, the others are still
    finished.
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)
        self._threads: dict[Sink, Background] = {}
        self._open: dict[Sink, ExitStack] = {}
        self._lock = threading.Lock()
        self.problems: list[str] = []

    @property
    def wants_messages(self) -> bool:
        """Whether the source's own messages are wanted."""
        return any(isinstance(sink, ResultBag) for sink in self._sinks)

    wants_confidence = wants_messages

    def __enter__(self) -> Outputs:
        try:
            for sink in self._sinks:
                stack = self._open[sink] = ExitStack()
                stack.enter_context(sink.context())
                self._threads[sink] = Background(workers=1, depth=_DEPTH)
                self._threads[sink].__enter__()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def take(self, entry: FrameResult | Message) -> None:
        """Hand on one frame's results, or a message of the source; waits while a sink is too far behind."""
        for sink, thread in self._threads.items():
            thread.submit(self._write, sink, entry)

    def _write(self, sink: Sink, entry: FrameResult | Message) -> None:
        stack = self._open.get(sink)
        if stack is None:
            return
        try:
            sink.take(entry)
        except UserError as error:
            self._give_up(sink, stack, error)

    def _give_up(self, sink: Sink, stack: ExitStack, error: UserError) -> None:
        with self._lock:
            del self._open[sink]
            self.problems.append(f"{sink.what} was given up: {error}")
        try:
            stack.__exit__(type(error), error, error.__traceback__)
        except UserError:
            pass  # what is left of it cannot be removed either

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        failed: dict[Sink, BaseException] = {}
        stop = error  # what ends all of them: an error of the run, or Ctrl-C while their last calls are waited for
        for sink, thread in self._threads.items():
            try:
                thread.__exit__(*_raised(stop))
            except BaseException as problem:
                failed[sink] = problem
                stop = stop if isinstance(problem, Exception) else problem
        for sink, stack in list(self._open.items()):
            why = stop or failed.get(sink)
            try:
                stack.__exit__(*_raised(why))
                sink.complete = why is None
            except UserError as problem:
                self.problems.append(f"{sink.what} was given up: {problem}")
            except BaseException as problem:
                if problem is not why:
                    failed.setdefault(sink, problem)
                stop = stop if isinstance(problem, Exception) else problem
        self._open.clear()
        if error is None and failed:
            raise stop or next(iter(failed.values()))


def _raised(
    error: BaseException | None,
) -> tuple[type[BaseException] | None, BaseException | None, TracebackType | None]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


class StoredLabelsSink(Sink):
    """Labels as PNG, for comparisons and the report's pictures."""

    what = "the labels"

    def __init__(self, folder: Path, stem: str, space: LabelSpace, is_drive: bool) -> None:
        self.path = folder / (f"{stem}{BAG_SUFFIX}" if is_drive else stem)
        self._writer: LabelBag | LabelFolder = LabelBag(self.path, space) if is_drive else LabelFolder(self.path)

    def context(self) -> AbstractContextManager[object]:
        """See :meth:`Sink.context`."""
        return self._writer

    def take(self, entry: FrameResult | Message) -> None:
        """See :meth:`Sink.take`."""
        if isinstance(entry, FrameResult):
            item = entry.item
            self._writer.add(item.name, item.stamp_ns, item.recorded_ns, item.frame_id, entry.labels)


class Overlays:
    """Draws each result's overlay once, whoever asks first."""

    def __init__(self, space: LabelSpace) -> None:
        self._painter = Painter(space, linger=_LINGER)
        self._lock = threading.Lock()
        self._last: tuple[FrameResult, Image] | None = None

    def of(self, result: FrameResult) -> Image | None:
        """Return the overlay, uint8 (H, W, 3), BGR; None where there is no image to lay labels over."""
        if result.overlay is not None:
            return result.overlay
        if result.image is None or result.image.shape[:2] != result.labels.shape:
            return None
        with self._lock:
            if self._last is None or self._last[0] is not result:
                self._last = result, self._painter.overlay(result.image, result.labels)
            return self._last[1]


class OverlayVideo(Sink):
    """Overlays as a video, at the source's own times as far as they make sense."""

    what = "the video"

    def __init__(self, path: Path, fps: float, overlays: Overlays) -> None:
        self.path = path
        self._fps = fps
        self._overlays = overlays
        self._writer: VideoWriter | None = None
        self._timeline = Timeline(fps)
        self._first: float | None = None

    def context(self) -> AbstractContextManager[object]:
        """See :meth:`Sink.context`."""
        self._writer = VideoWriter(self.path, fps=self._fps or 10.0, quality=22, fast=True)
        return self._writer

    def take(self, entry: FrameResult | Message) -> None:
        """See :meth:`Sink.take`."""
        if not isinstance(entry, FrameResult):
            return
        seconds = self._timeline.seconds(entry.item.stamp_ns, entry.item.recorded_ns)
        overlay = self._overlays.of(entry)
        if overlay is None:
            return
        if self._first is None:
            self._first = seconds
        assert self._writer is not None
        self._writer.write(overlay, seconds - self._first)


class SourceTopics:
    """A drive's own topics in a result bag, latched where they were; what lies under the node's own name is left out.

    ``left_out``: topics whose type is not known, and which are therefore missing.
    """

    def __init__(self, source: BagReader, writer: BagWriter) -> None:
        self.left_out: set[str] = set()
        self._source = source
        self._writer = writer
        self._latched = {topic for topic in source.topics if source.is_latched(topic)}

    def copy(self, message: Message) -> None:
        """Write a message as it is.

        :raises UserError: if the disk does not take it
        """
        topic, types = message.topic, self._source.types
        if topic.startswith(f"{DEFAULT_NAMESPACE}/"):
            return
        if message.type not in types.fielddefs:
            self.left_out.add(topic)
            return
        self._writer.write_raw(topic, message.type, message.data, message.recorded_ns, topic in self._latched, types)


class ResultBag(Sink):
    """The source's topics and the node's, with the source's stamps and times of recording.

    :param source: the drive; what lies under the node's own name there is left out
    """

    what = "the result bag"

    def __init__(
        self, path: Path, source: Path, space: LabelSpace, overlays: Overlays, threshold: float, overwrite: bool
    ) -> None:
        self.path = path
        self._source = source
        self._overlays = overlays
        self._writer = BagWriter(path, overwrite=overwrite)
        self._topics = ResultTopics(self._writer, space, threshold=threshold)
        self._copies: SourceTopics | None = None

    @property
    def left_out(self) -> set[str]:
        """Topics of the source that are missing."""
        return self._copies.left_out if self._copies is not None else set()

    def context(self) -> AbstractContextManager[object]:
        """See :meth:`Sink.context`."""
        stack = ExitStack()
        self._copies = SourceTopics(stack.enter_context(open_bag(self._source)), self._writer)
        stack.enter_context(self._writer)
        return stack

    def take(self, entry: FrameResult | Message) -> None:
        """See :meth:`Sink.take`."""
        if isinstance(entry, Message):
            assert self._copies is not None
            self._copies.copy(entry)
            return
        item = entry.item
        self._topics.add(
            item.stamp_ns,
            item.frame_id,
            entry.labels,
            self._overlays.of(entry),
            entry.confidence,
            entry.stats,
            item.recorded_ns,
        )


SCORE_COLUMNS = ("miou", "pixel_accuracy", "boundary_f", "flicker", "coverage")
_FRAME_COLUMNS = ("model", "frame", "name", "stamp_ns", "truth_ns", "seconds")


class FrameTable:
    """A row of figures for each frame, as CSV; written aside as frames come, in place when closed.

    Where the disk takes no more, the rows so far stay and ``problem`` says so.

    :param stages: names of the stages, milliseconds each
    """

    def __init__(self, path: Path, stages: tuple[str, ...]) -> None:
        self.path = path
        self.problem = ""
        self.stages = stages
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._timeline = Timeline(0.0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, path.name)
            self._file = self._aside.open("w", encoding="utf-8", errors=NOT_UTF8, newline="")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        self._rows = csv.writer(self._file)
        times = (f"{stage}_ms" for stage in stages)
        self._write([*_FRAME_COLUMNS, *SCORE_COLUMNS, *times])

    def begin(self, rate: float) -> None:
        """Begin another model: times count from its first frame.

        :param rate: of its frames, as of its video: see :class:`Timeline`
        """
        self._timeline = Timeline(rate)

    def add(self, model: str, item: Item, scores: FrameScores, timings: Mapping[str, float]) -> None:
        """Write the row of one frame."""
        seconds = f"{self._timeline.seconds(item.stamp_ns, item.recorded_ns):.3f}" if item.stamp_ns else ""
        truth = item.truth_ns or ""
        figures = [_short(getattr(scores, name), 5) for name in SCORE_COLUMNS]
        times = [_short(timings.get(stage), 3) for stage in self.stages]
        row = [model, item.index, item.name, item.stamp_ns or "", truth, seconds, *figures, *times]
        self._write(row)

    def _write(self, row: Sequence[object]) -> None:
        if self.problem:
            return
        try:
            self._rows.writerow(row)
        except OSError as error:
            self.problem = f"{self.path.name} ends early: {error.strerror}"

    def close(self) -> None:
        """Move it into place.

        :raises UserError: where that cannot be done
        """
        try:
            self._file.close()
        except OSError as error:
            self.problem = self.problem or f"{self.path.name} ends early: {error.strerror}"
        try:
            os.replace(self._aside, self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """Leave nothing."""
        try:
            self._file.close()
        except OSError:
            pass
        self._aside.unlink(missing_ok=True)


def _short(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
