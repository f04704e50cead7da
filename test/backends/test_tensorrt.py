"""TensorRT: its names, the engines' cache, who serves while one is built; and on a GPU, the labels."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from rt_seg_ros.backends import check_backend, create_backend, cuda_driver, tensorrt_backend
from rt_seg_ros.backends.base import BatchResult, Unavailable
from rt_seg_ros.backends.cuda_driver import CudaError, Gpu, find_gpu, missing_gpu
from rt_seg_ros.backends.engine_process import EngineProcess
from rt_seg_ros.backends.engines import FLAVOURS, Engines, EngineSpec, check_gpu, load_tensorrt
from rt_seg_ros.backends.tensorrt_backend import TensorRtBackend
from rt_seg_ros.backends.tensorrt_session import Session
from rt_seg_ros.backends.torch_backend import TorchCpuBackend
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.zoo import find_model

GPU = Gpu(0, "NVIDIA Test 4000", (8, 9), 48)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def card():
    return find_model("cgnet")


# --- names of the runtime -----------------------------------------------------------------------------------------

#: Everything that is used of each.
COMMON = {
    "Builder": "create_network create_builder_config create_optimization_profile build_serialized_network",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "BuilderFlag": "TF32",
    "OnnxParser": "parse num_errors get_error",
    "ParserError": "desc",
    "IBuilderConfig": "clear_flag add_optimization_profile progress_monitor create_timing_cache set_timing_cache "
    "get_timing_cache",
    "ITimingCache": "serialize",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "ILogger": "Severity",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "create_execution_context get_tensor_dtype",
    "IExecutionContext": "set_input_shape get_tensor_shape set_tensor_address execute_async_v3",
}
RTX_ALONE = {
    "ComputeCapability": "SM75",
    "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    "ICudaEngine": "create_runtime_config",
    "IRuntimeConfig": "create_runtime_cache set_runtime_cache",
    "IRuntimeCache": "serialize deserialize",
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_used_of_tensorrt_is_there(flavour):
    if importlib.util.find_spec(flavour) is None:
        pytest.skip(f"needs {flavour} (pip install {flavour}); no GPU is needed")
    tensorrt = load_tensorrt(flavour)
    used = [COMMON, RTX_ALONE] if flavour == "tensorrt_rtx" else [COMMON]
    missing = [
        f"{kind}.{name}"
        for names in used
        for kind, listed in names.items()
        for name in listed.split()
        if not hasattr(getattr(tensorrt, kind, None), name)
    ]
    assert not missing
    assert np.dtype(tensorrt.nptype(tensorrt.DataType.UINT8)) == np.uint8
    assert tensorrt.ILogger.Severity.ERROR < tensorrt.ILogger.Severity.WARNING


# --- without a GPU ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu():
    if not missing_gpu():
        pytest.skip("there is a GPU here, so nothing is refused")


def test_without_a_gpu_it_is_refused_before_tensorrt_is_loaded(no_gpu, card, monkeypatch):
    monkeypatch.setattr(tensorrt_backend, "installed", lambda: ("tensorrt",))
    loaded = {name for name in FLAVOURS if name in sys.modules}
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(Unavailable, match="NVIDIA"):
            create_backend(card, "tensorrt", device)
        with pytest.raises(Unavailable, match="NVIDIA"):
            check_backend("tensorrt", device, "fp16")
    with pytest.raises(UserError, match="NVIDIA"):
        find_gpu("cuda")
    assert {name for name in FLAVOURS if name in sys.modules} == loaded


def test_without_a_gpu_no_engine_is_loaded(no_gpu, card):
    """TensorRT may end the process over it, so it must not be asked."""
    engines = Engines(card, named("tensorrt_rtx"), None)
    with pytest.raises(Unavailable, match="cannot load an engine"):
        Session(engines, EngineSpec((64, 64), None), b"engine")


def test_auto_passes_over_what_is_not_there(no_gpu, card):
    assert create_backend(card, "auto", "auto").device == "cpu"


def test_a_device_that_is_no_gpu_is_refused():
    for device in ("cpu", "cuda:x", "tpu"):
        with pytest.raises(UserError, match=f"device '{device}'"):
            find_gpu(device)


def test_a_gpu_that_does_not_answer_is_one_that_cannot_be_had(monkeypatch):
    def lost(name, *arguments):
        if name != "cuDeviceGetCount":
            raise CudaError(f"{name}: GPU is lost (46)")
        arguments[0]._obj.value = 1

    monkeypatch.setattr(cuda_driver, "call", lost)
    with pytest.raises(UserError, match="device 'cuda': cuDeviceGet: GPU is lost"):
        find_gpu("cuda")


def test_not_installed_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(tensorrt_backend, "installed", lambda: ())
    assert "pip install tensorrt" in (tensorrt_backend.unavailable() or "")


# --- the engines' cache --------------------------------------------------------------------------------------------


def named(flavour: str, version: str = "10.9.0") -> ModuleType:
    """Return a module by which engines are kept; what builds and runs them is not in it."""
    module = ModuleType(flavour)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


def test_an_engine_is_kept_under_all_that_it_depends_on(card):
    spec = EngineSpec((360, 480), None, precision="fp16")
    engines = Engines(card, named("tensorrt"), GPU)
    engines.save(spec, b"engine")
    assert engines.load(spec) == b"engine" and engines.has(spec)
    assert Engines(card, named("tensorrt"), GPU).load(spec) == b"engine"
    assert engines.load(EngineSpec((360, 480), (360, 480), precision="fp16")) == b"engine"  # said in full

    for change in (
        {"size": (360, 481)},
        {"label_size": (720, 960)},
        {"batch": 2},
        {"precision": "fp32"},
        {"confidence": True},
        {"size": None, "label_size": None},
    ):
        assert engines.load(dataclasses.replace(spec, **change)) is None
    for other in (
        Engines(card, named("tensorrt", "10.10.0"), GPU),
        Engines(card, named("tensorrt_rtx"), GPU),
        Engines(card, named("tensorrt"), dataclasses.replace(GPU, name="NVIDIA Test 4001")),
        Engines(card, named("tensorrt"), dataclasses.replace(GPU, compute_capability=(8, 6))),
        Engines(find_model("cgnet", "cityscapes19", allow_random_weights=True), named("tensorrt"), GPU),
        Engines(dataclasses.replace(card, mean=(1.0, 2.0, 3.0)), named("tensorrt"), GPU),
        Engines(dataclasses.replace(card, options={"m": 4}), named("tensorrt"), GPU),
    ):
        assert other.load(spec) is None and not other.sizes("fp16")
    assert engines.sizes("fp16") == [str(spec)] and not engines.sizes("fp32")


def test_tensorrt_for_rtx_keeps_one_engine_for_all_gpus_but_turing_s(card):
    spec = EngineSpec((360, 480), None)
    Engines(card, named("tensorrt_rtx"), None).save(spec, b"engine")
    assert Engines(card, named("tensorrt_rtx"), GPU).load(spec) == b"engine"
    turing = dataclasses.replace(GPU, compute_capability=(7, 5))
    assert Engines(card, named("tensorrt_rtx"), turing).load(spec) is None
    with pytest.raises(Unavailable):
        Engines(card, named("tensorrt"), None)


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
def test_tensorrt_for_rtx_is_passed_over_for_what_turing_cannot(precision):
    rtx = named("tensorrt_rtx")
    rtx.ComputeCapability = SimpleNamespace(SM75=0, SM89=1)
    turing = dataclasses.replace(GPU, compute_capability=(7, 5))
    check_gpu(rtx, turing, "fp16")
    check_gpu(rtx, dataclasses.replace(GPU, compute_capability=(8, 9)), precision)
    with pytest.raises(UserError, match="fp16"):
        check_gpu(rtx, turing, precision)


def test_a_damaged_engine_is_not_loaded_and_only_its_owner_can_read_it(card, tmp_path):
    engines, spec = Engines(card, named("tensorrt"), GPU), EngineSpec((64, 64), None)
    folder = engines.save(spec, b"engine")
    assert folder is not None and folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.parent.stat().st_mode & 0o777 == 0o700
    (folder / "model.engine").write_bytes(b"enginE")
    assert engines.has(spec) and engines.load(spec) is None
    engines.save(spec, b"engine")
    assert engines.load(spec) == b"engine"
    folder.chmod(0o770)
    assert engines.load(spec) is None


# --- who serves ---------------------------------------------------------------------------------------------------


class Loaded:
    """In the place of a session, which takes a GPU: labels of the engine's own kind, here all alike."""

    def __init__(self, engines, spec, serialized):
        if serialized != b"engine":
            raise UserError("TensorRT does not take the engine")
        self.spec, self.users, self.closed = spec, 0, False

    def run(self, frames, working, sizes, confidence):
        assert not self.closed and self.spec.size in (working, None)
        maps = [np.full(size, 7, np.uint8) for size in sizes]
        return maps, maps if confidence else None, {"preprocess": 0.0, "network": 1.0, "postprocess": 0.0}

    def close(self):
        assert not self.users
        self.closed = True


