from dataclasses import replace

import cv2
import numpy as np
import pytest

from rt_seg_ros.backends.base import Backend, BatchResult, HostBackend
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, blank_frame
from rt_seg_ros.labels import UNLABELLED
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.working_size import in_steps, working_size

RANDOM = SegmenterConfig(model="cgnet", weights="", label_space="cityscapes19", allow_random_weights=True)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(RANDOM)


def picture(height=90, width=130, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


class Brightness(HostBackend):
    """A runtime whose logits are the picture's own brightness: what remains is the way there and back."""

    name, device, precision = "brightness", "cpu", "fp32"

    def logits(self, batch):
        red = batch[:, 0]
        return np.stack([-red, red], axis=1)


class Noting(Backend):
    """A runtime that notes what is asked of it."""

    name, device, precision, faster_in_batches = "noting", "cpu", "fp32", True

    def __init__(self, warms_up_by_batch=True, warm_up_calls=1):
        self.warms_up_by_batch, self.warm_up_calls, self.calls = warms_up_by_batch, warm_up_calls, []

    def run(self, frames, working, sizes, confidence):
        self.calls.append((len(frames), frames[0].order, working, confidence))
        maps = [np.zeros(size, np.uint8) for size in sizes]
        return BatchResult(maps, maps if confidence else None, {"network": 12.0})


@pytest.mark.parametrize("size", [(90, 130), (360, 480), (101, 67), (375, 1242)])
def test_labels_have_the_frame_s_size_whatever_it_is(segmenter, size):
    result = segmenter.segment(picture(*size), confidence=True)
    assert result.labels.shape == size and result.labels.dtype == np.uint8
    assert result.confidence.shape == size and result.confidence.dtype == np.uint8
    assert result.working_size == in_steps(*size)
    assert set(result.timings) == {"preprocess", "network", "postprocess"}


def test_the_same_frame_gives_the_same_labels(segmenter):
    first, second = (segmenter.segment(picture(), confidence=True) for _ in range(2))
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.confidence, second.confidence)
    assert len(np.unique(first.labels)) > 1


def test_channel_order_is_honoured(segmenter):
    bgr = picture()
    same = [
        segmenter.segment(Frame(cv2.cvtColor(bgr, code), order)).labels
        for order, code in (("rgb", cv2.COLOR_BGR2RGB), ("bgra", cv2.COLOR_BGR2BGRA), ("rgba", cv2.COLOR_BGR2RGBA))
    ]
    expected = segmenter.segment(bgr).labels
    assert all(np.array_equal(labels, expected) for labels in same)
    assert not np.array_equal(segmenter.segment(bgr[:, :, ::-1]).labels, expected)


def test_agrees_with_the_network_run_plainly(segmenter):
    import torch

    from rt_seg_ros.zoo import build_network

    bgr = picture(104, 144, seed=5)
    network, card = build_network(segmenter.card), segmenter.card
    x = (bgr[:, :, ::-1].astype(np.float32) - card.mean) / card.std
    with torch.inference_mode():
        logits = network(torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32)))[0]
    result = segmenter.segment(bgr, confidence=True)
    assert (result.labels == logits.argmax(0).numpy()).mean() > 0.9999
    assert np.abs(result.confidence - logits.softmax(0).amax(0).numpy() * 255).max() < 1


@pytest.mark.parametrize(
    ("changes", "working"),
    [
        ({"downsampling_ratio": 0.5}, (184, 240)),  # whole steps of 8
        ({"downsampling_ratio": 0.75}, (272, 360)),
        ({"downsampling_ratio": 1.0}, (360, 480)),
        ({"input_height": 256, "input_width": 512}, (256, 512)),
        ({"downsampling_ratio": 0.01}, (64, 64)),
    ],
)
def test_working_size_follows_the_config_and_labels_stay_at_the_frame_s(segmenter, changes, working):
    other = segmenter.reconfigured(replace(RANDOM, **changes))
    assert other.backend is segmenter.backend  # only its use changes: the network is not loaded again
    result = other.segment(picture(360, 480))
    assert result.working_size == working
    assert result.labels.shape == (360, 480)
    at_network = segmenter.reconfigured(replace(RANDOM, output_resolution="network", **changes))
    assert at_network.segment(picture(360, 480)).labels.shape == working


