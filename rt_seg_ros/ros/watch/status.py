"""How it stands with what the live view looks on: whether messages keep coming, and a status that is said once."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two looks at the graph.
LOOK_PERIOD = 0.25

_SILENCE = 2.0  # s without a message after which it is said that none comes, where they come faster than that
_LONGEST_SILENCE = 60.0  # the same, however slowly they come

#: Is told a status, as :class:`~rt_seg_ros.web.board.State` has it, and a message that says more, or "".
Status = Callable[[str, str], None]


class Pace:
    """How messages come, and whether they have ceased to."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Wait for the first."""
        self._last, self._interval, self._came = time.monotonic(), 0.0, False

    def came(self) -> None:
        """Take note that one came."""
        now = time.monotonic()
        self._interval = now - self._last if self._came else 0.0
        self._last, self._came = now, True

    @property
    def ceased(self) -> bool:
        """Whether none has come for longer than they take from one to the next."""
        return time.monotonic() - self._last > max(_SILENCE, min(3.0 * self._interval, _LONGEST_SILENCE))


class Teller:
    """Says a status once, and not again at every look."""

    def __init__(self, tell: Status) -> None:
        self._tell = tell
        self._said: tuple[str, str] | None = None

    def __call__(self, status: str, message: str = "") -> None:
        """Say it, unless it was the last that was said."""
        if self._said != (status, message):
            self._said = (status, message)
            self._tell(status, message)
