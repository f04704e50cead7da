"""Stages that overlap: the next item is fetched and the last one written while the present one is worked on.

Threads suffice, because decoding, networks and encoding all run outside Python's lock. What waits between two stages
is bounded, so memory does not grow with the length of a recording.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """Yield what ``items`` yields, fetched by a thread of its own, at most ``depth`` items ahead.

    An exception raised by ``items`` comes out here in its place. Left early (``close`` or garbage collection of the
    generator), the thread ends after the item that it is fetching.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fetch() -> None:
        iterator: Iterator[T] | None = None
        try:
            iterator = iter(items)
            for item in iterator:
                if not put((item, None)):
                    break
            put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=fetch, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def map_ahead(call: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """Yield ``call(item)`` for each item, in their order, computed by threads a little ahead.

    What a call raises comes out in its place; what then is not begun yet is dropped.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(call, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class Background:
    """Runs calls on threads of its own, with at most ``depth`` of them unfinished.

    With one worker the calls run one after the other, in the order in which they came. An exception of a call comes
    out of a later :meth:`submit`, or of the exit of the ``with`` block; what is still waiting then is dropped.
    """

    def __init__(self, workers: int = 1, depth: int = 8) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="background")
        self._depth = depth
        self._pending: deque[Future[object]] = deque()

    def submit(self, call: Callable[..., object], *args: Any) -> None:
        """Have ``call(*args)`` run; waits while too many are unfinished."""
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._depth):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(call, *args))

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                while self._pending:
                    self._pending.popleft().result()
        finally:
            self._pending.clear()
            self._pool.shutdown(wait=True, cancel_futures=True)


def reading_threads() -> int:
    """Return how many threads read files at once."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
