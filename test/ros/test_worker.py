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
    monkeypatch.setattr(segmenter.backend, "faster_in_batches", batches)
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


def test_a_new_size_holds_up_its_own_camera_alone(segmenter, frames, monkeypatch):
    condition = threading.Condition()
    usual, new = cameras = [StillCamera(condition, Wanted(frozenset({"label"}))) for _ in range(2)]
    begun, go = threading.Event(), threading.Event()
    run, ready = segmenter.backend.run, {segmenter.working_size(64, 96)}

    def slow_at_first(given, working, *others):
        if working not in ready:
            begun.set()
            assert go.wait(20)
            ready.add(working)
        return run(given, working, *others)

    monkeypatch.setattr(segmenter.backend, "run", slow_at_first)
    monkeypatch.setattr(segmenter.backend, "is_ready", ready.__contains__)
    coming = []

    def serving():
        while coming:
            new.mailbox.put(coming.pop())
        return Serving(segmenter)

    worker = Worker(cameras, condition, serving)

    def wait_for(what):
        deadline = time.monotonic() + 20
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    new.mailbox.put(frames[2])
    assert begun.wait(20)
    new.mailbox.put(frames[2])  # waits for the one before it
    for count in range(1, 4):
        usual.mailbox.put(frames[0])
        wait_for(lambda count=count: len(usual.results) == count)
    assert not new.results and new.mailbox.counts().waiting == new.mailbox.counts().in_hand == 1
    go.set()
    wait_for(lambda: len(new.results) == 2)
    assert np.array_equal(new.results[0].labels, segmenter.segment(frames[2]).labels)

    # One that comes while another of its camera is in hand waits, also where those that wait are one batch.
    begun.clear(), go.clear(), ready.remove(segmenter.working_size(80, 64))
    monkeypatch.setattr(segmenter.backend, "faster_in_batches", True)
    coming.append(frames[2])
    new.mailbox.put(frames[2])
    assert begun.wait(20)
    assert not coming and new.mailbox.counts().waiting == new.mailbox.counts().in_hand == 1
    go.set()
    wait_for(lambda: len(new.results) == 4)

    begun.clear(), go.clear(), ready.remove(segmenter.working_size(80, 64))
    new.mailbox.put(frames[2])
    assert begun.wait(20)
    threading.Timer(0.2, go.set).start()
    worker.stop()
    assert len(new.results) == 5 and new.mailbox.counts().in_hand == 0