@pytest.fixture
def backend(card, monkeypatch):
    """Return a backend whose engines are built at once, and a list of them."""
    built: list[EngineSpec] = []

    class Building:
        def __init__(self, engines, spec, progress):
            self.spec, self.progress = spec, progress

        def run(self):
            self.progress(0.5)
            if self.spec.size == (96, 96):
                raise UserError("no such engine")
            built.append(self.spec)
            return b"engine"

        def cancel(self):
            pass

    monkeypatch.setattr(tensorrt_backend, "Session", Loaded)
    monkeypatch.setattr(tensorrt_backend, "EngineProcess", Building)
    monkeypatch.setattr(tensorrt_backend, "_STAND_INS", (("torch_backend", "cpu"),))
    return TensorRtBackend(Engines(card, named("tensorrt"), GPU), "fp16"), built


def run_at(backend, *sizes, working=(64, 64), confidence=False):
    frames = [Frame(np.zeros((*size, 3), np.uint8)) for size in sizes]
    return backend.run(frames, working, list(sizes), confidence)


def test_who_asks_for_tensorrt_waits_for_the_engine(backend):
    backend, built = backend
    result = run_at(backend, (64, 64))
    assert (result.labels[0] == 7).all() and backend.name == "tensorrt" and backend.precision == "fp16"
    run_at(backend, (64, 64), (64, 64))
    assert built == [EngineSpec((64, 64), None, precision="fp16")]
    result = run_at(backend, (64, 64), (80, 80), (64, 64), confidence=True)
    assert [labels.shape for labels in result.labels] == [(64, 64), (80, 80), (64, 64)]
    assert result.confidences is not None and result.timings["network"] == 2.0  # of two engines
    assert built[1:] == [
        EngineSpec((64, 64), None, precision="fp16", confidence=True),
        EngineSpec((64, 64), (80, 80), precision="fp16", confidence=True),
    ]
    run_at(backend, (80, 80))
    assert len(built) == 3  # the one with confidence serves


