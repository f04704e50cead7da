"""TensorRT engines, built ahead and put where the backend finds them.

An engine can only run on its GPU. So the graph that it is built of is held against PyTorch first, by ONNX Runtime on
the CPU, before minutes are spent on building; and then the engine itself, where its GPU is at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.cuda_driver import Gpu, find_gpu, missing_gpu, using
from rt_seg_ros.backends.engines import (
    ANY_SIZE,
    NOT_INSTALLED,
    Engines,
    EngineSpec,
    Progress,
    choose_tensorrt,
    installed,
    load_tensorrt,
)
from rt_seg_ros.backends.tensorrt_session import Session
from rt_seg_ros.errors import UserError
from rt_seg_ros.export.exporting import Agreement, Watch, check
from rt_seg_ros.export.quantise import quantise_onnx
from rt_seg_ros.export.runners import preparing, with_onnxruntime
from rt_seg_ros.export.samples import Samples
from rt_seg_ros.files import write_bytes
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.graphs.store import load_graph, save_quantised
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import LabelUpsampler
from rt_seg_ros.zoo import ModelCard


@dataclass(frozen=True)
class BuiltEngine:
    """What came of it: where the engine is, how its graph and (with its GPU) itself compare with PyTorch, in words."""

    kept: Path | None
    size: int
    graph: Agreement
    engine: Agreement | None
    about: str


def find_tensorrt(device: str, precision: str) -> tuple[ModuleType, Gpu | None]:
    """Return a TensorRT that can build here, and the GPU that it builds for; None: for all that TensorRT for RTX knows.

    :raises UserError: none is installed, or none can build here
    """
    if not installed():
        raise UserError(NOT_INSTALLED)
    missing = missing_gpu()
    if not missing or device != "auto":
        gpu = find_gpu(device)
        return choose_tensorrt(gpu, precision), gpu
    if "tensorrt_rtx" not in installed():
        raise UserError(
            f"TensorRT builds an engine on the GPU that it is for, and {missing}; only TensorRT for RTX builds "
            "without (pip install tensorrt_rtx)"
        )
    return load_tensorrt("tensorrt_rtx"), None


def export_engine(
    card: ModelCard,
    spec: EngineSpec,
    device: str,
    samples: Samples,
    out: Path | None = None,
    watch: Watch | None = None,
    building: Callable[[], AbstractContextManager[Progress]] | None = None,
) -> BuiltEngine:
    """Build an engine, check it, and keep it where the backend finds it.

    :param out: also write it to this file
    :param watch: shows how far the checks are
    :param building: shows how far the building is, within its ``with`` block
    :raises UserError: no TensorRT that can build here; a graph or an engine that agrees too little with PyTorch; what
        cannot be written
    """
    tensorrt, gpu = find_tensorrt(device, spec.precision)
    int8 = spec.precision == "int8"
    engines = _WithModel(card, tensorrt, gpu, spec, samples) if int8 else Engines(card, tensorrt, gpu)
    of_graph = _check_graph(engines, spec, samples, watch)
    of_engine = None
    with building() if building is not None else nullcontext() as progress:
        serialized = _build(engines, spec, progress)
    if gpu is not None:
        of_engine = _check_engine(engines, spec, serialized, samples, watch)
    if out is not None:
        write_bytes(out, serialized)
    kept = engines.save(spec, serialized)
    if kept is None and out is None:
        raise UserError("the engine cannot be kept in the cache, and no file was given")
    what = f"{tensorrt.__name__} {tensorrt.__version__}"
    on = gpu.name if gpu is not None else "the GPUs that it knows, from compute capability 8.0 on"
    return BuiltEngine(kept, len(serialized), of_graph, of_engine, f"{what} for {on}: {spec}")


def _build(engines: Engines, spec: EngineSpec, progress: Progress | None) -> bytes:
    """Build on another thread: TensorRT's binding swallows what Ctrl-C raises within its calls back to Python."""
    stopped = threading.Event()

    def told(share: float) -> bool:
        return not stopped.is_set() and (progress is None or progress(share))

    def build() -> bytes:
        with using(engines.gpu) if engines.gpu is not None else nullcontext():
            return engines.build(spec, told)

    with ThreadPoolExecutor(1, "tensorrt engine") as pool:
        try:
            return pool.submit(build).result()
        finally:
            stopped.set()


class _WithModel(Engines):
    """Engines of an int8 model that is made now, and kept with the first of them: a former one stays until then."""

    def __init__(
        self, card: ModelCard, tensorrt: ModuleType, gpu: Gpu | None, spec: EngineSpec, samples: Samples
    ) -> None:
        super().__init__(card, tensorrt, gpu)
        prepare = preparing(card, GraphOptions(), spec.size)
        self._made = quantise_onnx(load_graph(card), samples, prepare, for_tensorrt=True)

    def _quantised_graph(self) -> bytes:
        return self._made

    def save(self, spec: EngineSpec, engine: bytes) -> Path | None:
        if save_quantised(self.card, "tensorrt", {"model.onnx": self._made}) is None:
            return None  # an engine alone would not be found
        return super().save(spec, engine)


def _check_graph(engines: Engines, spec: EngineSpec, samples: Samples, watch: Watch | None) -> Agreement:
    """Compare the graph of an engine with PyTorch.

    :raises UserError: too little agreement
    """
    plain = replace(spec, label_size=spec.size, batch=1, confidence=False)
    if spec.precision == "bf16":
        plain = replace(plain, precision="fp16")  # no other runtime knows the graph in bf16
    compute = with_onnxruntime(engines.graph(plain))
    upsample = LabelUpsampler()

    def labels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        result = compute(image[None])[0]
        if spec.size is not None:
            return np.asarray(result, np.uint8)
        return upsample(np.ascontiguousarray(result, np.float32), (image.shape[0], image.shape[1]))[0]

    return check(engines.card, labels, plain.precision, samples, watch, what="graph", size=spec.size)


def _check_engine(
    engines: Engines, spec: EngineSpec, serialized: bytes, samples: Samples, watch: Watch | None
) -> Agreement:
    """Compare an engine with PyTorch, on its GPU.

    :raises UserError: too little agreement
    """
    session = Session(engines, spec, serialized)

    def labels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        working = (image.shape[0], image.shape[1])
        return session.run([Frame(image)], working, [spec.label_size or working], False)[0][0]

    try:
        return check(
            engines.card, labels, spec.precision, samples, watch,
            what="engine", size=spec.size or ANY_SIZE[1], label_size=spec.label_size,
        )  # fmt: skip
    finally:
        session.close()
