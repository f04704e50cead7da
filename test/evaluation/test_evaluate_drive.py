"""``rt-seg evaluate`` on recorded drives: the same scores as of the frames themselves, truth of every kind, faults."""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from drive_names import IMAGE, LABEL, START, STEP
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.bags.types import CLASS_MASKS, LABEL_INFO, STATS, typestore
from rt_seg_ros.cli import evaluation_job, main
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.frames import open_frames
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.overlap import prefetch
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.video import VideoReader

SCORES = ("miou", "pixel_accuracy", "class_accuracy", "boundary_f", "pixels", "classes", "confusion")
CAMVID = load_label_space("camvid11")
TORCH = ("--backend", "torch")  # the same arithmetic everywhere, and no graph to be written first


def evaluated(tmp_path: Path, weights: Path, data: Path, *arguments: str, status: int = 0) -> dict:
    figures = tmp_path / "figures.json"
    command = ["evaluate", str(data), "--weights", str(weights), *TORCH, "--json", str(figures), *arguments]
    assert main(command) == status
    return json.loads(figures.read_text())


@pytest.fixture
def dataset(tmp_path, street) -> Path:
    """The same frames as a data set."""
    for i, (image, labels) in enumerate(street):
        for folder, pixels in (("images", image), ("labels", labels)):
            (tmp_path / "set" / folder).mkdir(exist_ok=True, parents=True)
            cv2.imwrite(str(tmp_path / "set" / folder / f"{i:03}.png"), pixels)
    return tmp_path / "set"


def test_a_drive_scores_what_the_data_set_of_its_frames_does(tmp_path, weights, street, write_drive, dataset):
    by_set = evaluated(tmp_path, weights, dataset)
    by_drive = evaluated(tmp_path, weights, write_drive(street), "--report", str(tmp_path / "report"))
    assert {name: by_drive[name] for name in SCORES} == {name: by_set[name] for name in SCORES}
    assert by_drive["frames"] == by_drive["frames_scored"] == by_drive["flicker_pairs"] + 1 == 8
    assert 0 < by_drive["flicker"] < 1 and by_drive["mode"] == "offline" and by_drive["coverage"] == 1
    assert by_drive["throughput"] > 0 and by_drive["usage"]["memory_mib"] > 50
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == by_drive


def test_every_frame_has_a_row_labels_and_a_place_in_the_video(tmp_path, weights, street, write_drive):
    report = tmp_path / "report"
    figures = evaluated(tmp_path, weights, write_drive(street), "--report", str(report))
    with (report / "per_frame.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows] == [START + i * STEP for i in range(8)]
    assert [row["truth_ns"] for row in rows] == [row["stamp_ns"] for row in rows]
    assert [float(row["seconds"]) for row in rows] == pytest.approx([0.1 * i for i in range(8)])
    assert rows[0]["flicker"] == "" and all(float(row["total_ms"]) > 0 for row in rows)
    assert np.mean([float(row["total_ms"]) for row in rows]) == pytest.approx(
        figures["latency_ms"]["total"]["mean"], rel=1e-3
    )
    segmenter = Segmenter(SegmenterConfig(weights=str(weights), backend="torch"))
    with open_bag(report / "labels.mcap") as bag:
        assert bag.topics["/segmentation/label_info"].type == LABEL_INFO
        for (stamp, frame_id, labels), (image, _), row in zip(bag.labels(), street, rows, strict=True):
            assert (stamp, frame_id) == (int(row["stamp_ns"]), "camera")
            np.testing.assert_array_equal(labels, segmenter.segment(image).labels)
    video = VideoReader(report / "overlay.mp4")
    assert [round(seconds, 2) for seconds, _ in video] == [round(0.1 * i, 2) for i in range(8)]
    assert not list(report.glob(".*"))


def test_a_recording_that_is_read_or_that_no_report_wrote_is_not_replaced(
    tmp_path, weights, street, write_drive, capsys
):
    (tmp_path / "own").mkdir()
    drive, labels = write_drive(street[:2]), write_drive(street[:2], "own/labels.mcap")
    with BagWriter(tmp_path / "bag") as bag:
        for i, (image, _) in enumerate(street[:2]):
            bag.add_image(IMAGE, START + i * STEP, "camera", image)
    (part,) = (tmp_path / "bag").glob("*.mcap")
    truth = tmp_path / "truth"
    truth.mkdir()
    cv2.imwrite(str(truth / f"{START}.png"), street[0][1])
    before = {path: path.read_bytes() for path in (drive, labels, part)}
    for data, options, said in (
        (labels, ["--report", labels.parent], f"{labels} would replace the source"),
        (drive, ["--report", labels.parent], f"{labels} is not replaced: no earlier report wrote it"),
        (drive, ["--json", drive], f"{drive} would replace the source"),
        (drive, ["--json", labels], f"{labels} is not replaced"),
        (part.parent, ["--report", part.parent], "is the recording's own folder"),
        (part.parent, ["--bag", part, "--overwrite"], f"{part} would replace the source"),
        (part.parent, ["--truth", truth, "--report", truth], f"would lie in the source's folder {truth}"),
        (drive, ["--bag", tmp_path / "r" / "labels.mcap", "--report", tmp_path / "r"], "is a file of the report"),
    ):
        assert main(["evaluate", str(data), "--weights", str(weights), *TORCH, *map(str, options)]) == 2
        error = capsys.readouterr().err
        assert said in error, error
    assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):  # a report's own files it replaces, also beside the drive
        evaluated(tmp_path, weights, drive, "--report", str(tmp_path))


