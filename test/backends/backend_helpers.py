"""What the tests of backends share: frames, networks with weights, and how two label images compare."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.networks import create_network
from rt_seg_ros.zoo import DEFAULT_MEAN, DEFAULT_STD, ModelCard, save_weights


@lru_cache(maxsize=1)
def _streets() -> tuple[NDArray[np.uint8], ...]:
    return tuple(SyntheticDrive(seed, 360, 480).render(20)[0] for seed in (2025, 2026))


def street(number: int = 0) -> NDArray[np.uint8]:
    """Return a rendered frame, 360x480 BGR; there are two."""
    return _streets()[number]


def cut(height: int, width: int, number: int = 0) -> NDArray[np.uint8]:
    """Return a part of a rendered frame."""
    return np.ascontiguousarray(street(number)[100 : 100 + height, 60 : 60 + width])


def same(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the share of pixels with the same label."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return float((a == b).mean())


def lived_in_card(name: str, folder: Path, num_classes: int = 11) -> ModelCard:
    """Write weights of a network whose batch norms are as after training, and return their card."""
    torch.manual_seed(3)
    network = create_network(name, num_classes)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None  # running statistics become those of the batch
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 96, 128))
    for norm in norms:
        norm.running_var.clamp_(min=0.05)  # of two pooled images it may be next to nothing
    return save_weights(
        folder / f"{name}.safetensors",
        network.state_dict(),
        network=name,
        options={},
        num_classes=num_classes,
        label_space="camvid11",
        mean=DEFAULT_MEAN,
        std=DEFAULT_STD,
        input_size=(96, 128),
        card={},
    )


def interprets(file: str) -> None:
    """Run a test file's own comparison in Triton's interpreter, or skip; it ends with "the same"."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton, which comes with PyTorch for CUDA")
    if torch.cuda.is_available():
        pytest.skip(
            "runs in Triton's interpreter where there is no GPU; with one, the tests marked gpu run the kernels"
        )
    # In a process of its own: Triton decides once and for all whether it interprets.
    done = subprocess.run(
        [sys.executable, file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.endswith("the same\n"), done.stderr


def gpu_target(capability: int) -> Any:
    """Return what Triton compiles for a GPU by, without one; or skip."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", capability, 32)
    try:
        triton.backends.backends["nvidia"].compiler(target)
    except Exception as error:
        pytest.skip(f"needs Triton's compiler for NVIDIA GPUs: {error}")
    return target
