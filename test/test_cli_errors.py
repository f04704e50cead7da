"""Errors of the user's end in one line that names what is wrong, with exit status 2 and no traceback."""

import json
import os
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
    (tmp_path / "date.yaml").write_text("name: 2021-02-30\n")
    os.mkfifo(tmp_path / "pipe")
    header = {"network": "cgnet", "label_space": "camvid11", "num_classes": 11, "mean": [1, 2, 3], "std": [1, 2, 3]}

    def weights(name, metadata):
        content = metadata if isinstance(metadata, bytes) else json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / f"{name}.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)

    weights("list", ["x"])
    weights("number", {"rt_seg_ros": 5})
    weights("deep", b"[" * 100_000)
    changes = {"infinite": {"num_classes": float("inf")}, "flat": {"std": [0, 0, 0]}, "thin": {"frame_size": [0, 480]}}
    for name, change in changes.items():
        weights(name, {"rt_seg_ros": json.dumps({**header, **change})})
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
        ("segment photo.jpg --label-space date.yaml", "date.yaml is not valid YAML: day is out of range for month"),
        ("train date.yaml", "date.yaml is not valid YAML: day is out of range for month"),
        ("segment photo.jpg --weights list.safetensors", "no 'rt_seg_ros' metadata in its header"),
        ("segment photo.jpg --weights number.safetensors", "no 'rt_seg_ros' metadata in its header"),
        ("segment photo.jpg --weights deep.safetensors", "its header is damaged"),
        ("segment photo.jpg --weights infinite.safetensors", "a field has the wrong type or value"),
        ("segment photo.jpg --weights flat.safetensors", "are no mean or deviation of pixels"),
        ("segment photo.jpg --weights thin.safetensors", "0x480 is no size of an image"),
        ("compare folder folder --json pipe", "pipe is no file that could be replaced"),
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


def test_a_package_that_is_too_old_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "rich").mkdir()
    for name in ("__init__", "progress", "console"):
        (tmp_path / "rich" / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich" or name == "rt_seg_ros.cli.progress"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "rt_seg_ros.cli.drive", raising=False)
    assert main(["drive", "synth", "x", "--frames", "1"]) == 2
    said = capsys.readouterr().err
    assert "'rich' is installed in a version that does not do: cannot import name" in said and "Traceback" not in said
