"""Which true labels belong to which frame: by stamp, from a topic or a folder, at whatever rate they come.

A frame has the label image that is nearest to it, unless that is farther than the tolerance or nearer to the next
frame: of images at 30 Hz and truth at 5 Hz every sixth is scored, and no truth twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import open_bag
from rt_seg_ros.bags.cdr import stamp_of
from rt_seg_ros.data.datasets import LABEL_ENDINGS
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import read_label_image

Labels = NDArray[np.uint8]

#: Seconds; far less than the time between two frames, far more than what a driver's rounding makes of one stamp.
DEFAULT_TOLERANCE = 0.01
SPELLINGS = "1700000000123456789 (nanoseconds), 1700000000.123456789 (seconds) or 1700000000_123456789"

_NANO = 1_000_000_000
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


class TopicTruth:
    """The label images of a recording's topic, in the order of recording."""

    def __init__(self, path: Path, topic: str) -> None:
        self.path, self.topic = path, topic
        with open_bag(path) as bag:
            self.count = bag.topics[topic].count

    def __iter__(self) -> Iterator[Truth]:
        with open_bag(self.path) as bag:
            for _, kind, recorded, data in bag.raw_messages([self.topic]):
                stamp = stamp_of(data) or recorded

                def load(kind: str = kind, recorded: int = recorded, data: bytes = data) -> Labels:
                    return bag.decode_labels(self.topic, kind, recorded, data)

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

    def __iter__(self) -> Iterator[Truth]:
        for stamp, file in self._files:
            yield Truth(stamp, str(file), lambda file=file: read_label_image(file))  # type: ignore[misc]


@dataclass
class Matching:
    """How truth and frames came together.

    ``frames_without_truth`` and ``truth_without_frame`` found no partner; ``truth_rejected`` label images could not
    be read; ``truth_resized`` had another size than their frame; ``largest_offset_ns`` lay between two partners.
    """

    frames_without_truth: int = 0
    truth_without_frame: int = 0
    truth_rejected: int = 0
    truth_resized: int = 0
    largest_offset_ns: int = 0


class Matcher:
    """Gives each frame its truth; both in the order of time.

    Holds two label images at most, whatever the tolerance.

    :param tolerance_ns: farthest that partners may lie apart
    """

    def __init__(self, truths: Iterable[Truth], tolerance_ns: int, matching: Matching) -> None:
        self._truths = iter(truths)
        self._tolerance = tolerance_ns
        self._matching = matching
        self._present = next(self._truths, None)
        self._following = next(self._truths, None)
        self._used = False

    def pair(self, stamp_ns: int, next_stamp_ns: int | None) -> Truth | None:
        """Return the truth of a frame, or None.

        :param next_stamp_ns: stamp of the frame after it, which may be nearer to the same truth; None at the end
        """
        while self._present is not None and self._following is not None:
            here, there = abs(self._present.stamp_ns - stamp_ns), abs(self._following.stamp_ns - stamp_ns)
            if there > here or (there == here and not self._used):
                break
            self._advance()
        truth = self._present
        if truth is not None and not self._used:
            offset = abs(truth.stamp_ns - stamp_ns)
            nearer = next_stamp_ns is not None and abs(truth.stamp_ns - next_stamp_ns) < offset
            if offset <= self._tolerance and not nearer:
                self._used = True
                self._matching.largest_offset_ns = max(self._matching.largest_offset_ns, offset)
                return truth
        self._matching.frames_without_truth += 1
        return None

    def finish(self) -> None:
        """Count the truth that is left over."""
        while self._present is not None:
            self._advance()

    def _advance(self) -> None:
        self._matching.truth_without_frame += not self._used
        self._used = False
        self._present, self._following = self._following, next(self._truths, None)
