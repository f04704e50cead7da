"""ONNX Runtime on the CPU, where OpenVINO has no build.

The network comes as an ONNX graph (see :mod:`rt_seg_ros.graphs`), or in int8 as the model that ``rt-seg export`` made
of it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import Backend, Unavailable, no_int8_model
from rt_seg_ros.backends.graph_backend import GraphBackend, Program, in_words
from rt_seg_ros.backends.telemetry import without_telemetry
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.store import load_graph, load_quantised
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

_MODEL = "model.onnx"


def unavailable() -> str | None:
    """Return why ONNX Runtime cannot be used here, or None."""
    if importlib.util.find_spec("onnxruntime"):
        return None
    return "ONNX Runtime is not installed (pip install onnxruntime)"


def check(device: str, precision: str) -> str:
    """Return the device that ``device`` means here.

    :raises UserError: another device than the CPU, or a precision that it does not have there
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"ONNX Runtime runs on the CPU here, not on device '{device}'")
    if precision not in ("fp32", "int8"):
        raise UserError(f"precision '{precision}' is not to be had on the CPU with ONNX Runtime; use fp32 or int8")
    return "cpu"


def create(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    """Load a model into ONNX Runtime.

    :raises UserError: as :func:`check`; weights that cannot be loaded; no int8 model of them
    """
    check(device, precision)
    if precision != "int8":
        return OnnxRuntimeBackend(card, load_graph(card), precision, threads)
    files = load_quantised(card, "onnxruntime")
    if files is None:
        raise no_int8_model(card, "ONNX Runtime", "onnx")
    return OnnxRuntimeBackend(card, files[_MODEL], precision, threads)


class OnnxRuntimeBackend(GraphBackend):
    """A graph in ONNX Runtime."""

    def __init__(self, card: ModelCard, graph: bytes, precision: str, threads: int) -> None:
        super().__init__(card)
        self.name, self.device, self.precision = "onnxruntime", "cpu", precision
        try:
            with without_telemetry():
                import onnxruntime
        except (ImportError, OSError) as error:
            raise Unavailable(f"ONNX Runtime is installed, but does not load: {error}") from error
        self._runtime: Any = onnxruntime
        self._graph = graph
        self._threads = threads or _physical_cores()

    def compile(self, size: Size | None) -> Program:
        """See :meth:`GraphBackend.compile`."""
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        # A number of our own: with its default, ONNX Runtime ties threads to cores.
        options.intra_op_num_threads = self._threads
        # Waiting threads that spin take the cores from whatever runs beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if size is not None:
            for axis, length in (("batch", 1), ("height", size[0]), ("width", size[1])):
                options.add_free_dimension_override_by_name(axis, length)
        try:
            session = self._runtime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base but this
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"ONNX Runtime cannot run this network at {in_words(size)}: {reason}") from error
        image_name, result_name = session.get_inputs()[0].name, session.get_outputs()[0].name

        def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
            logits: NDArray[np.float32] = session.run([result_name], {image_name: image})[0]
            return logits

        return run


def _physical_cores() -> int:
    """Count the cores that this process may use, those that share one counted once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = Path("/sys/devices/system/cpu")
    try:
        return len({(topology / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable})
    except OSError:
        return len(usable)
