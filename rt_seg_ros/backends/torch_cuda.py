"""PyTorch on an NVIDIA GPU: only uint8 crosses the bus, once in each direction.

A frame is copied into pinned memory, uploaded as it is, and everything else happens on the device: resizing,
normalisation, network, upsampling, arg max. A call whose shapes come again is captured as a CUDA graph, so that it
costs one launch. Two calls may be under way at once (from two threads): while one computes, the other's pixels go up
and the one before's labels come down, on streams of their own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rt_seg_ros.backends.base import Backend, BatchResult
from rt_seg_ros.backends.cuda_driver import capturing
from rt_seg_ros.backends.cuda_layers import fast_logits
from rt_seg_ros.backends.torch_ops import Call, LabelWriter, Program, alike_together, put_back, write_labels
from rt_seg_ros.images import Frame
from rt_seg_ros.log import get_logger
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard, build_network

_log = get_logger(__name__)

#: Calls of different shapes that are remembered; a graph holds its own input and output, and shares the rest.
#: There are batches of eight sizes, with and without confidence.
_MAX_GRAPHS = 32
_MAX_PROGRAMS = 64
#: Working sizes and numbers of frames for which cuDNN tries its algorithms, in seconds each: those that cameras have.
_SEARCHED = 8
#: Captures that may fail, as when other code in the process waits for the device meanwhile, before there are no more.
_FAILED_CAPTURES = 3
#: Calls under way at once. Two keep the device busy; more would only wait for it.
_SLOTS = 2
#: Share of a wait that is slept through, where that is longer than so many seconds.
_ASLEEP, _SHORTEST_SLEEP = 0.7, 3e-4

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchCudaBackend(Backend):
    """PyTorch on an NVIDIA GPU.

    In a result's timings ``network`` is the device's time for everything from the resizing to the arg max, measured by
    events; ``preprocess`` is the copy into pinned memory, ``postprocess`` all the rest: the way to the device and back,
    and waiting for another thread's call.

    :param device: ``cuda`` or ``cuda:N``
    :param precision: ``fp32`` (without TF32), ``bf16`` or ``fp16``
    :param threads: of the host, that copy frames into pinned memory; 0: as many as PyTorch takes
    """

    faster_in_batches = warms_up_by_batch = True
    warm_up_calls = 2  # plain, captured

    def __init__(self, card: ModelCard, device: str, precision: str, threads: int = 0) -> None:
        self.name, self.device, self.precision = "torch", device, precision
        self._threads = threads
        self._dtype = DTYPES[precision]
        self._card = card
        index = torch.device(device).index
        self._on = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        with torch.cuda.device(self._on), torch.no_grad(), _numerics():
            self._logits = fast_logits(build_network(card).fuse().to(self._on), self._dtype)
        with torch.cuda.device(self._on):
            self._writer = _label_writer(card.num_classes, self._dtype)
            self._upload = torch.cuda.Stream()
            self._compute = torch.cuda.Stream()
            self._download = torch.cuda.Stream()
            self._aside = torch.cuda.Stream()
            self._graphs = _Graphs(self._compute)
            self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
            for _ in range(_SLOTS):
                self._free.put(_Slot(self._upload))
            # The weights came on another stream than the one they are used on. (Waiting for the whole device would
            # break off what another backend captures meanwhile.)
            torch.cuda.current_stream().synchronize()
        self._programs: OrderedDict[Call, Program] = OrderedDict()
        self._searched = threading.local()  # as what cuDNN found is
        self._launching = threading.Lock()

    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.run`."""
        places = alike_together(frames, sizes)
        frames = [frames[i] for i in places]
        call = Call.of(frames, working, [sizes[i] for i in places], confidence)
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # holds for the calling thread
        tried = self._make_ready(call)
        slot = self._free.get()
        try:
            begin = time.perf_counter()
            slot.fit(call)
            call.pack(frames, slot.pinned_input)
            staged = time.perf_counter()
            with self._launching, torch.cuda.device(self._on), torch.inference_mode():
                replayed = self._launch(slot, call, tried)
            network = slot.wait(call if replayed else None)
            labels, confidences = call.unpack(slot.pinned_output.numpy())
            end = time.perf_counter()
        except BaseException:
            for stream in (self._upload, self._compute, self._download):  # they may still use the slot
                try:
                    stream.synchronize()
                except RuntimeError:
                    _never_free(self)
            raise
        finally:
            self._free.put(slot)
        preprocess, total = (staged - begin) * 1e3, (end - begin) * 1e3
        return BatchResult(
            labels=put_back(labels, places),
            confidences=put_back(confidences, places) if confidences is not None else None,
            timings={
                "preprocess": preprocess,
                "network": network,
                "postprocess": max(0.0, total - preprocess - network),
            },
        )

    def is_ready(self, working: Size) -> bool:
        """See :meth:`Backend.is_ready`: there is a graph of the size, or nothing is tried out for it any more."""
        if self._graphs.has((working[0], working[1])) or self._graphs.given_up:
            return True
        return len({call.working for call in tuple(self._programs)}) >= _SEARCHED

    def _make_ready(self, call: Call) -> bool:
        """Do what takes seconds when a kind of call is new, while other threads' calls go their way.

        cuDNN tries its algorithms, and Triton compiles its kernels. What cuDNN takes then stays, for this thread alone.

        :return: whether that was done now: this thread is then the one to capture the call
        """
        if call in self._graphs:
            return False
        searched: set[tuple[int, Size]] = self._searched.__dict__.setdefault("kinds", set())
        kind = len(call.frames), call.working
        if kind in searched or len(searched) >= _SEARCHED:
            return False
        searched.add(kind)
        try:
            with capturing:
                with torch.cuda.device(self._on), torch.inference_mode(), torch.cuda.stream(self._aside):
                    self._try_out(call)
                torch.cuda.empty_cache()  # memory that was taken on one stream is of no use to others
        except RuntimeError as error:  # if more than the trying is wrong, the call itself will say so
            _log.info("cuDNN's algorithms could not be tried: %s", str(error).split("\n")[0])
            return False
        return True

    def _try_out(self, call: Call) -> None:
        """Compute a call once on the present stream, with pixels of 0; nothing of it stays but what it found."""
        source, target = (
            torch.zeros(count, dtype=torch.uint8, device=self._on) for count in (call.input_bytes, call.output_bytes)
        )
        with _numerics(benchmark=True):
            self._new_program(call)(source, target)
        torch.cuda.current_stream().synchronize()

    def _launch(self, slot: _Slot, call: Call, tried: bool) -> bool:
        """Put the whole way of a call on the three streams; return whether it is the replay of a graph.

        :param tried: this thread has just tried it out
        """
        with torch.cuda.stream(self._upload):
            slot.input[: call.input_bytes].copy_(slot.pinned_input[: call.input_bytes], non_blocking=True)
            slot.uploaded.record()
        with torch.cuda.stream(self._compute):
            program, seen = self._program(call)
            graph = self._graphs.find(call, program) if seen or tried else None
            self._compute.wait_event(slot.uploaded)
            slot.started.record()
            if graph is not None:
                graph.run(slot.input[: call.input_bytes], slot.output[: call.output_bytes])
            else:
                with _numerics():
                    program(slot.input[: call.input_bytes], slot.output[: call.output_bytes])
            slot.finished.record()
        with torch.cuda.stream(self._download):
            self._download.wait_event(slot.finished)
            slot.pinned_output[: call.output_bytes].copy_(slot.output[: call.output_bytes], non_blocking=True)
            slot.done.record()
        return graph is not None

    def _program(self, call: Call) -> tuple[Program, bool]:
        """Return what computes a call, and whether such a call came before."""
        program = self._programs.get(call)
        if program is not None:
            self._programs.move_to_end(call)
            return program, True
        if len(self._programs) >= _MAX_PROGRAMS:
            self._programs.popitem(last=False)
        program = self._programs[call] = self._new_program(call)
        return program, False

    def _new_program(self, call: Call) -> Program:
        return Program(call, self._logits, self._card.mean, self._card.std, self._dtype, self._on, self._writer)


