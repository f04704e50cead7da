"""What a process holds, as /proc tells it."""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path


def resident(pid: int | str) -> int:
    """Return resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def settled_resident() -> int:
    """Return this process's resident memory without what waits to be collected."""
    gc.collect()
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
