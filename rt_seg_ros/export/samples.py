"""Frames on which an export is checked, and int8 calibrated: somebody's own, or rendered streets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.datasets import is_dataset
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.frames import Frames, open_frames
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import LabelSpace, load_label_space
from rt_seg_ros.recordings import is_recording
from rt_seg_ros.sources import Source, open_source

Image = NDArray[np.uint8]

_RENDERED_SIZE = (360, 480)
#: Streets to calibrate on, and others to check on.
_CALIBRATION_SEEDS, _CHECK_SEEDS = range(1, 9), range(2025, 2028)


@dataclass(frozen=True)
class Sample:
    """A frame, uint8 (H, W, 3) BGR, and its true labels, uint8 (H, W), where they are known."""

    image: Image
    truth: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Samples:
    """Frames to calibrate on, and others between them to check on; read anew each time.

    ``name`` says what they are.
    """

    name: str
    calibration: Callable[[], Iterator[Image]]
    check: Callable[[], Iterator[Sample]]
    calibration_count: int
    check_count: int


def open_samples(
    source: Path | None, split: str | None, space: LabelSpace, calibration: int = 48, check: int = 24
) -> Samples:
    """Choose frames, evenly spread.

    :param source: an image, a folder of images, a video, a data set or a recorded drive; None: rendered streets
    :param split: of a data set
    :param space: the label space of the truth, where there is some
    :param calibration: so many frames to calibrate on, at most; 0: none
    :param check: so many frames to check on, at most
    :raises UserError: nothing there, or of no known kind
    """
    if source is None:
        return _rendered(space, calibration, check)
    source = source.expanduser()
    if split is not None or _has_labels(source):
        return _labelled(open_frames(source, space, split), calibration, check)
    return _unlabelled(open_source(source), calibration, check)


def _has_labels(path: Path) -> bool:
    """Whether a path is a recorded drive, or laid out as a data set."""
    return path.exists() and (is_recording(path) or is_dataset(path))


def _chosen(total: int, calibration: int, check: int) -> tuple[list[int], list[int]]:
    """Return the indices of the frames to calibrate on, and of those to check on.

    A single frame serves twice; where nothing is calibrated all are checked.
    """
    wanted = calibration + check
    every = sorted({i * total // wanted for i in range(wanted)}) if total > wanted else list(range(total))
    count = len(every)
    if count < 2 or not calibration:
        return every if calibration else [], every
    checked = min(count - 1, max(1, count * check // wanted))
    of_check = [every[(2 * i + 1) * count // (2 * checked)] for i in range(checked)]
    return [i for i in every if i not in of_check], of_check


def _named(name: str, to_calibrate: list[int], to_check: list[int]) -> str:
    return f"{name}, the one it was calibrated on" if to_calibrate == to_check else name


def _labelled(frames: Frames, calibration: int, check: int) -> Samples:
    if not frames.total:
        raise UserError(f"{frames.path} has no frames")
    to_calibrate, to_check = _chosen(frames.total, calibration, check)

    def images(indices: Collection[int]) -> Iterator[Sample]:
        for item in frames.pick(set(indices)):
            try:
                image = item.frame().bgr()
            except ImageRejected:
                continue
            yield Sample(image, item.truth(image.shape[:2]))

    return Samples(
        _named(frames.name, to_calibrate, to_check),
        lambda: (sample.image for sample in images(to_calibrate)),
        lambda: images(to_check),
        len(to_calibrate),
        len(to_check),
    )


def _unlabelled(source: Source, calibration: int, check: int) -> Samples:
    total, counted = source.total, source.total is None
    if total is None:  # some videos do not tell: what can be read of them is counted
        total = sum(item.frame is not None for item in source)
    if not total:
        raise UserError(f"{source.path} has no frames")
    to_calibrate, to_check = _chosen(total, calibration, check)

    def images(indices: Collection[int]) -> Iterator[Image]:
        wanted, last = set(indices), max(indices)
        for i, item in enumerate(item for item in source if item.frame is not None or not counted):
            if i in wanted and item.frame is not None:
                yield item.frame.bgr()
            if i >= last:
                return

    return Samples(
        _named(source.path.name, to_calibrate, to_check),
        lambda: images(to_calibrate),
        lambda: (Sample(image, None) for image in images(to_check)),
        len(to_calibrate),
        len(to_check),
    )


def _rendered(space: LabelSpace, calibration: int, check: int) -> Samples:
    same_classes = space.names == load_label_space("camvid11").names

    def frames(seeds: range, count: int) -> Iterator[tuple[Image, NDArray[np.uint8]]]:
        for place, seed in enumerate(seeds[:count]):
            drive = SyntheticDrive(seed, *_RENDERED_SIZE)  # a street takes longer to build than a frame to render
            for turn in range(len(range(place, count, len(seeds)))):
                yield drive.render(10 + 30 * turn)

    return Samples(
        "rendered streets",
        lambda: (image for image, _ in frames(_CALIBRATION_SEEDS, calibration)),
        lambda: (Sample(image, truth if same_classes else None) for image, truth in frames(_CHECK_SEEDS, check)),
        calibration,
        check,
    )