def _label_writer(classes: int, dtype: torch.dtype) -> LabelWriter:
    """Return the fused kernel where it compiles and does right on the present GPU, else the plain way."""
    if importlib.util.find_spec("triton") is None:
        _log.info("labels without the fused kernel: Triton is not installed")
        return write_labels
    try:
        from rt_seg_ros.backends import triton_kernels
    except Exception as error:  # a Triton that does not fit this PyTorch or driver
        _log.info("labels without the fused kernel: %s: %s", type(error).__name__, error)
        return write_labels
    return triton_kernels.fused_write_labels if triton_kernels.works(classes, dtype, "cuda") else write_labels


def _set_strict() -> list[tuple[Any, str, Any]]:
    """Keep TF32 out of convolutions and products of matrices, and cuDNN's search off.

    :return: each switch that was otherwise: of what, its name, and its value until now
    """
    of: Any = torch.backends
    switches: list[tuple[Any, str, Any]] = [(of.cudnn, "enabled", True), (of.cudnn, "benchmark", False)]
    if _has_new_switches():
        switches += [(of.cudnn.conv, "fp32_precision", "ieee"), (of.cuda.matmul, "fp32_precision", "ieee")]
    else:
        switches += [(of.cudnn, "allow_tf32", False), (of.cuda.matmul, "allow_tf32", False)]
    switches = [(owner, name, value) for owner, name, value in switches if getattr(owner, name) != value]
    former = [(owner, name, getattr(owner, name)) for owner, name, _ in switches]
    for owner, name, value in switches:
        setattr(owner, name, value)
    return former


