"""Frames with ground truth, one after the other: a data set's folder, or a recorded drive with a topic of labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import BagReader, open_bag
from rt_seg_ros.bags.reader import STORAGE_SUFFIXES
from rt_seg_ros.data.datasets import Dataset, ids_outside, open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.labels import LabelSpace


@dataclass(frozen=True)
class LabelledFrame:
    """A frame, its true labels (uint8 (H, W), 255 = void, of the frame's size), and what to call it in messages."""

    name: str
    frame: Frame
    truth: NDArray[np.uint8]


class LabelledFrames(ABC):
    """Frames with truth; iterating starts from the first one each time.

    ``name`` says what they are; ``unmatched`` counts the images without truth, and ``rejected`` those that cannot be
    used, of the last iteration.
    """

    name: str
    unmatched = 0
    rejected = 0

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of frames, at most."""

    @abstractmethod
    def __iter__(self) -> Iterator[LabelledFrame]:
        """Yield the frames.

        :raises UserError: a file that cannot be read, another size of truth than of image, ids outside the label space
        """


def open_labelled(
    path: str | Path, split: str | None, space: LabelSpace, topic: str = "", truth_topic: str = ""
) -> LabelledFrames:
    """Open a data set's folder or a recorded drive.

    :param split: of a data set: ``train``, ``val``, ``test``...
    :param space: the label space that the truth is in
    :param topic: image topic of a drive, where it has several
    :param truth_topic: label topic of a drive, where it has several
    :raises UserError: nothing there, no known layout, no such split or topic, or an option of the other kind
    """
    root = Path(path).expanduser()
    if is_recording(root):
        if split is not None:
            raise UserError(f"--split is for data sets; {root} is a recorded drive: leave it out")
        return _Drive(root, space, topic, truth_topic)
    if topic or truth_topic:
        raise UserError(f"topics are for recorded drives; {root} is a data set: leave them out")
    return _DatasetFrames(open_dataset(root, split, space))


def is_recording(path: Path) -> bool:
    """Return whether a path looks like a rosbag2: its folder, or a storage file of one."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in STORAGE_SUFFIXES for p in path.iterdir())
    return path.suffix in STORAGE_SUFFIXES


class _DatasetFrames(LabelledFrames):
    def __init__(self, dataset: Dataset) -> None:
        self.name = dataset.name.replace("/", " ")
        self._dataset = dataset

    @property
    def total(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[LabelledFrame]:
        for i in range(len(self._dataset)):
            image, truth = self._dataset[i]
            yield LabelledFrame(self._dataset.file_names(i)[0], Frame(image), truth)


class _Drive(LabelledFrames):
    """Images and labels of equal stamps."""

    def __init__(self, path: Path, space: LabelSpace, topic: str, truth_topic: str) -> None:
        self.name = path.name
        self._path = path
        self._space = space
        with open_bag(path) as bag:
            self._topic = bag.image_topic(topic or None)
            self._truth_topic = bag.label_topic(truth_topic or None)
            self._total = min(bag.topics[self._topic].count, bag.topics[self._truth_topic].count)

    @property
    def total(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[LabelledFrame]:
        # Two readers, each at its own place: what waits does not grow with the length of the drive.
        with open_bag(self._path) as images, open_bag(self._path) as labels:
            yield from self._pairs(images, labels)

    def _pairs(self, images: BagReader, labels: BagReader) -> Iterator[LabelledFrame]:
        self.unmatched = self.rejected = 0
        truths = labels.labels(self._truth_topic)
        truth = next(truths, None)
        for stamp, _, frame in images.images(self._topic, self._count_rejected):
            while truth is not None and truth[0] < stamp:
                truth = next(truths, None)
            if truth is None or truth[0] != stamp:
                self.unmatched += 1
                continue
            name = f"{self._path}, stamp {stamp / 1e9:.3f}"
            yield LabelledFrame(name, frame, self._checked(name, frame, truth[2]))

    def _count_rejected(self, _stamp: int, _reason: ImageRejected) -> None:
        self.rejected += 1

    def _checked(self, name: str, frame: Frame, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if raw.shape != (frame.height, frame.width):
            raise UserError(
                f"{name}: the image is {frame.height}x{frame.width} (height x width), its labels "
                f"{raw.shape[0]}x{raw.shape[1]}"
            )
        if strange := ids_outside(raw, self._space):
            ids = ", ".join(str(v) for v in strange[:10])
            raise UserError(f"{name}: labels hold ids outside label space '{self._space.name}': {ids}")
        return self._space.from_raw(raw)
