"""Which true labels belong to which frame: by stamp, from a topic or a folder, at whatever rate they come.

A frame has the label image that is nearest to it, unless that is farther than the tolerance or nearer to the next
frame: of images at 30 Hz and truth at 5 Hz every sixth is scored, and no truth twice. Neither need be in the order of
time: all stamps of the truth are known beforehand, so that a wrong one costs its own frame and no other.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import open_bag
from rt_seg_ros.bags.cdr import stamp_of
from rt_seg_ros.data.datasets import LABEL_ENDINGS
from rt_seg_ros.errors import UserError
from rt_seg_ros.label_images import read_label_image

Labels = NDArray[np.uint8]

#: Seconds; far less than the time between two frames, far more than what a driver's rounding makes of one stamp.
DEFAULT_TOLERANCE = 0.01
SPELLINGS = "1700000000123456789 (nanoseconds), 1700000000.123456789 (seconds) or 1700000000_123456789"

_NANO = 1_000_000_000
_LARGEST = np.iinfo(np.int64).max
#: Label images that stay in memory, undecoded, after one behind them in a recording was asked for; and how far truth
#: goes ahead for a single frame.
_KEPT = 8
_NAME = re.compile(r"(?:.*?[^\d.])??(\d{1,19})(?:([._-])(\d{1,9}))?")


@dataclass(frozen=True)
class Truth:
    """A label image: its stamp (ns), what to call it in messages, and how to read it (raw ids, uint8 (H, W))."""

    stamp_ns: int
    name: str
    load: Callable[[], Labels]


def stamp_of_name(stem: str) -> int | None:
    """Return the stamp (ns) that a file's name without suffix tells; None where it tells none.

    All digits are nanoseconds; digits, a point and digits are seconds with a fraction; with ``_`` or ``-`` between
    them seconds and nanoseconds. A word may stand before them, as in ``label_1700000000123456789``.
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    whole, mark, rest = match.groups()
    if mark is None:
        return int(whole)
    return int(whole) * _NANO + int(rest.ljust(9, "0") if mark == "." else rest)


#: Returns the label image at a place, counted from 0; None: it cannot be had any more.
Read = Callable[[int], Truth | None]


class Window:
    """Hands out by their places label images that come one after the other; each once.

    Of those that were passed over the last few can still be had: memory is bounded, whatever is asked for.
    """

    def __init__(self, truths: Iterable[Truth]) -> None:
        self._truths = iter(truths)
        self._next = 0
        self._kept: dict[int, Truth] = {}

    def __call__(self, place: int) -> Truth | None:
        """Return the label image at a place; None where it lies too far back, or they end before it."""
        while self._next <= place:
            truth = next(self._truths, None)
            if truth is None:
                return None
            self._kept[self._next] = truth
            self._next += 1
            if len(self._kept) > _KEPT + 1:
                del self._kept[next(iter(self._kept))]
        return self._kept.pop(place, None)


class TopicTruth:
    """The label images of a recording's topic, in the order of recording.

    ``damage`` says why they end early, once they were gone through.
    """

    def __init__(self, path: Path, topic: str) -> None:
        self.path, self.topic = path, topic
        self.damage = ""
        self._stamps: NDArray[np.int64] | None = None
        with open_bag(path) as bag:
            self.count = bag.topics[topic].count

    def stamps(self) -> NDArray[np.int64]:
        """Return the stamps in the order of recording, ns, int64 (N,); reads the recording the first time.

        :raises UserError: where not one can be read
        """
        if self._stamps is None:
            found = array("q")
            try:
                with open_bag(self.path) as bag:
                    for _, _, recorded, data in bag.raw_messages([self.topic]):
                        found.append(stamp_of(data) or recorded)
            except UserError as error:
                if not found:
                    raise
                self.damage = f"{error}; {len(found)} label images before that were read"
            self._stamps = np.array(found, np.int64)
        return self._stamps

    def reader(self) -> Read:
        """Return what reads them by their places in :meth:`stamps`; those that are damaged are not asked for."""
        return Window(self)

    def __iter__(self) -> Iterator[Truth]:
        with open_bag(self.path) as bag:
            for _, kind, recorded, data in bag.raw_messages([self.topic]):
                stamp = stamp_of(data) or recorded
                load = partial(bag.decode_labels, self.topic, kind, data)
                yield Truth(stamp, f"{self.path}, topic {self.topic}, stamp {stamp / 1e9:.3f}", load)


