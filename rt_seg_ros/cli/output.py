"""Standard output and error that somebody may no longer take."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_PATIENCE_SECONDS = 5.0  # with a pipe that is full


def let_go(stream: TextIO) -> None:
    """Join a stream that takes no more to the null device: what is left in it, or comes later, fails no more."""
    with suppress(OSError, ValueError):  # ValueError: closed, or no file of the system's
        number = stream.fileno()
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), number)


@contextmanager
def for_who_reads() -> Iterator[None]:
    """Print in here what somebody may cease to read (``| head``): the rest is left out, and the run goes on."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        let_go(sys.stdout)


class Output:
    """Standard output or error, as far as somebody takes it: a run is not lost with those who watch it.

    After a failure what comes later is left out, also what others print. What a full pipe does not take in some
    seconds is left out until there is room again. For rich it is a file.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._patience = _PATIENCE_SECONDS

    def line(self, text: str) -> None:
        """Write a line at once."""
        self.write(f"{text}\n")
        self.flush()

    def write(self, text: str) -> int:
        """Write, or leave it out."""
        if self._stream is not None and self._has_room(self._stream):
            try:
                self._stream.write(text)
            except OSError:
                let_go(self._stream)
            except ValueError:  # closed
                self._stream = None
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError:
            let_go(self._stream)
        except ValueError:
            self._stream = None

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    @property
    def encoding(self) -> str:
        """How text is written."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _has_room(self, stream: TextIO) -> bool:
        try:
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            room = bool(poll.poll(1000 * self._patience))
        except (OSError, ValueError):  # closed, or no file of the system's
            return True
        self._patience = _PATIENCE_SECONDS if room else 0.0
        return room
