"""The CUDA path: what it computes, held on the CPU against the host's way; what only a GPU can tell, marked so."""

from __future__ import annotations

import gc
import itertools
import queue
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from backend_helpers import gpu_target, interprets

from rt_seg_ros.backends.torch_backend import TorchCpuBackend
from rt_seg_ros.backends.torch_cuda import TorchCudaBackend
from rt_seg_ros.backends.torch_ops import Call, PixelResizer, Program, alike_together, put_back, taps, write_labels
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import LabelUpsampler, resize_pixels
from rt_seg_ros.zoo import build_network, find_model


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


# --- a GPU that is lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
def test_what_holds_pinned_memory_on_a_lost_gpu_is_never_freed(lost):
    """PyTorch would abort the process, in which another runtime is to go on."""

    def synchronize():
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fit(call):
        raise RuntimeError("out of memory")

    backend = TorchCudaBackend.__new__(TorchCudaBackend)
    backend._threads, backend._make_ready = 0, lambda call: False
    backend._free = queue.SimpleQueue()
    backend._free.put(SimpleNamespace(fit=fit))
    backend._upload = backend._compute = backend._download = SimpleNamespace(synchronize=synchronize)
    with pytest.raises(RuntimeError, match="out of memory"):
        backend.run([Frame(picture(8, 8))], (8, 8), [(8, 8)], False)
    left = weakref.ref(backend)
    del backend
    gc.collect()
    assert (left() is not None) == lost


# --- resizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((90, 130), (90, 130)),
        ((120, 160), (60, 80)),  # halved: OpenCV has a way of its own
        ((120, 160), (30, 40)),
        ((375, 1242), (184, 608)),
        ((480, 640), (360, 480)),
        ((101, 67), (100, 66)),
        ((101, 67), (3, 2)),
        ((60, 80), (120, 160)),
        ((61, 83), (118, 95)),
        ((120, 80), (70, 150)),  # one side shrinks, the other grows
        ((80, 120), (150, 70)),
        ((7, 9), (64, 64)),
        ((1, 1), (64, 64)),
    ],
)
def test_resizing_on_the_device_gives_what_the_host_gives(source, target):
    rng = np.random.default_rng(1)
    smooth, noise = picture(*source), rng.integers(0, 256, (*source, 3), np.uint8)
    for pixels in (smooth, noise):
        expected = resize_pixels(pixels, target).astype(int)
        batch = torch.from_numpy(np.stack([pixels, pixels[::-1].copy()]))
        resized = PixelResizer(source, target, "cpu")(batch).numpy()
        assert resized.shape == (2, *target, 3)
        difference = np.abs(resized[0] - expected)
        growth = [after - before for before, after in zip(source, target, strict=True)]
        twice_rounded = min(growth) < 0 < max(growth)
        assert difference.max() <= (2 if twice_rounded else 1)
        # Where it grows, OpenCV computes in fixed point and cuts off.
        assert difference.mean() < (0.02 if max(growth) <= 0 else 0.2)


def test_weights_of_every_pixel_sum_to_one_and_stay_inside():
    for length, target in [(7, 3), (640, 480), (480, 640), (1000, 999), (5, 5), (1, 4), (4, 1)]:
        indices, weights = taps(length, target)
        assert np.allclose(weights.sum(1), 1, atol=1e-6) and (weights >= 0).all()
        assert indices.min() >= 0 and indices.max() < length
        # Nothing shifts: what a pixel is made of lies around it, as much to the left as to the right.
        centres = (indices * weights).sum(1)
        wanted = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
        assert np.abs(centres - wanted).max() < (0.2 if target < length else 1e-4 * length)
        assert np.allclose(centres, (length - 1) - centres[::-1], atol=1e-4 * length)


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(45, 60), (360, 480), (37, 101)])
def test_plain_labels_are_those_of_the_host_with_the_first_of_equals(size):
    rng = np.random.default_rng(2)
    for logits in (rng.normal(0, 3, (11, 45, 60)), rng.integers(-2, 3, (11, 45, 60))):
        scores = logits.astype(np.float32)
        expected, certainty = LabelUpsampler()(scores, size, True)
        labels = torch.empty((1, *size), dtype=torch.uint8)
        confidence = torch.empty_like(labels)
        write_labels(torch.from_numpy(scores)[None], size, labels, confidence)
        assert (labels[0].numpy() == expected).mean() >= 0.9999
        assert np.abs(confidence[0].numpy().astype(int) - certainty).max() <= 1


