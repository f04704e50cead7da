"""How this process deals with memory that it has freed."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 256 << 20
_LARGEST_OF_HEAP = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> bool:
    """Have this process keep what it frees for its next frame, instead of handing it back to the system.

    By default glibc returns large blocks at once, and the next frame takes them anew, page by page: with PyTorch on
    the CPU a tenth to a quarter of a frame's time. Up to 256 MB that lie free stay with the process; what it needs at
    its peak does not grow. For a program to call at its start; libraries should leave this to programs.

    :return: whether the C library knows such a setting (glibc does, musl does not)
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT) and mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_HEAP))
