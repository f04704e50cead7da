"""What the runtimes have in common that take a graph and make it fast for one size of image at a time."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import HostBackend
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

#: (1, 3, h, w) to (1, classes, h', w'), both float32 and contiguous; the second may be overwritten by the next call.
Program = Callable[[NDArray[np.float32]], NDArray[np.float32]]

#: Sizes with a program of their own: as many cameras of different sizes. Each holds the network's activations.
_OWN = 4
#: Sizes that are remembered.
_SIZES = 64
#: Calls after which a size that did not come again gives its program up.
_IDLE = 64


def in_words(size: Size | None) -> str:
    """Say for which images a program is."""
    return f"{size[0]}x{size[1]} (height x width)" if size is not None else "any size"


@dataclass
class _Place:
    """Where frames of a size go: ``used`` is the number of the last call."""

    program: Program
    own: bool
    used: int


class GraphBackend(HostBackend):
    """Runs frames one after the other through a program that was compiled for their size.

    On a CPU a batch gains nothing (one frame keeps all cores busy), and a program for each number of frames would take
    its time to compile and its memory. Where more sizes take turns than there are programs, the rest share one that
    takes any size: it is a little slower, but compiling anew for each frame would take half a second.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card)
        self._places: dict[Size, _Place] = {}
        self._any: Program | None = None
        self._calls = 0
        self._compiling = threading.Lock()

    @abstractmethod
    def compile(self, size: Size | None) -> Program:
        """Make the program for images of one size; None: of any."""

    def make_ready(self, working: Size) -> None:
        """See :meth:`HostBackend.make_ready`."""
        self._place((working[0], working[1]))

    def is_ready(self, working: Size) -> bool:
        """See :meth:`Backend.is_ready`."""
        return (working[0], working[1]) in self._places

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :meth:`HostBackend.logits`; the result is overwritten by the next call."""
        place = self._place((batch.shape[2], batch.shape[3]))
        self._calls += 1
        place.used = self._calls
        if len(batch) == 1:
            return place.program(batch)
        return np.concatenate([place.program(batch[i : i + 1]).copy() for i in range(len(batch))])

    def _place(self, size: Size) -> _Place:
        place = self._places.get(size)
        if place is None:
            with self._compiling:
                place = self._places.get(size)
                if place is None:
                    place = self._places[size] = self._make_place(size)
        return place

    def _make_place(self, size: Size) -> _Place:
        if self._own() < _OWN or self._idle() is not None:
            place = _Place(self.compile(size), True, self._calls)
            idle = self._idle()  # asked again: compiling takes long
            if self._own() >= _OWN and idle is not None:
                del self._places[idle]
            return place
        self._any = self._any or self.compile(None)
        if len(self._places) >= _SIZES:
            shared = (size for size, place in self._places.items() if not place.own)
            del self._places[min(shared, key=lambda size: self._places[size].used)]
        return _Place(self._any, False, self._calls)

    def _own(self) -> int:
        return sum(place.own for place in self._places.values())

    def _idle(self) -> Size | None:
        """Return the size with a program of its own that has not come for the longest time, if that is long."""
        own = [size for size, place in self._places.items() if place.own]
        last = min(own, key=lambda size: self._places[size].used, default=None)
        return last if last is not None and self._calls - self._places[last].used > _IDLE else None