def test_without_truth_everything_but_the_scores_comes(tmp_path, weights, street, write_drive, capsys):
    report = tmp_path / "report"
    for arguments in ([], ["--truth", "none"]):
        drive = write_drive(street, labels=bool(arguments), name=f"d{len(arguments)}.mcap")
        found = evaluated(tmp_path, weights, drive, "--report", str(report), *arguments)
        assert found["miou"] is None and found["confusion"] is None and found["flicker"] is None
        assert found["frames"] == 8 and found["frames_scored"] == 0 and found["coverage"] == 1.0
        assert 0 < found["label_change"] < 1 and found["latency_ms"]["network"]["frames"] == 8
        assert "mIoU" not in capsys.readouterr().out
        assert "no ground truth" in (report / "report.html").read_text()


def test_truth_at_another_rate_and_size(tmp_path, weights, street, write_drive, capsys):
    every_third = [(i, labels) for i, (_, labels) in enumerate(street) if i % 3 == 0]
    large = write_drive(street, labels=False)
    folder = tmp_path / "truth"
    folder.mkdir()
    for i, labels in every_third:  # twice the size, 4 ms late
        cv2.imwrite(str(folder / f"{START + i * STEP + 4_000_000}.png"), np.kron(labels, np.ones((2, 2), np.uint8)))
    cv2.imwrite(str(folder / f"{START + 9 * STEP}.png"), every_third[0][1])  # after the last image
    found = evaluated(tmp_path, weights, large, "--truth", str(folder))
    expected = evaluated(tmp_path, weights, write_drive(street, "exact.mcap", keep=lambda i: i % 3 == 0))
    assert {name: found[name] for name in SCORES} == {name: expected[name] for name in SCORES}
    truth = found["truth"]
    assert (found["frames"], found["frames_scored"]) == (8, 3)
    assert (truth["frames_without_truth"], truth["truth_without_frame"], truth["resized"]) == (5, 1, 3)
    assert truth["largest_offset_ms"] == 4.0
    out = capsys.readouterr().out
    assert "5 images without truth, 1 label images without an image" in out and "4.0 ms apart" in out
    strict = evaluated(tmp_path, weights, large, "--truth", str(folder), "--tolerance", "0.003", status=1)
    assert strict["frames_scored"] == 0 and strict["miou"] is None
    assert strict["problems"] == [
        "none of the 4 label images lies within 0.003 s of an image (the nearest 0.004 s): --tolerance, or another "
        "clock"
    ]


def test_truth_by_another_clock_is_told(tmp_path, weights, street, write_drive, capsys):
    with BagWriter(tmp_path / "late.mcap") as bag:
        for i, (image, labels) in enumerate(street[:3]):
            bag.add_image(IMAGE, START + i * STEP, "camera", image)
            bag.add_label(LABEL, START + i * STEP + 5_000_000_000, "camera", labels, START + i * STEP)
    found = evaluated(tmp_path, weights, tmp_path / "late.mcap", status=1)
    (problem,) = found["problems"]
    assert problem == (
        "none of the 3 label images lies within 0.01 s of an image (the nearest 4.8 s): --tolerance, or another clock"
    )
    assert problem in capsys.readouterr().err and found["frames"] == 3 and found["miou"] is None
    one = write_drive(street[:3], "one.mcap", keep=lambda i: i == 2)
    assert evaluated(tmp_path, weights, one)["problems"] == []  # a single partner will do
    assert evaluated(tmp_path, weights, write_drive(street[:3], "none.mcap", labels=False))["problems"] == []


def test_a_first_image_with_a_wrong_stamp_does_not_cost_a_folder_of_truth(tmp_path, weights, street):
    folder = tmp_path / "truth"
    folder.mkdir()
    with BagWriter(tmp_path / "drive.mcap") as bag:
        for i, (image, labels) in enumerate(street):
            stamp = 5_000_000_000 if i == 0 else START + i * STEP
            bag.add_image(IMAGE, stamp, "camera", image, recorded_ns=START + i * STEP)
            cv2.imwrite(str(folder / f"{START + i * STEP}.png"), labels)
    assert evaluated(tmp_path, weights, tmp_path / "drive.mcap", "--truth", str(folder))["frames_scored"] == 7


