"""Breaks a loaded backend for good, behind its back: from then on its own runtime raises."""

from __future__ import annotations

from rt_seg_ros.backends.base import Backend
from rt_seg_ros.backends.graph_backend import GraphBackend
from rt_seg_ros.backends.torch_backend import TorchCpuBackend

_ANOTHER_SIZE = (64, 160)


def break_backend(backend: Backend) -> None:
    """Take its weights from a PyTorch network; give a graph runtime programs that were compiled for another size."""
    if isinstance(backend, TorchCpuBackend):
        for parameter in backend._network.parameters():
            parameter.data = parameter.data.new_empty(0)
    else:
        assert isinstance(backend, GraphBackend), backend
        program = backend.compile(_ANOTHER_SIZE)
        for place in backend._places.values():
            place.program = program
        backend.compile = _refuse  # type: ignore[method-assign]


def _refuse(size):
    raise RuntimeError(f"nothing is compiled for {size} any more")
