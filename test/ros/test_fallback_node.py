"""The serving backend fails in the middle of a run: the node goes on with another, says so, and loses no frame."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")
pytest.importorskip("openvino", reason="needs OpenVINO, to fall back from")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, to fall back to")

import time

import numpy as np
from sensor_msgs.msg import Image

from ros_harness import HEIGHT, WIDTH, BreakableNode, picture, stamp_of
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import qos

pytestmark = pytest.mark.ros

RELIABLE = qos.sensor_data(qos.RELIABLE)


@pytest.fixture
def node(graph):
    outputs = [f"qos_overrides./fragile/{topic}.publisher.reliability:=reliable" for topic in ("label", "stats")]
    node = BreakableNode(
        graph, "fragile", arguments=[w for o in outputs for w in ("-p", o)], backend="openvino", device="cpu"
    )
    yield node
    node.kill()


def offline(backend: str) -> np.ndarray:
    config = SegmenterConfig(backend=backend, device="cpu", allow_random_weights=True, threads=1)
    return Segmenter(config).segment(picture()).labels


def test_each_frame_is_segmented_by_the_next_backend_until_none_is_left_and_then_it_recovers(graph, node):
    node.wait_state("active")
    camera = graph.camera(reliability=qos.RELIABLE)
    labels = graph.collect(Image, "/fragile/label", RELIABLE)
    stats = graph.collect(SegmentationStats, "/fragile/stats", RELIABLE)
    graph.wait(lambda: camera.matched() and labels.matched() and stats.matched(), "discovery")
    graph.feed(camera, lambda: labels and stats, "the first labels")
    node.wait_status(lambda level, text, facts: level == b"\x00" and facts["waiting"] == "0", "camera camera")

    def answered_by(backend: str) -> None:
        """Send one frame after another: each has its labels, those that this backend gives offline."""
        expected = offline(backend)
        for _ in range(3):
            stamp = camera.send()
            graph.wait(lambda s=stamp: labels and stamp_of(labels[-1]) == s, f"labels of a frame by {backend}")
            graph.wait(lambda s=stamp: stats and stamp_of(stats[-1]) == s, "its statistics")
            assert stats[-1].backend == backend
            assert np.array_equal(np.frombuffer(labels[-1].data, np.uint8).reshape(HEIGHT, WIDTH), expected)

    answered_by("openvino")
    node.wait_status(lambda level, text, facts: level == b"\x00" and facts["backend"] == "openvino")
    for failing, next_one in (("openvino", "onnxruntime"), ("onnxruntime", "torch")):
        node.break_backend(failing)
        answered_by(next_one)
        _, text, facts = node.wait_status(lambda level, text, facts: level == b"\x01")
        assert f"{failing} on cpu failed: " in text and f"{next_one} on cpu, fp32 serves instead" in text
        assert facts["backend"] == next_one and facts["last error"]
        said = [line for line in node.log().splitlines() if f"{failing} on cpu failed" in line]
        assert len(said) == 1 and "[WARN]" in said[0]

    # Nothing is left: frames are lost, and counted; a search is not begun for each of them.
    node.break_backend("torch")
    for _ in range(5):
        camera.send()
        time.sleep(0.1)
    _, text, facts = node.wait_status(lambda level, text, facts: "inference_failed" in text, "camera camera")
    assert int(facts["rejected: inference_failed"]) == int(facts["rejected"]) > 0
    assert node.log().count("no backend can do it") == 1

    # What failed is tried again in the end.
    labels.clear()
    graph.feed(camera, lambda: labels, "labels again", period=0.2)
    answered_by("openvino")
    assert node.log().count("no backend can do it") == 1
    assert "Traceback" not in node.log()
    assert node.stop() == 0
