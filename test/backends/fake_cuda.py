"""A GPU of host memory for tests of the TensorRT session: streams that do nothing before they are waited for.

So what is read too early, freed too early, or captured before it ran shows as wrong labels or a failed assertion. It
takes the place of :func:`rt_seg_ros.backends.cuda_driver.call`; the engine beside it computes labels from pixels.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from rt_seg_ros.backends.cuda_driver import CudaError, Gpu

CLASSES = 11


class FakeCuda:
    """The driver's functions, by name; ``failing`` names one of which a tenth of the calls fail."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._handles = itertools.count(0x1000, 16)
        self._dice = random.Random(5)
        self.failing = ""
        self.device: dict[int, Any] = {}  # buffers by address
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Any] = {}
        self.events: dict[int, Any] = {}
        self.graphs: dict[int, list[Any]] = {}
        self.launched = self.replayed = 0

    def call(self, name: str, *arguments: Any) -> None:
        if name == self.failing and self._dice.random() < 0.1:
            raise CudaError(f"{name}: out of luck")
        with self._lock:
            getattr(self, name)(*(a.value if hasattr(a, "value") else a for a in arguments))

    @property
    def left(self) -> list[int]:
        return [len(kind) for kind in (self.device, self.pinned, self.streams, self.events, self.graphs)]

    def put(self, stream: int, work: Any) -> None:
        """Have work done when the stream is waited for, or take it into the graph that is captured."""
        with self._lock:
            at = self.streams[stream]
            (at.work if at.captured is None else at.captured).append(work)

    def _work_off(self, stream: int, until: int | None = None) -> None:
        work = self.streams[stream].work
        while work:
            one = work.pop(0)
            if callable(one):
                one()
                continue
            event = self.events[one]
            event.time, event.pending = time.perf_counter() * 1e3, event.pending - 1
            if one == until and not event.pending:
                return

    def _new(self, kind: dict[int, Any], what: Any) -> int:
        handle = next(self._handles)
        kind[handle] = what
        return handle

    # --- devices and memory

    def cuDeviceGet(self, out: Any, number: int) -> None:
        out._obj.value = number

    def cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        out._obj.value = 77

    def cuCtxPushCurrent_v2(self, context: Any) -> None: ...

    def cuCtxPopCurrent_v2(self, out: Any) -> None: ...

    def _allocate(self, kind: dict[int, Any], out: Any, size: int) -> None:
        buffer = ctypes.create_string_buffer(b"\xee" * size, size)
        kind[ctypes.addressof(buffer)] = buffer
        out._obj.value = ctypes.addressof(buffer)

    def cuMemAlloc_v2(self, out: Any, size: int) -> None:
        self._allocate(self.device, out, size)

    def cuMemHostAlloc(self, out: Any, size: int, flags: int) -> None:
        self._allocate(self.pinned, out, size)

    def cuMemFree_v2(self, address: int) -> None:
        del self.device[address]

    def cuMemFreeHost(self, address: int) -> None:
        del self.pinned[address]

    def cuMemcpyHtoDAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        assert size <= min(len(self.device[to]), len(self.pinned[source]))
        self.put(stream, lambda: ctypes.memmove(self._there(self.device, to), self._there(self.pinned, source), size))

    def cuMemcpyDtoHAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        assert size <= min(len(self.pinned[to]), len(self.device[source]))
        self.put(stream, lambda: ctypes.memmove(self._there(self.pinned, to), self._there(self.device, source), size))

    @staticmethod
    def _there(kind: dict[int, Any], address: int) -> int:
        assert address in kind, "memory that was freed is used"
        return address

    # --- streams, events, graphs

    def cuStreamCreate(self, out: Any, flags: int) -> None:
        out._obj.value = self._new(self.streams, SimpleNamespace(work=[], captured=None))

    def cuStreamDestroy_v2(self, stream: int) -> None:
        del self.streams[stream]

    def cuStreamSynchronize(self, stream: int) -> None:
        self._work_off(stream)

    def cuEventCreate(self, out: Any, flags: int) -> None:
        out._obj.value = self._new(self.events, SimpleNamespace(time=None, pending=0, stream=0))

    def cuEventRecord(self, event: int, stream: int) -> None:
        self.events[event].pending += 1
        self.events[event].stream = stream
        self.streams[stream].work.append(event)

    def cuEventSynchronize(self, event: int) -> None:
        if self.events[event].pending:
            self._work_off(self.events[event].stream, event)

    def cuEventElapsedTime(self, out: Any, first: int, second: int) -> None:
        begin, end = self.events[first], self.events[second]
        assert None not in (begin.time, end.time) and not begin.pending and not end.pending, "not recorded yet"
        out._obj.value = end.time - begin.time

    def cuEventDestroy_v2(self, event: int) -> None:
        del self.events[event]

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self.streams[stream].captured = []

    def cuStreamEndCapture(self, stream: int, out: Any) -> None:
        at = self.streams[stream]
        out._obj.value = self._new(self.graphs, at.captured)
        at.captured = None

    def cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        out._obj.value = self._new(self.graphs, list(self.graphs[graph]))

    def cuGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cuGraphExecDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.replayed += 1
        self.streams[stream].work += self.graphs[graph]

    # --- TensorRT on it

    def engines(self, spec: Any) -> SimpleNamespace:
        """Return what a session is made of: the GPU, and a TensorRT whose engine computes as :meth:`expected`."""
        tensorrt = ModuleType("tensorrt")
        tensorrt.__version__ = "10.9"
        tensorrt.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1), "__init__": lambda self: None})
        tensorrt.nptype = lambda name: np.float32 if name == "logits" else np.uint8
        engine = SimpleNamespace(
            get_tensor_dtype=lambda name: name, create_execution_context=lambda: _Context(self, spec)
        )
        tensorrt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: engine)
        return SimpleNamespace(gpu=Gpu(0, "host memory", (8, 6), 1), tensorrt=tensorrt)

    @staticmethod
    def expected(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and confidence, uint8 (..., H, W), of BGR pixels."""
        return (pixels[..., 0] % CLASSES).astype(np.uint8), np.ascontiguousarray(pixels[..., 1])


class _Context:
    def __init__(self, cuda: FakeCuda, spec: Any) -> None:
        self._cuda, self._spec = cuda, spec
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._ran: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not 1 <= shape[0] <= self._spec.batch or (self._spec.size and tuple(shape[1:3]) != self._spec.size):
            return False
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count, height, width, _ = self._shape
        return (count, CLASSES, height // 8, width // 8) if name == "logits" else (count, height, width)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self._cuda.device
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        captured = self._cuda.streams[stream].captured is not None
        assert not captured or self._ran == self._shape, "captured before it ran in this shape"
        self._ran = self._shape
        self._cuda.launched += 1
        addresses, shape = dict(self._addresses), self._shape

        def work() -> None:
            memory = self._cuda.device
            pixels = np.frombuffer(memory[addresses["pixels"]], np.uint8, int(np.prod(shape))).reshape(shape)
            results = dict(zip(("labels", "confidence"), self._cuda.expected(pixels), strict=True))
            if "logits" in addresses:
                labels = results["labels"][:, ::8, ::8][:, None]
                scores = (labels == np.arange(CLASSES)[:, None, None]).astype(np.float32) * 20
                results = {"logits": np.ascontiguousarray(scores)}
            for name, values in results.items():
                if name in addresses:
                    assert values.nbytes <= len(memory[addresses[name]])
                    ctypes.memmove(addresses[name], values.tobytes(), values.nbytes)

        self._cuda.put(stream, work)
        return True
