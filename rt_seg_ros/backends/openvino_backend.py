"""OpenVINO on the CPU.

The network comes as an ONNX graph (see :mod:`rt_seg_ros.graphs`), or in int8 as the model that ``rt-seg export`` made
of it. Frames go in and logits come out through arrays that OpenVINO shares with us.
"""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
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

#: Arithmetic of what is not quantised, and what the CPU must be able to do for it.
_ARITHMETIC = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16"), "int8": ("f32", "INT8")}
_XML, _BIN = "model.xml", "model.bin"
_SOURCE_FILE = re.compile(r"(Exception from|Check '.*' failed at) \S+:\d+:?$")


def unavailable() -> str | None:
    """Return why OpenVINO cannot be used here, or None."""
    return None if importlib.util.find_spec("openvino") else "OpenVINO is not installed (pip install openvino)"


def check(device: str, precision: str) -> str:
    """Return the device that ``device`` means here.

    :raises UserError: another device than the CPU, or a precision that this CPU does not have
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"OpenVINO runs on the CPU here, not on device '{device}'")
    if precision != "fp32":
        can = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if _ARITHMETIC[precision][1] not in can:
            raise UserError(f"precision '{precision}': this CPU has no instructions for it; use fp32")
    return "cpu"


def create(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    """Load a model into OpenVINO.

    :raises UserError: as :func:`check`; weights that cannot be loaded; no int8 model of them
    """
    check(device, precision)
    if precision != "int8":
        return OpenVinoBackend(card, load_graph(card), None, precision, threads)
    files = load_quantised(card, "openvino")
    if files is None:
        raise no_int8_model(card, "OpenVINO", "openvino")
    return OpenVinoBackend(card, files[_XML], files[_BIN], precision, threads)


@lru_cache(maxsize=1)
def _core() -> Any:
    try:
        with without_telemetry():
            import openvino
    except (ImportError, OSError) as error:
        raise Unavailable(f"OpenVINO is installed, but does not load: {error}") from error
    return openvino.Core()


class OpenVinoBackend(GraphBackend):
    """A graph in OpenVINO.

    :param model: ONNX, or the .xml of OpenVINO's own format
    :param weights: the .bin that goes with the latter
    """

    def __init__(self, card: ModelCard, model: bytes, weights: bytes | None, precision: str, threads: int) -> None:
        super().__init__(card)
        self.name, self.device, self.precision = "openvino", "cpu", precision
        core = _core()
        try:
            self._model = core.read_model(model=model, weights=weights) if weights else core.read_model(model=model)
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot read the graph of '{card.name}': {_reason(error)}") from error
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Said always: where the CPU has bf16, OpenVINO would take it without being asked.
            "INFERENCE_PRECISION_HINT": _ARITHMETIC[precision][0],
            # Threads that are tied to cores wait for whoever else is on theirs.
            "ENABLE_CPU_PINNING": False,
            # What it compiled for sizes that a program for any size has seen; left to itself it kept 400 MB of it.
            "CPU_RUNTIME_CACHE_CAPACITY": 1024,
        }
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads

    def compile(self, size: Size | None) -> Program:
        """See :meth:`GraphBackend.compile`."""
        from openvino import Tensor

        model = self._model.clone()  # of which reshaping makes one for this size alone
        try:
            model.reshape([1, 3, *(size or (-1, -1))])
            request = _core().compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot run this network at {in_words(size)}: {_reason(error)}") from error

        def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
            request.set_input_tensor(Tensor(image, shared_memory=True))
            request.infer()
            logits: NDArray[np.float32] = request.get_output_tensor().data
            return logits

        return run


def _reason(error: Exception) -> str:
    """Return the last line of a message that does more than name a source file: OpenVINO lists those first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("bad_alloc" in line for line in lines):
        return "there is not enough memory"
    telling = [line for line in lines if not _SOURCE_FILE.match(line)] or lines
    return telling[-1] if telling else type(error).__name__