def test_truth_of_other_classes_is_refused(tmp_path, weights, street, capsys):
    def command(*names):
        with BagWriter(tmp_path / "drive.mcap", overwrite=True) as bag:
            kind = "vision_msgs/msg/VisionClass"
            classes = [bag.message(kind, class_id=i, class_name=name) for i, name in enumerate(names)]
            kind = "vision_msgs/msg/LabelInfo"
            info = bag.message(kind, header=bag.header(START, ""), class_map=classes, threshold=0.0)
            bag.write("/truth/label_info", info, START)
            bag.add_image(IMAGE, START, "camera", street[0][0])
            bag.add_label("/truth/label", START, "camera", street[0][1])
        return ["evaluate", str(tmp_path / "drive.mcap"), "--weights", str(weights), "--truth", "/truth/label"]

    assert main(command("road", "car", "person")) == 2
    said = capsys.readouterr().err
    assert "tells other classes (road, car, person) than label space 'camvid11' has (sky, building," in said
    capsys.readouterr()
    assert main(command(*(name.upper() for name in load_label_space("camvid11").names), "void")) == 0
    assert "names no classes" not in capsys.readouterr().err


def test_truth_that_names_no_classes_is_remarked(tmp_path, weights, street, write_drive, capsys):
    folder = tmp_path / "truth"
    folder.mkdir()
    cv2.imwrite(str(folder / f"{START}.png"), street[0][1])
    drive = write_drive(street[:1])
    for arguments, times in (([], 1), (["--truth", str(folder)], 1), (["--truth", "none"], 0)):
        evaluated(tmp_path, weights, drive, *arguments)
        said = capsys.readouterr().err
        assert said.count(f"{drive}: truth is taken as ids of camvid11: it names no classes\n") == times


def test_a_drive_that_was_made_here_names_its_classes(tmp_path, weights, capsys):
    drive, result = tmp_path / "town.mcap", tmp_path / "result.mcap"
    assert main(["drive", "synth", str(drive), "--frames", "2", "--size", "96x128"]) == 0
    capsys.readouterr()
    found = evaluated(tmp_path, weights, drive, "--bag", str(result))
    assert found["truth"]["source"] == f"topic {LABEL} (2 label images)" and found["frames_scored"] == 2
    assert "names no classes" not in capsys.readouterr().err
    command = ["--model", "cgnet", "--label-space", "cityscapes19", "--allow-random-weights"]
    for path in (drive, result):
        assert main(["evaluate", str(path), "--topic", IMAGE, *command]) == 2
        said = capsys.readouterr().err
        assert f"the label info of {LABEL} in {path} tells other classes (sky, building, pole, road, ...)" in said


def test_truth_that_cannot_be_this_drives(tmp_path, weights, street, write_drive, capsys):
    drive = write_drive(street)
    folder = tmp_path / "truth"
    folder.mkdir()
    cv2.imwrite(str(folder / "0001.png"), street[0][1])
    command = ["evaluate", str(drive), "--weights", str(weights)]
    assert main([*command, "--truth", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"stamps 1 to 1 (ns), but the images of {drive} are from {START}" in said and "1700000000.123456789" in said
    assert main([*command, "--truth", "/nothing"]) == 2
    said = capsys.readouterr().err
    assert "no topic '/nothing'" in said and f"{LABEL}" in said
    assert main([*command, "--truth", IMAGE]) == 2
    assert "mono8 is needed, whose values are class ids" in capsys.readouterr().err
    assert main([*command, "--topic", "/front"]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if IMAGE in line]
    assert "no topic '/front'" in said and "8 messages" in line and "<- images" in line
    assert main([*command, "--split", "val"]) == 2
    assert "recorded drive: leave it out" in capsys.readouterr().err
    assert main([*command, "--tolerance", "-1"]) == 2
    assert "--tolerance is -1" in capsys.readouterr().err


def test_ids_outside_the_label_space_are_told_with_the_frame(tmp_path, weights, street, write_drive, capsys):
    wrong = [(image, np.where(labels == 3, 42, labels).astype(np.uint8)) for image, labels in street]
    report = tmp_path / "report"
    assert main(["evaluate", str(write_drive(wrong)), "--weights", str(weights), "--report", str(report)]) == 2
    assert "ids outside label space 'camvid11': 42" in capsys.readouterr().err
    assert not list(report.iterdir())


def test_a_single_label_image_with_strange_ids_costs_its_own_frame(tmp_path, weights, street, write_drive):
    pairs = [(image, np.full_like(labels, 42) if i in (2, 3) else labels) for i, (image, labels) in enumerate(street)]
    report = tmp_path / "report"
    found = evaluated(tmp_path, weights, write_drive(pairs), "--report", str(report), status=1)
    assert (found["frames"], found["frames_scored"], found["truth"]["rejected"]) == (8, 6, 2)
    (problem,) = found["problems"]
    assert problem.startswith("2 label images of the truth cannot be used; the first: ")
    assert problem.endswith("stamp 1700000000.200: labels hold ids outside label space 'camvid11': 42")
    assert "truth that cannot be used" in (report / "report.html").read_text()


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda labels: labels[:, :100], "100x96 does not have the image's proportions (128x96)"),
        (lambda labels: labels.T, "96x128 does not have the image's proportions (128x96)"),
        (lambda labels: np.kron(labels[:-4], np.ones((2, 2), np.uint8)), "256x184 does not have the image's"),
    ],
)
def test_truth_of_other_proportions_is_not_stretched(tmp_path, weights, street, write_drive, other, told, place):
    pairs = [(image, other(truth) if i == place else truth) for i, (image, truth) in enumerate(street[:4])]
    pairs = [(image, np.ascontiguousarray(truth)) for image, truth in pairs]
    found = evaluated(tmp_path, weights, write_drive(pairs), status=1)
    assert (found["frames_scored"], found["truth"]["rejected"], found["truth"]["resized"]) == (3, 1, 0)
    (problem,) = found["problems"]
    assert "1 label image of the truth cannot be used; the first: " in problem and f"{told}" in problem


