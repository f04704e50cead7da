"""Where a run's pictures come from: data set folders and rendered drives, held in memory or read when they are due.

Either way a picture is the same array, so that a run does not depend on where its pictures wait.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.data.datasets import Dataset, check_dataset, open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import UNLABELLED, LabelSpace, load_label_space
from rt_seg_ros.overlap import reading_threads
from rt_seg_ros.resampling import resize_labels, resize_pixels
from rt_seg_ros.training.distributed import FailedElsewhere, World
from rt_seg_ros.training.recipe import DataSection, SourceSection, SynthSection, Triple
from rt_seg_ros.working_size import Size

Report = Callable[[str, int, int], None]  # what is being done, how many of how many
Index = NDArray[np.int64]
_BYTES_PER_PIXEL = 4  # three of colour, one of label


class PictureSource(ABC):
    """Pictures with labels, by index.

    ``sizes`` int64 (N, 2): each picture's own height and width; ``names`` of the files, for messages. All are given
    at one size, the largest of each axis; what lies beyond a smaller picture's edge is ``fill``, and void.
    """

    def __init__(self, name: str, names: list[str], sizes: Index, fill: Triple) -> None:
        self.name = name
        self.names = names
        self.sizes = sizes
        self.fill = np.round(fill).clip(0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> Size:
        """Height and width at which pictures are given."""
        height, width = self.sizes.max(axis=0)
        return int(height), int(width)

    def to(self, device: torch.device) -> PictureSource:
        """Return the source with what it holds in memory on a device."""
        return self

    @abstractmethod
    def gather(self, index: Index) -> tuple[Tensor, Tensor]:
        """Return pictures, uint8 (n, 3, H, W) RGB, and labels, uint8 (n, H, W), 255 for void."""

    @abstractmethod
    def class_pixels(self, num_classes: int) -> NDArray[np.float64]:
        """Return the mean number of pixels per picture by class, float64 (C,)."""

    def _padded(
        self, count: int, pictures: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    ) -> tuple[Tensor, Tensor]:
        """Stack pictures (BGR) and their labels at one size."""
        height, width = self.size
        images = np.empty((count, 3, height, width), np.uint8)
        truth = np.empty((count, height, width), np.uint8)
        for i in range(count):
            image, labels = pictures(i)
            h, w = labels.shape
            images[i, :, :h, :w] = image[..., ::-1].transpose(2, 0, 1)
            truth[i, :h, :w] = labels
            for beyond in (np.s_[h:, :], np.s_[:h, w:]):
                images[(i, slice(None), *beyond)] = self.fill[:, None, None]
                truth[(i, *beyond)] = UNLABELLED
        return torch.from_numpy(images), torch.from_numpy(truth)


class HeldPictures(PictureSource):
    """A source in memory: ``images`` and ``labels`` are what :meth:`PictureSource.gather` gives of all pictures."""

    def __init__(
        self,
        name: str,
        names: list[str],
        pictures: list[NDArray[np.uint8]],
        labels: list[NDArray[np.uint8]],
        fill: Triple,
    ) -> None:
        """Take the pictures (BGR) and their labels; the lists are emptied, for there may not be room for both."""
        super().__init__(name, names, np.array([label.shape for label in labels], np.int64), fill)
        pictures.reverse()
        labels.reverse()
        self.images, self.labels = self._padded(len(names), lambda _: (pictures.pop(), labels.pop()))

    def to(self, device: torch.device) -> HeldPictures:
        """See :meth:`PictureSource.to`; what was elsewhere is given up."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def gather(self, index: Index) -> tuple[Tensor, Tensor]:
        """See :meth:`PictureSource.gather`; on the device that holds them."""
        chosen = torch.from_numpy(index)
        if self.images.is_cuda:  # from pageable memory the host would wait for all that is queued before it
            chosen = chosen.pin_memory().to(self.images.device, non_blocking=True)
        # Seven times as fast as images[chosen].
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def class_pixels(self, num_classes: int) -> NDArray[np.float64]:
        """See :meth:`PictureSource.class_pixels`."""
        counts = np.zeros(256, np.int64)
        for labels in self.labels.cpu().numpy():
            counts += np.bincount(labels.reshape(-1), minlength=256)
        return counts[:num_classes] / len(self)


