"""A backend that fails in the middle of a run gives way to the next one that works.

Runtimes fail for reasons of their own: a GPU is out of memory or lost, an engine is corrupt. The frame at hand is
segmented by another then, and so are those that follow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from rt_seg_ros.backends.base import Backend, BatchResult
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.log import get_logger
from rt_seg_ros.working_size import Size

_log = get_logger(__name__)

#: Runtime and kind of device ("cpu", "cuda"): what has failed is not tried again as long as there is something else.
Place = tuple[str, str]
#: Builds other backends one by one, as they are asked for, without those at certain places.
Others = Callable[[Collection[Place]], Iterator[tuple[Place, Backend]]]

#: Where no backend does what is asked, the search is repeated no sooner (seconds); each in vain doubles it.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_LONGEST_TEXT = 300


class FallbackBackend(Backend):
    """A backend with others to take its place.

    ``name``, ``device`` and ``precision`` are those of whoever served last; ``trouble`` tells what failed.

    :param first: who serves until it fails
    :param others: the rest, best first
    :param from_the_start: another may serve even if ``first`` never worked; otherwise its first failure is raised
    """

    def __init__(self, first: Backend, others: Others, from_the_start: bool) -> None:
        self._others = others
        self._ready = from_the_start
        self._lock = threading.Lock()
        self._failed: set[Place] = set()
        self._pause, self._not_before = _FIRST_PAUSE, 0.0
        self._place = (first.name, first.device.partition(":")[0])
        self._serving = first
        self.live = first.live
        self._show(first)

    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.run`.

        :raises Exception: what the serving backend raised, where no other can do it either
        """
        backend = self._serving
        backend.live = self.live
        try:
            result = backend.run(frames, working, sizes, confidence)
        except ImageRejected:
            raise
        except Exception as error:
            if not self._ready:
                raise
            return self._run_elsewhere(backend, error, lambda other: other.run(frames, working, sizes, confidence))
        self._ready = True
        if backend is self._serving:  # not one that gave way meanwhile
            self._show(backend)
        return result

    def is_ready(self, working: Size) -> bool:
        """See :meth:`Backend.is_ready`."""
        return self._serving.is_ready(working)

    def rehearse(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.rehearse`: only frames that really came make another serve."""
        return self._serving.rehearse(frames, working, sizes, confidence)

    def _run_elsewhere(
        self, failed: Backend, error: Exception, attempt: Callable[[Backend], BatchResult]
    ) -> BatchResult:
        with self._lock:
            if self._serving is not failed:  # another thread has seen to it
                return attempt(self._serving)
            if time.monotonic() < self._not_before:
                raise error
            self._failed.add(self._place)
            former = f"{failed.name} on {failed.device}"
            reasons = [f"{former} failed: {_in_one_line(error)}"]
            for place, backend in self._others(frozenset(self._failed)):
                backend.live = self.live
                try:
                    result = attempt(backend)
                except Exception as another:
                    reasons.append(f"{backend.name} on {backend.device}: {_in_one_line(another)}")
                    continue
                self._place, self._serving, self._pause = place, backend, _FIRST_PAUSE
                self._show(backend)
                self.trouble = f"{reasons[0]}; {backend.name} on {backend.device}, {backend.precision} serves instead"
                _log.warning("%s", self.trouble)
                return result
            # It may be the frame, or pass: what has failed before may be tried again, but not for each frame.
            self._failed.clear()
            self._not_before = time.monotonic() + self._pause
            _log.warning("no backend can do it: %s; next search in %g s", "; ".join(reasons), self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            raise error

    def _show(self, backend: Backend) -> None:
        self.name, self.device, self.precision = backend.name, backend.device, backend.precision
        self.faster_in_batches, self.warm_up_calls = backend.faster_in_batches, backend.warm_up_calls
        self.warms_up_by_batch = backend.warms_up_by_batch


def _in_one_line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
