"""The signals that ask a run to stop: Ctrl-C, SIGTERM, and that of a terminal that closes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let a signal call ``stop``, which ends a run after its present step; the second of a kind ends it at once.

    The handler may come in the midst of anything, of writing to a terminal that is gone as well: ``stop`` may only
    note that it was asked. Outside the main thread, where no handler can be set, nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # None is a handler that was not set from Python, which cannot be set again.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _ASKING}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # by nohup
        del before[signal.SIGHUP]

    def ask(number: int, _frame: object) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    try:
        for asked in before:
            signal.signal(asked, ask)
        yield
    finally:
        for asked, handler in before.items():
            signal.signal(asked, handler)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Let processes begin that do not hear what asks the run to stop: they end when it does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