def test_the_fused_kernel_gives_what_the_plain_way_gives():
    interprets(__file__)


@pytest.mark.parametrize("capability", [75, 87, 90, 120])
def test_the_fused_kernel_compiles_for_gpus_that_are_not_here(capability):
    triton = pytest.importorskip("triton")
    from triton.compiler import ASTSource

    from rt_seg_ros.backends.triton_kernels import _labels_kernel

    target = gpu_target(capability)
    numbers = ("height", "width", "blocks", "source_height", "source_width")
    strides = ("stride_n", "stride_c", "stride_y", "stride_x")
    for of_logits in ("*fp32", "*fp16", "*bf16"):
        for confidence in (True, False):
            signature = {"logits": of_logits, "labels": "*u8", "confidence": "*u8"}
            signature |= dict.fromkeys(numbers + strides, "i32") | {"scale_y": "fp32", "scale_x": "fp32"}
            constants = {"CLASSES": 11, "CONFIDENCE": confidence, "BLOCK": 128}
            signature |= dict.fromkeys(constants, "constexpr")
            source = ASTSource(_labels_kernel, signature, constexprs=constants)
            if of_logits == "*bf16" and capability < 80:
                continue
            assert triton.compile(source, target=target).asm["cubin"]


def compare_the_kernel() -> None:
    from rt_seg_ros.backends.triton_kernels import fused_write_labels, works

    assert works(3, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(3)
    for classes, dtype, source, size in [
        (5, torch.float16, (4, 30), (9, 150)),
        (2, torch.bfloat16, (5, 7), (5, 7)),
        (19, torch.float32, (6, 3), (4, 17)),
    ]:
        noise = torch.randn(2, classes, *source, generator=generator).to(dtype)
        for logits in (noise, noise.round(), noise.to(memory_format=torch.channels_last)):
            expected, certainty = (torch.empty((2, *size), dtype=torch.uint8) for _ in range(2))
            write_labels(logits, size, expected, certainty)
            labels, confidence = torch.empty_like(expected), torch.empty_like(certainty)
            fused_write_labels(logits, size, labels, confidence)
            assert (labels == expected).float().mean() >= 0.999
            assert (confidence.int() - certainty.int()).abs().max() <= 1
    print("the same")


# --- the whole way of a call ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card():
    return find_model("cgnet")


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    """Return a rendered frame, 240x320."""
    image, _ = SyntheticDrive(5, 240, 320).render(0)
    return image


def run_program(card, frames, working, sizes, confidence, dtype=torch.float32):
    network = build_network(card).fuse().to(dtype, memory_format=torch.channels_last)
    call = Call.of(frames, working, sizes, confidence)
    program = Program(call, network.logits, card.mean, card.std, dtype, "cpu")
    source, target = (torch.empty(count, dtype=torch.uint8) for count in (call.input_bytes, call.output_bytes))
    call.pack(frames, source)
    with torch.inference_mode():
        program(source, target)
    return call.unpack(target.numpy())


def test_a_call_gives_the_labels_of_the_host_s_way(card, street, recwarn):
    small = cv2.resize(street, (200, 150), interpolation=cv2.INTER_AREA)
    padded = np.zeros((150, 210, 3), np.uint8)
    padded[:, :200] = small
    frames = [
        Frame(street),
        Frame(street[::-1, :, ::-1], "rgb"),
        Frame(cv2.cvtColor(small, cv2.COLOR_BGR2BGRA), "bgra"),
        Frame(cv2.cvtColor(small, cv2.COLOR_BGR2RGBA), "rgba"),
        Frame(padded[:, :200]),
        Frame(np.frombuffer(small.tobytes(), np.uint8).reshape(small.shape)),  # read-only, as a message's are
        Frame(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), "mono"),
    ]
    sizes = [(240, 320), (120, 160), *[(150, 200)] * 5]
    expected = TorchCpuBackend(card, "fp32", 1).run(frames, (120, 160), sizes, True)
    labels, confidences = run_program(card, frames, (120, 160), sizes, True)
    for one, other, size in zip(labels, expected.labels, sizes, strict=True):
        assert one.shape == size and one.dtype == np.uint8
        assert (one == other).mean() >= 0.998  # a grey level of difference from the resizing shows at some borders
    for one, other in zip(confidences, expected.confidences, strict=True):
        assert np.percentile(np.abs(one.astype(int) - other), 99) <= 4
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.9999), (torch.float16, 0.99), (torch.bfloat16, 0.97)])
def test_precisions_keep_the_labels(card, street, dtype, share):
    """bf16 is held to 99 % on real frames; a rendered one, which the network was not trained on, is less certain."""
    expected = TorchCpuBackend(card, "fp32", 1).run([Frame(street)], (240, 320), [(240, 320)], False)
    labels, confidences = run_program(card, [Frame(street)], (240, 320), [(240, 320)], False, dtype)
    assert confidences is None
    assert (labels[0] == expected.labels[0]).mean() >= share


