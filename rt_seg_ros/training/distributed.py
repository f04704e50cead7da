"""Where a run computes: one process alone, or several that torchrun started, each with its share of every batch.

Several processes take every decision together: what one of them cannot do stops all, and they end after the same
step. Only the first of them, which leads, writes and shows anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rt_seg_ros.errors import UserError

T = TypeVar("T")

#: The others wait for the one that leads while it validates or reads, however long that takes.
_PATIENCE = timedelta(days=2)


class FailedElsewhere(Exception):
    """Another process of this run failed, and says why."""


@dataclass(frozen=True)
class Decision:
    """What all processes do next: end, because one was asked to; save; and the clock of the one that leads."""

    stop: bool
    save: bool
    clock: float


class World:
    """One process alone."""

    rank = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def share_of(self, batch: int) -> int:
        """Return how many of a batch's samples each process takes.

        :raises UserError: the batch does not divide
        """
        if batch % self.size:
            raise UserError(
                f"schedule.batch is {batch}, which {self.size} processes cannot share equally: "
                f"take {batch - batch % self.size or self.size} or {batch + self.size - batch % self.size}"
            )
        return batch // self.size

    def together(self, action: Callable[[], T]) -> list[T]:
        """Do something that may be refused; return what it gave in each process, by rank.

        :raises UserError: it was refused here
        :raises FailedElsewhere: it was refused in a process before this one
        """
        return [action()]

    def decide(self, stop: bool, save: bool, clock: float) -> Decision:
        """Agree on what comes next. Each process calls this once before each step, and once at the end.

        :param stop: this process was asked to stop
        :param save: a checkpoint is due (that of the process that leads counts)
        :param clock: share of the time that is used (that of the process that leads counts)
        :raises FailedElsewhere: the process that leads failed
        """
        return Decision(stop, save, clock)

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """Work of the process that leads, which the others wait for at the end of it; they learn of its failure."""
        yield

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return values

    def synchronise(self, network: nn.Module) -> None:
        """Have a network's batch norms count all processes' images; their names and state stay as they are."""

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are the mean over all processes."""
        return module


class Team(World):
    """One of several processes, as torchrun describes them in the environment.

    :raises UserError: no connection to the others
    """

    def __init__(self, device: torch.device, rank: int, size: int) -> None:
        super().__init__(device)
        self.rank = rank
        self.size = size
        if not dist.is_available():
            raise UserError("this build of PyTorch has no torch.distributed: start without torchrun")
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            # Decisions are numbers of the CPU: to ask a GPU for them would make it wait in every step.
            self._control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"process {rank} of {size} finds no connection to the others: {error}") from error
        self._norms = dist.new_group(backend="gloo") if device.type == "cpu" else None

    def together(self, action: Callable[[], T]) -> list[T]:
        """See :meth:`World.together`."""
        result: T | None = None
        problem: UserError | None = None
        try:
            result = action()
        except UserError as error:
            problem = error
        outcomes: list[tuple[T, str | None]] = [None] * self.size  # type: ignore[list-item]
        mine = (result, None if problem is None else str(problem))
        self._connected(lambda: dist.all_gather_object(outcomes, mine, group=self._control))
        failed = [rank for rank, (_, text) in enumerate(outcomes) if text is not None]
        if not failed:
            return [outcome for outcome, _ in outcomes]
        if self.rank != failed[0] or problem is None:
            raise FailedElsewhere
        if self.rank:
            raise UserError(f"in process {self.rank} of {self.size}: {problem}") from problem
        raise problem

    def decide(self, stop: bool, save: bool, clock: float) -> Decision:
        """See :meth:`World.decide`."""
        asked, failed, save_all, clock_all = self._agree(stop, False, save, clock)
        if failed:
            raise FailedElsewhere
        return Decision(asked > 0, save_all > 0, clock_all)

    def _agree(self, stop: bool, failed: bool, save: bool, clock: float) -> list[float]:
        first = (float(save), clock) if self.leads else (0.0, 0.0)
        values = torch.tensor([stop, failed, *first], dtype=torch.float64)
        self._connected(lambda: dist.all_reduce(values, group=self._control))
        return list(values.tolist())

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """See :meth:`World.leading`."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(FailedElsewhere):
                self._agree(False, True, False, 0.0)
            raise
        if self._agree(False, False, False, 0.0)[1]:
            raise FailedElsewhere

    def mean(self, values: Tensor) -> Tensor:
        """See :meth:`World.mean`."""
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def synchronise(self, network: nn.Module) -> None:
        """See :meth:`World.synchronise`."""
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return
        from rt_seg_ros.training.norms import synchronise_norms  # builds of PyTorch without torch.distributed

        synchronise_norms(network, self._norms)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """See :meth:`World.wrapped`."""
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)

    def _connected(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:  # a process that is gone closed its connections
            raise FailedElsewhere from error


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    :param device: ``run.device`` of the recipe; with several processes on a machine each takes a GPU of its own
    :raises UserError: a device that is not there, or no connection to the others
    """
    try:
        size, rank, local = (int(os.environ.get(key, default)) for key, default in _TORCHRUN.items())
    except ValueError as error:
        raise UserError(
            f"{', '.join(_TORCHRUN)} in the environment are no whole numbers: start with torchrun"
        ) from error
    if size <= 1:
        yield World(choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            raise UserError(f"run.device is '{device}', but torchrun gives each process its own GPU: use cuda or auto")
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun starts a process number {local + 1} on this machine, which has "
                f"{torch.cuda.device_count()} GPUs: lower --nproc-per-node, or set run.device=cpu"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    team = Team(chosen, rank, size)
    yield team
    dist.destroy_process_group()  # not after an error: there the others may be gone


_TORCHRUN = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}


def choose_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is the GPU where there is one.

    :raises UserError: a device that is not there, or no device's name
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"run.device is '{name}': use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"run.device is '{name}', but torch finds no CUDA device here: use cpu or auto")
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise UserError(f"run.device is '{name}', but there are only {torch.cuda.device_count()} GPUs, from cuda:0")
        torch.cuda.set_device(device)  # what takes no device, such as pinned memory, goes to the present one
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"run.device is '{name}': use auto, cpu, cuda or cuda:N")
    return device