def test_a_network_that_learnt_from_resized_frames_sees_them_so(segmenter):
    other = segmenter.reconfigured(RANDOM)
    other.card = replace(segmenter.card, frame_size=(96, 128), resized=True)
    result = other.segment(picture(200, 300))
    assert result.working_size == (96, 128) and result.labels.shape == (200, 300)
    half = other.reconfigured(replace(RANDOM, downsampling_ratio=0.5))
    assert half.working_size(200, 300) == (104, 152)
    full = other.reconfigured(replace(RANDOM, downsampling_ratio=1.0))
    assert full.working_size(200, 304) == (200, 304)


def test_frames_larger_than_what_was_learnt_from_are_seen_as_large_as_that(segmenter):
    other = segmenter.reconfigured(RANDOM)
    other.card = replace(segmenter.card, frame_size=(360, 480))
    assert other.segment(picture(720, 960)).working_size == (360, 480)
    assert other.working_size(600, 800) == (360, 480) and other.working_size(480, 640) == (360, 480)
    assert other.working_size(375, 1242) == (232, 760), "about as many pixels, in the frame's own proportions"
    for k, size in ((2, (720, 1280)), (3, (1080, 1920)), (6, (2160, 3840))):
        assert other.working_size(*size) == (360, 640), f"a {k}th, which is quick and near"
    assert other.working_size(944, 1264) == (360, 480), "a half would be a third larger each way"
    assert other.working_size(240, 320) == (240, 320), "small ones are not blown up"
    full = other.reconfigured(replace(RANDOM, downsampling_ratio=1.0))
    full.card = other.card
    assert full.working_size(1080, 1920) == (1080, 1920)


def test_no_side_is_beyond_the_limit():
    assert in_steps(60, 9000) == (64, 8192)
    assert working_size((100, 20_000), 1.0) == (104, 8192)


def test_frames_far_larger_than_what_was_learnt_from_are_remarked_on(segmenter, caplog):
    other = segmenter.reconfigured(replace(RANDOM, downsampling_ratio=1.0))
    assert not other.size_remark(3000, 4000), "nobody knows what random weights learnt from"
    other.card = replace(segmenter.card, frame_size=(360, 480))
    assert not other.size_remark(720, 960)
    assert "works at 1920x1080 and learnt from frames of 480x360" in other.size_remark(1080, 1920)
    for ratio in (0.0, 0.3):
        small = other.reconfigured(replace(RANDOM, downsampling_ratio=ratio))
        small.card = other.card
        assert not small.size_remark(1080, 1920)
    given = other.reconfigured(replace(RANDOM, input_height=1080, input_width=1920))
    given.card = other.card
    assert "without a size given it sees" in given.size_remark(480, 640)
    other.segment(picture(900, 1200))
    for threshold in (0.0, 0.5):  # which has nothing to do with it
        other = other.reconfigured(replace(other.config, confidence_threshold=threshold))
        other.segment(picture(900, 1200))
    assert [record.levelname for record in caplog.records if "learnt from" in record.message] == ["WARNING"]


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.25])
def test_an_edge_in_the_frame_is_an_edge_in_the_labels_at_the_same_pixel(segmenter, ratio):
    frame = np.zeros((256, 512, 3), np.uint8)
    frame[96:, 160:] = 255
    aligned = segmenter.reconfigured(replace(RANDOM, downsampling_ratio=ratio))
    aligned.backend = Brightness(replace(segmenter.card, mean=(127.5,) * 3, std=(64.0,) * 3))
    # A corner is rounded by at most half a working pixel's diagonal; the straight edges are exact.
    wrong = aligned.segment(frame).labels != (frame[:, :, 0] > 0)
    assert not np.delete(np.delete(wrong, range(92, 100), 0), range(156, 164), 1).any()
    assert wrong.sum() <= 16


def test_a_batch_gives_what_its_frames_give_alone(segmenter):
    frames = [picture(90, 130, 1), picture(64, 96, 2), picture(90, 130, 3)]
    together = segmenter.segment_batch(frames, confidence=True)
    for frame, result in zip(frames, together, strict=True):
        alone = segmenter.segment(frame, confidence=True)
        assert (result.labels == alone.labels).mean() > 0.999
        assert result.labels.shape == frame.shape[:2]


def test_a_batch_s_time_is_shared_among_its_frames(segmenter):
    other = segmenter.reconfigured(RANDOM)
    other.backend = Noting()
    results = other.segment_batch([picture()] * 3)
    assert [result.timings for result in results] == [{"network": 4.0}] * 3