def test_calls_of_the_same_shapes_are_equal_and_others_are_not():
    frames = [Frame(picture(80, 100)), Frame(picture(80, 100, 1))]
    call = Call.of(frames, (80, 100), [(80, 100)] * 2, False)
    assert call == Call.of(frames[::-1], (80, 100), [[80, 100]] * 2, False)
    assert hash(call) == hash(Call.of(frames, (80, 100), [(80, 100)] * 2, False))
    assert call != Call.of(frames, (80, 100), [(80, 100)] * 2, True)
    assert call != Call.of([frames[0], Frame(frames[1].pixels, "rgb")], (80, 100), [(80, 100)] * 2, False)
    assert (call.input_bytes, call.output_bytes) == (2 * 80 * 100 * 3, 2 * 80 * 100)


def test_frames_of_several_cameras_are_one_kind_of_call_in_whatever_order_they_wait(card, street):
    small = cv2.resize(street, (200, 144), interpolation=cv2.INTER_AREA)
    frames = [Frame(street), Frame(small), Frame(street[::-1, :, ::-1], "rgb"), Frame(street[:, ::-1])]
    sizes = [(frame.height, frame.width) for frame in frames]
    alone = [run_program(card, [frames[i]], (120, 160), [sizes[i]], False)[0][0] for i in range(4)]
    calls = set()
    for waiting in itertools.permutations(range(4)):
        some, their = [frames[i] for i in waiting], [sizes[i] for i in waiting]
        places = alike_together(some, their)
        calls.add(Call.of([some[i] for i in places], (120, 160), [their[i] for i in places], False))
    assert len(calls) == 1
    labels, _ = run_program(card, [some[i] for i in places], (120, 160), [their[i] for i in places], False)
    for i, one in zip(waiting, put_back(labels, places), strict=True):
        assert one.shape == sizes[i] and (one == alone[i]).mean() > 0.999


