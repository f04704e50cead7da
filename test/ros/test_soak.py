"""The soak in short: each fault once, with real processes. `make soak` does the same for as long as one likes."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

from pathlib import Path

from soak.failing import fail
from soak.faults import FAULTS
from soak.killed import kill
from soak.run import soak

pytestmark = [pytest.mark.ros, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")]


def test_each_fault_once_and_no_frame_is_unaccounted_for_and_no_label_wrong(session_graph):
    report = soak(session_graph, 0.0, seed=3, cameras=1, brief=True)
    assert not report.problems, "\n".join(report.problems)
    assert report.faults == dict.fromkeys(report.faults, 1) and set(report.faults) == set(FAULTS)
    frames = report.frames
    assert frames["received"] == frames["processed"] + frames["dropped"] + frames["rejected"]
    assert frames["processed"] > 50 and frames["rejected"] > 5
    assert report.labels_compared > 50


def test_a_killed_node_and_the_one_that_comes_publish_right_labels_and_count_right(session_graph):
    said = []
    problems = kill(session_graph, 1, seed=3, backend="auto", cameras=1, say=said.append)
    assert not problems, "\n".join(problems)
    assert int(said[-1].split()[-3]) > 5, said


def test_a_backend_that_fails_under_load_gives_way_is_told_once_and_is_restored(session_graph):
    pytest.importorskip("openvino", reason="needs OpenVINO, to fall back from")
    said = []
    problems = fail(session_graph, 1, seed=3, cameras=1, brief=True, say=said.append)
    assert not problems, "\n".join(problems)
    assert "backends failed: {'openvino': 1}" in said[-1] and int(said[-1].split()[-3]) > 5, said
