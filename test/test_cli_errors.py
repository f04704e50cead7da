"""Errors of the user's end in one line that names what is wrong, with exit status 2 and no traceback."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from rt_seg_ros.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "broken.yaml").write_text("classes: [1\nname: x")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("segment nowhere.jpg", "nowhere.jpg"),
        ("segment folder", "there is no image in folder"),
        ("segment empty.mcap", "empty.mcap cannot be read"),
        ("segment photo.jpg --weights folder", "weights folder: only .safetensors"),
        ("segment photo.jpg --weights folder --allow-pickle", "weights folder: no such file"),
        ("segment photo.jpg --weights text.jpg --allow-pickle", "text.jpg: cannot be read as a checkpoint"),
        ("segment photo.jpg --label-space broken.yaml", "broken.yaml is not valid YAML: line 2, column"),
        ("segment photo.jpg --ratio nan", "nan"),
        ("segment photo.jpg --threads 100000", "threads is 100000"),
        ("segment photo.jpg --device tpu", "no device 'tpu'"),
        ("segment photo.jpg --device cuda:\u00b2", "no device 'cuda:\u00b2'"),
        ("evaluate folder", "folder has no layout"),
        ("compare nowhere folder", "nowhere"),
        ("drive synth /proc/drive --frames 2", "/proc/drive cannot be written"),
        ("drive synth photo.jpg --frames 2", "photo.jpg exists already"),
        ("export --out model.onnx --opset 3", "opset is 3"),
        ("explain text.jpg --class car", "text.jpg"),
        ("train broken.yaml", "broken.yaml is not valid YAML: line 2, column"),
        ("train --resume folder", "folder holds no checkpoint"),
        ("ablate broken.yaml", "broken.yaml is not valid YAML: line 2, column"),
        ("benchmark --csv /proc/speed.csv --rounds 1", "/proc"),
        ("view photo.jpg --port 99999999", "--port is 99999999"),
        ("play photo.jpg", "photo.jpg is no recording"),
        ("demo --out photo.jpg", "photo.jpg is a file"),
        ("demo --out /proc/demo", "/proc/demo"),
    ],
)
def test_one_line_says_what_is_wrong(capfd, line, told):
    assert main(line.split()) == 2
    said = capfd.readouterr()
    assert told in said.err and said.err.startswith(f"rt-seg {line.split()[0]}: "), said.err
    assert said.err.count("\n") == 1 and not said.out, said


@pytest.mark.parametrize("line", ["demo --out {out}", "evaluate {out} --live", "play {out}", "benchmark --node"])
def test_what_needs_ros_says_so_before_any_work(tmp_path, monkeypatch, capsys, line):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert main(line.format(out=tmp_path / "out").split()) == 2
    said = capsys.readouterr().err
    assert "ROS 2 is needed, and this Python cannot import 'rclpy'" in said and not (tmp_path / "out").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_output_that_a_full_disk_does_not_take_is_told():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rt_seg_ros.cli", "train", "--list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "rt-seg train: what was to be written: No space left on device\n"