def test_fp32_means_fp32_by_whichever_switches_the_process_has_set():
    code = """
import torch
from rt_seg_ros.backends.torch_cuda import _numerics
of = torch.backends

def state():
    old = [(of.cudnn, "allow_tf32"), (of.cuda.matmul, "allow_tf32"), (of.cudnn, "benchmark")]
    new = [(owner, "fp32_precision") for owner in (of, of.cudnn, of.cudnn.conv, of.cuda.matmul)]
    values = []
    for owner, name in old + new:
        try:
            values.append(getattr(owner, name))
        except RuntimeError:
            values.append("mixed")
    return values

def strict():
    return all(owner.fp32_precision in ("ieee", "none") for owner in (of.cudnn.conv, of.cuda.matmul))

def check():
    before = state()
    with _numerics():
        assert strict() and not of.cudnn.benchmark, state()
        with _numerics(benchmark=True):
            with _numerics(benchmark=True):
                pass
            assert strict() and of.cudnn.benchmark
        assert not of.cudnn.benchmark
    assert state() == before, (state(), before)

check()
torch.set_float32_matmul_precision("high")
check()
torch.set_float32_matmul_precision("highest")
of.cudnn.conv.fp32_precision = "ieee"
check()
of.cudnn.conv.fp32_precision = "tf32"
of.fp32_precision = "tf32"
check()
print("the same")
"""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has only the older switches")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "the same", ran.stderr


# --- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(card, street):
    return TorchCpuBackend(card, "fp32", 1).run([Frame(street)], (240, 320), [(240, 320)], True)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.9999), ("fp16", 0.99), ("bf16", 0.97)])
def test_the_gpu_gives_the_labels_of_the_cpu(card, street, reference, precision, share):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", precision)
    for _ in range(4):  # plain, captured, replayed
        result = backend.run([Frame(street)], (240, 320), [(240, 320)], True)
        assert (result.labels[0] == reference.labels[0]).mean() >= share
        assert np.percentile(np.abs(result.confidences[0].astype(int) - reference.confidences[0]), 99) <= 8
        assert result.timings["network"] > 0


@pytest.mark.gpu
def test_the_gpu_s_kernel_gives_what_the_plain_way_gives():
    pytest.importorskip("triton")
    from rt_seg_ros.backends.triton_kernels import works

    for dtype in (torch.float32, torch.float16):
        for classes in (11, 19, 255):
            assert works(classes, dtype, "cuda")


@pytest.mark.gpu
def test_graphs_are_bounded_and_shapes_may_come_in_any_order(card, street, monkeypatch):
    from rt_seg_ros.backends import torch_cuda

    monkeypatch.setattr(torch_cuda, "_MAX_GRAPHS", 4)
    monkeypatch.setattr(torch_cuda, "_MAX_PROGRAMS", 6)
    backend = torch_cuda.TorchCudaBackend(card, "cuda", "fp32")
    sizes = [(64 + 16 * n, 96) for n in range(7)]
    once = {size: backend.run([Frame(street)], size, [size], False).labels[0] for size in sizes}
    for size in sizes * 2:
        for _ in range(3):  # plain (its program went meanwhile), captured, replayed
            again = backend.run([Frame(street)], size, [size], False).labels[0]
            assert (again == once[size]).mean() >= 0.999
    assert len(backend._graphs._graphs) == 4


@pytest.mark.gpu
def test_a_graph_outlives_the_program_that_it_was_captured_of(card, street, monkeypatch):
    """Its kernels read the program's tensors, whose memory must not go to others meanwhile."""
    from rt_seg_ros.backends import torch_cuda

    monkeypatch.setattr(torch_cuda, "_MAX_PROGRAMS", 2)
    backend = torch_cuda.TorchCudaBackend(card, "cuda", "fp32")

    def run(height):
        return backend.run([Frame(street)], (height, 96), [(height, 96)], False).labels[0]

    first, *_ = [run(64) for _ in range(3)]
    for height in (72, 80, 88):
        run(height)
    taken = torch.full((1 << 20,), float("nan"), device="cuda")
    for _ in range(3):
        assert (run(64) == first).mean() >= 0.999
    assert len(taken)


@pytest.mark.gpu
def test_calls_from_several_threads_do_not_mix(card, street):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", "fp32")
    frames = [Frame(np.roll(street, 40 * n, axis=1).copy()) for n in range(4)]
    alone = [backend.run([frame], (240, 320), [(240, 320)], False).labels[0] for frame in frames]
    wrong: list[float] = []

    def work(n: int) -> None:
        for _ in range(50):
            labels = backend.run([frames[n]], (240, 320), [(240, 320)], False).labels[0]
            if (labels == alone[n]).mean() < 0.999:
                wrong.append(float((labels == alone[n]).mean()))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.gpu