def test_a_live_backend_serves_by_another_until_the_engine_is_there(backend, caplog):
    backend, built = backend
    backend.live = True
    with caplog.at_level("INFO"):
        run_at(backend, (64, 64))
        assert (backend.name, backend.device, backend.precision) == ("torch", "cpu", "fp32") and not built
        assert not backend.faster_in_batches  # as the CPU has it
        deadline = time.monotonic() + 30
        while backend.name != "tensorrt" and time.monotonic() < deadline:
            result = run_at(backend, (64, 64))
    assert (result.labels[0] == 7).all() and built == [EngineSpec((64, 64), None, precision="fp16")]
    assert backend.faster_in_batches
    assert "building the engine (64x64, fp16): 50 %" in caplog.text and "is ready" in caplog.text


def test_a_size_that_comes_once_is_not_built_for_while_live(backend):
    backend, built = backend
    backend.live = True
    for height in range(64, 74):
        run_at(backend, (height, 64), working=(height, 64))
    assert not built and backend.name == "torch"


def test_what_cannot_be_built_is_said_once_and_not_tried_again(backend, caplog):
    backend, built = backend
    for _ in range(2):
        with pytest.raises(UserError, match="no such engine"):
            run_at(backend, (96, 96), working=(96, 96))
    backend.live = True
    for _ in range(12):
        run_at(backend, (96, 96), working=(96, 96))
    assert backend.name == "torch" and not built


def test_whatever_loading_an_engine_raises_another_goes_on_serving_and_others_are_built(backend, monkeypatch, caplog):
    backend, built = backend
    backend.live = True
    monkeypatch.setattr(tensorrt_backend, "Session", lambda *_: 1 / 0)

    def ask(size):
        for _ in range(12):
            run_at(backend, size, working=size)
        deadline = time.monotonic() + 30
        while backend._building is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    ask((64, 64))
    assert "ZeroDivisionError" in caplog.text and backend.name == "torch"
    monkeypatch.setattr(tensorrt_backend, "Session", Loaded)
    ask((72, 72))
    run_at(backend, (72, 72), working=(72, 72))
    assert backend.name == "tensorrt" and len(built) == 2


def test_engines_go_with_their_backend(backend):
    backend, _ = backend
    run_at(backend, (64, 64))
    (session,) = backend._sessions.values()
    backend._finalizer()
    assert session.closed and not backend._sessions