@pytest.mark.parametrize("size", [(48, 64), (32, 43), (31, 42), (192, 256), (193, 256), (7, 9)])
def test_truth_whose_size_was_rounded_is_resized(tmp_path, weights, street, write_drive, size):
    pairs = [(image, cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)) for image, labels in street[:2]]
    found = evaluated(tmp_path, weights, write_drive(pairs))
    assert (found["frames_scored"], found["truth"]["rejected"], found["truth"]["resized"]) == (2, 0, 2)


def test_mixed_sizes_encodings_and_images_that_cannot_be_used(tmp_path, weights, street):
    drive = tmp_path / "mixed.mcap"
    with BagWriter(drive) as bag:
        for i, (image, labels) in enumerate(street):
            stamp = START + i * STEP
            if i == 2:
                image, labels = image[:80, :100], labels[:80, :100]
            if i == 3:
                bag.add_image(IMAGE, stamp, "camera", np.ascontiguousarray(image[..., ::-1]), "rgb8")
            elif i == 4:
                bag.add_image(IMAGE, stamp, "camera", image[..., 0], "mono8")
            elif i == 5:
                broken = bag.message(
                    "sensor_msgs/msg/Image", header=bag.header(stamp, "camera"), height=96, width=128,
                    encoding="bgr8", is_bigendian=0, step=384, data=np.zeros(10, np.uint8),
                )  # fmt: skip
                bag.write(IMAGE, broken, stamp)
            else:
                bag.add_image(IMAGE, stamp, "camera", image)
            bag.add_label(LABEL, stamp, "camera", labels)
    found = evaluated(tmp_path, weights, drive, "--report", str(tmp_path / "report"), status=1)
    assert (found["frames"], found["frames_rejected"], found["frames_scored"]) == (7, 1, 7)
    assert found["problems"] == [
        "1 image cannot be used (short_data: 1); the first: frame 5, 1700000000.500: 10 bytes of data; 128x96 bgr8 "
        "takes 36864"
    ]
    assert found["rejected_by_reason"] == {"short_data": 1} and found["frames_played"] == 8
    assert found["flicker_pairs"] == 4  # none across a change of size: 0-1, 3-4, 4-6, 6-7
    assert "100x80 (seen at 104x80); 128x96" in found["protocol"]