def test_frames_are_served_while_what_a_new_size_takes_is_done(card, street):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", "fp32")
    plain, begun, served = backend._logits, threading.Event(), threading.Event()

    def logits(batch):
        if batch.shape[-2:] == (96, 96) and not begun.is_set():
            begun.set()
            assert served.wait(60)
        return plain(batch)

    def run(height):
        return backend.run([Frame(street)], (height, 96), [(height, 96)], False).labels[0]

    for _ in range(3):
        run(64)
    backend._logits = logits
    assert backend.is_ready((64, 96)) and not backend.is_ready((96, 96))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, 96)
        assert begun.wait(60)
        run(64)
        served.set()
        other.result()  # raises where it was not served meanwhile
    assert backend.is_ready((96, 96))  # captured by who tried it out: the next thread does not


@pytest.mark.gpu
def test_a_search_that_fails_leaves_the_frame_to_go_its_way(card, street, monkeypatch):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", "fp32")

    def fail(call):
        raise torch.OutOfMemoryError("tried to allocate more than there is")

    expected = backend.run([Frame(street)], (64, 96), [(64, 96)], False).labels[0]
    monkeypatch.setattr(backend, "_try_out", fail)
    backend._graphs = type(backend._graphs)(backend._compute)
    backend._searched = threading.local()
    assert np.array_equal(backend.run([Frame(street)], (64, 96), [(64, 96)], False).labels[0], expected)


@pytest.mark.gpu
def test_what_one_thread_prepared_another_only_replays(card, street):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", "fp32")
    plain, calls = backend._logits, []

    def logits(batch):
        calls.append(threading.get_ident())
        return plain(batch)

    def run():
        backend.run([Frame(street)], (64, 96), [(64, 96)], False)

    backend._logits = logits
    preparing = threading.Thread(target=lambda: [run() for _ in range(backend.warm_up_calls)])
    preparing.start()
    preparing.join()
    run()
    assert calls and threading.get_ident() not in calls


@pytest.mark.gpu
def test_no_frame_sleeps_for_what_was_done_once(card, street, monkeypatch):
    from rt_seg_ros.backends import torch_cuda

    backend = torch_cuda.TorchCudaBackend(card, "cuda", "fp32")
    plain, slept = backend._logits, []

    def logits(batch):
        time.sleep(0.5)  # as compiling does
        return plain(batch)

    backend._logits = logits
    monkeypatch.setattr(torch_cuda, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=slept.append))
    for _ in range(6):
        backend.run([Frame(street)], (64, 96), [(64, 96)], False)
    assert all(seconds < 0.1 for seconds in slept)


@pytest.mark.gpu
def test_an_image_may_have_more_rows_than_a_dimension_of_a_grid():
    from rt_seg_ros.backends.triton_kernels import fused_write_labels

    logits = torch.randn(1, 3, 500, 8, device="cuda")
    expected, labels = (torch.empty((1, 70_000, 64), dtype=torch.uint8, device="cuda") for _ in range(2))
    write_labels(logits, (70_000, 64), expected, None)
    fused_write_labels(logits, (70_000, 64), labels, None)
    assert (labels == expected).float().mean() > 0.999


@pytest.mark.gpu
def test_memory_on_the_gpu_does_not_grow(card, street):
    from rt_seg_ros.backends.torch_cuda import TorchCudaBackend

    backend = TorchCudaBackend(card, "cuda", "fp16")

    def rounds(count: int) -> int:
        for _ in range(count):
            backend.run([Frame(street)], (240, 320), [(240, 320)], True)
        return torch.cuda.memory_reserved()

    before = rounds(10)
    assert rounds(1000) <= before


if __name__ == "__main__":
    compare_the_kernel()
