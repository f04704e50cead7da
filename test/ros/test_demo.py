"""The demo as a newcomer runs it, only shorter: node and player as processes of their own, over DDS."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from rt_seg_ros import cli
from rt_seg_ros.bags import open_bag
from rt_seg_ros.video import VideoReader

pytestmark = pytest.mark.ros


def test_every_frame_is_accounted_for_and_shown(tmp_path, capsys):
    status = cli.main(["demo", "--out", str(tmp_path), "--frames", "12", "--rate", "0.2", "--size", "180x240"])
    out = capsys.readouterr().out
    assert status == 0, out
    names = ("received", "processed", "dropped", "rejected", "unaccounted")
    row = re.search(f"played 12, {', '.join(rf'{name} ([0-9]+)' for name in names)}", out).groups()
    received, processed, dropped, rejected, unaccounted = map(int, row)
    assert received == processed + dropped + rejected == 12
    assert unaccounted == rejected == 0 and processed >= 3
    assert re.search(r"mIoU \d+\.\d\d %", out)
    for name in ("report.html", "overlay.mp4", "picture.png", "result.mcap", "node.log"):
        assert str(tmp_path / name) in out and (tmp_path / name).is_file()

    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["mode"], figures["frames"], figures["frames_scored"]) == ("live", processed, processed)
    assert f"{100 * figures['miou']:.1f}" in (tmp_path / "report.html").read_text()
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture is not None and picture.std() > 20
    frames = [image for _, image in VideoReader(tmp_path / "overlay.mp4")]
    with open_bag(tmp_path / "result.mcap") as bag:
        assert bag.topics["/segmentation/label"].count == len(frames) == processed
        assert bag.topics["/segmentation/class_masks"].count == processed
        labels = [labels for _, _, labels in bag.labels("/segmentation/label")]
    assert all(one.shape == (180, 240) for one in labels)


def test_a_rate_that_cannot_be_is_refused_before_anything_is_rendered(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "out"), "--rate", "0"]) == 2
    assert "--rate is 0" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_drive_that_no_demo_rendered_is_not_replaced(tmp_path, capsys):
    from rt_seg_ros.data.drives import write_synthetic_drive

    write_synthetic_drive(tmp_path / "drive.mcap", 2, (90, 120))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "picture.png").write_bytes(b"mine")
    before = (tmp_path / "drive.mcap").read_bytes()
    for folder, name in ((tmp_path, "drive.mcap"), (tmp_path / "other", "picture.png")):
        assert cli.main(["demo", "--out", str(folder), "--frames", "2", "--size", "90x120"]) == 2
        assert f"{folder / name} is not replaced: no earlier demo wrote it" in capsys.readouterr().err
    assert (tmp_path / "drive.mcap").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_process_behind_and_runs_again(tmp_path, number):
    command = [sys.executable, "-m", "rt_seg_ros.cli", "demo", "--out", str(tmp_path), "--frames", "40"]
    demo = subprocess.Popen([*command, "--size", "120x160"], start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "player.log").exists():
        assert demo.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    demo.send_signal(number)
    assert demo.wait(60) == 130
    # Node and player write their logs there.
    assert not [p for p in Path("/proc").glob("[0-9]*/fd/1") if _target(p).startswith(str(tmp_path))]
    assert not (tmp_path / "result.mcap").exists()
    if number == signal.SIGTERM:
        return
    assert cli.main(["demo", "--out", str(tmp_path), "--frames", "4", "--size", "120x160"]) == 0


def _target(link):
    try:
        return os.readlink(link)
    except OSError:  # ended meanwhile
        return ""


def test_a_model_without_weights_is_refused_before_anything_is_rendered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rt_seg_ros.zoo.finding.models_dir", lambda: tmp_path)
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--model", "crosscbam_l"]) == 2
    assert "no weights" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_node_that_does_not_start_is_told_with_its_log(tmp_path):
    from rt_seg_ros.data.drives import IMAGE_TOPIC, write_synthetic_drive
    from rt_seg_ros.errors import UserError
    from rt_seg_ros.ros.live import run_live

    write_synthetic_drive(tmp_path / "drive.mcap", 2, (90, 120))
    with pytest.raises(UserError, match=r"does not start(.|\n)*downsampling_ratio is 7"):
        run_live(tmp_path / "drive.mcap", tmp_path, IMAGE_TOPIC, {"downsampling_ratio": 7.0})
