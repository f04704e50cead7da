"""The little of CUDA that a runtime without PyTorch needs, by the driver's own library.

``libcuda.so.1`` comes with the NVIDIA driver, so nothing has to be installed that fits a CUDA version, and looking for
a GPU loads no runtime and cannot crash. Names and flags are those of the CUDA driver API's reference manual.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError

# Results and arguments: int stands for CUresult, CUdevice and enumerations, a pointer for every handle. A device
# address (CUdeviceptr) is 64 bits wide.
_ADDRESS = c_ulonglong
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemAlloc_v2": (POINTER(_ADDRESS), c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ADDRESS, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}
_STREAM_NON_BLOCKING = 1
_EVENT_BLOCKING_SYNC = 1
_CAPTURE_THREAD_LOCAL = 1
_MULTIPROCESSORS, _COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 16, 75, 76


#: Held while a graph is captured, and by whatever waits for a whole device: that breaks a capture off, in any mode. Who
#: would capture while another holds it does without a graph for that once.
capturing = threading.RLock()  # what is let go while one captures is closed by the same thread


class CudaError(RuntimeError):
    """The driver refused a call."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver names it. Jetsons of a family have one name, and only the multiprocessors are different."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Return the driver's library, initialised.

    :raises CudaError: no library, or one that does not start (then also when asked again)
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError("there is no NVIDIA driver here (libcuda.so.1)") from error
    for name, arguments in _FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is not None:  # an old driver lacks the newest; calling them says so
            function.argtypes, function.restype = arguments, c_int
    status = library.cuInit(0)
    if status:
        raise CudaError(f"the NVIDIA driver does not start: {_describe(library, status)}")
    return library


def _describe(library: ctypes.CDLL, status: int) -> str:
    text = c_char_p()
    if library.cuGetErrorString(status, byref(text)) or not text.value:
        return f"error {status}"
    return f"{text.value.decode()} ({status})"


def call(name: str, *arguments: Any) -> None:
    """Call a function of the driver; other Python threads run meanwhile.

    :raises CudaError: for any result but success
    """
    library = _library()
    function = getattr(library, name, None)
    if function is None:
        raise CudaError(f"{name}: the NVIDIA driver is too old to have it")
    status = function(*arguments)
    if status:
        raise CudaError(f"{name}: {_describe(library, status)}")


def missing_gpu() -> str:
    """Say why there is no GPU to use, or "" where there is one. Loads no runtime, and cannot crash."""
    try:
        return "" if count_gpus() else "the NVIDIA driver sees no GPU"
    except CudaError as error:
        return str(error)


def count_gpus() -> int:
    """Count the GPUs that this process may use.

    :raises CudaError: no driver, or one that does not start
    """
    count = c_int(0)
    call("cuDeviceGetCount", byref(count))
    return count.value


def find_gpu(device: str) -> Gpu:
    """Return the GPU that a device's name means.

    :param device: ``auto``, ``cuda`` (both the first) or ``cuda:N``
    :raises UserError: another device, or a GPU that is not there, or does not answer
    """
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise UserError(f"device '{device}' is no NVIDIA GPU; use auto, cuda or cuda:N")
    missing = missing_gpu()
    if missing:
        raise UserError(f"device '{device}': {missing}")
    count = count_gpus()
    ordinal = int(index or 0)
    if ordinal >= count:
        raise UserError(f"device '{device}': there are only {count} CUDA GPUs, from cuda:0")
    try:
        return _gpu(ordinal)
    except CudaError as error:
        raise UserError(f"device '{device}': {error}") from error


def _gpu(ordinal: int) -> Gpu:
    handle = c_int()
    call("cuDeviceGet", byref(handle), ordinal)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), handle)
    values = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR, _MULTIPROCESSORS):
        value = c_int()
        call("cuDeviceGetAttribute", byref(value), attribute, handle)
        values.append(value.value)
    major, minor, multiprocessors = values
    return Gpu(ordinal, name.value.decode(errors="replace"), (major, minor), multiprocessors)


def pci_bus_id(index: int) -> str:
    """Return where GPU ``index`` of CUDA's count is plugged in, by which nvidia-smi, that counts otherwise, knows it.

    :raises CudaError: no such GPU
    """
    handle = c_int()
    call("cuDeviceGet", byref(handle), index)
    place = ctypes.create_string_buffer(32)
    call("cuDeviceGetPCIBusId", place, len(place), handle)
    return place.value.decode()


@lru_cache(maxsize=16)
def _primary_context(index: int) -> c_void_p:
    """Return a GPU's primary context, which all runtimes of a process share; it stays until the process ends."""
    handle, context = c_int(), c_void_p()
    call("cuDeviceGet", byref(handle), index)
    call("cuDevicePrimaryCtxRetain", byref(context), handle)
    return context


