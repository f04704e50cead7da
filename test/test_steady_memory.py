"""Frame after frame: memory does not grow, and next to nothing is allocated anew."""

import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import memory_growth
import numpy as np
import pytest

from rt_seg_ros.images import frame_from_compressed
from rt_seg_ros.memory import keep_freed_memory
from rt_seg_ros.scratch import Scratch


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(("what", "most"), [("around_the_network", 2 << 20), ("with_a_network", 4 << 20)])
def test_memory_does_not_grow(what, most):
    # In a process of its own: what else a test process holds comes and goes.
    done = subprocess.run([sys.executable, memory_growth.__file__, what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < most


def test_nothing_stays_behind_and_little_is_allocated():
    segmenter = memory_growth.segmenter_of_colours()
    frame = frame_from_compressed(memory_growth.stream_of_two_sizes()[0])
    for _ in range(3):
        segmenter.segment(frame)
    gc.collect()
    tracemalloc.start()
    kept, peaks = [], []
    try:
        segmenter.segment(frame)
        for _ in range(3):  # other threads of this process may allocate meanwhile, but hardly each time
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(50):
                segmenter.segment(frame)
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
            kept.append(after - before)
            peaks.append(peak - before)
    finally:
        tracemalloc.stop()
    assert min(kept) < 20_000
    # Labels, the stand-in's logits, and tables of the cells on borders: less than four planes of float32. Normalised
    # and interpolated anew, this frame would take eleven of them.
    assert min(peaks) < 4 * 4 * frame.height * frame.width


def test_scratch_grows_to_the_largest_and_stays():
    scratch = Scratch()
    first = scratch("a", (10, 20), np.float32)
    first[:] = 7
    assert scratch("a", (5, 4), np.float32).base is first.base
    assert scratch("b", (10, 20), np.uint8).base is not first.base
    larger = scratch("a", (30, 20), np.float32)
    assert larger.base is not first.base and larger.flags.c_contiguous
    assert scratch("a", (10, 20), np.float32).base is larger.base
    assert scratch("c", (0, 3), np.uint8).shape == (0, 3)


def test_freed_memory_stays_where_the_c_library_can_do_that():
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