@pytest.mark.parametrize("hand_over", [True, False])
@pytest.mark.parametrize(("batches", "times", "numbers"), [(True, 2, [1, 1, 2, 2, 3, 3]), (False, 1, [1])])
def test_warming_up_runs_each_kind_of_call_that_is_to_come(segmenter, batches, times, numbers, hand_over):
    other = segmenter.reconfigured(RANDOM)
    other.backend = Noting(batches, times)
    other.warm_up(72, 96, "rgb", confidence=True, most_together=3, hand_over=hand_over)
    assert other.backend.calls == [(number, "rgb", (72, 96), True) for number in numbers]


def test_a_timed_run_makes_ready_for_the_first_sizes_that_come(segmenter, monkeypatch):
    one, seen = segmenter.reconfigured(segmenter.config), []
    monkeypatch.setattr(one, "warm_up", lambda *size_and_more: seen.append(size_and_more[:2]))
    for height in (64, 66, 72, 64, *range(80, 200, 8)):  # 66 is seen at 64
        one.warm_up_for(blank_frame(height, 96))
    assert seen == [(height, 96) for height in (64, 72, 80, 88, 96, 104, 112, 120)]


def test_uncertain_pixels_are_unlabelled(segmenter):
    plain = segmenter.segment(picture(), confidence=True)
    strict = segmenter.reconfigured(replace(RANDOM, confidence_threshold=float(plain.confidence.mean()) / 255))
    result = strict.segment(picture())
    assert result.confidence is None
    unlabelled = result.labels == UNLABELLED
    assert 0.05 < unlabelled.mean() < 0.95
    assert np.array_equal(result.labels[~unlabelled], plain.labels[~unlabelled])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "cgnett"}, "did you mean 'cgnet'"),
        ({"backend": "tpu"}, "no backend 'tpu'"),
        ({"device": "npu"}, "no device 'npu'"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"precision": "fp16", "device": "cpu", "backend": "torch"}, "fp16"),
        ({"input_height": 360}, "give both"),
        ({"input_height": 8, "input_width": 8}, "input_height is 8"),
        ({"input_height": 100, "input_width": 160}, "input_height is 100; use a multiple of 8, such as 96 or 104"),
        ({"downsampling_ratio": -0.5}, "downsampling_ratio is -0.5"),
        ({"downsampling_ratio": float("nan")}, "downsampling_ratio is nan"),
        ({"confidence_threshold": 1.5}, "confidence_threshold is 1.5"),
        ({"output_resolution": "full"}, "output_resolution is 'full'"),
        ({"label_space": "nowhere"}, "no label space 'nowhere'"),
        ({"weights": "/nowhere/x.safetensors"}, "no such file"),
        ({"weights": "weights.pth"}, "pickle"),
        ({"allow_random_weights": False}, "no weights for label space 'cityscapes19' yet"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 100_000}, "threads is 100000; use 1 to 1024"),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_value(changes, said):
    with pytest.raises(UserError, match=said):
        Segmenter(replace(RANDOM, **changes))


def test_threads_hold_for_whichever_thread_computes():
    import threading

    import torch

    seen = []
    torch_alone = replace(RANDOM, backend="torch", device="cpu")

    def compute():
        for threads in (1, 2, 0):
            other = Segmenter(replace(torch_alone, threads=threads))
            other.segment(picture())
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    Segmenter(torch_alone).segment(picture())
    assert seen[:2] == [1, 2]
    assert torch.get_num_threads() == seen[2]  # PyTorch's own choice, in this thread too


def test_a_cuda_device_where_there_is_none_is_refused_clearly():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    with pytest.raises(UserError, match="sees no GPU"):
        Segmenter(replace(RANDOM, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("fp16", 0.98), ("bf16", 0.95)])
def test_cuda_gives_the_labels_of_the_cpu(precision, least):
    on_gpu = Segmenter(replace(RANDOM, device="cuda", precision=precision))
    on_cpu = Segmenter(replace(RANDOM, device="cpu"))
    theirs, ours = (s.segment(picture(200, 300), confidence=True) for s in (on_gpu, on_cpu))
    assert (theirs.labels == ours.labels).mean() >= least
    assert np.abs(theirs.confidence.astype(int) - ours.confidence).mean() < 3
