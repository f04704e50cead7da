"""A backend that fails in the middle of a run: real runtimes, broken behind their backs."""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
from backend_helpers import cut
from breaking import break_backend

from rt_seg_ros.backends import fallback, other_backends
from rt_seg_ros.backends.base import Backend, BatchResult
from rt_seg_ros.backends.fallback import FallbackBackend
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig

CPU = ("openvino", "onnxruntime", "torch")
SIZE = (96, 128)


@pytest.fixture(autouse=True)
def _runtimes():
    for name in CPU[:2]:
        pytest.importorskip(name)


def segmenter(backend: str, fall_back: bool = True) -> Segmenter:
    config = SegmenterConfig(backend=backend, device="cpu", allow_random_weights=True, threads=1)
    return Segmenter(config, fall_back)


class Still(Backend):
    """A backend without a runtime; it works unless it is ``broken``."""

    device, precision = "cpu", "fp32"
    broken = False

    def __init__(self, name: str, batches: bool = False, warm_up_calls: int = 1) -> None:
        self.name, self.faster_in_batches, self.warm_up_calls = name, batches, warm_up_calls
        self.seen_live: list[bool] = []

    def run(self, frames, working, sizes, confidence):
        self.seen_live.append(self.live)
        if self.broken:
            raise RuntimeError("broken")
        return BatchResult([np.zeros(size, np.uint8) for size in sizes], None)