def _has_new_switches() -> bool:
    """Whether the process says by PyTorch's newer switches what fp32 is: then the older ones cannot even be read."""
    of: Any = torch.backends
    try:
        _ = of.cudnn.allow_tf32, of.cuda.matmul.allow_tf32
    except RuntimeError:
        return True
    return any(getattr(owner, "fp32_precision", "none") != "none" for owner in (of, of.cudnn, of.cuda.matmul))


def _never_free(backend: TorchCudaBackend) -> None:
    """Keep what holds pinned memory on a GPU that is lost, also beyond the interpreter's end.

    PyTorch records an event as it frees such memory. That throws then, in a destructor: the process would be aborted.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))


class _Numerics:
    """PyTorch's switches for cuDNN, which hold for the whole process, set while any backend launches work.

    TF32, which PyTorch lets into convolutions by default, is kept out: fp32 is to mean fp32.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._searching = 0
        self._former: list[tuple[Any, str, Any]] = []

    @contextmanager
    def __call__(self, benchmark: bool = False) -> Iterator[None]:
        """Set the switches.

        :param benchmark: let cuDNN try its algorithms on shapes that are new to it, and take the fastest
        """
        with self._lock:
            if not self._users:
                self._former = _set_strict()
            self._users += 1
            if benchmark:
                self._searching += 1
                torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            with self._lock:
                if benchmark:
                    self._searching -= 1
                    torch.backends.cudnn.benchmark = self._searching > 0
                self._users -= 1
                if not self._users:
                    for owner, name, value in self._former:
                        setattr(owner, name, value)


_numerics = _Numerics()


