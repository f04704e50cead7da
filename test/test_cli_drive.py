"""rt-seg drive."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rt_seg_ros.bags import open_bag
from rt_seg_ros.cli import main
from rt_seg_ros.data.drives import CAMERA_INFO_TOPIC, IMAGE_TOPIC, LABEL_INFO_TOPIC, LABEL_TOPIC, START_SECONDS
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.evaluation.frames import open_frames
from rt_seg_ros.evaluation.stored import told_classes
from rt_seg_ros.labels import load_label_space


def made(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["drive", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["drive", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1
    return said


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_rendered_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str) -> None:
    out = tmp_path / "town"
    said = made(capsys, "synth", out, "--frames", 3, "--size", "60x80", "--seed", 9, "--rate", 5, "--storage", storage)
    assert "3 frames of 60x80" in said and f"rt-seg play {out}" in said
    bag = open_bag(out)
    assert set(bag.topics) == {IMAGE_TOPIC, CAMERA_INFO_TOPIC, LABEL_TOPIC, LABEL_INFO_TOPIC}
    assert bag.is_latched(LABEL_INFO_TOPIC) and bag.topics[LABEL_INFO_TOPIC].count == 1
    assert told_classes(bag, LABEL_TOPIC) == load_label_space("camvid11").names
    drive = SyntheticDrive(9, 60, 80, rate=5)
    for i, (image, (stamp, frame_id, labels)) in enumerate(zip(bag.images(), bag.labels(), strict=True)):
        expected_image, expected_labels = drive.render(i)
        np.testing.assert_array_equal(image.frame.bgr(), expected_image)
        np.testing.assert_array_equal(labels, expected_labels)
        assert image.stamp_ns == stamp == START_SECONDS * 10**9 + i * 200_000_000
        assert image.frame_id == frame_id == "camera_optical_frame"
    (_, stamp, info), *_ = bag.messages([CAMERA_INFO_TOPIC])
    camera = drive.camera_info()
    assert (info.width, info.height, info.k[0], info.k[5]) == (80, 60, camera.fx, camera.cy)


def test_the_same_seed_gives_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mcap", "b.mcap"):
        made(capsys, "synth", tmp_path / name, "--frames", 2, "--size", "48x64")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.mcap", "b.mcap"))
    assert a.replace(b"a.mcap", b"b.mcap") == b


def _dataset(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    for i, size in enumerate(sizes):
        for name, image in (
            ("val", np.full((*size, 3), 40 * i, np.uint8)),
            ("valannot", np.full(size, (i, 11)[i == 2], np.uint8)),
        ):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"seq_{i:03}.png"), image)
    return folder


def test_a_drive_of_camvid_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _dataset(tmp_path / "camvid", [(36, 48)] * 4)
    said = made(capsys, "from-camvid", folder, tmp_path / "out.mcap", "--rate", 2)
    assert "4 frames of 36x48, 2.0 s at 2 Hz" in said
    bag = open_bag(tmp_path / "out.mcap")
    assert [int(i.frame.bgr()[0, 0, 0]) for i in bag.images()] == [0, 40, 80, 120]
    assert [int(labels[0, 0]) for _, _, labels in bag.labels()] == [0, 1, 255, 3]  # 11 is void
    (_, _, info), *_ = bag.messages([CAMERA_INFO_TOPIC])
    assert (info.width, info.height) == (48, 36) and 0 < info.k[2] < 48


def test_the_real_camvid(camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, "from-camvid", camvid, tmp_path / "val")
    assert open_bag(tmp_path / "val").topics[LABEL_TOPIC].count == len(list((camvid / "val").glob("*.png")))


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "at least 1" in refused(capsys, "synth", out, "--frames", 0)
    assert "8x8" in refused(capsys, "synth", out, "--size", "8x8")
    assert "rate of 0" in refused(capsys, "synth", out, "--rate", 0)
    assert "rate of -1" in refused(capsys, "from-camvid", _dataset(tmp_path / "c", [(36, 48)]), out, "--rate=-1")
    assert "seed -4" in refused(capsys, "synth", out, "--seed=-4")
    assert "nowhere" in refused(capsys, "from-camvid", tmp_path / "nowhere", out)
    assert "'test'" in refused(capsys, "from-camvid", tmp_path / "c", out, "--split", "test")
    assert "--split" in refused(capsys, "synth", out, "--split", "val")
    assert "--seed" in refused(capsys, "from-camvid", tmp_path / "c", out, "--seed", 3)
    assert "DIR OUT" in refused(capsys, "from-camvid", out)
    assert "synth OUT" in refused(capsys, "synth", out, out)
    assert "end it in .db3" in refused(capsys, "synth", tmp_path / "o.mcap", "--storage", "sqlite3")
    assert not out.exists()


def test_frames_of_different_sizes_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _dataset(tmp_path / "c", [(36, 48), (36, 48), (40, 48)])
    said = refused(capsys, "from-camvid", folder, tmp_path / "out")
    assert "seq_002.png" in said and "40x48" in said
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def _pairs(folder: Path, images: str, labels: str, ids: list[int]) -> Path:
    truth = np.zeros((36, 48), np.uint8)
    truth[0, : len(ids)] = ids
    for place, pixels in ((images, np.full((36, 48, 3), 40, np.uint8)), (labels, truth)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / place), pixels)
    return folder


def test_a_drive_of_classes_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "twelve.yaml"
    space.write_text("classes:\n" + "".join(f"- {{name: kind{i}, color: [{i}, 0, 0]}}\n" for i in range(12)))
    folder = _pairs(tmp_path / "yard", "images/a.png", "labels/a.png", [3, 11])  # no splits, and none is asked for
    said = made(capsys, "from-camvid", folder, tmp_path / "out", "--label-space", space)
    assert "kind11 0.1 %" in said and "sky" not in said and "--weights FILE" in said
    ((_, _, labels),) = open_bag(tmp_path / "out").labels()
    assert labels[0, :3].tolist() == [3, 11, 0]
    assert told_classes(open_bag(tmp_path / "out"), LABEL_TOPIC) == tuple(f"kind{i}" for i in range(12))
    made(capsys, "from-camvid", folder, tmp_path / "camvid")
    ((_, _, labels),) = open_bag(tmp_path / "camvid").labels()
    assert labels[0, :3].tolist() == [3, 255, 0]
    _pairs(folder, "images/a.png", "labels/a.png", [3, 12])
    said = refused(capsys, "from-camvid", folder, tmp_path / "other", "--label-space", space)
    assert "outside label space 'twelve'" in said and "12" in said
    assert "--label-space means nothing" in refused(capsys, "synth", tmp_path / "s", "--label-space", space)


def test_a_drive_of_cityscapes_has_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "leftImg8bit/val/town/a_leftImg8bit.png", "gtFine/val/town/a_gtFine_labelTrainIds.png"
    said = made(capsys, "from-camvid", _pairs(tmp_path / "city", *names, [11]), tmp_path / "out")
    assert "sidewalk 0.0 %" in said and "person 0.1 %" in said and "cityscapes19" in said


def test_a_drive_is_called_by_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(capsys, "synth", tmp_path / "town", "--frames", 1, "--size", "48x64")
    monkeypatch.chdir(tmp_path / "town")
    assert open_frames(".", load_label_space("camvid11")).name == "town"


def test_a_drive_is_replaced_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    made(capsys, "synth", out, "--frames", 1, "--size", "48x64")
    assert "--overwrite" in refused(capsys, "synth", out, "--frames", 2, "--size", "48x64")
    assert open_bag(out).topics[IMAGE_TOPIC].count == 1
    made(capsys, "synth", out, "--frames", 2, "--size", "48x64", "--overwrite")
    assert open_bag(out).topics[IMAGE_TOPIC].count == 2


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["drive", "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    for word in ("synth OUT", "from-camvid DIR OUT", "--frames", "--size", "--seed", LABEL_TOPIC, "examples:"):
        assert word in said