def test_a_building_that_was_cancelled_before_it_began_is_not_begun(card):
    process = EngineProcess(Engines(card, named("tensorrt"), GPU), EngineSpec((64, 64), None), lambda share: None)
    process.cancel()
    begin = time.monotonic()
    with pytest.raises(UserError, match="was cancelled"):
        process.run()
    assert time.monotonic() < begin + 5


def test_engines_that_were_built_before_are_loaded(backend):
    backend, built = backend
    several = EngineSpec((64, 64), None, batch=4, precision="fp16")
    for spec in (several, EngineSpec((72, 72), None, precision="fp16")):
        backend._engines.save(spec, b"engine")
    backend.live = True
    run_at(backend, (72, 72), working=(72, 72))
    assert backend.name == "tensorrt"
    run_at(backend, (64, 64), (64, 64), (64, 64))
    assert backend.name == "tensorrt" and several in backend._sessions and not built
    for count in (1, 4, 5):
        run_at(backend, *[(64, 64)] * count)
        assert backend.name == "tensorrt" and not backend._asked


@pytest.mark.parametrize("error", [UserError("refused"), TypeError("factory function returned nullptr")])
def test_an_engine_that_tensorrt_refuses_is_built_again(backend, monkeypatch, error):
    backend, built = backend

    def refuse(engines, spec, serialized):
        if serialized != b"engine":
            raise error
        return Loaded(engines, spec, serialized)

    monkeypatch.setattr(tensorrt_backend, "Session", refuse)
    spec = EngineSpec((64, 64), None, precision="fp16")
    backend._engines.save(spec, b"of another make")
    run_at(backend, (64, 64))
    assert built == [spec]


def test_a_camera_that_has_an_engine_does_not_wait_for_another_s_stand_in(backend, monkeypatch):
    backend, _ = backend
    run_at(backend, (64, 64))
    backend.live = True
    begun, served = threading.Event(), threading.Event()

    def make(card, device, precision, threads):
        begun.set()
        assert served.wait(60)
        raise UserError("none")

    monkeypatch.setattr(tensorrt_backend, "_make_stand_in", make)

    def other():
        with pytest.raises(UserError, match="none"):
            run_at(backend, (96, 64), working=(96, 64))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other)
        assert begun.wait(60)
        run_at(backend, (64, 64))
        assert backend.name == "tensorrt"
        served.set()
        waiting.result()


def test_a_size_is_ready_where_an_engine_is_loaded_or_the_stand_in_is_ready(backend):
    backend, _ = backend
    assert not backend.is_ready((64, 64))  # nor would be who has to be started first
    run_at(backend, (64, 64))
    assert backend.is_ready((64, 64)) and not backend.is_ready((96, 64))
    backend._stand_in = SimpleNamespace(is_ready=lambda working: working == (96, 64))
    assert backend.is_ready((96, 64)) and not backend.is_ready((128, 64))


def test_a_stand_in_on_the_cpu_takes_as_many_threads_as_were_given(card, monkeypatch):
    monkeypatch.setattr(tensorrt_backend, "_STAND_INS", (("torch_backend", "cpu"),))
    assert tensorrt_backend._make_stand_in(card, "cuda:0", "fp32", 3)._threads == 3
    monkeypatch.setattr(tensorrt_backend, "find_gpu", lambda _: GPU)
    monkeypatch.setattr(tensorrt_backend, "choose_tensorrt", lambda *_: named("tensorrt"))
    backend = tensorrt_backend.create(card, "cuda", "fp32", 3)
    backend.live = True
    run_at(backend, (64, 64))
    assert backend._stand_in._threads == 3