def test_truth_that_cannot_be_read_is_told_with_the_first(tmp_path, weights, street, write_drive, capsys):
    folder = tmp_path / "truth"
    folder.mkdir()
    for i, (_, labels) in enumerate(street[:4]):
        cv2.imwrite(str(folder / f"{START + i * STEP}.png"), labels)
    for i in (1, 2):
        (folder / f"{START + i * STEP}.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "legend.png"), street[0][1])
    drive = write_drive(street[:4], labels=False)
    found = evaluated(tmp_path, weights, drive, "--truth", str(folder), status=1)
    first = folder / f"{START + STEP}.png"
    assert (found["frames"], found["frames_scored"], found["truth"]["rejected"]) == (4, 2, 2)
    (problem,) = found["problems"]
    assert problem.startswith(f"2 label images of the truth cannot be used; the first: {first} cannot be read")
    said = capsys.readouterr()
    assert f"truth: {folder} (4 label images; not named by a stamp: 1)" in said.out and problem in said.err


def add(bag: BagWriter, topic: str, i: int, kind: str = "") -> None:
    """Write an image, or what tells the names of classes."""
    stamp, pixels = START + i * STEP, np.full((8, 12), i, np.uint8)
    if kind:
        info = bag.message(kind, header=bag.header(stamp, "camera"), class_map=[], threshold=0.0)
        bag.write(topic, info, stamp)
    elif topic.endswith("/compressed"):
        bag.add_compressed_image(topic, stamp, "camera", cv2.imencode(".png", pixels)[1].tobytes(), "mono8; png")
    else:
        bag.add_image(topic, stamp, "camera", pixels, "mono8")


@pytest.mark.parametrize(
    ("label", "beside", "kind"),
    [
        ("/segmentation/label", "", ""),
        ("/segmentation/label/compressed", "", ""),
        ("/robot/segmentation/label", "", ""),
        ("/mine/label", "/mine/overlay", ""),
        ("/mine/label/compressed", "/mine/overlay/compressed", ""),
        ("/mine/label", "/mine/confidence", ""),
        ("/mine/label", "/mine/mask/car", ""),
        ("/mine/label", "/mine/label_info", LABEL_INFO),
    ],
)
def test_what_a_node_published_is_no_truth_unless_it_is_named(tmp_path, label, beside, kind):
    drive = tmp_path / "drive.mcap"
    with BagWriter(drive) as bag:
        for i in range(2):
            add(bag, IMAGE, i)
            add(bag, label, i)
            if beside:
                add(bag, beside, i, kind)
    frames = open_frames(drive, CAMVID)
    assert not frames.truth_name and list(frames.results) == [label]
    assert open_frames(drive, CAMVID, truth=label).truth_name == f"topic {label} (2 label images)"


def test_truth_beside_what_a_node_published_is_found_and_told(tmp_path, weights, street, write_drive, capsys):
    drive = write_drive(street[:2])
    evaluated(tmp_path, weights, drive, "--bag", str(tmp_path / "result.mcap"))
    assert f"truth: topic {LABEL} (2 label images)" in capsys.readouterr().out
    frames = open_frames(tmp_path / "result.mcap", CAMVID)
    assert frames.truth_name == f"topic {LABEL} (2 label images)" and not frames.results


@pytest.mark.parametrize(
    ("cameras", "labels", "chosen", "truth"),
    [
        (["/left/image_raw", "/right/image_raw"], ["/right/label"], "/right/image_raw", "/right/label"),
        (["/left/image_raw", "/right/image_raw"], ["/right/label"], "/left/image_raw", None),
        (["/r/left/image", "/r/right/image", "/rear/image"], ["/r/left/label"], "/r/left/image", "/r/left/label"),
        (["/r/left/image", "/r/right/image"], ["/r/left/label", "/r/right/label"], "/r/right/image", "/r/right/label"),
        (["/cam/left", "/cam/right"], ["/cam/label"], "/cam/left", None),
        (["/cam/image", "/cam/image/compressed"], ["/truth/label"], "/cam/image", "/truth/label"),
        (["/cam/image"], ["/truth/label"], "", "/truth/label"),
    ],
)
def test_truth_is_of_the_camera_that_is_evaluated(tmp_path, cameras, labels, chosen, truth):
    drive = tmp_path / "drive.mcap"
    with BagWriter(drive) as bag:
        for i in range(2):
            for topic in (*cameras, *labels):
                add(bag, topic, i)
    if truth is not None:
        assert open_frames(drive, CAMVID, topic=chosen).truth_name == f"topic {truth} (2 label images)"
        return
    with pytest.raises(UserError, match=f"{labels[0]}: say which is the truth \\(--truth TOPIC\\)"):
        open_frames(drive, CAMVID, topic=chosen)
    assert not open_frames(drive, CAMVID, topic=chosen, truth="none").truth_name
    assert open_frames(drive, CAMVID, topic=chosen, truth=labels[0]).truth_name


@pytest.mark.parametrize("wrong", [IMAGE, LABEL])
def test_a_wrong_stamp_costs_its_own_frame_alone(tmp_path, wrong):
    drive = tmp_path / "drive.mcap"
    with BagWriter(drive) as bag:
        for i in range(8):
            for topic in (IMAGE, LABEL):
                stamp = START + i * STEP + (10**12 if (topic, i) == (wrong, 2) else 0)
                bag.add_image(topic, stamp, "camera", np.full((8, 12), i, np.uint8), "mono8", START + i * STEP)
    frames = open_frames(drive, CAMVID)
    found = [item.truth((8, 12)) for item in frames]
    assert [None if one is None else int(one[0, 0]) for one in found] == [0, 1, None, 3, 4, 5, 6, 7]
    assert (frames.matching.frames_without_truth, frames.matching.truth_without_frame) == (1, 1)


def test_truth_that_is_void_everywhere_gives_no_score(tmp_path, weights, street, write_drive, capsys):
    void = [(image, np.full_like(labels, 255)) for image, labels in street[:3]]
    report = tmp_path / "report"
    found = evaluated(tmp_path, weights, write_drive(void), "--report", str(report))
    assert found["miou"] is None and found["confusion"] is None and found["frames_scored"] == 0
    assert found["truth"]["void"] == 3
    said = capsys.readouterr().out
    assert "truth is void everywhere" in said and "mIoU" not in said
    assert "is void everywhere: there is no score" in (report / "report.html").read_text()
    some = evaluated(tmp_path, weights, write_drive([*void[:1], *street[1:3]], "some.mcap"))
    assert (some["frames_scored"], some["truth"]["void"]) == (2, 1) and some["miou"] > 0
    assert "1 images whose truth is void everywhere" in capsys.readouterr().out


def test_a_path_that_is_no_text_is_written_and_printed(tmp_path, weights, street, write_drive):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    drive = write_drive(street[:2]).rename(folder / "drive.mcap")
    report = folder / "report"
    command = [sys.executable, "-m", "rt_seg_ros.cli", "evaluate", drive, "--weights", weights, *TORCH]
    done = subprocess.run([*command, "--report", report], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"/caf\xe9/report/report.html" in done.stdout
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in page and "Worst, median and best" in page
    assert json.loads((report / "metrics.json").read_text())["path"] == str(drive)
    assert len((report / "per_frame.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_who_ceases_to_read_has_the_files(tmp_path, weights, street, write_drive, monkeypatch):
    figures = tmp_path / "figures.json"
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as broken, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        evaluated(tmp_path, weights, write_drive(street[:2]), "--bag", str(tmp_path / "result.mcap"))
        assert main(["compare", *[str(tmp_path / "result.mcap")] * 2, "--json", str(tmp_path / "c.json")]) == 0
        assert main(["compare", *[str(tmp_path / "result.mcap")] * 2, "--out", str(tmp_path / "out")]) == 0
    assert figures.is_file() and (tmp_path / "c.json").is_file() and (tmp_path / "out" / "compare.html").is_file()


@pytest.mark.parametrize("wrong", [10**12, -(10**12)])
def test_a_wrong_stamp_neither_stops_the_video_nor_the_graphs(tmp_path, weights, street, wrong):
    drive, report = tmp_path / "drive.mcap", tmp_path / "report"
    with BagWriter(drive) as bag:
        for i, (image, _) in enumerate(street[:6]):
            bag.add_image(IMAGE, START + i * STEP + (wrong if i == 2 else 0), "camera", image, "bgr8", START + i * STEP)
    evaluated(tmp_path, weights, drive, "--report", str(report))
    times = [0, 0.1, 0.15, 0.3, 0.4, 0.5]
    assert [seconds for seconds, _ in VideoReader(report / "overlay.mp4")] == pytest.approx(times, abs=0.01)
    with (report / "per_frame.csv").open() as file:
        assert [float(row["seconds"]) for row in csv.DictReader(file)] == pytest.approx(times)


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_recordings_and_images(tmp_path, weights, street, storage, mode):
    with BagWriter(tmp_path / "plain") as plain:
        for i, (image, labels) in enumerate(street[:3]):
            stamp = START + i * STEP
            data = cv2.imencode(".png", image)[1].tobytes()
            plain.add_compressed_image(f"{IMAGE}/compressed", stamp, "camera", data, "bgr8; png compressed bgr8")
            data = cv2.imencode(".png", labels)[1].tobytes()
            plain.add_compressed_image(f"{LABEL}/compressed", stamp, "camera", data, "mono8; png compressed ")
    writer = Writer(tmp_path / "small", version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer, open_bag(tmp_path / "plain") as bag:
        connections = {}
        for topic, kind, stamp, data in bag.raw_messages():
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(connections[topic], stamp, data)
    found = evaluated(tmp_path, weights, tmp_path / "small")
    assert found["frames_scored"] == 3
    assert found["miou"] == evaluated(tmp_path, weights, tmp_path / "plain")["miou"]


@pytest.mark.parametrize("name", ["drive.mcap", "drive.db3"])
def test_a_drive_that_was_cut_off_is_evaluated_as_far_as_it_goes(tmp_path, weights, street, write_drive, name, capsys):
    drive = write_drive(street, name)
    data = drive.read_bytes()
    drive.write_bytes(data[: len(data) * 9 // 10])
    found = evaluated(tmp_path, weights, drive, "--report", str(tmp_path / "report"), status=1)
    assert 3 <= found["frames"] < 8 and "cut off" in found["damage"]
    assert "The recording is not whole" in (tmp_path / "report" / "report.html").read_text()
    captured = capsys.readouterr()
    assert "cut off" in captured.err and "not whole" in captured.out


def test_several_models_in_one_report(tmp_path, street, write_drive, capsys):
    report, figures = tmp_path / "report", tmp_path / "figures.json"
    command = ["evaluate", str(write_drive(street[:3])), "--model", "cgnet,frfnet_slim,cgnet_camvid11"]
    command += ["--allow-random-weights", *TORCH, "--report", str(report), "--json", str(figures)]
    assert main(command) == 0
    found = json.loads(figures.read_text())
    assert [model["name"] for model in found["models"]] == ["cgnet", "frfnet_slim"]  # the third is the first
    assert all(model["frames_scored"] == 3 for model in found["models"])
    assert {p.name for p in report.iterdir()} == {
        "report.html", "metrics.json", "per_frame.csv", "labels_cgnet.mcap", "labels_frfnet_slim.mcap",
        "overlay_cgnet.mp4", "overlay_frfnet_slim.mp4",
    }  # fmt: skip
    rows = (report / "per_frame.csv").read_text().splitlines()
    assert len(rows) == 7 and sum(row.startswith("frfnet_slim,") for row in rows) == 3
    assert "models on drive.mcap" in capsys.readouterr().out


def test_the_result_bag_holds_the_drive_and_what_the_node_would_publish(tmp_path, weights, street):
    drive, result = tmp_path / "drive.mcap", tmp_path / "result.mcap"
    with BagWriter(drive) as bag:
        for i, (image, labels) in enumerate(street[:4]):
            stamp = START + i * STEP
            bag.add_image(IMAGE, stamp, "camera", image, recorded_ns=stamp + 5_000)
            bag.add_label(LABEL, stamp, "camera", labels, recorded_ns=stamp + 6_000)
        static = bag.message("std_msgs/msg/String", data="a map")
        bag.write("/map_name", static, START + 10, latched=True)
    evaluated(tmp_path, weights, drive, "--bag", str(result))
    segmenter = Segmenter(SegmenterConfig(weights=str(weights), backend="torch"))
    with open_bag(drive) as source, open_bag(result) as bag:
        new = {name: (info.type.split("/")[-1], info.count) for name, info in bag.topics.items()}
        assert new == {
            IMAGE: ("Image", 4),
            LABEL: ("Image", 4),
            "/map_name": ("String", 1),
            "/segmentation/label": ("Image", 4),
            "/segmentation/overlay": ("Image", 4),
            "/segmentation/confidence": ("Image", 4),
            "/segmentation/class_masks": ("ClassMasks", 4),
            "/segmentation/label_info": ("LabelInfo", 1),
            "/segmentation/stats": ("SegmentationStats", 4),
        }
        copied = [(t, s, d) for t, _, s, d in bag.raw_messages() if not t.startswith("/segmentation")]
        assert sorted(copied) == sorted((t, s, d) for t, _, s, d in source.raw_messages())
        assert "TRANSIENT_LOCAL" in str(bag.offered_qos("/map_name")[0].durability)
        for i, (stamp, frame_id, labels) in enumerate(bag.labels("/segmentation/label")):
            assert (stamp, frame_id) == (START + i * STEP, "camera")
            np.testing.assert_array_equal(labels, segmenter.segment(street[i][0]).labels)
        recorded = [(topic, at) for topic, _, at, _ in bag.raw_messages(["/segmentation/label", IMAGE])]
        assert [at for topic, at in recorded if topic == IMAGE] == [at for topic, at in recorded if topic != IMAGE]
        stats = [message for _, _, message in bag.messages(["/segmentation/stats"])]
        assert [s.processed for s in stats] == [1, 2, 3, 4] and stats[0].image_width == 128
        assert stats[0].network_ms > 0 and stats[0].total_ms >= stats[0].network_ms
        assert {bag.topics[f"/segmentation/{n}"].type for n in ("class_masks", "stats")} == {CLASS_MASKS, STATS}
    # Its own labels are not taken for the truth, and what it has under the node's name is replaced.
    again = evaluated(tmp_path, weights, result, "--bag", str(tmp_path / "again.mcap"), "--topic", IMAGE)
    assert again["truth"]["source"].startswith(f"topic {LABEL}")
    with open_bag(tmp_path / "again.mcap") as bag:
        assert bag.topics["/segmentation/label"].count == 4


def test_a_result_bag_never_replaces_the_source(tmp_path, weights, street, write_drive, capsys):
    drive = write_drive(street[:2])
    command = ["evaluate", str(drive), "--weights", str(weights)]
    assert main([*command, "--bag", str(drive), "--overwrite"]) == 2
    assert "would replace the source" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "drive.mcap").write_bytes(drive.read_bytes())
    within = ["evaluate", str(tmp_path / "folder"), "--weights", str(weights)]
    assert main([*within, "--bag", str(tmp_path / "folder" / "result.mcap")]) == 2
    assert "would lie in the source's folder" in capsys.readouterr().err
    (tmp_path / "there.mcap").write_bytes(drive.read_bytes())
    assert main([*command, "--bag", str(tmp_path / "there.mcap")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_the_video_and_not_the_figures(tmp_path, weights, street, write_drive):
    """A limit on the size of files stands in for the disk's end."""
    drive, report = write_drive(street), tmp_path / "report"
    code = (
        "import resource, signal, sys\n"
        "from rt_seg_ros.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    bag = tmp_path / "result.mcap"
    command = ["evaluate", str(drive), "--weights", str(weights), *TORCH, "--report", str(report)]
    command += ["--bag", str(bag)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the result bag was given up" in done.stderr and "File too large" in done.stderr
    assert not bag.exists() and not list(tmp_path.glob(".*"))
    figures = json.loads((report / "metrics.json").read_text())
    assert figures["frames_scored"] == 8 and len(figures["problems"]) == 1
    assert (report / "labels.mcap").exists() and len((report / "per_frame.csv").read_text().splitlines()) == 9
    assert "given up" in (report / "report.html").read_text()


def test_what_waits_behind_an_image_is_bounded_by_bytes(tmp_path, street, monkeypatch):
    monkeypatch.setattr("rt_seg_ros.evaluation.frames._WAITING_BYTES", 3 * street[0][0].nbytes)
    with BagWriter(tmp_path / "drive.mcap") as bag:
        bag.add_image(IMAGE, START, "camera", street[0][0])
        for i in range(10):
            bag.add_image("/other/image_raw", START + (i + 1) * STEP, "other", street[0][0])
    frames = open_frames(tmp_path / "drive.mcap", load_label_space("camvid11"), topic=IMAGE)
    entries = frames._entries(None)
    read = []
    monkeypatch.setattr(frames, "_read", lambda bag, topics, plain=frames._read: tap(plain(bag, topics), read))
    first = [type(next(entries)).__name__ for _ in range(2)]
    assert first == ["Message", "Item"] and len(read) == 4, "its image, the item, and three others waited"
    entries.close()


def tap(items, into):
    for item in items:
        into.append(item)
        yield item


def test_a_page_that_cannot_be_written_costs_neither_the_figures_nor_the_former_report(
    tmp_path, weights, street, write_drive, monkeypatch, capsys
):
    from rt_seg_ros.evaluation import report as module

    report, figures = tmp_path / "report", tmp_path / "figures.json"
    command = ["evaluate", str(write_drive(street[:3])), "--weights", str(weights), *TORCH, "--report", str(report)]
    assert main(command) == 0
    former = [(report / name).read_bytes() for name in ("report.html", "metrics.json")]

    def full(path, _):
        raise UserError(f"cannot write {path}: no space left")

    monkeypatch.setattr(module, "write_text", full)
    capsys.readouterr()
    assert main([*command, "--json", str(figures)]) == 1
    said = capsys.readouterr()
    assert "mIoU" in said.out and "report.html: no space left" in said.err
    assert json.loads(figures.read_text())["frames_scored"] == 3
    assert [(report / name).read_bytes() for name in ("report.html", "metrics.json")] == former


def test_of_a_live_run_that_fails_the_log_stays_that_is_named():
    with pytest.raises(UserError), evaluation_job._passing_folder() as named:
        (named / "bag").mkdir()
        (named / "bag" / "part.mcap").write_bytes(b"large")
        (named / "node.log").write_text("why")
        raise UserError(f"the whole log is {named / 'node.log'}")
    assert [path.name for path in named.iterdir()] == ["node.log"]
    shutil.rmtree(named)
    with pytest.raises(UserError), evaluation_job._passing_folder() as other:
        raise UserError("something else")
    with evaluation_job._passing_folder() as third:
        (third / "node.log").write_text("all is well")
    assert not other.exists() and not third.exists()


@pytest.mark.parametrize(("option", "reason"), [("--video", "give --report"), ("--overwrite", "is of --bag")])
def test_an_option_that_would_do_nothing_is_refused(option, reason, weights, street, write_drive, capsys):
    assert main(["evaluate", str(write_drive(street[:1])), "--weights", str(weights), option]) == 2
    assert reason in capsys.readouterr().err


def test_a_model_that_fails_leaves_the_others_report(tmp_path, street, write_drive, monkeypatch, capsys):
    real = evaluation_job.evaluate

    def fails_for_the_second(name, *arguments):
        if name == "frfnet_slim":
            raise UserError("the moon is in the wrong house")
        return real(name, *arguments)

    monkeypatch.setattr(evaluation_job, "evaluate", fails_for_the_second)
    report = tmp_path / "report"
    command = ["evaluate", str(write_drive(street[:2])), "--model", "cgnet,frfnet_slim", "--allow-random-weights"]
    assert main([*command, *TORCH, "--report", str(report)]) == 1
    assert "frfnet_slim failed: the moon" in capsys.readouterr().err
    assert json.loads((report / "metrics.json").read_text())["name"] == "cgnet"
    assert (report / "report.html").exists() and (report / "labels_cgnet.mcap").exists()
    assert not list(report.glob("*slim*")) and not list(report.glob(".*"))


def test_memory_does_not_grow_with_the_length_of_a_drive(street, write_drive):
    """Of 160 frames more, eight megabytes, not a quarter is held at any time by reading, matching and scoring them."""
    peaks = []
    for count in (120, 280):  # both of several chunks
        frames = open_frames(write_drive([street[i % 8] for i in range(count)], f"{count}.mcap"), CAMVID)
        scores = Scores(11, in_sequence=True)
        gc.collect()
        tracemalloc.start()
        for item in prefetch(frames):
            truth = item.truth((96, 128))
            scores.update(item.frame().pixels[:, :, 0] % 11, truth)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert scores.scored == count
    frame = street[0][0].nbytes + street[0][1].nbytes
    assert peaks[1] - peaks[0] < 160 * frame / 4
