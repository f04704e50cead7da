"""Running an engine: the order of copies, kernels and graphs, with several threads and with a driver that fails."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from fake_cuda import FakeCuda

from rt_seg_ros.backends import cuda_driver, tensorrt_session
from rt_seg_ros.backends.cuda_driver import CudaError
from rt_seg_ros.backends.engines import EngineSpec
from rt_seg_ros.backends.tensorrt_session import Session
from rt_seg_ros.images import Frame

SIZES = [(64, 96), (64, 64), (128, 96)]
ONE, SEVERAL = EngineSpec(SIZES[0], None, 1, "fp16", False), EngineSpec(SIZES[0], None, 4, "fp16", True)
ANY = EngineSpec(None, None, 1, "fp16")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda_driver, "call", fake.call)
    monkeypatch.setattr(tensorrt_session, "missing_gpu", lambda: "")
    cuda_driver._primary_context.cache_clear()
    yield fake
    cuda_driver._primary_context.cache_clear()


def run(session: Session, count: int, size: tuple[int, int], confidence: bool, seed: int) -> None:
    """Segment frames of noise, and hold what comes against what the engine computes."""
    rng = np.random.default_rng(seed)
    # Areas of 8x8, for an engine of any size gives scores at an eighth.
    blocks = rng.integers(0, 256, (count, size[0] // 8, size[1] // 8, 3), np.uint8)
    pixels = blocks.repeat(8, 1).repeat(8, 2)
    labels, confidences, timings = session.run([Frame(one) for one in pixels], size, [size] * count, confidence)
    expected, certainty = FakeCuda.expected(pixels)
    assert len(labels) == count and (confidences is not None) == confidence
    for k in range(count):
        if session.spec.size is not None:
            assert np.array_equal(labels[k], expected[k])
        else:  # between the centres of areas it is interpolated
            assert np.array_equal(labels[k][3::8, 3::8], expected[k][3::8, 3::8])
        if confidences is not None and session.spec.size is not None:
            assert np.array_equal(confidences[k], certainty[k])
    assert all(value >= 0 for value in timings.values()), timings


def in_threads(session: Session, count: int, tolerated: type[Exception] | None = None) -> int:
    """Run frames in several threads; return how many runs failed in the way that is tolerated."""
    wrong: list[BaseException] = []
    failed: list[Exception] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for n in range(30):
            size = session.spec.size or dice.choice(SIZES)
            confidence = dice.random() < 0.5 and (session.spec.confidence or session.spec.size is None)
            try:
                run(session, dice.choice([1, 1, 2, 3, 5, 9]), size, confidence, 1000 * seed + n)
            except BaseException as error:
                if tolerated is None or not isinstance(error, tolerated):
                    wrong.append(error)
                else:
                    failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "one waits for ever"
    if wrong:
        raise wrong[0]
    return len(failed)


@pytest.mark.parametrize("spec", [ONE, SEVERAL, ANY], ids=["one", "several", "any"])
def test_results_are_those_of_their_frames_in_several_threads_and_nothing_is_left(cuda, spec):
    session = Session(cuda.engines(spec), spec, b"engine")
    in_threads(session, 4)
    if spec is ONE:
        assert cuda.replayed > cuda.launched  # by graphs
    session.close()
    assert cuda.left == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "function",
    ["cuMemAlloc_v2", "cuMemHostAlloc", "cuEventRecord", "cuEventCreate", "cuEventSynchronize", "cuEventElapsedTime",
     "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags",
     "cuGraphLaunch"],
)  # fmt: skip
@pytest.mark.parametrize("spec", [SEVERAL, ANY], ids=["several", "any"])
def test_a_driver_that_fails_now_and_then_costs_no_other_frames_and_leaves_nothing(cuda, spec, function):
    session = Session(cuda.engines(spec), spec, b"engine")
    cuda.failing = function
    in_threads(session, 3, CudaError)
    cuda.failing = ""
    run(session, 3, SIZES[0], False, 7)
    session.close()
    assert cuda.left == [0, 0, 0, 0, 0]
