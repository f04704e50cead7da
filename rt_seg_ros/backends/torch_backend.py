"""PyTorch: on the CPU here, on an NVIDIA GPU in :mod:`rt_seg_ros.backends.torch_cuda`."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import Backend, HostBackend
from rt_seg_ros.errors import UserError
from rt_seg_ros.zoo import ModelCard, build_network


def unavailable() -> str | None:
    """Return why PyTorch cannot be used here, or None."""
    return None if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install torch)"


def create(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    """Load a model into PyTorch.

    :raises UserError: a device that is not there, or a precision that it does not have
    """
    device = check(device, precision)
    if device == "cpu":
        return TorchCpuBackend(card, precision, threads)
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    return TorchCudaBackend(card, device, precision, threads)


def check(device: str, precision: str) -> str:
    """Return the device that ``device`` means here.

    :raises UserError: a device that is not there, or a precision that it does not have
    """
    # Waiting threads that spin take the cores from whatever runs beside them; must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if precision == "int8":
        others = "tensorrt" if device.startswith("cuda") else "openvino or onnxruntime"
        raise UserError(f"precision 'int8' is not to be had with PyTorch; use {others}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        if precision == "fp16":
            raise UserError("precision 'fp16' is not to be had on the CPU with PyTorch; use fp32 or bf16")
        if precision == "bf16" and not cpu_has_bf16():
            raise UserError("precision 'bf16': this CPU has no instructions for it, and would be slower; use fp32")
        return device
    if kind != "cuda" or (index and not index.isdecimal()):
        raise UserError(f"no device '{device}'; there are: auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UserError(
            f"device '{device}': PyTorch {torch.__version__}, {built}, sees no GPU here; there is a build of it for "
            "each driver, and for a Jetson its own. Or use device cpu"
        )
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"device '{device}': there are only {torch.cuda.device_count()} CUDA GPUs, from cuda:0")
    if precision == "bf16" and torch.cuda.get_device_capability(int(index or 0)) < (8, 0):
        raise UserError(f"precision 'bf16' is not to be had on {torch.cuda.get_device_name(int(index or 0))}; use fp16")
    return device


def cpu_has_bf16() -> bool:
    """Tell whether this CPU has instructions for bfloat16; without them PyTorch computes it, but slowly."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return True  # not Linux: not known
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@lru_cache(maxsize=1)
def usual_threads() -> int:
    """Return PyTorch's own choice, as it was before anything was set."""
    import torch

    return torch.get_num_threads()


class TorchCpuBackend(HostBackend):
    """PyTorch on the CPU: batch norms folded, channels last."""

    def __init__(self, card: ModelCard, precision: str, threads: int) -> None:
        import torch

        super().__init__(card)
        usual = usual_threads()  # asked for each time: the first time, nothing has been set yet
        self._threads = threads or usual
        self.name, self.device, self.precision = "torch", "cpu", precision
        self._torch = torch
        network: torch.nn.Module = build_network(card).fuse()
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :meth:`HostBackend.logits`."""
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # holds for the calling thread; others keep what they have
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            x = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            logits: NDArray[np.float32] = self._network.logits(x).float().contiguous().numpy()
            return logits