class _Slot:
    """The buffers and events of one call under way. Buffers grow to the largest call and stay.

    :param stream: where they are written first; whatever else works on the device is then done with their memory
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self.uploaded = torch.cuda.Event()
        self.started = torch.cuda.Event(enable_timing=True)
        self.finished = torch.cuda.Event(enable_timing=True)
        self.done = torch.cuda.Event()
        self._replayed: Call | None = None
        self._took = 0.0
        self.pinned_input, self.input = self._pair(0)
        self.pinned_output, self.output = self._pair(0)

    def _pair(self, count: int) -> tuple[Tensor, Tensor]:
        pinned = torch.empty(count, dtype=torch.uint8, pin_memory=count > 0)
        with torch.cuda.stream(self._stream):
            return pinned, torch.empty(count, dtype=torch.uint8, device=self._stream.device)

    def wait(self, replayed: Call | None) -> float:
        """Wait until what was launched is done, while other threads run; return the device's milliseconds.

        An event that wakes the host takes a quarter of a millisecond for it, as long as a small network. One that the
        driver polls keeps a core busy. So the host sleeps for most of what the last replay of a call took, and then
        polls. Any other call may have taken seconds, for what is done once.

        :param replayed: the call, if it is the replay of a graph
        """
        asleep = _ASLEEP * self._took / 1e3 if replayed is not None and self._replayed == replayed else 0.0
        if asleep > _SHORTEST_SLEEP:
            time.sleep(asleep)
        self.done.synchronize()
        self._replayed, self._took = replayed, self.started.elapsed_time(self.finished)
        return self._took

    def fit(self, call: Call) -> None:
        """Make room for a call. The slot must be idle."""
        if len(self.pinned_input) < call.input_bytes:
            self.pinned_input, self.input = self._pair(call.input_bytes)
        if len(self.pinned_output) < call.output_bytes:
            self.pinned_output, self.output = self._pair(call.output_bytes)


class _Graph:
    """A program captured as a CUDA graph, with an input and an output of its own."""

    def __init__(self, call: Call, program: Callable[[Tensor, Tensor], None], stream: torch.cuda.Stream, pool: Any):
        self._input = torch.zeros(call.input_bytes, dtype=torch.uint8, device=stream.device)
        self._output = torch.zeros(call.output_bytes, dtype=torch.uint8, device=stream.device)
        self._program = program  # whose means and indices the captured kernels read
        self._graph = torch.cuda.CUDAGraph()
        with _numerics(benchmark=True):
            program(self._input, self._output)  # tries algorithms and compiles kernels, which a capture cannot
            stream.synchronize()
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                program(self._input, self._output)

    def run(self, source: Tensor, target: Tensor) -> None:
        """Compute on the present stream."""
        self._input.copy_(source, non_blocking=True)
        self._graph.replay()
        target.copy_(self._output, non_blocking=True)


class _Graphs:
    """The graphs of the shapes used last.

    They share one pool of memory: they run one after another on one stream, and what each must keep is its own.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: OrderedDict[Call, _Graph] = OrderedDict()
        self._failures = 0

    def __contains__(self, call: Call) -> bool:
        return call in self._graphs

    def has(self, working: Size) -> bool:
        """Whether there is a graph of a working size."""
        return any(call.working == working for call in tuple(self._graphs))

    @property
    def given_up(self) -> bool:
        """Whether nothing is captured any more."""
        return self._failures >= _FAILED_CAPTURES

    def find(self, call: Call, program: Callable[[Tensor, Tensor], None]) -> _Graph | None:
        """Return the graph for a call, captured if need be; None where capturing does not work, or not now."""
        graph = self._graphs.get(call)
        if graph is not None:
            self._graphs.move_to_end(call)
            return graph
        if self.given_up or not capturing.acquire(blocking=False):
            return None
        try:
            if len(self._graphs) >= _MAX_GRAPHS:
                self._stream.synchronize()  # the one that goes may still be running
                self._graphs.popitem(last=False)
            graph = _Graph(call, program, self._stream, self._pool)
        except RuntimeError as error:  # no memory for it, too
            self._failures += 1
            left = "tried again" if self._failures < _FAILED_CAPTURES else "no more are tried"
            _log.warning("a CUDA graph could not be captured (%s): %s", left, str(error).split("\n")[0])
            self._stream.synchronize()
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()  # up to 2.12 PyTorch goes on taking the former for in use
            return None
        finally:
            capturing.release()
        self._graphs[call] = graph
        return graph
