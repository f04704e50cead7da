"""Malformed images, at the node itself: none ends it, stops it or makes it grow, and each is counted by its reason.

`make soak` feeds many more of them.
"""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import random
import time
from pathlib import Path

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from soak.fuzz import fuzz, message_of
from soak.malformed import MAX_PIXELS, draw

from ros_harness import HEIGHT, WIDTH, picture
from rt_seg_ros.images import REASONS
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import messages, qos

pytestmark = pytest.mark.ros


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_each_malformed_message_is_rejected_for_its_reason_and_the_next_good_one_is_segmented(graph_domain, compressed):
    result = fuzz(400, seed=11, compressed=compressed)
    assert not result.problems, "\n".join(result.problems[:10])
    assert sum(result.kinds.values()) == sum(result.reasons.values()) == 400
    expected = {"corrupt", "empty", "encoding", "too_large"} if compressed else set(REASONS) - {"corrupt"}
    assert set(result.reasons) == {*expected, None}
    assert result.memory_after - result.memory_before < 8 << 20


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_malformed_messages_over_dds(graph, node, compressed):
    assert node.transition("deactivate")
    # OpenVINO would be busy with sizes that come once.
    transport = "compressed" if compressed else "raw"
    assert node.set(image_transport=transport, max_image_pixels=MAX_PIXELS, backend="torch")[0]
    assert node.transition("activate")
    node.wait_status(lambda level, text, facts: facts["backend"] == "torch" and not facts["preparing"])
    kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
    camera = graph.camera(f"/camera/image_raw{suffix}", qos.RELIABLE, kind)
    label = graph.collect(Image, "/segmentation/label")

    def good():
        return (
            messages.png(camera.header(), picture())
            if compressed
            else messages.image(camera.header(), picture(), "bgr8")
        )

    camera.send = lambda image=None: camera.send_message(good())
    graph.feed(camera, lambda: label, "a label")
    threads, descriptors = node.threads(), node.descriptors()
    rng = random.Random(5)
    for _ in range(150):
        camera.send_message(message_of(draw(rng, compressed), compressed))
        time.sleep(0.01)
    _, _, facts = node.wait_status(
        lambda level, text, facts: facts["waiting"] == facts["in hand"] == "0", "camera camera"
    )
    counts = {name: int(facts[name]) for name in ("received", "processed", "dropped", "rejected")}
    assert counts["received"] == counts["processed"] + counts["dropped"] + counts["rejected"] > 100
    by_reason = {name.removeprefix("rejected: "): int(n) for name, n in facts.items() if name.startswith("rejected: ")}
    assert set(by_reason) <= set(REASONS) and sum(by_reason.values()) == counts["rejected"] > 50
    assert len(by_reason) >= 4
    assert len(facts["last rejection"]) < 1000

    label.clear()
    graph.feed(camera, lambda: label, "a label of the next good image")
    expected = (
        Segmenter(SegmenterConfig(backend="torch", allow_random_weights=True, threads=1)).segment(picture()).labels
    )
    assert np.array_equal(np.frombuffer(label[-1].data, np.uint8).reshape(HEIGHT, WIDTH), expected)
    assert (node.threads(), node.descriptors()) == (threads, descriptors)
    assert "Traceback" not in node.log()