class FolderTruth:
    """The label images of a folder, by the stamps in their names: see :func:`stamp_of_name`.

    :raises UserError: a folder without a label image whose name tells a stamp
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        # Names that begin with a dot: macOS leaves such beside the files that it copies.
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in LABEL_ENDINGS and not f.name.startswith("."))
        if not files:
            raise UserError(f"{folder} holds no label images ({', '.join(LABEL_ENDINGS)})")
        stamped = [(stamp, f) for f in files if (stamp := stamp_of_name(f.stem)) is not None]
        self.left_out = len(files) - len(stamped)
        if not stamped:
            raise UserError(
                f"{folder}: no file is named by a stamp ({', '.join(f.name for f in files[:3])}, ...); "
                f"label images are found by names such as {SPELLINGS}"
            )
        self._files = sorted(stamped)
        self.count = len(stamped)
        self.first_ns, self.last_ns = self._files[0][0], self._files[-1][0]

    def stamps(self) -> NDArray[np.int64]:
        """Return the stamps in their order, ns, int64 (N,)."""
        return np.array([min(stamp, _LARGEST) for stamp, _ in self._files], np.int64)

    def reader(self) -> Read:
        """Return what reads them by their places in :meth:`stamps`."""
        return lambda place: self._truth(*self._files[place])

    @staticmethod
    def _truth(stamp: int, file: Path) -> Truth:
        return Truth(stamp, str(file), lambda: read_label_image(file))


@dataclass
class Matching:
    """How truth and frames came together.

    ``frames_without_truth`` and ``truth_without_frame`` found no partner; ``truth_rejected`` label images could not
    be used, the first of them, and why, is ``first_rejected``; ``truth_resized`` had another size than their frame;
    ``largest_offset_ns`` lay between two partners; ``none_near`` says so where all truth lies too far from all frames.
    """

    frames_without_truth: int = 0
    truth_without_frame: int = 0
    truth_rejected: int = 0
    truth_resized: int = 0
    largest_offset_ns: int = 0
    first_rejected: str = ""
    none_near: str = ""


class Matcher:
    """Gives each frame its truth. Both may come out of the order of time; what is held is the stamps alone.

    :param stamps: of the truth, ns, int64 (N,), in the order in which it is read
    :param read: returns the truth at a place of that order
    :param tolerance_ns: farthest that partners may lie apart
    """

    def __init__(self, stamps: NDArray[np.int64], read: Read, tolerance_ns: int, matching: Matching) -> None:
        self._order = np.argsort(stamps, kind="stable")
        self._stamps = stamps[self._order]
        self._taken = np.zeros(len(stamps), np.int32)  # at the first of equal stamps: how many of them were given away
        self._read = read
        self._tolerance = tolerance_ns
        self._matching = matching
        self._last = 0
        self._left = len(stamps)
        self._least: int | None = None  # distance between any frame and any truth

    def pair(self, stamp_ns: int, next_stamp_ns: int | None) -> Truth | None:
        """Return the truth of a frame, or None.

        :param next_stamp_ns: stamp of the frame after it, which may be nearer to the same truth; None at the end
        """
        while (first := self._nearest(stamp_ns)) is not None:
            found = int(self._stamps[first])
            offset = abs(found - stamp_ns)
            place = int(self._order[first + self._taken[first]])
            if next_stamp_ns is not None:
                if abs(found - next_stamp_ns) < offset or self._strays(place, next_stamp_ns):
                    break
            self._taken[first] += 1
            truth = self._read(place)
            if truth is None:
                continue  # of several with one stamp a later one may still be had
            self._last = place
            self._left -= 1
            self._matching.largest_offset_ns = max(self._matching.largest_offset_ns, offset)
            return truth
        self._matching.frames_without_truth += 1
        return None

    def finish(self) -> None:
        """Count the truth that is left over."""
        self._matching.truth_without_frame += self._left
        if self._least is not None and self._least > self._tolerance:
            self._matching.none_near = (
                f"none of the {self._left} label images lies within {self._tolerance / _NANO:.10g} s of an image (the "
                f"nearest {self._least / _NANO:.10g} s): --tolerance, or another clock"
            )
        self._left = 0

    def _nearest(self, stamp_ns: int) -> int | None:
        """Return where, by rising stamps, those begin that are nearest to a frame and not all given away."""
        right = int(np.searchsorted(self._stamps, stamp_ns))
        around = [int(np.searchsorted(self._stamps, self._stamps[right - 1]))] if right else []
        around += [right] if right < len(self._stamps) else []
        distances = {first: abs(int(self._stamps[first]) - stamp_ns) for first in around}
        if not distances:
            return None
        least = min(distances.values())
        self._least = least if self._least is None else min(self._least, least)
        if least > self._tolerance:
            return None
        for first in around:
            equal = int(np.searchsorted(self._stamps, self._stamps[first], "right")) - first
            if distances[first] == least and self._taken[first] < equal:
                return first
        return None

    def _strays(self, place: int, next_stamp_ns: int) -> bool:
        """Return whether truth lies far ahead of where frames are and the next frame is not: then a stamp is wrong.

        The next frame need not have truth of its own: there may be less of it than frames.
        """
        if place <= self._last + _KEPT:
            return False
        after = min(int(np.searchsorted(self._stamps, next_stamp_ns)), len(self._stamps) - 1)
        return abs(int(self._order[after]) - self._last) <= _KEPT
