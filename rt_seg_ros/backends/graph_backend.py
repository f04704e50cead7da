"""What the runtimes have in common that take a graph and make it fast for one size of image at a time."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import HostBackend
from rt_seg_ros.resampling import Size
from rt_seg_ros.zoo import ModelCard

#: (1, 3, h, w) to (1, classes, h', w'), both float32 and contiguous; writes into the second.
Program = Callable[[NDArray[np.float32], NDArray[np.float32]], None]

#: As many cameras of different sizes; each program holds the network's activations.
_MAX_PROGRAMS = 4


class GraphBackend(HostBackend):
    """Runs frames one after the other through a program that was compiled for their size.

    On a CPU a batch gains nothing (one frame keeps all cores busy), and a program for each number of frames would take
    its time to compile and its memory.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card)
        self._programs: OrderedDict[Size, tuple[Program, tuple[int, int, int]]] = OrderedDict()
        self._results: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self._compiling = threading.Lock()

    @abstractmethod
    def compile(self, size: Size) -> tuple[Program, tuple[int, int, int]]:
        """Make the program for images of one size; return it with the shape of a result, (classes, h', w')."""

    def make_ready(self, working: Size) -> None:
        """See :meth:`HostBackend.make_ready`."""
        size = (working[0], working[1])
        if size in self._programs:
            return
        with self._compiling:
            if size in self._programs:
                return
            program = self.compile(size)
            with self._lock:
                self._keep(size, program)

    def _keep(self, size: Size, program: tuple[Program, tuple[int, int, int]]) -> None:
        if len(self._programs) >= _MAX_PROGRAMS:
            self._programs.popitem(last=False)
        self._programs[size] = program

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :meth:`HostBackend.logits`; the result is overwritten by the next call."""
        size = (batch.shape[2], batch.shape[3])
        if size not in self._programs:  # called directly, or more sizes at once than are kept
            self._keep(size, self.compile(size))
        self._programs.move_to_end(size)
        program, shape = self._programs[size]
        results = self._result((len(batch), *shape))
        for i in range(len(batch)):
            program(batch[i : i + 1], results[i : i + 1])
        return results

    def _result(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if shape not in self._results:
            if len(self._results) >= _MAX_PROGRAMS:
                self._results.clear()
            self._results[shape] = np.empty(shape, np.float32)
        return self._results[shape]
