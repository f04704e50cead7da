"""The pictures of each step, on the device: gathered from memory, or read ahead by processes of their own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rt_seg_ros.errors import UserError
from rt_seg_ros.overlap import reading_threads
from rt_seg_ros.training.distributed import World
from rt_seg_ros.training.mixture import Group, Mixture
from rt_seg_ros.training.signals import signals_blocked
from rt_seg_ros.training.sources import PicturesOnDisk

#: What is to be read for a step: of each group, by source, the indices.
_Wanted = list[dict[int, NDArray[np.int64]]]
#: The same, read: pictures and labels.
_Read = list[dict[int, tuple[Tensor, Tensor]]]


class UnreadError(UserError):
    """The pictures of a step cannot be had; nothing of that step was done yet."""


@dataclass(frozen=True)
class Portion:
    """A process's share of one group: its rows in it, int64 (n,), pictures uint8 (n, 3, H, W), labels (n, H, W)."""

    group: Group
    rows: NDArray[np.int64]
    images: Tensor
    labels: Tensor


class Feed:
    """The batches of successive steps, of which each process takes an equal part.

    :param batch: samples of a step, over all processes
    :param steps: where reading ahead ends
    :param workers: processes that read what is not held in memory; 0: this one does; none: by the CPU
    """

    def __init__(self, mixture: Mixture, batch: int, steps: int, world: World, workers: int | None = None) -> None:
        self._mixture = mixture
        self._batch = batch
        self._steps = steps
        self._world = world
        self._share = world.share_of(batch)
        self._workers = reading_threads() if workers is None else workers
        self._files = {k: source for k, source in enumerate(mixture.sources) if isinstance(source, PicturesOnDisk)}
        self._ahead: Iterator[Any] | None = None
        self._next = -1
        self._at_hand: dict[int, list[Portion]] = {}

    def fetch(self, step: int) -> None:
        """Have a step's pictures at hand for :meth:`portions`.

        :raises UnreadError: as :meth:`portions`
        """
        self._at_hand = {step: self._portions(step)}

    def portions(self, step: int) -> list[Portion]:
        """Return this process's pictures of a step; a group of which it has none comes with no rows.

        :raises UnreadError: a file that can no longer be read, or a reading process that ended
        """
        return self._at_hand.pop(step, None) or self._portions(step)

    def _portions(self, step: int) -> list[Portion]:
        read = self._read(step) if self._files else None
        portions = []
        for at, group in enumerate(self._mixture.groups(step * self._batch, self._batch)):
            rows = self._rows(group)
            images, labels = [], []
            for k, index in group.by_source(rows):
                source = self._mixture.sources[k]
                pair = source.gather(index) if k not in self._files or read is None else read[at][k]
                images.append(pair[0].to(self._world.device, non_blocking=True))
                labels.append(pair[1].to(self._world.device, non_blocking=True))
            if images:
                portions.append(Portion(group, rows, torch.cat(images), torch.cat(labels)))
            else:
                nothing = torch.empty(0, device=self._world.device)
                portions.append(Portion(group, rows, nothing, nothing))
        return portions

    def close(self) -> None:
        """End the reading processes."""
        self._ahead = None
        self._next = -1
        _DEATHS.forget()

    def _rows(self, group: Group) -> NDArray[np.int64]:
        return np.flatnonzero(group.position // self._share == self._world.rank)

    def _wanted(self, step: int) -> _Wanted:
        return [
            {k: index for k, index in group.by_source(self._rows(group)) if k in self._files}
            for group in self._mixture.groups(step * self._batch, self._batch)
        ]

    def _read(self, step: int) -> _Read:
        try:
            with _DEATHS.raised_here():
                read = next(self._ahead, None) if self._ahead is not None and step == self._next else None
                if read is None:
                    self._ahead = None  # ends the processes of another place before new ones begin
                    with signals_blocked():
                        self._ahead = iter(self._loader(step))
                    if self._workers:
                        _DEATHS.listen()
                    read = next(self._ahead)
        except RuntimeError as error:
            self.close()
            raise UnreadError(
                f"a process that reads pictures ended ({(str(error).splitlines() or [''])[0]}): memory may be short, "
                "or /dev/shm too small; take fewer with run.workers, or 0"
            ) from error
        if isinstance(read, str):
            raise UnreadError(read)
        self._next = step + 1
        return list(read)

    def _loader(self, step: int) -> DataLoader[Any]:
        return DataLoader(
            _Reader(self._files),
            sampler=map(self._wanted, range(step, max(self._steps, step + 1))),
            batch_size=None,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self._world.device.type == "cuda",
            worker_init_fn=_begin_reading,
        )


class _Reader(TorchDataset[Any]):
    """Reads what a step wants; a refusal comes back as its text, for an exception would bring a traceback along."""

    def __init__(self, files: dict[int, PicturesOnDisk]) -> None:
        self._files = files

    def __getitem__(self, wanted: _Wanted) -> _Read | str:
        try:
            return [{k: self._files[k].gather(index) for k, index in group.items()} for group in wanted]
        except UserError as error:
            return str(error)


def _as_it_is(read: Any) -> Any:
    return read


def _begin_reading(_: int) -> None:
    cv2.setNumThreads(0)  # there are as many processes as there is use for


class _Deaths:
    """Keeps the death of a reading process until pictures are read.

    PyTorch raises it wherever the main thread is, mostly in the midst of a step, whose state nobody could go on from.
    """

    def __init__(self) -> None:
        self._of_pytorch: Callable[[int, Any], object] | None = None
        self._kept: RuntimeError | None = None
        self._raises = False

    def listen(self) -> None:
        """Come before the handler that PyTorch installs with the first processes."""
        handler = signal.getsignal(signal.SIGCHLD)
        if threading.current_thread() is threading.main_thread() and callable(handler) and handler != self._hear:
            self._of_pytorch = handler
            signal.signal(signal.SIGCHLD, self._hear)

    @contextlib.contextmanager
    def raised_here(self) -> Iterator[None]:
        """Raise here what was kept, and what is heard while this lasts.

        :raises RuntimeError: of PyTorch, naming the process and how it ended
        """
        try:
            self._raises = True
            if self._kept is not None:
                raise self._kept
            yield
        finally:
            self._raises = False

    def forget(self) -> None:
        """Forget a death of processes that are no longer needed."""
        self._kept = None

    def _hear(self, number: int, frame: Any) -> None:
        try:
            if self._of_pytorch is not None:
                self._of_pytorch(number, frame)
        except RuntimeError as error:
            if self._raises:
                raise
            self._kept = error


_DEATHS = _Deaths()
