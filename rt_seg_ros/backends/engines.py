"""TensorRT's engines: what one is built for, building it, keeping it.

For TensorRT 10 and 11 and TensorRT for RTX, by the names that all three share. Networks are strongly typed, as the
latter two have no other: what is computed in which precision lies in the graph.

An engine fits one version of TensorRT and one model of GPU, and building it takes minutes of that GPU's time; so it is
kept (:mod:`rt_seg_ros.cache`) under everything that it depends on. TensorRT for RTX builds without a GPU in seconds,
for all GPUs of compute capability 8.0 and later, and finishes on the machine that runs it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rt_seg_ros.backends.base import Unavailable, no_int8_model
from rt_seg_ros.backends.cuda_driver import Gpu, missing_gpu
from rt_seg_ros.cache import Cache
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.options import GraphOptions, GraphPrecision
from rt_seg_ros.graphs.pixels import PIXELS, pixels_to_labels, pixels_to_logits, to_bfloat16
from rt_seg_ros.graphs.store import load_graph, load_quantised, model_key
from rt_seg_ros.log import get_logger
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

_log = get_logger(__name__)

#: Modules, the better first where both are installed.
FLAVOURS = ("tensorrt", "tensorrt_rtx")
#: Bytes that a way to compute a layer may take; by default all of the GPU's, which on a Jetson are the host's.
_WORKSPACE = 1 << 30
_OLDEST = 10
NOT_INSTALLED = "TensorRT is not installed (pip install tensorrt, or tensorrt_rtx for GeForce and RTX GPUs)"
_ENGINE, _TIMINGS = "model.engine", "timings.bin"
_FORMAT = 1
_ENGINES = Cache("tensorrt", keep=64)
_TIMING = Cache("tensorrt_timings", keep=8)
#: Sizes from, best at, and up to, where an engine takes any: (height, width).
ANY_SIZE: tuple[Size, Size, Size] = ((64, 64), (480, 640), (1088, 1920))
_building = threading.Lock()

#: Takes how much is done, 0 to 1; returns whether to go on.
Progress = Callable[[float], bool]


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is built for.

    :param size: (height, width) at which the network works. None: any within :data:`ANY_SIZE`; then the engine gives
        logits, and labels are made on the host
    :param label_size: (height, width) of the labels; None: those of ``size``
    :param batch: most frames at once
    :param precision: ``fp32`` (without TF32), ``fp16``, ``bf16``, or ``int8`` (quantised by ``rt-seg export``)
    :param confidence: gives the labels' probabilities too
    """

    size: Size | None
    label_size: Size | None
    batch: int = 1
    precision: str = "fp32"
    confidence: bool = False

    def __post_init__(self) -> None:
        if self.label_size is None:
            object.__setattr__(self, "label_size", self.size)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> EngineSpec:
        """Return what ``dataclasses.asdict`` and JSON made of one."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)

    def __str__(self) -> str:
        if self.size is None:
            what = "any size"
        else:
            what = f"{self.size[1]}x{self.size[0]}"
            if self.label_size is not None and self.label_size != self.size:
                what += f", labels {self.label_size[1]}x{self.label_size[0]}"
        frames = f", up to {self.batch} frames" if self.batch > 1 else ""
        return f"{what}{frames}, {self.precision}{', with confidence' if self.confidence else ''}"


@lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """Return which of :data:`FLAVOURS` are installed, without loading them."""
    return tuple(name for name in FLAVOURS if importlib.util.find_spec(name))


@lru_cache(maxsize=4)
def load_tensorrt(flavour: str) -> ModuleType:
    """Load TensorRT.

    :param flavour: one of :data:`FLAVOURS`
    :raises Unavailable: it does not load, or is too old
    """
    try:
        module = importlib.import_module(flavour)
    except (ImportError, OSError) as error:
        raise Unavailable(f"{flavour} is installed, but does not load: {error}") from error
    version = str(module.__version__)
    if flavour == "tensorrt" and int(version.split(".")[0]) < _OLDEST:
        raise Unavailable(f"TensorRT {version} is too old; {_OLDEST} or later is needed")
    return module


def is_rtx(tensorrt: ModuleType) -> bool:
    """Whether this is TensorRT for RTX."""
    return tensorrt.__name__ == "tensorrt_rtx"


def check_gpu(tensorrt: ModuleType, gpu: Gpu, precision: str) -> None:
    """Check that engines can be had for a GPU.

    :raises UserError: naming what the GPU lacks
    """
    major, minor = gpu.compute_capability
    if is_rtx(tensorrt) and not hasattr(tensorrt.ComputeCapability, f"SM{major}{minor}"):
        raise UserError(f"TensorRT for RTX {tensorrt.__version__} does not support {gpu.name} ({major}.{minor})")
    if precision == "bf16" and gpu.compute_capability < (8, 0):
        raise UserError(f"precision 'bf16' is not to be had on {gpu.name}; use fp16")
    if is_rtx(tensorrt) and gpu.compute_capability < (8, 0) and precision != "fp16":
        # Seen while building: "FP32 GEMM is not supported", which int8 networks have too.
        raise UserError(f"TensorRT for RTX multiplies matrices on {gpu.name} in fp16 alone; use precision 'fp16'")


def choose_tensorrt(gpu: Gpu, precision: str) -> ModuleType:
    """Load the first TensorRT there is that can do with a GPU.

    :raises Unavailable: saying for each why not
    """
    problems: list[str] = []
    for flavour in installed():
        try:
            tensorrt = load_tensorrt(flavour)
            check_gpu(tensorrt, gpu, precision)
        except UserError as error:
            problems.append(str(error))
        else:
            return tensorrt
    raise Unavailable("; ".join(problems) or NOT_INSTALLED)


@lru_cache(maxsize=4)
def make_logger(tensorrt: ModuleType) -> Any:
    """Return the object through which TensorRT's messages come into Python's log; it lives as long as the process."""

    class Logger(tensorrt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= tensorrt.ILogger.Severity.ERROR:
                self.last_error = message
            _log.debug("%s: %s", tensorrt.__name__, message)

    return Logger()


# --- keeping ------------------------------------------------------------------------------------------------------


class Engines:
    """A model's engines for one TensorRT and one GPU: those that were built, and the building of more.

    :param gpu: None: for TensorRT for RTX on a machine without one
    :raises Unavailable: no GPU, with a TensorRT that cannot do without
    :raises UserError: weights that are missing or damaged
    """

    def __init__(self, card: ModelCard, tensorrt: ModuleType, gpu: Gpu | None) -> None:
        self.card, self.tensorrt, self.gpu = card, tensorrt, gpu
        self._target = _target(tensorrt, gpu)
        self._model = {"format": _FORMAT, **model_key(card), "mean": list(card.mean), "std": list(card.std)}
        self._quantised = ""

    def key(self, spec: EngineSpec) -> dict[str, Any]:
        """Return everything that an engine depends on."""
        key: dict[str, Any] = {**self._model, **self._target, "spec": asdict(spec)}
        if spec.size is None:
            key["profile"] = ANY_SIZE
        if spec.precision == "int8":
            self._quantised = self._quantised or hashlib.sha256(self._quantised_graph()).hexdigest()
            key["quantised"] = self._quantised
        return key

    def load(self, spec: EngineSpec) -> bytes | None:
        """Return an engine that was built, or None where there is none for exactly this."""
        found = _ENGINES.load(self.card.network, self.key(spec))
        return None if found is None else found.get(_ENGINE)

    def has(self, spec: EngineSpec) -> bool:
        """Whether an engine seems to be there; :meth:`load` looks closer."""
        return _ENGINES.path(self.card.network, self.key(spec)).is_dir()

    def sizes(self, precision: str) -> list[str]:
        """Return, for people to read, what there are engines for in a precision."""
        here = {**self._model, **self._target}
        return [
            str(EngineSpec.from_json(key["spec"]))
            for key in _ENGINES.keys(self.card.network)
            if {name: key.get(name) for name in here} == here and key["spec"]["precision"] == precision
        ]

    def build(self, spec: EngineSpec, progress: Progress | None = None) -> bytes:
        """Build an engine; one at a time, with the GPU as the present one (:func:`cuda_driver.using`).

        :param progress: told how far it is
        :raises UserError: no int8 model of the card, or a graph that TensorRT does not take or cannot build
        """
        with _building:
            graph = self.graph(spec)
            # TensorRT for RTX measures nothing while it builds.
            timings = None
            if not is_rtx(self.tensorrt):
                timings = (_TIMING.load("timings", self._target) or {}).get(_TIMINGS, b"")
            engine, timings = _build(self.tensorrt, self.gpu, graph, spec, timings, progress or (lambda _: True))
            if timings:
                _TIMING.save("timings", self._target, {_TIMINGS: timings})
        return engine

    def save(self, spec: EngineSpec, engine: bytes) -> Path | None:
        """Keep an engine in place of an earlier one; None where it cannot be kept."""
        return _ENGINES.save(self.card.network, self.key(spec), {_ENGINE: engine})

    def graph(self, spec: EngineSpec) -> bytes:
        """Return the ONNX graph that an engine is built of.

        :raises UserError: as :func:`rt_seg_ros.graphs.store.load_graph`; no int8 model
        """
        import onnx

        card = self.card
        if spec.precision == "int8":
            model = onnx.load_from_string(self._quantised_graph())
        else:
            precision: GraphPrecision = "fp32" if spec.precision == "fp32" else "fp16"
            model = onnx.load_from_string(load_graph(card, GraphOptions(precision=precision)))
        if spec.precision == "bf16":
            model = to_bfloat16(model)
        batch = None if spec.batch > 1 else 1
        if spec.size is None:
            model = pixels_to_logits(model, card.mean, card.std, batch=batch)
        else:
            model = pixels_to_labels(
                model,
                card.mean,
                card.std,
                size=spec.size,
                batch=batch,
                label_size=spec.label_size,
                confidence=spec.confidence,
            )
        return model.SerializeToString()

    def _quantised_graph(self) -> bytes:
        files = load_quantised(self.card, "tensorrt")
        if files is None:
            raise no_int8_model(self.card, "TensorRT", "tensorrt")
        return files["model.onnx"]


def _target(tensorrt: ModuleType, gpu: Gpu | None) -> dict[str, Any]:
    target: dict[str, Any] = {"flavour": tensorrt.__name__, "version": str(tensorrt.__version__)}
    if is_rtx(tensorrt):
        # The engine is for all of them; only Turing needs one of its own.
        turing = gpu is not None and gpu.compute_capability == (7, 5)
        return {**target, "compute_capability": "7.5" if turing else "8.0 and later"}
    if gpu is None:
        raise Unavailable(f"TensorRT: {missing_gpu() or 'no GPU was named'}")
    return {
        **target,
        "gpu": gpu.name,
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "multiprocessors": gpu.multiprocessors,
    }


# --- building -----------------------------------------------------------------------------------------------------


def _build(
    tensorrt: ModuleType, gpu: Gpu | None, graph: bytes, spec: EngineSpec, timings: bytes | None, progress: Progress
) -> tuple[bytes, bytes | None]:
    """Build; every object of TensorRT must stay until it is done."""
    logger = make_logger(tensorrt)
    logger.last_error = ""
    try:
        builder = tensorrt.Builder(logger)
    except TypeError as error:  # its constructor gave nothing
        raise UserError(f"TensorRT does not start: {logger.last_error or error}") from error
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise UserError(f"TensorRT {tensorrt.__version__} does not take the graph: {_first_line(errors)}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # fp32 is to mean fp32
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if spec.batch > 1 or spec.size is None:
        shapes = ANY_SIZE if spec.size is None else (spec.size,) * 3
        counts = (1, spec.batch, spec.batch)
        profile = builder.create_optimization_profile()
        profile.set_shape(PIXELS, *[(count, *size, 3) for count, size in zip(counts, shapes, strict=True)])
        config.add_optimization_profile(profile)
    if is_rtx(tensorrt) and gpu is not None and gpu.compute_capability == (7, 5):
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt.ComputeCapability.SM75, 0)
    cache = None
    if timings is not None:
        cache = config.create_timing_cache(timings)
        if not cache or not config.set_timing_cache(cache, False):  # of a GPU that differs, if only in its clocks
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    monitor = _make_monitor(tensorrt, progress)
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        if monitor.cancelled:
            raise UserError("building the engine was cancelled")
        raise UserError(f"TensorRT {tensorrt.__version__} cannot build the engine: {_first_line([logger.last_error])}")
    cache = config.get_timing_cache() if cache is not None else None
    return bytes(memoryview(memory)), bytes(memoryview(cache.serialize())) if cache is not None else None


def _first_line(messages: list[str]) -> str:
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[0] if lines else "it does not say why"


def _make_monitor(tensorrt: ModuleType, progress: Progress) -> Any:
    """Return an object that TensorRT tells its phases to; phases lie within phases, each of so many steps."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._lock = threading.Lock()  # TensorRT tells from several threads
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # (parent, steps, of which done)
            self._furthest = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, max(1, num_steps), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    parent, steps, _ = self._phases[phase_name]
                    self._phases[phase_name] = (parent, steps, min(steps, step + 1))
                self._furthest = max(self._furthest, self._share(phase_name))
                self.cancelled = self.cancelled or not progress(self._furthest)
                return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _share(self, name: str) -> float:
            """How much of everything is done, as far as a phase and those around it tell."""
            inside = 0.0
            at: str | None = name
            while at is not None and at in self._phases:
                parent, steps, done = self._phases[at]
                inside = min(1.0, (done + (inside if at != name else 0.0)) / steps)
                at = parent
            return inside

    return Monitor()
