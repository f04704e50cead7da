"""What ends a process whose executor has come to stand still, where no signal handler and no other thread can run.

Seen with Fast DDS 2.14: a reliable reader that joins a stream of large images can loop for ever in the middleware, with
the interpreter's lock held. A process that has ended is started anew (``respawn``), one that stands still is not.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds without a look after which the process ends; what is known to take long is not counted.
PATIENCE = 60.0
_EVERY = 0.1  # of these: to set the alarm takes a thread


class Watchdog:
    """Ends the process, with a traceback of every thread and status 1, unless it is looked at."""

    def __init__(self) -> None:
        self._watching = False
        self._pauses = 0
        self._set_at = 0.0
        self._lock = threading.Lock()

    def look(self) -> bool:
        """Begin, or go on, to watch; from the thread that is watched. Return True."""
        self._watching = True
        if time.monotonic() - self._set_at > _EVERY * PATIENCE:
            with self._lock:
                if not self._pauses:
                    self._set()
        return True

    def stop(self) -> None:
        """Watch no longer."""
        self._watching = False
        faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave a block as much time as it takes."""
        with self._lock:
            self._pauses += 1
            if self._watching:
                faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if self._watching and not self._pauses:
                    self._set()

    def _set(self) -> None:
        self._set_at = time.monotonic()
        with suppress(RuntimeError, ValueError, OSError):  # nowhere to write to
            faulthandler.dump_traceback_later(PATIENCE, exit=True)


#: Of this process; a node in another's process is not watched.
watchdog = Watchdog()
