"""Ending other processes, however often whoever waits for them is interrupted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence


def end_process(process: subprocess.Popen[bytes], steps: Sequence[tuple[Callable[[], object], float]]) -> None:
    """Ask a process ever more firmly to end, until it has.

    A Ctrl-C meanwhile is the end of patience with one step, and shortens those that follow.

    :param steps: what asks, and the seconds to wait then; the last, which is to kill, is taken twice, for the first
        may be interrupted
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
