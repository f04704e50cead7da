"""TensorRT on an NVIDIA GPU: TensorRT 10 or 11, or TensorRT for RTX.

An engine is for one working size, one size of labels and one precision, and takes minutes to build where it was not
built before (``rt-seg export --format tensorrt`` builds ahead). A call waits for that, with the progress in the log;
unless the backend is ``live``, as in the node: then another backend serves meanwhile, and the engine takes over when it
is ready.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence

from rt_seg_ros.backends.base import Backend, BatchResult, Unavailable
from rt_seg_ros.backends.cuda_driver import CudaError, capturing, find_gpu, missing_gpu
from rt_seg_ros.backends.engine_process import EngineProcess
from rt_seg_ros.backends.engines import ANY_SIZE, NOT_INSTALLED, Engines, EngineSpec, choose_tensorrt, installed
from rt_seg_ros.backends.tensorrt_session import Session
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.log import get_logger
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

_log = get_logger(__name__)

_MAX_SESSIONS = 8  # engines that stay loaded: of a few cameras of different sizes, with and without confidence
_MAX_BATCH = 8  # engines for more frames at once are not looked for
_MANY_SIZES = 4  # with as many loaded, the next engine is for any size
_OFTEN = 10  # so many frames of a size make an engine worth building while serving
_STAND_IN_KEPT = 300  # frames after which a stand-in that is not needed goes

#: Who stands in while an engine is being built: (module, device), the first that works.
_STAND_INS = (
    ("torch_backend", "cuda"),
    ("openvino_backend", "cpu"),
    ("onnxruntime_backend", "cpu"),
    ("torch_backend", "cpu"),
)


def unavailable() -> str | None:
    """Return why TensorRT cannot be used here, or None. Loads nothing: without a GPU it could end the process."""
    if not installed():
        return NOT_INSTALLED
    return missing_gpu() or None


def check(device: str, precision: str) -> str:
    """Return the device that ``device`` means here.

    :raises UserError: no such GPU, or one that TensorRT or the precision does not do on
    """
    gpu = find_gpu(device)
    choose_tensorrt(gpu, precision)
    return f"cuda:{gpu.index}"


def create(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    """Make a model ready for TensorRT; engines are loaded or built when the first frame tells its size.

    :raises UserError: as :func:`check`; weights that cannot be loaded; no int8 model of them
    """
    gpu = find_gpu(device)
    return TensorRtBackend(Engines(card, choose_tensorrt(gpu, precision), gpu), precision, threads)


def not_ready(card: ModelCard, device: str, precision: str) -> str | None:
    """Return why TensorRT would not serve at once, or None: what was not built ahead is nothing to choose unasked."""
    gpu = find_gpu(device)
    if Engines(card, choose_tensorrt(gpu, precision), gpu).sizes(precision):
        return None
    return f"no {precision} engine of '{card.name}' was built for {gpu.name} (rt-seg export --format tensorrt)"


class TensorRtBackend(Backend):
    """TensorRT on an NVIDIA GPU.

    ``name``, ``device``, ``precision`` and ``batches`` are those of whoever served the last frame. In a result's
    timings ``network`` is the device's time by events, from pixels of the working size to labels; ``preprocess`` is the
    resizing into pinned memory, ``postprocess`` all the rest.

    :param threads: of the CPU, where it serves meanwhile; 0: as many as its runtime takes
    """

    faster_in_batches = True
    warm_up_calls = 4  # plain, captured; on both contexts of a session

    def __init__(self, engines: Engines, precision: str, threads: int = 0) -> None:
        assert engines.gpu is not None
        self._threads = threads
        self._engines = engines
        self._own = ("tensorrt", f"cuda:{engines.gpu.index}", precision)
        self.name, self.device, self.precision = self._own
        if precision == "int8":
            engines.key(EngineSpec(None, None, precision=precision))  # raises where there is no int8 model
        self._lock = threading.Lock()
        self._sessions: OrderedDict[EngineSpec, Session] = OrderedDict()
        self._finalizer = weakref.finalize(self, _close_all, self._sessions)
        self._finalizer.atexit = False  # then the driver frees all
        self._absent: set[EngineSpec] = set()
        self._failures: dict[EngineSpec, str] = {}
        self._asked: Counter[EngineSpec] = Counter()
        self._building: threading.Thread | None = None
        self._stand_in: Backend | None = None
        self._starting = threading.Lock()  # of its own: who has an engine does not wait for a stand-in to start
        self._since_stand_in = 0

    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.run`.

        :raises UserError: an engine that cannot be built or loaded, unless the backend is live
        """
        working = (working[0], working[1])
        groups: dict[Size, list[int]] = {}
        for i, (height, width) in enumerate(sizes):
            groups.setdefault((height, width), []).append(i)
        sessions: list[Session] = []
        try:
            for size, members in groups.items():
                session = self._session(working, size, len(members), confidence)
                if session is None:
                    return self._run_stand_in(frames, working, sizes, confidence)
                sessions.append(session)
            result = BatchResult([None] * len(frames), [None] * len(frames) if confidence else None)  # type: ignore[list-item]
            for session, members in zip(sessions, groups.values(), strict=True):
                labels, confidences, timings = session.run(
                    [frames[i] for i in members], working, [sizes[i] for i in members], confidence
                )
                for n, i in enumerate(members):
                    result.labels[i] = labels[n]
                    if result.confidences is not None and confidences is not None:
                        result.confidences[i] = confidences[n]
                for stage, milliseconds in timings.items():
                    result.timings[stage] = result.timings.get(stage, 0.0) + milliseconds
        finally:
            with self._lock:
                for session in sessions:
                    session.users -= 1
        self.name, self.device, self.precision = self._own
        self.faster_in_batches = True
        self._let_stand_in_go()
        return result

    def is_ready(self, working: Size) -> bool:
        """See :meth:`Backend.is_ready`: an engine of the size is loaded, or who stands in for one is ready."""
        stand_in = self._stand_in
        loaded = any(spec.size in (working, None) for spec in tuple(self._sessions))
        return loaded or (stand_in is not None and stand_in.is_ready(working))

    # --- which engine ---------------------------------------------------------------------------------------------

    def _session(self, working: Size, size: Size, count: int, confidence: bool) -> Session | None:
        """Return a loaded engine, counted as used; None where somebody else is to serve meanwhile."""
        with self._lock:
            wanted = EngineSpec(working, size, precision=self._own[2], confidence=confidence)
            session = self._find(wanted, count)
            if self.live and (session is None or session.spec.size is None):
                self._ask_for(wanted)
            if session is None:
                if self.live:
                    return None
                session = self._build_and_load(self._to_build(wanted))
            session.users += 1
            return session

    def _find(self, wanted: EngineSpec, count: int) -> Session | None:
        """Return an engine that gives what is wanted, of those that are loaded or were built."""
        serving = _serving(wanted, count)
        if len(self._sessions) >= _MAX_SESSIONS:  # one of them would have to go, only to be wanted for the next frame
            serving.sort(key=lambda spec: spec not in self._sessions)
        for spec in serving:
            if spec in self._sessions:
                self._sessions.move_to_end(spec)
                return self._sessions[spec]
            if spec in self._absent:
                continue
            self._absent.add(spec)  # looked for once; what is built here is put in directly
            engine = self._engines.load(spec) if self._engines.has(spec) else None
            if engine is None:
                continue
            begin = time.perf_counter()
            try:
                session = Session(self._engines, spec, engine)
            except Exception as error:  # TensorRT's binding raises anything
                _log.warning("the engine (%s) cannot be loaded and is built again: %s", spec, error)
                continue
            self._put_in(spec, session)
            _log.info("TensorRT: loaded the engine (%s) in %.1f s", spec, time.perf_counter() - begin)
            return session
        return None

    def _put_in(self, spec: EngineSpec, session: Session) -> None:
        """Keep a loaded engine; those that were not used for longest make room."""
        for former in [one for one, its in self._sessions.items() if not its.users]:
            if len(self._sessions) < _MAX_SESSIONS:
                break
            self._sessions.pop(former).close()
            self._absent.discard(former)  # it can be loaded again
        self._sessions[spec] = session

    def _to_build(self, wanted: EngineSpec) -> EngineSpec:
        """Return what to build for a size that there is no engine for: after many sizes, one engine for any."""
        sizes = {spec.size for spec in self._sessions if spec.size is not None}
        return wanted if len(sizes) < _MANY_SIZES or not _within_any_size(wanted) else _any_size(wanted)

    # --- building -------------------------------------------------------------------------------------------------

    def _build_and_load(self, spec: EngineSpec) -> Session:
        """Build an engine, wait for it, and load it; what failed once is not tried again."""
        if spec in self._failures:
            raise UserError(self._failures[spec])
        try:
            session = Session(self._engines, spec, EngineProcess(self._engines, spec, _Report(spec)).run())
        except UserError as error:
            self._failures[spec] = str(error)
            raise
        self._put_in(spec, session)
        return session

    def _ask_for(self, wanted: EngineSpec) -> None:
        """Build an engine in another process while this one serves, if its size comes often and no other is built."""
        full = len(self._sessions) >= _MAX_SESSIONS and _within_any_size(wanted)
        spec = _any_size(wanted) if full else wanted
        if spec in self._sessions:
            return
        self._asked[spec] += 1
        if self._asked[spec] < _OFTEN or self._building is not None or spec in self._failures:
            return
        process = EngineProcess(self._engines, spec, _Report(spec))
        weakref.finalize(self, process.cancel)  # whoever wanted it is gone
        self._building = threading.Thread(
            target=_adopt, args=(weakref.ref(self), process, spec), name="tensorrt engine", daemon=True
        )
        self._building.start()

    def _built(self, spec: EngineSpec, outcome: bytes | UserError) -> None:
        """Take in what came of building aside."""
        session = None
        if not isinstance(outcome, UserError):
            try:
                session = Session(self._engines, spec, outcome)  # without the lock: frames go on
            except UserError as error:
                outcome = error
            except Exception as error:
                outcome = UserError(f"the engine ({spec}) cannot be loaded: {type(error).__name__}: {error}")
        with self._lock:
            self._building = None
            if session is not None:
                self._put_in(spec, session)
                _log.info("TensorRT: the engine (%s) is ready and serves from the next frame on", spec)
            else:
                self._failures[spec] = str(outcome)
                _log.error("TensorRT: %s; %s goes on serving", outcome, self.name)

    # --- who serves meanwhile -------------------------------------------------------------------------------------

    def _run_stand_in(
        self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool
    ) -> BatchResult:
        with self._starting:
            backend = self._stand_in
            if backend is None:
                backend = self._stand_in = _make_stand_in(self._engines.card, *self._own[1:], self._threads)
                _log.info("TensorRT: %s on %s serves until there is an engine", backend.name, backend.device)
            self._since_stand_in = 0
        result = backend.run(frames, working, sizes, confidence)
        self.name, self.device, self.precision = backend.name, backend.device, backend.precision
        self.faster_in_batches = backend.faster_in_batches
        return result

    def _let_stand_in_go(self) -> None:
        if self._stand_in is not None:
            self._since_stand_in += 1
            if self._since_stand_in > _STAND_IN_KEPT:
                self._stand_in = None
                _give_back_what_pytorch_keeps()


