"""A process and whatever it starts, which end with whoever started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from rt_seg_ros.processes import Steps, running_process

STOP_TIMEOUT = 15.0  # seconds for a process to follow SIGINT, and as many for SIGTERM
KILL_TIMEOUT = 5.0  # and to be gone after SIGKILL

# What starts a process: it leaves a watcher in the process's group and becomes the process itself, whose number is
# that of the group. The watcher sees the pipe close when whoever started it lets go of it, or dies, however it does;
# then the process is to end, and whatever is left of its group ends with it.
_LAUNCHER = """
import os, signal, sys, time
pipe, patience = int(sys.argv[1]), float(sys.argv[2])
asking = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, asking)
child = os.fork()
if child:
    os.waitpid(child, 0)
    os.close(pipe)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asking)
    os.execvp(sys.argv[3], sys.argv[3:])
if os.fork():
    os._exit(0)
os.read(pipe, 1)
os.killpg(0, signal.SIGTERM)
end = time.monotonic() + patience
while time.monotonic() < end:
    try:
        os.kill(os.getpgrp(), 0)
    except ProcessLookupError:
        break
    time.sleep(0.05)
os.killpg(0, signal.SIGKILL)
"""


@contextmanager
def running_group(
    command: Sequence[str], environment: Mapping[str, str], log: Path, held: IO[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; at the end ask it to stop as Ctrl-C would, and make sure that it is gone.

    It ends as well where this process dies, even by SIGKILL.

    :param log: file that its output goes to
    :param held: an open file that it holds too, with the lock on it
    """
    with log.open("wb") as output, _pipe() as (read, _):
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(read.fileno()), str(STOP_TIMEOUT)]
        with running_process(
            [*launcher, *command],
            _ending,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            pass_fds=[file.fileno() for file in (read, held) if file is not None],
        ) as process:
            yield process


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb") as writer:
        yield reader, writer


def _ending(process: subprocess.Popen[bytes]) -> Steps:
    """Ask a process and its group to end."""

    def ask(number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    steps = {signal.SIGINT: STOP_TIMEOUT, signal.SIGTERM: STOP_TIMEOUT, signal.SIGKILL: KILL_TIMEOUT}
    return [(partial(ask, number), patience) for number, patience in steps.items()]
