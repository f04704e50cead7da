"""Frames that wait at the same time go through the network together, where the backend is faster so."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import threading
import time

import numpy as np

from rt_seg_ros.images import Frame
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros.camera import Ready, Serving
from rt_seg_ros.ros.mailbox import Mailbox
from rt_seg_ros.ros.outputs import Wanted
from rt_seg_ros.ros.worker import Worker

pytestmark = pytest.mark.ros

SIZES = [(64, 96), (64, 96), (80, 64)]
BROKEN = Frame(np.zeros((64, 96, 2), np.uint8), "bgr")  # no network takes two channels


class StillCamera:
    """A camera whose messages are frames, and which keeps what came of them in place of publishing it."""

    def __init__(self, condition, wanted):
        self.mailbox = Mailbox(condition)
        self.mailbox.open()
        self.wanted = wanted
        self.results, self.failures = [], []

    def begin(self, letter, service):
        if letter.message is None:
            self.mailbox.rejected("empty")
            return None
        return Ready(letter, self.wanted, letter.message, time.monotonic(), time.monotonic())

    def fail(self, stage, error):
        self.failures.append(stage)
        self.mailbox.rejected(stage)

    def finish(self, ready, result, service):
        self.results.append(result)
        self.mailbox.processed()


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(SegmenterConfig(backend="torch", allow_random_weights=True, threads=1))


def serve(segmenter, messages, batches, monkeypatch):
    """Have one message of each camera wait, and return the cameras and the sizes of the batches."""
    condition = threading.Condition()
    names = [frozenset({"label"}), frozenset({"label", "confidence"}), frozenset({"label"})]
    cameras = [StillCamera(condition, Wanted(one)) for one in names]
    counts = []
    run = segmenter.backend.run

    def counted(frames, *others):
        counts.append(len(frames))
        return run(frames, *others)

    monkeypatch.setattr(segmenter.backend, "run", counted)
    monkeypatch.setattr(segmenter.backend, "batches", batches)
    for camera, message in zip(cameras, messages, strict=True):
        camera.mailbox.put(message)
    worker = Worker(cameras, condition, lambda: Serving(segmenter))
    deadline = time.monotonic() + 30
    while any(c.mailbox.counts().waiting or c.mailbox.counts().in_hand for c in cameras):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.stop()
    return cameras, counts


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return [Frame(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


@pytest.mark.parametrize("batches", [False, True])
def test_what_waits_is_segmented_as_it_would_be_alone(segmenter, frames, batches, monkeypatch):
    cameras, counts = serve(segmenter, frames, batches, monkeypatch)
    assert counts == ([2, 1] if batches else [1, 1, 1])  # those of one size are one batch
    for camera, frame in zip(cameras, frames, strict=True):
        (result,) = camera.results
        assert np.array_equal(result.labels, segmenter.segment(frame).labels)
    assert cameras[1].results[0].confidence is not None
    assert all(camera.mailbox.counts().processed == 1 for camera in cameras)


def test_a_frame_that_fails_does_not_take_the_others_along(segmenter, frames, monkeypatch):
    cameras, _ = serve(segmenter, [frames[0], BROKEN, None], True, monkeypatch)
    assert [len(camera.results) for camera in cameras] == [1, 0, 0]
    assert cameras[1].failures == ["inference_failed"]
    assert [camera.mailbox.counts().total_rejected for camera in cameras] == [0, 1, 1]
