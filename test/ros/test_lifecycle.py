"""Lifecycle: every order of transitions, starts that fail and are mended, and nothing left behind."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import random

from sensor_msgs.msg import Image

from rt_seg_ros.ros import qos

pytestmark = pytest.mark.ros

NEXT = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
}
TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")


def test_transitions_in_any_order_leak_nothing(graph, node):
    camera = graph.camera(reliability=qos.RELIABLE)
    label = graph.collect(Image, "/segmentation/label")
    rng = random.Random(1)
    state = "active"

    def go(transition: str) -> None:
        nonlocal state
        expected = NEXT.get((state, transition))
        # One that the state does not have fails, and the node lives on.
        assert node.transition(transition) == (expected is not None), (state, transition)
        state = expected or state
        camera.send()

    def round_trip() -> None:
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            if (state, transition) in NEXT:
                go(transition)

    def at_rest() -> tuple[int, int]:
        graph.feed(camera, lambda: label, "a label")
        return node.threads(), node.descriptors()

    round_trip()
    before, memory = at_rest(), node.memory()
    for _ in range(60):
        go(rng.choice(TRANSITIONS))
    while state != "active":
        go({"unconfigured": "configure", "inactive": "activate"}[state])
    label.clear()
    after = at_rest()
    assert after[0] == before[0], "threads"
    assert after[1] == before[1], "file descriptors"
    assert node.memory() < memory + 60e6


def test_a_start_that_fails_says_why_in_one_line_and_can_be_mended(start_node, graph):
    node = start_node(
        "mended",
        model="cgnet",
        weights="/nowhere/weights.safetensors",
        downsampling_ratio=3.5,
        precision="fp7",
        max_rat=5,
        arguments=("-p", "camera_topics:=/a/image_raw"),
    )
    node.wait_log("cannot configure")
    assert node.state() == "unconfigured"
    log = node.log()
    assert "downsampling_ratio is 3.5; expected a number from 0 to 1" in log
    assert "precision is 'fp7'" in log
    assert "there is no parameter 'max_rat' (did you mean 'max_rate'?): it has no effect" in log
    assert "Traceback" not in log
    _, text, _ = node.wait_status(lambda level, text, facts: level == b"\x02")
    assert "fp7" in text

    assert node.set(downsampling_ratio=0.75, precision="fp32")[0]
    assert not node.transition("configure")
    assert "weights /nowhere/weights.safetensors: there is no such file" in node.log()
    assert node.set(weights="", camera_names="one")[0]
    assert node.transition("configure") and node.transition("activate")
    assert node.get("camera_topics") in ("/a/image_raw", ["/a/image_raw"])
    node.wait_status(lambda level, text, facts: level == b"\x00" and text == "active")
    assert node.transition("shutdown")
    assert node.state() == "finalized"
    assert node.stop() == 0
    assert "Traceback" not in node.last_log


def test_without_weights_it_refuses_to_start_and_says_what_to_do(graph, node, tmp_path):
    assert node.transition("deactivate") and node.transition("cleanup")
    space = tmp_path / "two.yaml"
    space.write_text("classes:\n- {name: way, color: [1, 2, 3]}\n- {name: rest, color: [4, 5, 6]}\n")
    assert node.set(label_space=str(space), allow_random_weights=False)[0]
    assert not node.transition("configure")
    assert f"has no weights for label space '{space}'" in node.log() and "allow_random_weights" in node.log()
    assert node.set(allow_random_weights=True)[0]
    assert node.transition("configure") and node.transition("activate")
    node.wait_status(lambda level, text, facts: text == "active" and facts["label space"] == "two")


def test_what_ros2_param_dump_writes_can_be_read_again(start_node, graph, tmp_path):
    dump = tmp_path / "dump.yaml"
    dump.write_text(
        """/again:
  ros__parameters:
    camera_names: []
    camera_topics: [/b/image_raw]
    downsampling_ratio: 1
    mask_classes: []
    max_rate: 5
    start_type_description_service: true
    use_sim_time: false
"""
    )
    node = start_node("again", arguments=("--params-file", str(dump)))
    node.wait_state("active")
    assert node.get("mask_classes") == [] and node.get("max_rate") == 5.0
    assert "[WARN]" not in node.log()
    assert node.log().count("loading model") == 1
    assert node.stop() == 0


def test_a_file_that_is_no_yaml_ends_it_with_one_line(start_node, graph, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("segmentation:\n  ros__parameters:\n - [")
    node = start_node("unread", arguments=("--params-file", str(bad)))
    assert node.process.wait(60) == 2
    assert "bad.yaml" in node.log() and "Traceback" not in node.log()
