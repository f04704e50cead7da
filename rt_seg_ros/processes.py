"""Starting other processes and ending them, however often whoever waits for them is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: What asks a process to end, and the seconds to wait then; the last is to kill.
Steps = Sequence[tuple[Callable[[], object], float]]


@contextmanager
def running_process(
    command: Sequence[str], ending: Callable[[subprocess.Popen[bytes]], Steps], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, which ends with the block at the latest.

    Ctrl-C waits while it is started: :class:`subprocess.Popen` interrupted may have started it, and its maker lost it.

    :param ending: how to end it, as :func:`end_process` takes it
    :param options: as :class:`subprocess.Popen` takes them
    :raises OSError: it cannot be started
    """
    process = None
    try:
        with _held_back():
            process = subprocess.Popen(command, **options)  # noqa: S603 - a list of words, which no shell reads
        yield process
    finally:
        if process is not None:
            end_process(process, ending(process))


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals that Python handles wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only that one handles them
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    former = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in former:
            signal.signal(number, lambda caught, _: heard.append(caught))
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for caught in heard:
            signal.raise_signal(caught)


def end_process(process: subprocess.Popen[bytes], steps: Steps) -> None:
    """Ask a process ever more firmly to end, until it has.

    A Ctrl-C meanwhile is the end of patience with one step, and shortens those that follow.

    :param steps: the last is taken twice, for the first may be interrupted
    :raises KeyboardInterrupt: there was one; the process has ended
    """
    interrupt = None
    shortest = steps[-1][1]
    for ask, patience in [*steps, steps[-1]]:
        try:
            if process.poll() is not None:
                break
            ask()
            process.wait(patience if interrupt is None else min(patience, shortest))
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def end_with_parent() -> None:
    """End this process when nobody holds the other end of its standard input any more."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
