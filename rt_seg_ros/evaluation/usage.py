"""What a process takes of its machine: CPU, memory, GPU memory; and what machine that is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rt_seg_ros.backends.cuda_driver import CudaError, find_gpu, pci_bus_id
from rt_seg_ros.errors import UserError

_PERIOD = 0.25
#: A look at the GPU starts a program, which must not weigh on what is measured.
_GPU_PERIOD = 2.0
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Usage:
    """What was taken over ``seconds``; None where the system does not tell.

    ``cores``: CPU time over time, 1 = one core busy all the time; ``memory_mib``: largest resident size;
    ``memory_start_mib``: that at the beginning; ``gpu_memory_mib``: most memory of the GPU that was in use, less what
    was in use before the model was loaded.
    """

    seconds: float = 0.0
    cores: float | None = None
    memory_mib: float | None = None
    memory_start_mib: float | None = None
    gpu_memory_mib: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the figures, all but ``seconds``, as plain values."""
        return {name: None if v is None else round(v, 2) for name, v in vars(self).items() if name != "seconds"}


class Meter:
    """Measures a process while it runs; a context manager, ``usage`` is there at its end.

    :param process: id; by default this process
    :param gpu_before_mib: :func:`gpu_memory_mib` before the model was loaded, where a GPU is to be watched
    :param gpu: number of that GPU
    """

    def __init__(self, process: int | None = None, gpu_before_mib: float | None = None, gpu: int = 0) -> None:
        self._process = process or os.getpid()
        self._gpu_before, self._gpu = gpu_before_mib, gpu
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._memory: list[float] = []  # at the beginning, and the most
        self._gpu_most: float | None = None
        self.usage = Usage()

    def __enter__(self) -> Meter:
        self._begin, self._cpu = time.monotonic(), _cpu_seconds(self._process)
        self._last = self._begin, self._cpu
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        end, cpu = self._last
        seconds = end - self._begin
        gpu = None
        if self._gpu_before is not None and self._gpu_most is not None:
            gpu = max(0.0, self._gpu_most - self._gpu_before)
        self.usage = Usage(
            seconds=seconds,
            cores=(cpu - self._cpu) / seconds if cpu is not None and self._cpu is not None and seconds > 0 else None,
            memory_mib=self._memory[1] if self._memory else None,
            memory_start_mib=self._memory[0] if self._memory else None,
            gpu_memory_mib=gpu,
        )

    def _watch(self) -> None:
        next_gpu = time.monotonic() + _PERIOD
        while not self._stop.wait(_PERIOD):
            self._look()
            if self._gpu_before is not None and time.monotonic() >= next_gpu:
                used = gpu_memory_mib(self._gpu)
                if used is not None:
                    self._gpu_most = max(used, self._gpu_most or 0.0)
                next_gpu = time.monotonic() + _GPU_PERIOD

    def _look(self) -> None:
        memory, cpu = _memory_mib(self._process), _cpu_seconds(self._process)
        if memory is not None:
            self._memory = [self._memory[0], max(memory, self._memory[1])] if self._memory else [memory, memory]
        if cpu is not None:  # None too when it has ended: the last look before that stands
            self._last = time.monotonic(), cpu


def gpu_memory_mib(gpu: int) -> float | None:
    """Return the memory of a GPU that is in use, by all processes, in MiB; None where there is no NVIDIA GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        command = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", pci_bus_id(gpu)]
        done = subprocess.run(  # noqa: S603 - nvidia-smi, with this file's own words
            command, capture_output=True, text=True, timeout=10, check=True
        )
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, CudaError, ValueError):
        return None


def machine(gpu: int | None = None) -> dict[str, Any]:
    """Return what the figures were measured on.

    :param gpu: number of the GPU that took part
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if gpu is not None:
        with suppress(UserError):
            found["gpu"] = find_gpu(f"cuda:{gpu}").name
    return found


def gpu_number(device: str) -> int | None:
    """Return the number of the GPU that ``cuda`` or ``cuda:N`` means; None for another device."""
    name, _, number = device.partition(":")
    if name != "cuda":
        return None
    return int(number) if number.isdecimal() else 0


def cpu_name() -> str:
    """Return the name of the processor, or at least its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_seconds(process: int) -> float | None:
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return time.process_time() if process == os.getpid() else None


def _memory_mib(process: int) -> float | None:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    except (OSError, IndexError, ValueError):
        return None
