"""Real processes: killed and come back, weights that cannot be used, a bad file of parameters."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import os
import signal
import subprocess
import time
from pathlib import Path

from sensor_msgs.msg import Image

from ros_harness import StandingNode, stamp_of
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import qos
from rt_seg_ros.zoo import list_models

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]


def test_a_node_that_stands_still_ends_and_says_where_and_one_that_is_slow_does_not(graph):
    node = StandingNode(graph, "standing")
    try:
        node.wait_state("active")  # though it takes twice its patience to configure
        node.process.send_signal(signal.SIGUSR1)
        assert node.process.wait(30) == 1
        assert "Timeout (0:00:03)!" in node.log() and "standing_node.py" in node.log()
    finally:
        node.kill()


def test_a_node_that_was_killed_and_started_again_serves_who_was_there_before(start_node, graph, monkeypatch):
    # Killed within a write to shared memory, it would leave Fast DDS' lock taken, and all others of the domain waiting.
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    camera = graph.camera("/left/image_raw", reliability=qos.RELIABLE)
    label = graph.collect(Image, "/killed/label")
    first = start_node("killed", camera_topics="['/left/image_raw']")
    graph.feed(camera, lambda: label, "a label")
    first.process.send_signal(signal.SIGKILL)
    assert first.process.wait(20) == -signal.SIGKILL
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")

    start_node("killed", camera_topics="['/left/image_raw']")
    label.clear()
    sent = len(camera.sent)
    stamp = graph.feed(camera, lambda: stamp_of(label[-1]), "a label of the one that came")
    assert stamp in camera.sent[sent:], "none of before the fault"


def test_the_launch_file_starts_a_killed_node_again(graph):
    pytest.importorskip("launch_ros", reason="needs launch_ros and ros2 launch, which are not among the wheels")
    command = ["ros2", "launch", str(ROOT / "launch" / "segment.launch.py"), "respawn:=true"]
    # A name of its own: what a killed node leaves behind for a while answers nobody.
    arguments = ["name:=relaunched", "model:=cgnet", "allow_random_weights:=true", "camera_topics:=/right/image_raw"]
    launch = subprocess.Popen([*command, *arguments], start_new_session=True)
    try:
        camera = graph.camera("/right/image_raw", reliability=qos.RELIABLE)
        label = graph.collect(Image, "/relaunched/label")
        graph.feed(camera, lambda: label, "a label")
        found = subprocess.run(
            ["pgrep", "-s", str(launch.pid), "-f", "segmentation_node"], capture_output=True, text=True, check=True
        )
        for pid in found.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(1.0)
        label.clear()
        graph.feed(camera, lambda: label, "a label of the node that was started again")
    finally:
        os.killpg(launch.pid, signal.SIGINT)
        launch.wait(30)


def test_a_runtime_is_loaded_aside_and_one_that_does_not_load_is_taken_back(start_node, graph, tmp_path, monkeypatch):
    serving = Segmenter(SegmenterConfig(allow_random_weights=True, device="cpu"))  # makes the graph, if it must be
    if serving.backend_name == "torch":
        pytest.skip("needs a runtime beside PyTorch")
    (tmp_path / "torch").mkdir()
    go = tmp_path / "go"
    (tmp_path / "torch" / "__init__.py").write_text(
        f"""import os, time
while not os.path.exists({str(go)!r}):
    time.sleep(0.05)
raise ImportError("no such symbol")
"""
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    node = start_node("aside", camera_topics="['/aside/image_raw']")
    node.wait_state("active")
    camera, label = graph.camera("/aside/image_raw"), graph.collect(Image, "/aside/label")
    assert node.set(backend="torch") == (True, ""), "what takes long is not waited for"
    graph.feed(camera, lambda: label, "a label meanwhile")
    node.wait_status(lambda level, text, facts: "preparing" in text)
    go.touch()
    node.wait_status(lambda level, text, facts: level == b"\x01" and "a change failed: ImportError: no such" in text)
    assert node.get("backend") == "auto"
    assert node.stop() == 0 and "Traceback" not in node.last_log


def missing(weights: Path, folder: Path) -> str:
    return "there is no such file"


def truncated(weights: Path, folder: Path) -> str:
    (folder / "given.safetensors").write_bytes(weights.read_bytes()[:-1000])
    return "given.safetensors"


def changed(weights: Path, folder: Path) -> str:
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    (folder / "given.safetensors").write_bytes(data)
    (folder / "given.yaml").write_text(weights.with_suffix(".yaml").read_text())
    return "SHA-256"


def of_another_network(weights: Path, folder: Path) -> str:
    (folder / "given.safetensors").write_bytes(weights.read_bytes())
    return "are of network 'cgnet', but model is 'frfnet'"


@pytest.mark.parametrize("harm", [missing, truncated, changed, of_another_network])
def test_weights_that_cannot_be_used_are_refused_in_one_line_and_the_node_lives_on(graph, node, tmp_path, harm):
    (card,) = (c for c in list_models() if c.name == "cgnet_camvid11")
    reason = harm(card.weights, tmp_path)
    assert node.transition("deactivate") and node.transition("cleanup")
    model = "frfnet" if harm is of_another_network else "cgnet"
    said = len(node.log())
    assert node.set(model=model, weights=str(tmp_path / "given.safetensors"))[0]
    assert not node.transition("configure")
    (line,) = (line for line in node.log()[said:].splitlines() if "cannot configure" in line)
    assert "[ERROR]" in line and reason in line and "given.safetensors" in line
    assert "Traceback" not in node.log()
    node.wait_status(lambda level, text, facts: level == b"\x02" and reason in text)
    assert node.set(model="cgnet", weights="")[0]
    assert node.transition("configure") and node.transition("activate")


def test_a_parameters_file_of_wrong_types_is_told_value_by_value(start_node, graph, tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(
        """mistyped:
  ros__parameters:
    max_rate: fast
    lazy: 3
    input_height: 96.5
    camera_topics: 7
    overlay_alpha: true
    confidence_treshold: 0.5
"""
    )
    node = start_node("mistyped", arguments=("--params-file", str(file)))
    node.wait_log("cannot configure")
    log = node.log()
    for told in (
        "max_rate is 'fast'; expected a number",
        "lazy is 3; expected true or false",
        "input_height is 96.5; expected a whole number",
        "camera_topics is 7; expected a list of texts",
        "overlay_alpha is True; expected a number",
        "'confidence_treshold' (did you mean 'confidence_threshold'?): it has no effect",
    ):
        assert told in log, told
    assert node.state() == "unconfigured"
    assert node.set(max_rate=0.0, lazy=True, input_height=0, camera_topics=["/m/image_raw"], overlay_alpha=0.5)[0]
    assert node.transition("configure")
    assert node.stop() == 0 and "Traceback" not in node.last_log