def _serving(wanted: EngineSpec, count: int) -> list[EngineSpec]:
    """Return the engines that give what is wanted, the best first: it, with more than was asked, and any size's.

    An engine for several frames takes fewer as well, and more by turns.
    """
    least = min(count, _MAX_BATCH)
    batches = [*range(least, _MAX_BATCH + 1), *range(least - 1, 0, -1)]
    extras = (True,) if wanted.confidence else (False, True)
    specs = [
        EngineSpec(wanted.size, wanted.label_size, batch, wanted.precision, confidence)
        for batch in batches
        for confidence in extras
    ]
    return [*specs, _any_size(wanted)] if _within_any_size(wanted) else specs


def _any_size(wanted: EngineSpec) -> EngineSpec:
    return EngineSpec(None, None, precision=wanted.precision)


def _within_any_size(wanted: EngineSpec) -> bool:
    low, _, high = ANY_SIZE
    return wanted.size is not None and all(low[i] <= wanted.size[i] <= high[i] for i in (0, 1))


def _close_all(sessions: OrderedDict[EngineSpec, Session]) -> None:
    """Let engines go whose backend went: their memory on the device is nobody else's to free."""
    while sessions:
        with contextlib.suppress(CudaError):  # a GPU that is lost has nothing left to free
            sessions.popitem()[1].close()


