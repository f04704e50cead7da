"""PyTorch, on the CPU and on CUDA.

The CUDA path needs an NVIDIA GPU and a CUDA build of PyTorch; it normalises, upsamples and takes the arg max on
the device, so that only uint8 crosses the bus in either direction.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import Backend, BatchResult, HostBackend
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import Size, resize_pixels
from rt_seg_ros.zoo import ModelCard, build_network


def unavailable() -> str | None:
    """Return why PyTorch cannot be used here, or None."""
    return None if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install torch)"


def create(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    """Load a model into PyTorch.

    :raises UserError: a device that is not there, or a precision that it does not have
    """
    device = check(device, precision)
    return TorchCpuBackend(card, precision, threads) if device == "cpu" else TorchCudaBackend(card, device, precision)


def check(device: str, precision: str) -> str:
    """Return the device that ``device`` means here.

    :raises UserError: a device that is not there, or a precision that it does not have
    """
    # Waiting threads that spin take the cores from whatever runs beside them; must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        if precision == "fp16":
            raise UserError("precision 'fp16' is not to be had on the CPU with PyTorch; use fp32 or bf16")
        return device
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"no device '{device}'; there are: auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"device '{device}': PyTorch {torch.__version__} sees no CUDA GPU here; use device cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"device '{device}': there are only {torch.cuda.device_count()} CUDA GPUs, from cuda:0")
    return device


@lru_cache(maxsize=1)
def _usual_threads() -> int:
    """Return PyTorch's own choice, as it was before anything was set."""
    import torch

    return torch.get_num_threads()


class TorchCpuBackend(HostBackend):
    """PyTorch on the CPU: batch norms folded, channels last."""

    def __init__(self, card: ModelCard, precision: str, threads: int) -> None:
        import torch

        super().__init__(card)
        self._threads = threads or _usual_threads()
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


class TorchCudaBackend(Backend):
    """PyTorch on an NVIDIA GPU."""

    def __init__(self, card: ModelCard, device: str, precision: str) -> None:
        import torch

        self.name, self.device, self.precision = "torch", device, precision
        self._torch = torch
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        network: torch.nn.Module = build_network(card).fuse()
        self._network = network.to(device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(card.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=device).view(1, 3, 1, 1)
        self._lock = threading.Lock()

    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.run`."""
        torch = self._torch
        with self._lock, torch.inference_mode():
            begin = time.perf_counter()
            stacked = np.stack([resize_pixels(frame.bgr(), working) for frame in frames])
            x = torch.from_numpy(stacked).to(self.device, non_blocking=True)
            x = x.permute(0, 3, 1, 2).flip(1).float()  # BGR to RGB
            x = ((x - self._mean) / self._std).to(self._dtype, memory_format=torch.channels_last)
            torch.cuda.synchronize(self.device)
            ready = time.perf_counter()
            logits = self._network.logits(x).float()
            torch.cuda.synchronize(self.device)
            done = time.perf_counter()
            labels, confidences = [], []
            for i, size in enumerate(sizes):
                full = torch.nn.functional.interpolate(
                    logits[i : i + 1], size=size, mode="bilinear", align_corners=False
                )
                if confidence:
                    probability, index = full.softmax(1).max(1)
                    confidences.append((probability[0] * 255).round().to(torch.uint8).cpu().numpy())
                else:
                    index = full.argmax(1)
                labels.append(index[0].to(torch.uint8).cpu().numpy())
            end = time.perf_counter()
        return BatchResult(
            labels=labels,
            confidences=confidences if confidence else None,
            timings={
                "preprocess": (ready - begin) * 1e3,
                "network": (done - ready) * 1e3,
                "postprocess": (end - done) * 1e3,
            },
        )