@pytest.mark.parametrize(
    ("backend", "takes_over"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino"), ("torch", "openvino")]
)
def test_the_very_frame_is_segmented_by_the_next(caplog, backend, takes_over):
    one, frame = segmenter(backend), cut(*SIZE)
    one.segment(frame)
    assert (one.backend_name, one.backend.trouble) == (backend, "")
    break_backend(one.backend._serving)
    labels = one.segment(frame).labels
    assert one.backend_name == takes_over
    assert np.array_equal(labels, segmenter(takes_over, False).segment(frame).labels)
    one.segment(frame)
    (said,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert said.levelno == logging.WARNING and said.getMessage() == one.backend.trouble
    assert one.backend.trouble.startswith(f"{backend} on cpu failed: ")
    assert one.backend.trouble.endswith(f"; {takes_over} on cpu, fp32 serves instead")
    assert "\n" not in one.backend.trouble


def test_asked_for_nothing_else_a_failure_is_raised():
    one = segmenter("torch", fall_back=False)
    one.segment(cut(*SIZE))
    break_backend(one.backend)
    with pytest.raises(RuntimeError, match="weight"):
        one.segment(cut(*SIZE))


def test_a_backend_that_was_named_and_never_worked_is_told_and_auto_goes_on():
    named, auto = segmenter("torch"), segmenter("auto")
    break_backend(named.backend._serving)
    with pytest.raises(RuntimeError, match="weight"):
        named.segment(cut(*SIZE))
    break_backend(auto.backend._serving)
    auto.segment(cut(*SIZE))
    assert auto.backend_name == "onnxruntime" and "openvino on cpu failed" in auto.backend.trouble


def test_a_frame_that_no_backend_takes_starts_no_chain_and_changes_nothing(monkeypatch, caplog):
    one, frame = segmenter("torch"), cut(*SIZE)
    one.segment(frame)
    built = []
    others = one.backend._others
    monkeypatch.setattr(one.backend, "_others", lambda failed: (built.append(p[0]) or p for p in others(failed)))
    with pytest.raises(ImageRejected):
        one.segment(np.zeros((*SIZE, 2), np.uint8))
    assert not built, "that was no fault of the backend"

    def impossible():
        return one.backend.run([Frame(np.zeros((0, 128, 3), np.uint8))], SIZE, [SIZE], False)

    for _ in range(20):
        with pytest.raises(cv2.error):
            impossible()
    assert [name for name, _ in built] == ["openvino", "onnxruntime"], "each was tried once"
    assert one.backend_name == "torch" and not one.backend.trouble
    assert sum("no backend can do it" in r.getMessage() for r in caplog.records) == 1
    one.segment(frame)
    # Once the pause is over they are tried again.
    monkeypatch.setattr(one.backend, "_not_before", 0.0)
    with pytest.raises(cv2.error):
        impossible()
    assert len(built) == 4 and one.backend._pause == 4 * fallback._FIRST_PAUSE


def test_threads_that_meet_the_failure_at_once_change_over_once(caplog):
    one, frame = segmenter("torch"), cut(*SIZE)
    expected = segmenter("openvino", False).segment(frame).labels
    one.segment(frame)
    break_backend(one.backend._serving)
    results = []
    threads = [threading.Thread(target=lambda: results.append(one.segment(frame).labels)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(labels, expected) for labels in results)
    assert sum(r.levelno == logging.WARNING for r in caplog.records) == 1


def test_what_shares_the_network_shares_its_fate_and_another_config_begins_anew():
    one, frame = segmenter("torch"), cut(*SIZE)
    strict = one.reconfigured(SegmenterConfig(**{**vars(one.config), "confidence_threshold": 0.5}))
    one.segment(frame)
    break_backend(one.backend._serving)
    strict.segment(frame)
    assert one.backend.trouble and one.backend_name == "openvino"
    again = one.reconfigured(SegmenterConfig(**{**vars(one.config), "threads": 2}))
    again.segment(frame)
    assert (again.backend_name, again.backend.trouble) == ("torch", "")


def test_what_another_config_loads_anew_falls_back_too():
    one, frame = segmenter("torch"), cut(*SIZE)
    strict = one.reconfigured(replace(one.config, confidence_threshold=0.5))
    for former in (one, strict):
        again = former.reconfigured(replace(former.config, threads=2))
        again.segment(frame)
        break_backend(again.backend._serving)
        again.segment(frame)
        assert again.backend_name == "openvino" and again.backend.trouble


def test_a_rehearsal_that_fails_is_told_and_changes_nothing():
    """A parameter that asks for more than a GPU can do must not move the camera's frames off it."""
    one, frame = segmenter("auto"), cut(*SIZE)
    one.segment(frame)
    serving = one.backend._serving
    working = serving.make_ready

    def full(size):
        raise MemoryError(f"no room for {size}")

    serving.make_ready = full
    larger = one.reconfigured(SegmenterConfig(**{**vars(one.config), "downsampling_ratio": 1.0}))
    with pytest.raises(MemoryError, match="no room"):
        larger.warm_up(128, 192, hand_over=False)
    serving.make_ready = working
    one.segment(frame)
    assert (one.backend._serving, one.backend.trouble) == (serving, "")


def test_who_can_take_over_comes_in_autos_order_and_in_a_precision_that_is_to_be_had(monkeypatch):
    card = segmenter("torch").card
    assert [place for place, _ in other_backends(card, "cpu", "fp32", 1, {("openvino", "cpu")})] == [
        ("onnxruntime", "cpu"),
        ("torch", "cpu"),
    ]
    # No int8 model of this one is there; a GPU that is lost is passed over, whatever it raises.
    monkeypatch.setattr("rt_seg_ros.backends.missing_gpu", lambda: "")
    found = [(place, b.precision) for place, b in other_backends(card, "cuda:0", "int8", 1, {("torch", "cpu")})]
    assert [(p, x) for p, x in found if p[1] == "cpu"] == [
        (("openvino", "cpu"), "fp32"),
        (("onnxruntime", "cpu"), "fp32"),
    ]


def test_it_does_not_build_what_is_not_needed():
    built = []

    def others(failed):
        for name in ("onnxruntime", "torch"):
            built.append(name)
            yield (name, "cpu"), segmenter(name, False).backend

    first = segmenter("openvino", False).backend
    one = fallback.FallbackBackend(first, others, True)
    frame = Frame(cut(*SIZE))
    one.run([frame], SIZE, [SIZE], False)
    assert built == []
    break_backend(first)
    one.run([frame], SIZE, [SIZE], False)
    assert built == ["onnxruntime"] and one.name == "onnxruntime"


def test_who_takes_over_is_told_that_frames_wait_and_says_how_it_wants_them():
    first, second = Still("torch"), Still("openvino", True, 3)
    one = fallback.FallbackBackend(first, lambda failed: iter([(("openvino", "cpu"), second)]), True)
    one.live = first.broken = True
    one.run([Frame(cut(*SIZE))], SIZE, [SIZE], False)
    assert second.seen_live == [True], "it must not build what takes long now"
    assert (one.name, one.faster_in_batches, one.warm_up_calls) == ("openvino", True, 3)


def test_each_that_failed_is_passed_over_and_a_success_ends_the_waiting():
    made = {name: Still(name) for name in ("torch", "openvino", "onnxruntime")}
    asked = []

    def others(failed):
        asked.append(set(failed))
        return (((name, "cpu"), backend) for name, backend in made.items() if (name, "cpu") not in failed)

    one, frame = fallback.FallbackBackend(made["torch"], others, True), Frame(cut(*SIZE))
    for name, takes_over in (("torch", "openvino"), ("openvino", "onnxruntime")):
        made[name].broken = True
        one.run([frame], SIZE, [SIZE], False)
        assert one.name == takes_over
    assert asked == [{("torch", "cpu")}, {("torch", "cpu"), ("openvino", "cpu")}]
    made["onnxruntime"].broken = True
    with pytest.raises(RuntimeError, match="broken"):
        one.run([frame], SIZE, [SIZE], False)
    assert one._pause == 2 * fallback._FIRST_PAUSE
    made["openvino"].broken = False
    one._not_before = 0.0
    one.run([frame], SIZE, [SIZE], False)
    assert one.name == "openvino" and one._pause == fallback._FIRST_PAUSE


def test_a_users_error_of_a_named_backend_is_still_one():
    with pytest.raises(UserError):
        Segmenter(SegmenterConfig(backend="openvino", device="cuda", allow_random_weights=True), fall_back=True)


def test_it_says_all_that_who_serves_says():
    own = {"live", "trouble"}  # not those of whoever serves
    shown = inspect.getsource(FallbackBackend._show)
    assert [name for name in Backend.__annotations__ if name not in own and f"self.{name}" not in shown] == []
