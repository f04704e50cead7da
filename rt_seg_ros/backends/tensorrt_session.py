"""One of TensorRT's engines, loaded and running.

Two execution contexts take turns, each with a stream and buffers of its own: while one computes, the other's pixels go
up and labels come down. What comes in the same shape again is replayed as a CUDA graph.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.base import Unavailable, check_scores
from rt_seg_ros.backends.cuda_driver import (
    CudaError,
    DeviceMemory,
    Event,
    Graph,
    PinnedArray,
    Stream,
    capturing,
    missing_gpu,
    using,
)
from rt_seg_ros.backends.engines import Engines, EngineSpec, is_rtx, make_logger
from rt_seg_ros.cache import Cache
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.pixels import CONFIDENCE, LABELS, LOGITS, PIXELS
from rt_seg_ros.images import Frame
from rt_seg_ros.log import get_logger
from rt_seg_ros.resampling import LabelUpsampler, resize_pixels
from rt_seg_ros.working_size import Size

_log = get_logger(__name__)

_CONTEXTS = 2
_KEPT_AFTER = (1, 300)  # runs, after which compiled kernels are kept
_JIT = "kernels.bin"
#: What TensorRT for RTX compiled for this GPU when it first loaded an engine.
_JIT_CACHE = Cache("tensorrt_rtx_kernels", keep=32)

Labels = NDArray[np.uint8]


class Session:
    """A loaded engine. May be used from several threads.

    :raises Unavailable: there is no GPU; TensorRT would end the process over it
    :raises UserError: TensorRT does not take the engine, or has no memory for it
    """

    def __init__(self, engines: Engines, spec: EngineSpec, serialized: bytes) -> None:
        if engines.gpu is None or missing_gpu():
            raise Unavailable(f"TensorRT cannot load an engine: {missing_gpu() or 'no GPU was named'}")
        self.spec = spec
        self.users = 0  # of whoever keeps the session
        self._gpu = engines.gpu
        try:
            with using(self._gpu), capturing:
                self._load(engines, serialized)
        except CudaError as error:
            raise UserError(f"TensorRT cannot load the engine ({spec}): {error}") from error

    def _load(self, engines: Engines, serialized: bytes) -> None:
        tensorrt = engines.tensorrt
        logger = make_logger(tensorrt)
        logger.last_error = ""
        try:
            self._runtime = tensorrt.Runtime(logger)
        except TypeError as error:  # its constructor gave nothing
            raise UserError(f"TensorRT does not start: {logger.last_error or error}") from error
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise UserError(f"TensorRT does not take the engine ({self.spec}): {logger.last_error}")
        self._kernels = _Kernels(engines, self.spec, self._engine) if is_rtx(tensorrt) else None
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        try:
            for _ in range(_CONTEXTS):
                context = self._kernels.context() if self._kernels else self._engine.create_execution_context()
                if context is None:
                    raise UserError(f"TensorRT cannot run the engine ({self.spec}): {logger.last_error}")
                self._free.put(_Slot(tensorrt, self._engine, context, self.spec))
        except Exception:  # no memory for the second, say: the first has a stream and events
            while not self._free.empty():
                self._free.get().close()
            raise

    def run(
        self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool
    ) -> tuple[list[Labels], list[Labels] | None, dict[str, float]]:
        """Segment frames, as many at once as the engine takes; see :meth:`Backend.run`."""
        labels: list[Labels] = []
        confidences: list[Labels] = []
        begin = time.perf_counter()
        staging = network = reached = 0.0
        waiting: deque[tuple[_Slot, Sequence[Size]]] = deque()
        origin: Event | None = None

        def finish() -> None:
            nonlocal network, reached
            slot, wanted = waiting.popleft()
            try:
                started, finished = slot.collect(wanted, labels, confidences if confidence else None, origin)
            except BaseException:
                slot.abandon()
                raise
            finally:
                self._free.put(slot)
            # Two contexts compute at the same time: what both do is counted once.
            network += max(0.0, finished - max(started, reached))
            reached = max(reached, finished)

        with using(self._gpu):
            try:
                if len(frames) > self.spec.batch:
                    origin = Event()
                for at in range(0, len(frames), self.spec.batch):
                    slot = self._take(finish if waiting else None)
                    before = time.perf_counter()
                    try:
                        slot.launch(frames[at : at + self.spec.batch], working, origin if at == 0 else None)
                    except BaseException:
                        slot.abandon()
                        self._free.put(slot)
                        raise
                    staging += time.perf_counter() - before
                    waiting.append((slot, sizes[at : at + self.spec.batch]))
                while waiting:
                    finish()
            finally:
                for slot, _ in waiting:  # something failed: let what is under way end, and the others go on
                    slot.abandon()
                    self._free.put(slot)
                if origin is not None:
                    origin.close()
            if self._kernels:
                self._kernels.keep_now_and_then()
        total = (time.perf_counter() - begin) * 1e3
        preprocess = staging * 1e3
        timings = {
            "preprocess": preprocess,
            "network": network,
            "postprocess": max(0.0, total - preprocess - network),
        }
        return labels, confidences if confidence else None, timings

    def _take(self, finish_one: Callable[[], None] | None) -> _Slot:
        """Take an idle context; where another thread has the other, end one's own first, or both would wait."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            if finish_one is not None:
                finish_one()
            return self._free.get()

    def close(self) -> None:
        """Let the engine go. Nobody may be using it."""
        with using(self._gpu), capturing:
            if self._kernels:
                self._kernels.keep()
            for _ in range(_CONTEXTS):
                self._free.get().close()
            self._kernels = None
            self._engine = None
            self._runtime = None