@contextmanager
def using(gpu: Gpu) -> Iterator[None]:
    """Work with a GPU in this thread, and then with the former one again."""
    call("cuCtxPushCurrent_v2", _primary_context(gpu.index))
    try:
        yield
    finally:
        call("cuCtxPopCurrent_v2", byref(c_void_p()))


class Stream:
    """A queue of work on the present GPU; does not wait for the default stream."""

    def __init__(self) -> None:
        self._handle = c_void_p()
        call("cuStreamCreate", byref(self._handle), _STREAM_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """What other runtimes take as a CUDA stream."""
        return self._handle.value or 0

    def upload(self, source: PinnedArray, target: DeviceMemory, count: int) -> None:
        """Enqueue a copy of ``count`` bytes to the device."""
        call("cuMemcpyHtoDAsync_v2", target.address, source.address, count, self._handle)

    def download(self, source: DeviceMemory, target: PinnedArray, count: int) -> None:
        """Enqueue a copy of ``count`` bytes from the device."""
        call("cuMemcpyDtoHAsync_v2", target.address, source.address, count, self._handle)

    def synchronize(self) -> None:
        """Wait until everything is done."""
        call("cuStreamSynchronize", self._handle)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Capture what is enqueued within, in place of doing it.

        :return: a graph that can be launched after the ``with`` block
        """
        graph = Graph()
        call("cuStreamBeginCapture_v2", self._handle, _CAPTURE_THREAD_LOCAL)
        captured = c_void_p()
        try:
            try:
                yield graph
            finally:
                call("cuStreamEndCapture", self._handle, byref(captured))  # or nothing else could use the stream
            graph.instantiate(captured)
        finally:
            if captured:
                call("cuGraphDestroy", captured)

    def close(self) -> None:
        """Let the stream go."""
        if self._handle:
            call("cuStreamDestroy_v2", self._handle)
            self._handle = c_void_p()


class Graph:
    """Work that was captured, launched as one."""

    def __init__(self) -> None:
        self._handle = c_void_p()

    def instantiate(self, captured: c_void_p) -> None:
        """Make it ready for launching."""
        call("cuGraphInstantiateWithFlags", byref(self._handle), captured, 0)

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        call("cuGraphLaunch", self._handle, c_void_p(stream.handle))

    def close(self) -> None:
        """Let the graph go."""
        if self._handle:
            call("cuGraphExecDestroy", self._handle)
            self._handle = c_void_p()


class Event:
    """A mark in a stream, with a time; waiting for it sleeps and does not spin."""

    def __init__(self) -> None:
        self._handle = c_void_p()
        call("cuEventCreate", byref(self._handle), _EVENT_BLOCKING_SYNC)

    def record(self, stream: Stream) -> None:
        """Set the mark after what is enqueued now."""
        call("cuEventRecord", self._handle, c_void_p(stream.handle))

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        call("cuEventSynchronize", self._handle)

    def milliseconds_since(self, earlier: Event) -> float:
        """Return the time between two marks that were reached."""
        elapsed = c_float()
        call("cuEventElapsedTime", byref(elapsed), earlier._handle, self._handle)
        return elapsed.value

    def close(self) -> None:
        """Let the event go."""
        if self._handle:
            call("cuEventDestroy_v2", self._handle)
            self._handle = c_void_p()


class DeviceMemory:
    """Bytes on the present GPU."""

    def __init__(self, count: int) -> None:
        self.size = count
        self._address = _ADDRESS()
        call("cuMemAlloc_v2", byref(self._address), max(1, count))

    @property
    def address(self) -> int:
        """Where they are."""
        return self._address.value

    def close(self) -> None:
        """Let them go."""
        if self._address.value:
            call("cuMemFree_v2", self._address)
            self._address = _ADDRESS()


class PinnedArray:
    """Bytes of the host that stay in place, so that the GPU reads and writes them itself."""

    def __init__(self, count: int) -> None:
        self._address = c_void_p()
        call("cuMemHostAlloc", byref(self._address), max(1, count), 0)
        memory = (ctypes.c_uint8 * max(1, count)).from_address(self.address)
        #: uint8 (count,); not to be used after :meth:`close`.
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)[:count]

    @property
    def address(self) -> int:
        """Where they are."""
        return self._address.value or 0

    def close(self) -> None:
        """Let them go."""
        if self._address:
            self.array = np.empty(0, np.uint8)
            call("cuMemFreeHost", self._address)
            self._address = c_void_p()
