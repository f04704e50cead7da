"""What a process holds, as /proc tells it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections import Counter
from pathlib import Path


def resident(pid: int | str) -> int:
    """Return resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def settled_resident() -> int:
    """Return this process's resident memory without what waits to be collected, or lies free and is kept.

    Of freed memory up to 256 MB stay for the next frame (rt_seg_ros.memory). How much of that there is tells how large
    the largest frame was and where in the heap it found room, so it grows in steps, and none of it is lost.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return resident("self")


def threads(pid: int | str) -> int:
    """Return the number of threads."""
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int | str) -> int:
    """Return the number of open files and sockets."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def thread_names(pid: int | str) -> dict[str, int]:
    """Return how many threads there are of each name."""
    names = (Path(f"/proc/{pid}/task/{task}/comm").read_text().strip() for task in os.listdir(f"/proc/{pid}/task"))
    return dict(Counter(names))
