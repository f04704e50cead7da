"""The script that the launch file waits with until the node is active."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import signal
import subprocess
import sys
import time
from pathlib import Path

pytestmark = pytest.mark.ros

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "when_active"


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_waits_for_the_node_and_becomes_the_command(graph, node):
    process = start(node.name, sys.executable, "-c", "print('played')")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "played\n", "")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["absent", "inactive"])
def test_it_ends_quietly_when_told_to(graph, request, how, state):
    name = "/nobody"
    if state == "inactive":
        node = request.getfixturevalue("node")
        assert node.transition("deactivate")
        name = node.name
    process = start(name, "echo", "played")
    try:
        own = f"when_active_{process.pid}"
        graph.wait(lambda: own in graph.node.get_node_names(), "the script in the graph")
        time.sleep(0.5)
        process.send_signal(how)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (128 + how, "", "")
    finally:
        process.kill()