class _Slot:
    """An execution context with its stream, its buffers, and the graph of the shape that it ran last."""

    def __init__(self, tensorrt: ModuleType, engine: Any, context: Any, spec: EngineSpec) -> None:
        self._logger = make_logger(tensorrt)
        self._context = context
        self._spec = spec
        self._outputs = [LOGITS] if spec.size is None else [LABELS, CONFIDENCE][: 2 if spec.confidence else 1]
        types = {name: np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))) for name in self._outputs}
        self._item_sizes = {name: kind.itemsize for name, kind in types.items()}
        self._stream = Stream()
        self._started, self._finished, self._done = Event(), Event(), Event()
        self._buffers: dict[str, tuple[PinnedArray, DeviceMemory]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._graph: Graph | None = None
        self._ran_plainly = False
        self._capturable = not is_rtx(tensorrt)  # which has graphs of its own
        self._upsample = LabelUpsampler()

    def launch(self, frames: Sequence[Frame], working: Size, origin: Event | None) -> None:
        """Put the whole way of some frames on the stream, behind ``origin``."""
        shape = (len(frames), *working, 3)
        if self._shapes.get(PIXELS) != shape:
            self._reshape(shape)
        pinned, device = self._buffers[PIXELS]
        pixels = pinned.array[: int(np.prod(shape))].reshape(shape)
        for frame, target in zip(frames, pixels, strict=True):
            np.copyto(target, Frame(resize_pixels(frame.pixels, working), frame.order).bgr())
        if origin is not None:
            origin.record(self._stream)
        self._stream.upload(pinned, device, pixels.size)
        self._started.record(self._stream)
        self._compute()
        self._finished.record(self._stream)
        for name in self._outputs:
            pinned, device = self._buffers[name]
            self._stream.download(device, pinned, self._bytes(name))
        self._done.record(self._stream)

    def collect(
        self, sizes: Sequence[Size], labels: list[Labels], confidences: list[Labels] | None, origin: Event | None
    ) -> tuple[float, float]:
        """Wait for what was launched, add its results, and return when the device began and ended (ms).

        :param origin: since when; None: since it began
        """
        self._done.synchronize()
        if self._spec.size is None:
            flat = self._buffers[LOGITS][0].array[: self._bytes(LOGITS)]
            scores = flat.view(np.float32).reshape(self._shapes[LOGITS])
            check_scores(scores, self._spec.precision)
            for logits, size in zip(scores, sizes, strict=True):
                label, certainty = self._upsample(logits, size, confidences is not None)
                labels.append(label)
                if confidences is not None and certainty is not None:
                    confidences.append(certainty)
        else:
            for name, results in ((LABELS, labels), (CONFIDENCE, confidences)):
                if results is not None:
                    maps = self._buffers[name][0].array[: self._bytes(name)].reshape(self._shapes[name])
                    results.extend(one.copy() for one in maps)
        if origin is None:
            return 0.0, self._finished.milliseconds_since(self._started)
        return self._started.milliseconds_since(origin), self._finished.milliseconds_since(origin)

    def abandon(self) -> None:
        """Wait for what was launched, whatever came of it."""
        try:
            self._stream.synchronize()
        except CudaError as error:
            _log.debug("after a failure: %s", error)

    def close(self) -> None:
        """Let everything go."""
        self.abandon()
        self._forget_graph()
        for pinned, device in self._buffers.values():
            pinned.close()
            device.close()
        for event in (self._started, self._finished, self._done):
            event.close()
        self._stream.close()
        self._context = None

    def _bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * self._item_sizes[name]

    def _reshape(self, shape: tuple[int, ...]) -> None:
        """Make ready for frames of another shape or number."""
        self._forget_graph()
        self._shapes.clear()
        if not self._context.set_input_shape(PIXELS, shape):
            raise self._error(f"does not take frames of shape {shape}")
        shapes = {PIXELS: shape}
        for name in self._outputs:
            shapes[name] = tuple(self._context.get_tensor_shape(name))
            if min(shapes[name]) < 0:
                raise self._error(f"does not know the shape of '{name}'")
        for name, one in shapes.items():
            count = int(np.prod(one)) * self._item_sizes.get(name, 1)
            if name not in self._buffers or self._buffers[name][1].size < count:
                for former in self._buffers.pop(name, ()):
                    former.close()
                device = DeviceMemory(count)
                try:
                    self._buffers[name] = PinnedArray(count), device
                except CudaError:
                    device.close()
                    raise
            if not self._context.set_tensor_address(name, self._buffers[name][1].address):
                raise self._error(f"does not take the memory for '{name}'")
        self._shapes = shapes

    def _compute(self) -> None:
        if self._graph is None and self._ran_plainly and self._capturable:
            self._capture()
        if self._graph is not None:
            self._graph.launch(self._stream)
        elif not self._context.execute_async_v3(self._stream.handle):
            raise self._error("failed")
        self._ran_plainly = True

    def _capture(self) -> None:
        """Capture the engine's work; it must have run once in this shape, as TensorRT prepares itself then."""
        if not capturing.acquire(blocking=False):
            return
        try:
            with self._stream.capture() as graph:
                if not self._context.execute_async_v3(self._stream.handle):
                    raise CudaError(self._logger.last_error or "TensorRT gives no reason")
            self._graph = graph
        except CudaError as error:
            self._capturable = False
            _log.info("TensorRT runs without a CUDA graph: %s", error)
        finally:
            capturing.release()

    def _forget_graph(self) -> None:
        self._ran_plainly = False
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _error(self, what: str) -> RuntimeError:
        return RuntimeError(f"TensorRT's engine ({self._spec}) {what}: {self._logger.last_error or 'no reason given'}")


class _Kernels:
    """What TensorRT for RTX compiles for the GPU at hand, kept from start to start.

    It says itself whether what was kept fits this GPU, driver and version, and compiles again where it does not.
    """

    def __init__(self, engines: Engines, spec: EngineSpec, engine: Any) -> None:
        assert engines.gpu is not None
        self._tensorrt = engines.tensorrt
        self._engine = engine
        self._name = engines.card.network
        capability = ".".join(map(str, engines.gpu.compute_capability))
        self._key = {"engine": engines.key(spec), "gpu": engines.gpu.name, "capability": capability}
        self._cache: Any = None
        self._known = b""
        self._configs: list[Any] = []  # a context may look at its own as long as it lives
        self._runs = 0

    def context(self) -> Any:
        """Return an execution context whose kernels are looked up and remembered."""
        config = self._engine.create_runtime_config()
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._known = (_JIT_CACHE.load(self._name, self._key) or {}).get(_JIT, b"")
            if self._known:
                self._cache.deserialize(self._known)
        config.set_runtime_cache(self._cache)
        # It compiles kernels for a shape behind our back and knows when they are there; a graph of our own would replay
        # those that stood in meanwhile.
        config.cuda_graph_strategy = self._tensorrt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._configs.append(config)
        return self._engine.create_execution_context(runtime_config=config)

    def keep_now_and_then(self) -> None:
        """Keep what was compiled so far, after a run, should the process not come to its end.

        The first run has what any shape takes; what is made for its shape in particular comes while it runs on.
        """
        self._runs += 1
        if self._runs in _KEPT_AFTER:
            self.keep()

    def keep(self) -> None:
        """Keep what was compiled so far."""
        memory = self._cache.serialize()
        compiled = bytes(memoryview(memory)) if memory is not None else b""
        if compiled and compiled != self._known:
            _JIT_CACHE.save(self._name, self._key, {_JIT: compiled})
            self._known = compiled
