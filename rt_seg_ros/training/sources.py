"""Where a run's pictures come from: sources held as uint8 on the device, mixed by weight.

Their order is a function of (seed, step), so that a continued run sees what an unbroken one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.data.augment import generator
from rt_seg_ros.data.datasets import Dataset, check_dataset, open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import UNLABELLED, LabelSpace
from rt_seg_ros.training.recipe import SourceSection, SynthSection

Size = tuple[int, int]
Report = Callable[[str, int, int], None]  # what is being done, how many of how many


@dataclass
class Frames:
    """One source in memory.

    ``images`` uint8 (N, 3, H, W) RGB; ``labels`` uint8 (N, H, W), 255 for void and beyond a smaller picture's
    edge; ``sizes`` int64 (N, 2), each picture's own height and width; ``names`` of the files, for messages.
    """

    name: str
    images: Tensor
    labels: Tensor
    sizes: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Frames:
        """Return the same on another device."""
        return Frames(self.name, self.images.to(device), self.labels.to(device), self.sizes, self.names)

    def class_pixels(self, num_classes: int) -> NDArray[np.float64]:
        """Return the mean number of pixels per picture by class, float64 (C,)."""
        counts = np.zeros(256, np.int64)
        for labels in self.labels.cpu().numpy():
            counts += np.bincount(labels.reshape(-1), minlength=256)
        return counts[:num_classes] / len(self)


def load_source(
    section: SourceSection,
    root: Path | None,
    space: LabelSpace,
    size: Size | None = None,
    report: Report | None = None,
) -> Frames:
    """Read a folder, or render its drives, into memory on the CPU.

    :param root: the folder that --data names; relative paths start there
    :param size: resize the pictures to this height and width; none keeps theirs
    :raises UserError: what :func:`open_dataset` and :func:`check_dataset` refuse; no --data where one is needed
    """
    if section.synth is not None:
        name = section.name or "synth"
        return _collect(name, _render(section.synth, space), size, _tally(report, f"rendering {name}", section.synth))
    path = Path(str(section.path)).expanduser()
    if not path.is_absolute():
        if root is None:
            raise UserError(f"data source '{path}' is relative to the data set folder: name that with --data DIR")
        path = root / path
    dataset = open_dataset(path, section.split, space)
    check_dataset(dataset)
    name = section.name or dataset.name
    done = (lambda i: report(f"reading {name}", i, len(dataset))) if report else None
    return _collect(name, _read(dataset), size, done)


def _tally(report: Report | None, what: str, synth: SynthSection) -> Callable[[int], None] | None:
    total = len(synth.seeds) * synth.frames
    return (lambda i: report(what, i, total)) if report else None


Triplet = tuple[NDArray[np.uint8], NDArray[np.uint8], str]


def _read(dataset: Dataset) -> Iterator[Triplet]:
    for i in range(len(dataset)):
        yield (*dataset[i], dataset.file_names(i)[0])


def _render(synth: SynthSection, space: LabelSpace) -> Iterator[Triplet]:
    from rt_seg_ros.data.synth import SyntheticDrive  # beside this floor, and only needed here

    if space.name != "camvid11":
        raise UserError(f"rendered drives have label space camvid11, this recipe has '{space.name}': leave synth out")
    for seed in synth.seeds:
        drive = SyntheticDrive(seed, synth.size[0], synth.size[1])
        for i in range(0, synth.frames * synth.every, synth.every):
            image, labels = drive.render(i)
            yield image, labels, f"rendered drive {seed}, frame {i}"


def _collect(name: str, triplets: Iterable[Triplet], size: Size | None, done: Callable[[int], None] | None) -> Frames:
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for image, label, file_name in triplets:
        images.append(resized_image(image, size) if size else image)
        labels.append(resized_labels(label, size) if size else label)
        names.append(file_name)
        if done:
            done(len(names))
    sizes = np.array([label.shape for label in labels], np.int64)
    height, width = sizes.max(axis=0)
    stacked = np.zeros((len(names), 3, height, width), np.uint8)
    truth = np.full((len(names), height, width), UNLABELLED, np.uint8)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        h, w = label.shape
        stacked[i, :, :h, :w] = image[..., ::-1].transpose(2, 0, 1)
        truth[i, :h, :w] = label
    return Frames(name, torch.from_numpy(stacked), torch.from_numpy(truth), sizes, names)


def resized_image(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a picture to (height, width): area averages where it shrinks, linear where it grows."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation), np.uint8)


def resized_labels(labels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize labels to (height, width): the nearest pixel by its centre, as the pictures are resized."""
    return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


@dataclass(frozen=True)
class Batch:
    """One step's pictures: tensors as :class:`Frames` holds them, and their names."""

    images: Tensor
    labels: Tensor
    sizes: NDArray[np.int64]
    names: list[str]


class Mixture:
    """Several sources as one endless sequence of samples.

    An epoch is one pass over the first source, with samples of the others in proportion to their weight. Each
    source is shuffled anew for each of its passes; the samples of an epoch are shuffled among each other.
    """

    def __init__(self, sources: Sequence[Frames], weights: Sequence[float], seed: int) -> None:
        self.sources = list(sources)
        self.seed = seed
        first = len(sources[0])
        self.shares = [first, *(max(1, round(first * w / weights[0])) for w in weights[1:])]
        self.epoch_samples = sum(self.shares)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def samples(self, start: int, count: int) -> NDArray[np.int64]:
        """Return which samples stand at positions ``start`` to ``start + count``: (source, index), int64 (n, 2)."""
        positions = np.arange(start, start + count)
        parts = []
        for epoch in range(positions[0] // self.epoch_samples, positions[-1] // self.epoch_samples + 1):
            here = positions[positions // self.epoch_samples == epoch] - epoch * self.epoch_samples
            parts.append(self._epoch(int(epoch))[here])
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            rows = []
            for k, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
                draws = np.arange(epoch * share, (epoch + 1) * share)
                index = np.empty(share, np.int64)
                for turn in range(draws[0] // len(source), draws[-1] // len(source) + 1):
                    order = generator(self.seed, 1, k, int(turn)).permutation(len(source))
                    here = draws // len(source) == turn
                    index[here] = order[draws[here] % len(source)]
                rows.append(np.stack([np.full(share, k), index], axis=1))
            mixed = np.concatenate(rows)
            self._order = (epoch, mixed[generator(self.seed, 2, epoch).permutation(len(mixed))])
        return self._order[1]

    def batches(self, start: int, count: int) -> list[Batch]:
        """Return the samples at these positions, grouped so that each group is of one stored size."""
        samples = self.samples(start, count)
        groups: dict[Size, list[NDArray[np.int64]]] = {}
        for row in samples:
            shape = self.sources[row[0]].labels.shape
            groups.setdefault((shape[1], shape[2]), []).append(row)
        return [self._gather(rows) for rows in groups.values()]

    def _gather(self, rows: list[NDArray[np.int64]]) -> Batch:
        images, labels, sizes, names = [], [], [], []
        for k in sorted({int(row[0]) for row in rows}):
            source = self.sources[k]
            index = np.array([row[1] for row in rows if row[0] == k])
            chosen = torch.from_numpy(index).to(source.images.device)
            images.append(source.images[chosen])
            labels.append(source.labels[chosen])
            sizes.append(source.sizes[index])
            names += [source.names[i] for i in index]
        return Batch(torch.cat(images), torch.cat(labels), np.concatenate(sizes), names)
