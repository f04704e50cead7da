"""What a process takes: against work of a known size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rt_seg_ros.evaluation import usage
from rt_seg_ros.evaluation.usage import Meter, gpu_number, machine

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")


def test_cpu_and_memory_of_another_process():
    """One that takes 200 MB and computes for as long as it is watched; only the CPU time that it got is compared."""
    code = "import sys; b = bytearray(200_000_000); sys.stdin.readline(); print(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        before = _cpu(process.pid)
        with Meter(process.pid) as meter:
            time.sleep(1.0)
        after = _cpu(process.pid)
    finally:
        process.kill()
        process.wait()
    assert meter.usage.memory_mib == pytest.approx(200, abs=30)
    assert meter.usage.cores * meter.usage.seconds == pytest.approx(after - before, abs=0.15)
    assert 0.9 < meter.usage.seconds < 10 and meter.usage.gpu_memory_mib is None


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_process_that_has_ended_leaves_what_was_seen_of_it():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.4)"])
    with Meter(process.pid) as meter:
        process.wait()
        time.sleep(0.3)
    assert meter.usage.memory_mib > 1 and meter.usage.cores >= 0


def test_the_machine_and_its_gpus():
    found = machine()
    assert found["cores"] >= 1 and found["cpu"] and "gpu" not in found
    assert [gpu_number(name) for name in ("cpu", "cuda", "cuda:2")] == [None, 0, 2]


def test_the_memory_of_a_gpu_is_what_came_on_top(monkeypatch):
    monkeypatch.setattr(usage, "gpu_memory_mib", lambda gpu: 1500.0)
    with Meter(gpu_before_mib=1200.0) as meter:
        while meter._gpu_most is None:
            time.sleep(0.05)
    assert meter.usage.gpu_memory_mib == 300.0


def test_cores_are_cpu_time_over_time(monkeypatch):
    clock = iter([(10.0, 1.0), (10.0, 1.0), (14.0, 7.0)])
    now = [0.0]

    def cpu(process):
        now[0], spent = next(clock)
        return spent

    monkeypatch.setattr(usage, "_cpu_seconds", cpu)
    monkeypatch.setattr(usage, "_PERIOD", 60.0)  # no look but the first and the last
    monkeypatch.setattr(usage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    now[0] = 10.0
    with Meter() as meter:
        pass
    assert (meter.usage.seconds, meter.usage.cores) == (4.0, 1.5)
