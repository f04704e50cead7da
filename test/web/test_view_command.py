"""``rt-seg view`` as a user meets it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from rt_seg_ros import cli
from view_harness import wait


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_asked_to_end(drive, how):
    command = [sys.executable, "-m", "rt_seg_ros.cli", "view", str(drive), "--port", "0", "--allow-random-weights"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if "http://" in line)
        url = line.strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"<canvas" in answer.read()
        with urllib.request.urlopen(f"{url}news", timeout=20) as answer:
            assert b"drive.mcap" in answer.read()
        process.send_signal(how)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_it_ends_whole_while_another_model_is_loaded(drive):
    command = [sys.executable, "-m", "rt_seg_ros.cli", "view", str(drive), "--port", "0", "--allow-random-weights"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = next(line for line in process.stdout if "http://" in line).strip()
        asked = json.dumps({"do": "model", "value": "frfnet"}).encode()
        request = urllib.request.Request(f"{url}command", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "terminate called" not in errors and "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mcap"], "there is nothing at nowhere.mcap"),
        (["{drive}", "--model", "cgnett"], "did you mean 'cgnet'"),
        (["{drive}", "--model", "csrnet_heavy", "--label-space", "cityscapes19"], "has no weights for label space"),
        (["{drive}", "--topic", "/nowhere"], "has no topic '/nowhere'; its topics are"),
        (["{drive}", "--rate", "0"], "--rate is 0.0"),
        (["{drive}", "--port", "{taken}"], "is taken, perhaps by another rt-seg view: choose another (--port"),
        (["{drive}", "--host", "no.such.host.invalid"], "no such address"),
        (["{drive}", "--device", "cuda:99"], "device 'cuda:99'"),
        (["--model", "frfnet"], "without SOURCE a node that runs is shown"),
        (["--ratio", "0.5"], "--downsampling-ratio has no effect here: without SOURCE a node"),
        (["--size", "96x128"], "--size has no effect here"),
        (["--rate", "2"], "--rate has no effect here"),
        (["--loop"], "--loop has no effect here"),
        (["--device", "cpu"], "--device has no effect here"),
        (["{drive}", "--node", "/front"], "--node has no effect here: SOURCE is segmented here"),
        (["{drive}", "--camera", "front"], "--camera has no effect here: SOURCE is segmented here"),
        (["/camera/image_raw", "--loop"], "--loop has no effect here: /camera/image_raw is no file"),
    ],
)
def test_errors_name_what_is_wrong_and_the_remedy(drive, capsys, arguments, message):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        known = {"drive": drive, "taken": other.getsockname()[1]}
        port = [] if "--port" in arguments else ["--port", "0"]
        assert cli.main(["view", *(one.format(**known) for one in arguments), *port]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("source", [[], ["/camera/image_raw"]])
def test_without_ros_it_says_what_it_can_do(source, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert cli.main(["view", *source, "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert "ROS 2 is needed" in error and "'rclpy'" in error and "a recording, a video or a folder" in error


def test_beyond_this_machine_it_warns_and_shows_the_token(drive):
    command = [sys.executable, "-m", "rt_seg_ros.cli", "view", str(drive), "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--allow-random-weights"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = next(line for line in process.stdout if "http://" in line)
        assert re.fullmatch(r"http://localhost:\d+/\?token=[\w-]{20,}", line.strip())
        wait(lambda: "warning" in process.stderr.readline(), "the warning", 10)
    finally:
        process.kill()
        process.communicate()