class PicturesOnDisk(PictureSource):
    """A source that is read when it is due."""

    def __init__(self, opened: OpenSource, sizes: Index, pixels: Index, fill: Triple) -> None:
        """Take an open source and what was found in it: sizes int64 (N, 2), pixels by id int64 (256,)."""
        super().__init__(opened.name, opened.names, sizes, fill)
        self._opened = opened
        self._pixels = pixels

    def gather(self, index: Index) -> tuple[Tensor, Tensor]:
        """See :meth:`PictureSource.gather`; on the CPU.

        :raises UserError: a file that is no longer what it was
        """
        return self._padded(len(index), lambda i: self._read(int(index[i])))

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, labels = self._opened.read(index)
        if labels.shape != tuple(self.sizes[index]):
            raise UserError(f"{self.names[index]} changed its size while the run read it")
        return image, labels

    def class_pixels(self, num_classes: int) -> NDArray[np.float64]:
        """See :meth:`PictureSource.class_pixels`."""
        return self._pixels[:num_classes] / len(self)


class RenderedDrives:
    """Frames of rendered drives, as :class:`Dataset` gives those of folders."""

    def __init__(self, section: SynthSection) -> None:
        self._section = section
        self._drive: tuple[int, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RenderedDrives, (self._section,)  # for reading processes: the drive itself is made there

    def __len__(self) -> int:
        return len(self._section.seeds) * self._section.frames

    @property
    def size(self) -> Size:
        """Height and width of the frames."""
        return self._section.size

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from rt_seg_ros.data.synth import SyntheticDrive  # beside this floor, and only needed here

        seed, frame = self._place(index)
        if self._drive is None or self._drive[0] != seed:
            self._drive = (seed, SyntheticDrive(seed, *self._section.size))
        image, labels = self._drive[1].render(frame)
        return image, labels

    def file_names(self, index: int) -> tuple[str, str]:
        """Return what frame ``index`` is, for messages: its picture, its labels."""
        seed, frame = self._place(index)
        return f"rendered drive {seed}, frame {frame}", f"labels of rendered drive {seed}, frame {frame}"

    def _place(self, index: int) -> tuple[int, int]:
        drive, frame = divmod(index, self._section.frames)
        return self._section.seeds[drive], frame * self._section.every


@dataclass
class OpenSource:
    """A source that is there and looks usable; what it holds is not read yet.

    ``size``: pictures are resized to this height and width; ``held``: they are to be kept in memory, if that takes no
    more than ``room`` bytes.
    """

    name: str
    pictures: Dataset | RenderedDrives
    size: Size | None
    held: bool = True
    room: float = math.inf

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def names(self) -> list[str]:
        """Names of the pictures' files, for messages."""
        return [self.pictures.file_names(i)[0] for i in range(len(self))]

    @cached_property
    def bytes(self) -> int:
        """What holding it takes, if all pictures are as large as the first."""
        if self.size is not None:
            height, width = self.size
        elif isinstance(self.pictures, RenderedDrives):
            height, width = self.pictures.size
        else:
            try:
                height, width = self.pictures.image(0).shape[:2]
            except UserError:
                return 0  # reading all will tell of it, and of the others
        return len(self) * height * width * _BYTES_PER_PIXEL

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read one picture (BGR) and its labels.

        :raises UserError: a file that cannot be read
        """
        return self.resized(*self.pictures[index])

    def resized(
        self, image: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Bring a picture and its labels to :attr:`size`."""
        if self.size is None:
            return image, labels
        return resize_pixels(image, self.size), resize_labels(labels, self.size)

    def visit_all(self, indices: Sequence[int], visit: Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]) -> None:
        """Read, check and resize these pictures; hand each and its labels on, in order.

        :raises UserError: those that would spoil a run, by name
        """

        def resize(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
            visit(*self.resized(image, labels))

        if isinstance(self.pictures, Dataset):
            check_dataset(self.pictures, indices, resize, reading_threads())
        else:
            for i in indices:
                resize(*self.pictures[i])


@dataclass(frozen=True)
class _Survey:
    """What was found in a part of a source: sizes int64 (n, 2) of its pictures, pixels by id int64 (256,)."""

    sizes: Index
    pixels: Index


def open_sources(
    sections: Sequence[SourceSection], root: Path | None, space: LabelSpace, data: DataSection, size: Size | None
) -> list[OpenSource]:
    """Find sources and decide which of them are held in memory.

    :param root: the folder that --data names; relative paths start there
    :param size: resize the pictures to this height and width; none keeps theirs
    :raises UserError: what :func:`open_dataset` refuses; no --data where one is needed
    """
    opened = [_open(section, root, space, size) for section in sections]
    if data.loading != "auto":
        for source in opened:
            source.held = data.loading == "memory"
        return opened
    left = data.memory_gib * 2**30
    for source in sorted(opened, key=lambda s: s.bytes):
        source.held = source.bytes <= left
        left -= source.bytes if source.held else 0
    for source in opened:
        source.room = source.bytes + left
    return opened


def _open(section: SourceSection, root: Path | None, space: LabelSpace, size: Size | None) -> OpenSource:
    if section.synth is not None:
        if space.names != load_label_space("camvid11").names:  # a space of one's own may bear that name
            raise UserError(
                f"rendered drives have the classes of camvid11, this recipe's label space '{space.name}' has "
                f"{', '.join(space.names[:4])}...: leave synth out"
            )
        return OpenSource(section.name or "synth", RenderedDrives(section.synth), size)
    path = Path(str(section.path)).expanduser()
    if not path.is_absolute():
        if root is None:
            raise UserError(f"data source '{path}' is relative to the data set folder: name that with --data DIR")
        path = root / path
    dataset = open_dataset(path, section.split, space)
    return OpenSource(section.name or dataset.name, dataset, size)


def load_sources(
    opened: Sequence[OpenSource], fill: Triple, world: World, report: Report | None = None
) -> list[PictureSource]:
    """Read what is held in memory, and look through the rest once, each process through its share.

    :param fill: RGB, beyond a smaller picture's edge
    :raises UserError: pairs that would spoil a run, by name
    """
    held: dict[int, HeldPictures] = {}

    def read() -> list[_Survey | None]:
        surveys: list[_Survey | None] = []
        for k, source in enumerate(opened):
            if source.held:
                try:
                    held[k] = _hold(source, fill, report)
                    larger = held[k].images.nbytes + held[k].labels.nbytes - source.bytes
                    for other in opened[k + 1 :]:
                        other.room -= max(0, larger)
                except _LargerThanThought:  # the same in every process, for all read the same
                    source.held = False
            surveys.append(None if source.held else _survey(source, world, report))
        return surveys

    surveys = world.together(read)
    sources: list[PictureSource] = []
    for k, source in enumerate(opened):
        if source.held:
            sources.append(held[k])
            continue
        sizes = np.empty((len(source), 2), np.int64)
        pixels = np.zeros(256, np.int64)
        for rank, of_rank in enumerate(surveys):
            part = of_rank[k]
            assert part is not None
            sizes[rank :: world.size] = part.sizes
            pixels += part.pixels
        if not pixels[:UNLABELLED].any():  # of several processes each saw its share alone
            if not world.leads:
                raise FailedElsewhere
            raise UserError(f"{source.name} cannot be used: all its labels are void")
        sources.append(PicturesOnDisk(source, sizes, pixels, fill))
    return sources


class _LargerThanThought(Exception):
    """Pictures do not fit the memory that they were to be held in."""


def _hold(source: OpenSource, fill: Triple, report: Report | None) -> HeldPictures:
    pictures: list[NDArray[np.uint8]] = []
    truth: list[NDArray[np.uint8]] = []
    doing = "reading" if isinstance(source.pictures, Dataset) else "rendering"
    height = width = 0

    def keep(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        nonlocal height, width
        # They are held at one size, the largest of each axis.
        height, width = max(height, labels.shape[0]), max(width, labels.shape[1])
        if len(source) * height * width * _BYTES_PER_PIXEL > source.room:
            raise _LargerThanThought
        pictures.append(image)
        truth.append(labels)
        if report:
            report(f"{doing} {source.name}", len(pictures), len(source))

    source.visit_all(range(len(source)), keep)
    return HeldPictures(source.name, source.names, pictures, truth, fill)


def _survey(source: OpenSource, world: World, report: Report | None) -> _Survey:
    indices = range(world.rank, len(source), world.size)
    sizes: list[Size] = []
    pixels = np.zeros(256, np.int64)

    def look(_: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        sizes.append((labels.shape[0], labels.shape[1]))
        np.add(pixels, np.bincount(labels.reshape(-1), minlength=256), out=pixels)
        if report:
            report(f"looking through {source.name}", len(sizes), len(indices))

    source.visit_all(indices, look)
    return _Survey(np.array(sizes, np.int64).reshape(-1, 2), pixels)
