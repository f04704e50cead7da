"""``rt-seg evaluate --live``: the real node over DDS scores what the pipeline scores offline."""

from __future__ import annotations

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
from drive_names import IMAGE, LABEL, START, STEP

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.cli import main
from rt_seg_ros.errors import UserError

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("compressed", [False, True])
def test_live_scores_what_offline_does(tmp_path, weights, street, compressed):
    folder = tmp_path / "run #3: 'best'"  # which YAML would read otherwise
    folder.mkdir()
    for file in weights.parent.glob(f"{weights.stem}.*"):
        shutil.copy(file, folder)
    weights = folder / weights.name
    drive, report, bag_path = tmp_path / "drive.mcap", tmp_path / "report", tmp_path / "result.mcap"
    with BagWriter(drive) as bag:
        for i, (image, labels) in enumerate(street[:5]):
            stamp = START + i * STEP
            if compressed:
                data = cv2.imencode(".png", image)[1].tobytes()
                bag.add_compressed_image(f"{IMAGE}/compressed", stamp, "camera", data, "bgr8; png compressed bgr8")
            else:
                bag.add_image(IMAGE, stamp, "camera", image)
            bag.add_label(LABEL, stamp, "camera", labels)
    command = ["evaluate", str(drive), "--weights", str(weights), "--backend", "torch"]
    assert main([*command, "--json", str(tmp_path / "offline.json")]) == 0
    live = ["--live", "--rate", "0.2", "--report", str(report), "--bag", str(bag_path)]
    assert main([*command, *live]) == 0
    offline = json.loads((tmp_path / "offline.json").read_text())
    found = json.loads((report / "metrics.json").read_text())
    assert (found["mode"], found["rate"]) == ("live", 0.2)
    assert found["frames_played"] == found["frames_received"] == found["frames"] == 5, "frames were dropped"
    assert found["frames_dropped"] == found["frames_lost"] == found["frames_unaccounted"] == 0
    for name in ("miou", "pixel_accuracy", "boundary_f", "flicker", "coverage", "confusion", "pixels"):
        assert found[name] == offline[name], name
    assert set(found["latency_ms"]) == {
        "wait", "decode", "preprocess", "network", "postprocess", "publish", "total", "age",
    }  # fmt: skip
    assert all(stage["frames"] == 5 for stage in found["latency_ms"].values())
    assert found["usage"]["memory_mib"] > 50 and found["usage"]["cores"] > 0 and found["throughput"] > 0
    assert (found["backend"], found["device"]) == (offline["backend"], offline["device"])

    with (report / "per_frame.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows] == [START + i * STEP for i in range(5)]
    assert all(float(row["age_ms"]) > 0 for row in rows)
    page = (report / "report.html").read_text()
    assert "Evaluation, live" in page and "over DDS" in page and "overlay.mp4" in page

    with open_bag(bag_path) as bag:
        topics = {name: info.count for name, info in bag.topics.items()}
        assert topics.pop("/segmentation/label_info") == 1
        outputs = ("label", "overlay", "confidence", "class_masks", "stats")
        assert topics == {
            f"{IMAGE}/compressed" if compressed else IMAGE: 5,
            LABEL: 5,
            **{f"/segmentation/{name}": 5 for name in outputs},
        }
        with open_bag(report / "labels.mcap") as stored:
            for one, other in zip(bag.labels("/segmentation/label"), stored.labels(), strict=True):
                assert one[0] == other[0]
                np.testing.assert_array_equal(one[2], other[2])


def test_stamps_that_are_missing_or_step_back_cost_no_frame(tmp_path, weights, street):
    drive, result = tmp_path / "drive.mcap", tmp_path / "result.mcap"
    back = START - 100 * 10**9
    stamps = [0, 0, START + 2 * STEP, START + 3 * STEP, START + 3 * STEP - 1, back, back + STEP]
    with BagWriter(drive) as bag:
        bag.write("/tf_static", bag.message("tf2_msgs/msg/TFMessage", transforms=[]), START - 1, latched=True)
        for i, (stamp, (image, labels)) in enumerate(zip(stamps, street, strict=False)):
            bag.add_image(IMAGE, stamp, "camera", image, recorded_ns=START + i * STEP)
            bag.add_label(LABEL, stamp, "camera", labels, START + i * STEP)
    command = ["evaluate", str(drive), "--weights", str(weights), "--backend", "torch"]
    command += ["--confidence-threshold", "0.1"]
    assert main([*command, "--json", str(tmp_path / "offline.json")]) == 0
    live = ["--live", "--rate", "0.2", "--json", str(tmp_path / "live.json"), "--bag", str(result)]
    assert main([*command, *live]) == 0
    offline, found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("offline", "live"))
    assert found["frames_played"] == found["frames"] == found["frames_scored"] == 7 == offline["frames_scored"]
    assert found["confusion"] == offline["confusion"] and found["miou"] == offline["miou"]
    assert found["latency_ms"]["age"]["max"] < 2000
    with open_bag(result) as bag:
        assert bag.is_latched("/tf_static") and bag.topics["/segmentation/label"].count == 7
        ((_, _, info),) = bag.messages(["/segmentation/label_info"])
        assert info.threshold == pytest.approx(0.1)


@pytest.mark.parametrize("how", ["full", "interrupted"])
def test_a_recording_that_breaks_off_is_told_and_ends_before_its_file(
    tmp_path, weights, street, write_drive, monkeypatch, how
):
    from rt_seg_ros.ros import live, recorder

    order = []

    class Watched(recorder.Recorder):
        def close(self):
            super().close()
            order.append("recorder")

    class Writer(BagWriter):
        def write_raw(self, *arguments):
            if how == "full" and self.count >= 3:
                raise UserError("No space left on device")
            super().write_raw(*arguments)

        def __exit__(self, *arguments):
            order.append("file")
            super().__exit__(*arguments)

    def watch(frames):
        if how == "interrupted" and frames >= 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(live, "Recorder", Watched)
    monkeypatch.setattr(live, "BagWriter", Writer)
    drive = write_drive(street)
    parameters = {"weights": str(weights), "backend": "torch", "device": "cpu"}
    with pytest.raises(UserError if how == "full" else KeyboardInterrupt) as found:
        live.run_live(drive, tmp_path / "out", IMAGE, parameters, rate=0.5, watch=watch)
    assert how != "full" or "could not be recorded: No space left on device" in str(found.value)
    assert order == ["recorder", "file"]
    assert not (tmp_path / "out" / "result.mcap").exists()


def test_a_node_that_does_not_start_leaves_no_report(tmp_path, weights, street, write_drive, capsys):
    report = tmp_path / "report"
    command = ["evaluate", str(write_drive(street[:2])), "--live", "--weights", str(weights), "--report", str(report)]
    assert main([*command, "--device", "nonesuch"]) == 2
    assert "nonesuch" in capsys.readouterr().err
    assert not (report / "report.html").exists() and not (report / "metrics.json").exists()