def _adopt(backend: weakref.ref[TensorRtBackend], process: EngineProcess, spec: EngineSpec) -> None:
    """Build, and hand over to the backend, if it is still there; on a thread of its own."""
    outcome: bytes | UserError
    try:
        outcome = process.run()
    except UserError as error:
        outcome = error
    except Exception as error:
        outcome = UserError(f"the engine ({spec}) could not be built: {type(error).__name__}: {error}")
    wanting = backend()
    if wanting is not None:
        wanting._built(spec, outcome)


def _give_back_what_pytorch_keeps() -> None:
    """Free the GPU's memory that PyTorch holds for tensors to come: on a Jetson it is the host's as well."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not capturing.acquire(blocking=False):
        return
    try:
        with contextlib.suppress(RuntimeError):  # which up to 2.12 it is for good, once a capture broke off
            torch.cuda.empty_cache()
    finally:
        capturing.release()


def _make_stand_in(card: ModelCard, device: str, precision: str, threads: int) -> Backend:
    problems: list[str] = []
    for name, kind in _STAND_INS:
        module = importlib.import_module(f"rt_seg_ros.backends.{name}")
        for wanted in dict.fromkeys((precision, "fp32")):
            try:
                reason = module.unavailable()
                if reason:
                    raise Unavailable(reason)
                backend: Backend = module.create(card, device if kind == "cuda" else "cpu", wanted, threads)
            except Exception as error:  # a GPU that is full or lost raises anything
                problems.append(f"{name.removesuffix('_backend')} on {kind}: {error}")
            else:
                return backend
    raise UserError(f"nothing can serve while the engine is being built: {'; '.join(problems)}")


class _Report:
    """Tells in the log how far the building of an engine is, in steps of a tenth."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._told = -1
        self._begin = time.monotonic()

    def __call__(self, share: float) -> None:
        tenth = int(share * 10)
        if tenth > self._told:
            self._told = tenth
            passed = time.monotonic() - self._begin
            _log.info("TensorRT: building the engine (%s): %d %% after %.0f s", self._spec, tenth * 10, passed)