def test_ctrl_c_reaches_who_waits_for_an_engine_and_ends_the_building():
    code = """
import os, signal, time
from rt_seg_ros.backends.engines import EngineSpec
from rt_seg_ros.export import engine

class Slow:
    gpu = None

    def build(self, spec, told):
        time.sleep(0.2)  # until it is waited for
        os.kill(os.getpid(), signal.SIGINT)
        while told(0.5):
            time.sleep(0.01)
        print("stopped", flush=True)

try:
    engine._build(Slow(), EngineSpec((64, 64), None), None)
except KeyboardInterrupt:
    print("heard")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["stopped", "heard"], ran.stderr


def test_many_sizes_come_to_share_an_engine_and_few_stay_loaded(backend):
    backend, built = backend
    for side in range(64, 128, 8):
        if side != 96:
            run_at(backend, (side, 64), working=(side, 64))
    assert built[-1] == EngineSpec(None, None, precision="fp16") and len(built) == 5
    assert len(backend._sessions) == 5


@pytest.mark.parametrize("live", [False, True])
def test_more_sizes_in_turn_than_stay_loaded_are_not_loaded_for_each_frame(backend, monkeypatch, live):
    backend, built = backend
    backend.live = live
    stand_in = Loaded(None, EngineSpec(None, None), b"engine")
    stand_in.name, stand_in.device, stand_in.precision, stand_in.faster_in_batches = "torch", "cpu", "fp32", False
    stand_in.run = lambda frames, *_: BatchResult([np.zeros((1, 1), np.uint8)] * len(frames), None)
    monkeypatch.setattr(tensorrt_backend, "_make_stand_in", lambda *_: stand_in)
    sizes = [(side, 64) for side in range(128, 208, 8)]

    def round_of_all():
        for size in sizes:
            for confidence in (False, True):
                run_at(backend, size, working=size, confidence=confidence)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before = len(built)
        for _ in range(12):
            round_of_all()
        if len(built) == before and backend._building is None and backend.name == "tensorrt":
            break
    assert EngineSpec(None, None, precision="fp16") in built and len(backend._sessions) <= 8
    monkeypatch.setattr(tensorrt_backend, "Session", lambda *_: pytest.fail("another engine is loaded"))
    for _ in range(3):
        round_of_all()
        assert backend.name == "tensorrt"


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_gpu(card, tmp_path_factory):
    if missing_gpu() or tensorrt_backend.unavailable():
        pytest.skip(f"needs an NVIDIA GPU and TensorRT: {tensorrt_backend.unavailable()}")
    try:
        check_backend("tensorrt", "cuda", "fp16")
    except UserError as error:  # TensorRT for RTX alone, and no GPU of its kind
        pytest.skip(f"needs a TensorRT for this GPU: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RT_SEG_CACHE", str(tmp_path_factory.mktemp("engines")))
        yield {precision: create_backend(card, "tensorrt", "cuda", precision) for precision in ("fp32", "fp16")}


@pytest.fixture(scope="module")
def street() -> Frame:
    return Frame(SyntheticDrive(5, 240, 320).render(0)[0])


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.9999), ("fp16", 0.99)])
@pytest.mark.parametrize("size", [(240, 320), (120, 160)])
def test_the_gpu_gives_the_labels_of_the_cpu(on_gpu, card, street, precision, share, size):
    expected = TorchCpuBackend(card, "fp32", 1).run([street], size, [(240, 320)], True)
    for _ in range(4):  # plain, captured, replayed; on both contexts
        result = on_gpu[precision].run([street], size, [(240, 320)], True)
        assert on_gpu[precision].name == "tensorrt"
        assert (result.labels[0] == expected.labels[0]).mean() >= share
        assert result.confidences is not None and expected.confidences is not None
        assert np.percentile(np.abs(result.confidences[0].astype(int) - expected.confidences[0]), 99) <= 8
        assert result.timings["network"] > 0


@pytest.mark.gpu
def test_calls_from_several_threads_do_not_mix(on_gpu, street):
    backend = on_gpu["fp16"]
    frames = [Frame(np.roll(street.pixels, 40 * n, axis=1).copy()) for n in range(4)]
    alone = [backend.run([frame], (240, 320), [(240, 320)], True).labels[0] for frame in frames]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(50):
            batch = [frames[n], frames[(n + 1) % 4], frames[n]]
            labels = backend.run(batch, (240, 320), [(240, 320)] * 3, True).labels
            if any((one == alone[m]).mean() < 0.999 for one, m in zip(labels, (n, (n + 1) % 4, n), strict=True)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.gpu
def test_an_engine_for_any_size_and_one_for_several_frames_give_the_same(on_gpu, card, street):
    backend = on_gpu["fp32"]
    expected = TorchCpuBackend(card, "fp32", 1).run([street], (240, 320), [(200, 300)], True)
    for spec in (EngineSpec(None, None), EngineSpec((240, 320), (200, 300), batch=3, confidence=True)):
        session = Session(backend._engines, spec, EngineProcess(backend._engines, spec, lambda share: None).run())
        try:
            for count in (1, 3, 2):
                labels, _, _ = session.run([street] * count, (240, 320), [(200, 300)] * count, True)
                assert len(labels) == count
                assert all((one == expected.labels[0]).mean() >= 0.999 for one in labels)
        finally:
            session.close()


@pytest.mark.gpu
def test_the_driver_says_which_gpu_there_is():
    gpu = find_gpu("auto")
    assert gpu.name and gpu.compute_capability >= (5, 0)
