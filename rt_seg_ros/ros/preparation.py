"""Prepares the next segmenter in a thread of its own while the present one serves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Preparation(Generic[Job, Result]):
    """Does one job at a time; of those that are asked for meanwhile, the latest.

    The thread lives only while there is something to do.

    :param build: does a job, in the thread; may raise
    :param deliver: takes the job and what came of it, or the exception; called in the thread, and not at all for a
        job that was overtaken by another or cancelled
    """

    def __init__(self, build: Callable[[Job], Result], deliver: Callable[[Job, Result | Exception], None]) -> None:
        self._build = build
        self._deliver = deliver
        self._lock = threading.Lock()
        self._next: Job | None = None
        self._generation = 0
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        with self._lock:
            return self._thread is not None

    def request(self, job: Job) -> None:
        """Ask for a job; it overtakes those before it."""
        with self._lock:
            self._next = job
            self._generation += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Deliver nothing more of what was asked for until now."""
        with self._lock:
            self._next = None
            self._generation += 1

    def close(self, hurry: Callable[[threading.Thread], None] | None = None) -> None:
        """Cancel, and wait for the thread's end.

        :param hurry: called with the thread before that, where there is one; cuts short what it does
        """
        self.cancel()
        thread = self._thread
        if thread is not None:
            if hurry is not None:
                hurry(thread)
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                job, self._next = self._next, None
                generation = self._generation
                if job is None:
                    self._thread = None
                    return
            result: Result | Exception
            try:
                result = self._build(job)
            except Exception as error:
                result = error
            with self._lock:
                overtaken = generation != self._generation
            if not overtaken:
                self._deliver(job, result)
