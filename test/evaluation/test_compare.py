"""``rt-seg compare``: agreement and flips against a direct computation, for every kind of input."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from drive_names import IMAGE, START, STEP
from sklearn.metrics import confusion_matrix

from rt_seg_ros.bags import BagWriter
from rt_seg_ros.cli import main
from rt_seg_ros.evaluation.comparison import Difference, _keep_worst, changed_picture, compare, open_side
from rt_seg_ros.evaluation.comparison_page import camera_images
from rt_seg_ros.evaluation.stored import LabelBag
from rt_seg_ros.labels import label_space_of_names, load_label_space


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Label images of A and of B; in the fourth they differ most, and below on the right most often."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(6):
        a = cv2.resize(rng.integers(0, 11, (6, 8), np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
        b = a.copy()
        b[24:, 32:] = np.where(rng.random((24, 32)) < 0.5, 3, b[24:, 32:])
        if i == 3:
            b[:24] = (b[:24] + 1) % 11
        b[0, 0], a[1, 1] = 255, 255
        result.append((a, b))
    return result


def expected(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    a = np.concatenate([np.minimum(one, 11).ravel() for one, _ in pairs])
    b = np.concatenate([np.minimum(other, 11).ravel() for _, other in pairs])
    return confusion_matrix(a, b, labels=range(12))


def write_bag(path: Path, labels: list[np.ndarray], shift: int = 0, images: bool = False) -> Path:
    with BagWriter(path) as bag:
        for i, one in enumerate(labels):
            stamp = START + i * STEP + shift
            bag.add_label("/segmentation/label", stamp, "camera", one)
            if images:
                bag.add_image(IMAGE, stamp, "camera", np.full((*one.shape, 3), 20 * i, np.uint8))
    return path


def write_folder(path: Path, labels: list[np.ndarray]) -> Path:
    path.mkdir()
    for i, one in enumerate(labels):
        cv2.imwrite(str(path / f"{i:03}.png"), one)
    return path


def compared(tmp_path: Path, a: Path, b: Path, *arguments: str) -> dict:
    figures = tmp_path / "figures.json"
    assert main(["compare", str(a), str(b), "--json", str(figures), *arguments]) == 0
    return json.loads(figures.read_text())


@pytest.mark.parametrize("kind", ["bags", "folders"])
def test_it_is_what_is_counted_directly(tmp_path, pairs, kind, capsys):
    if kind == "bags":
        a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs], images=True)
        b = write_bag(tmp_path / "b.mcap", [other for _, other in pairs], shift=2_000_000)
    else:
        a = write_folder(tmp_path / "a", [one for one, _ in pairs])
        b = write_folder(tmp_path / "b", [other for _, other in pairs])
    out = tmp_path / "out"
    found = compared(tmp_path, a, b, "--out", str(out))
    matrix = expected(pairs)
    np.testing.assert_array_equal(found["matrix"]["counts"], matrix)
    assert found["agreement"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert (found["frames"], found["only_in_a"], found["only_in_b"]) == (6, 0, 0)
    sky = matrix[0, 0] / (matrix[0].sum() + matrix[:, 0].sum() - matrix[0, 0])
    assert found["classes"]["sky"] == pytest.approx(sky)
    off = matrix - np.diag(np.diag(matrix))
    top = found["flips"][0]
    assert top["pixels"] == off.max() and top["b"] == "road"
    worst = START + 3 * STEP if kind == "bags" else "003"
    share = (pairs[3][0] != pairs[3][1]).mean()
    assert found["worst"][0] == {"frame": str(worst), "differs": pytest.approx(share)}
    assert found == json.loads((out / "comparison.json").read_text())
    picture = cv2.imread(str(out / "difference.png")).astype(int).sum(axis=2)
    assert picture[24:, 32:].mean() > picture[2:24].mean() > picture[30:, :30].mean() == 4
    assert "agreement" in capsys.readouterr().out

    page = (out / "compare.html").read_text()
    assert "http:" not in page and "https:" not in page
    assert f"{100 * found['agreement']:.1f}<small>%" in page
    assert page.count(">camera</span>") == (3 if kind == "bags" else 0)

    class Whole(HTMLParser):
        def error(self, message):
            raise AssertionError(message)

    Whole().feed(page)
    assert len(re.findall(r'<tr><td class="mistake">', page)) == 9


@pytest.mark.parametrize("size", [(48, 64), (96, 128)])
@pytest.mark.parametrize(("late", "options", "found"), [(1, [], 3), (30, [], 0), (30, ["--tolerance", "0.04"], 3)])
def test_images_of_a_drive_are_found_by_their_stamps_whatever_their_size(
    tmp_path, pairs, capsys, size, late, options, found
):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    b = write_bag(tmp_path / "b.mcap", [other for _, other in pairs])
    with BagWriter(tmp_path / "drive.mcap") as bag:
        for i in range(len(pairs)):
            stamp = START + i * STEP + late * 1_000_000
            bag.add_image(IMAGE, stamp, "camera", np.full((*size, 3), 20 * i, np.uint8))
    out = tmp_path / "out"
    compared(tmp_path, a, b, "--out", str(out), "--images", str(tmp_path / "drive.mcap"), *options)
    page = (out / "compare.html").read_text()
    assert page.count(">camera</span>") == found
    said = "no image of the frames that differ most has its stamp in" in " ".join(capsys.readouterr().out.split())
    assert said == (not found)


def test_of_several_images_the_nearest_is_shown(tmp_path, pairs):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    b = write_bag(tmp_path / "b.mcap", [other for _, other in pairs])
    with BagWriter(tmp_path / "drive.mcap") as bag:
        for i in range(len(pairs)):
            for late, grey in ((-4, 10), (1, 100), (3, 200)):
                stamp = START + i * STEP + late * 1_000_000
                bag.add_image(IMAGE, stamp, "camera", np.full((48, 64, 3), grey + i, np.uint8))
    comparison = compare(open_side(a), open_side(b), load_label_space("camvid11"))
    images = camera_images(comparison, 0.01, tmp_path / "drive.mcap")
    assert {key: int(image[0, 0, 0]) for key, image in images.items()} == {
        d.key: 100 + (d.key - START) // STEP for d in comparison.worst
    }
    assert camera_images(comparison, 0.0005, tmp_path / "drive.mcap") == {}


def test_a_link_to_the_figures_stays_one(tmp_path, pairs):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    (tmp_path / "figures.json").symlink_to(tmp_path / "target.json")
    for _ in range(2):
        assert compared(tmp_path, a, a)["agreement"] == 1.0
        assert (tmp_path / "figures.json").is_symlink() and (tmp_path / "target.json").is_file()


def test_equal_labels_agree(tmp_path, pairs):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    found = compared(tmp_path, a, a, "--out", str(tmp_path / "out"))
    assert found["agreement"] == 1.0 and found["flips"] == [] and found["worst"][0]["differs"] == 0


def test_what_is_not_in_both_is_counted_and_another_size_resized(tmp_path, pairs):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    double = [np.kron(one, np.ones((2, 2), np.uint8)) for one, _ in pairs]
    b = write_bag(tmp_path / "b.mcap", double[2:], shift=2 * STEP)
    found = compared(tmp_path, a, b)
    assert (found["frames"], found["only_in_a"], found["only_in_b"], found["resized"]) == (4, 2, 0, 4)
    assert found["agreement"] == 1.0
    c = write_folder(tmp_path / "c", [one for one, _ in pairs][:4])
    d = write_folder(tmp_path / "d", [one for one, _ in pairs][:2])
    (d / "001.png").rename(d / "other.png")
    found = compared(tmp_path, c, d)
    assert (found["frames"], found["only_in_a"], found["only_in_b"]) == (1, 3, 1)


def test_two_results(tmp_path, weights, other_weights, street, write_drive):
    drive = write_drive(street[:4])
    for name, file in (("one", weights), ("two", other_weights)):
        command = ["evaluate", str(drive), "--weights", str(file), "--backend", "torch", "--no-video"]
        assert main([*command, "--report", str(tmp_path / name)]) == 0
    found = compared(tmp_path, tmp_path / "one", tmp_path / "two", "--out", str(tmp_path / "out"))
    assert found["frames"] == 4 and 0 < found["agreement"] < 1 and found["a"].startswith("tiny (")
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert found["figures"]["miou"] == {"a": one["miou"], "b": two["miou"]}
    page = (tmp_path / "out" / "compare.html").read_text()
    assert ">camera</span>" in page and "Figures of the two" in page  # the drive is found by itself
    # A result against what lies beside it is one with itself.
    same = compared(tmp_path, tmp_path / "one", tmp_path / "one" / "labels.mcap")
    assert same["agreement"] == 1.0


def test_a_second_report_leaves_nothing_of_the_first(tmp_path, weights, street, write_drive):
    drive, report, data = write_drive(street[:2], labels=False), tmp_path / "report", tmp_path / "set"
    for i, (image, labels) in enumerate(street[:2]):
        for folder, pixels in (("images", image), ("labels", labels)):
            (data / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(data / folder / f"{START + i * STEP}.png"), pixels)
    mine = ["notes.txt", "labels_cgnet.mcap", "overlay_tiny.mp4", "labels_old"]

    def left(source, *options):
        command = ["evaluate", str(source), "--weights", str(weights), "--backend", "torch", "--report", str(report)]
        assert main([*command, *map(str, options)]) == 0
        assert all((report / name).read_text() == "somebody's own" for name in mine if (report / "notes.txt").exists())
        there = {path.name for path in report.iterdir()} - set(mine)
        assert there >= {"metrics.json", "per_frame.csv", "report.html"}
        return sorted(there - {"metrics.json", "per_frame.csv", "report.html"})

    assert left(drive) == ["labels.mcap", "overlay.mp4"]
    for name in mine:
        (report / name).write_text("somebody's own")
    assert left(drive, "--no-video") == ["labels.mcap"]
    assert left(data) == ["labels"]
    assert left(drive, "--no-video", "--truth", report / "labels") == ["labels", "labels.mcap"]  # what is read stays


def test_labels_are_those_of_the_run_that_the_figures_are_of(tmp_path, pairs, capsys):
    labels = [one for one, _ in pairs]
    report = tmp_path / "report"
    write_folder(report_labels := tmp_path / "labels", labels)
    report.mkdir()
    report_labels.rename(report / "labels")
    write_bag(report / "labels.mcap", [other for _, other in pairs])
    figures = {"name": "x", "label_space": "camvid11"}
    for stored in ("labels", "labels.mcap"):
        (report / "metrics.json").write_text(json.dumps({**figures, "labels": stored}))
        found = compared(tmp_path, report, report / stored)
        assert (found["frames"], found["agreement"]) == (6, 1.0)
    (report / "metrics.json").write_text(json.dumps({**figures, "labels": None}))
    assert main(["compare", str(report), str(report)]) == 2
    assert "has no labels of 'x' (its report was written without)" in capsys.readouterr().err


def test_results_on_a_data_set_go_by_name(tmp_path, weights, other_weights, street):
    for i, (image, labels) in enumerate(street[:3]):
        for folder, pixels in (("images", image), ("labels", labels)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "set" / folder / f"{i}.png"), pixels)
    for name, file in (("one", weights), ("two", other_weights)):
        command = ["evaluate", str(tmp_path / "set"), "--weights", str(file), "--backend", "torch"]
        assert main([*command, "--report", str(tmp_path / name)]) == 0
    assert compared(tmp_path, tmp_path / "one", tmp_path / "two")["frames"] == 3


def test_what_cannot_be_compared(tmp_path, pairs, street, write_drive, capsys):
    a = write_bag(tmp_path / "a.mcap", [one for one, _ in pairs])
    folder = write_folder(tmp_path / "b", [other for _, other in pairs])
    late = write_bag(tmp_path / "late.mcap", [one for one, _ in pairs], shift=10**12)
    (tmp_path / "empty").mkdir()
    drive = write_drive(street[:1], labels=False)
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").write_text(json.dumps({"models": [{"name": "x"}, {"name": "y"}]}))
    for arguments, said in (
        ([a, folder], "cannot be brought together"),
        ([a, late], "no frame in common (stamps within 0.01 s)"),
        ([a, tmp_path / "nothing"], "there is nothing at"),
        ([a, tmp_path / "empty"], "no label images"),
        ([a, drive], "no label images"),
        ([a, report], "several models (x, y): name one (--models)"),
        ([a, report, "--models", "z"], "no result's folder"),
        ([report, a, "--models", "z,"], "has no model 'z'; it has: x, y"),
        ([report, a, "--models", "x,"], "has no labels of 'x'"),
        ([a, a, "--tolerance", "-1"], "--tolerance is -1"),
        ([a, a, "--topics", "/x"], "no topic '/x'"),
        ([a, a, "--out", folder / "000.png"], "is a file; give a folder"),
        ([a, a, "--label-space", "nonesuch"], "no label space 'nonesuch'"),
        ([a, a, "--images", a], "--images is for the page: give --out"),
        ([a, a, "--image-topic", "/x"], "--image-topic is one of the recording"),
        ([folder, folder, "--tolerance", "1"], "--tolerance needs stamps"),
        ([folder, folder, "--images", a, "--out", tmp_path / "out"], "--images needs stamps"),
    ):
        assert main(["compare", *map(str, arguments)]) == 2, arguments
        assert said in capsys.readouterr().err, arguments
    (report / "metrics.json").write_text('{"models": []}')
    assert main(["compare", str(a), str(report)]) == 2
    assert "tells of no model" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["comparison.json", "difference.png", "compare.html"])
def test_what_another_comparison_did_not_write_is_not_replaced(tmp_path, pairs, capsys, name):
    a, out = write_folder(tmp_path / "a", [one for one, _ in pairs]), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    assert main(["compare", str(a), str(a), "--out", str(out)]) == 2
    assert f"{out / name} is not replaced" in capsys.readouterr().err and (out / name).read_text() == "mine"
    assert [one.name for one in out.iterdir()] == [name]
    (out / name).unlink()
    for _ in range(2):  # its own is
        assert main(["compare", str(a), str(a), "--out", str(out)]) == 0


def test_a_label_space_that_nothing_tells_is_said_and_ids_outside_it_are_refused(tmp_path, pairs, capsys):
    a = write_folder(tmp_path / "a", [one for one, _ in pairs])
    found = compared(tmp_path, a, a, "--out", str(tmp_path / "out"))
    assert found["label_space"] == "camvid11" and found["label_space_assumed"]
    assert "label space camvid11 was assumed" in capsys.readouterr().out
    assert "Label space camvid11 was assumed" in (tmp_path / "out" / "compare.html").read_text()
    assert not compared(tmp_path, a, a, "--label-space", "camvid11")["label_space_assumed"]
    wide = write_folder(tmp_path / "wide", [np.arange(19, dtype=np.uint8).reshape(1, 19)])
    for b, name in ((wide, "000"), (a, "000")):
        capsys.readouterr()
        assert main(["compare", str(wide), str(b)]) == 2
        said = capsys.readouterr().err
        assert f"wide, frame {name}: labels hold ids outside label space 'camvid11' (0 to 10)" in said
        assert "assumed" in said and ": 12, 13, 14" in said and "--label-space" in said
    found = compared(tmp_path, wide, wide, "--label-space", "cityscapes19")
    assert found["agreement"] == 1.0 and found["classes"]["bicycle"] == 1.0


def test_void_ids_are_no_label(tmp_path, pairs):
    a = write_folder(tmp_path / "a", [one for one, _ in pairs])
    b = write_folder(tmp_path / "b", [np.where(one == 255, 11, one) for one, _ in pairs])
    found = compared(tmp_path, a, b)
    assert found["agreement"] == 1.0 and found["worst"][0]["differs"] == 0


def test_another_label_space_than_the_labels_tell_is_refused(tmp_path, pairs, capsys):
    space, labels = load_label_space("camvid11"), [one for one, _ in pairs]
    with LabelBag(tmp_path / "told.mcap", space) as bag:
        for i, one in enumerate(labels):
            bag.add("", START + i * STEP, START + i * STEP, "camera", one)
    report = tmp_path / "report"
    report.mkdir()
    write_folder(report / "labels", labels)
    (report / "metrics.json").write_text(json.dumps({"name": "x", "label_space": "camvid11", "labels": "labels"}))
    for side in (tmp_path / "told.mcap", report):
        assert not compared(tmp_path, side, side, "--label-space", "camvid11")["label_space_assumed"]
        assert main(["compare", str(side), str(side), "--label-space", "cityscapes19"]) == 2
        said = capsys.readouterr().err
        assert "--label-space cityscapes19 is not what" in said
        assert "11 classes (sky, building, pole, road, ...)" in said and "19 (road, sidewalk" in said
    # One tells its classes, the other the name of another space.
    (report / "metrics.json").write_text(json.dumps({"name": "x", "label_space": "cityscapes19", "labels": "labels"}))
    assert main(["compare", str(tmp_path / "told.mcap"), str(report)]) == 2
    assert "speak different label spaces" in capsys.readouterr().err


def test_figures_tell_over_how_many_frames_they_are(tmp_path, pairs, capsys):
    for name, count in (("one", 6), ("two", 4)):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name / "labels", [one for one, _ in pairs][:count])
        figures = {"name": name, "label_space": "camvid11", "miou": count / 10, "frames_per_second": 9.0}
        figures |= {"frames": count, "frames_scored": count - 1, "labels": "labels"}
        (tmp_path / name / "metrics.json").write_text(json.dumps(figures))
    found = compared(tmp_path, tmp_path / "one", tmp_path / "two", "--out", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "of 4 frames" in said and "miou: A 60.00, B 40.00 (-20.00), over 5 and 3 frames" in said
    assert found["figures_frames"] == {"miou": {"a": 5, "b": 3}, "frames_per_second": {"a": 6, "b": 4}}
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<td>-20.00</td><td>5 and 3</td>" in page and "over frames" in page
    compared(tmp_path, tmp_path / "one", tmp_path / "one")
    assert "(+0.00), over 5 frames" in capsys.readouterr().out


def test_subfolders_are_compared_too(tmp_path, pairs):
    labels = [one for one, _ in pairs]
    a = write_folder(tmp_path / "a", labels[:5])
    write_folder(a / "more", labels[5:])
    write_folder(a / ".hidden", labels)
    b = write_folder(tmp_path / "b", labels[:5])
    found = compared(tmp_path, a, a)
    assert (found["frames"], found["agreement"]) == (6, 1.0)
    found = compared(tmp_path, a, b)
    assert (found["frames"], found["only_in_a"], found["only_in_b"]) == (5, 1, 0)
    (tmp_path / "c").mkdir()
    write_folder(tmp_path / "c" / "more", labels[5:])
    found = compared(tmp_path, tmp_path / "c", a)
    assert (found["frames"], found["worst"][0]["frame"]) == (1, "more/000")


def test_a_recording_that_was_cut_off_says_so(tmp_path, pairs, capsys):
    labels = [one for one, _ in pairs] * 20
    a = write_bag(tmp_path / "a.mcap", labels)
    b = write_bag(tmp_path / "b.mcap", labels)
    b.write_bytes(b.read_bytes()[: b.stat().st_size * 2 // 3])
    found = compared(tmp_path, a, b)
    assert 0 < found["frames"] < 120 and found["only_in_a"] == 120 - found["frames"]
    assert "B is not whole" in capsys.readouterr().out


def test_a_recording_that_is_damaged_on_the_way_is_compared_until_there(tmp_path, pairs, capsys):
    rng = np.random.default_rng(0)
    a = write_bag(tmp_path / "a.mcap", [rng.integers(0, 11, (240, 320), np.uint8) for _ in range(40)])
    content = bytearray(a.read_bytes())
    at, chunks = 8, []
    while at < len(content) - 8:
        kind, length = struct.unpack_from("<BQ", content, at)
        chunks += [at] if kind == 6 else []
        at += 9 + length
    struct.pack_into("<Q", content, chunks[len(chunks) // 2] + 50, 1 << 40)  # a record as long as no file is
    (tmp_path / "b.mcap").write_bytes(content)
    found = compared(tmp_path, a, tmp_path / "b.mcap")
    assert 0 < found["frames"] < 40 and found["agreement"] == 1.0
    assert f"{found['frames']} label images before that were read" in " ".join(capsys.readouterr().out.split())


def test_one_wrong_stamp_moves_one_point_of_the_graph(tmp_path, pairs):
    for name in ("a", "b"):
        with BagWriter(tmp_path / f"{name}.mcap") as bag:
            for i, (one, _) in enumerate(pairs):
                stamp = 1_000_000_000 if i == 0 else START + i * STEP
                bag.add_label("/segmentation/label", stamp, "camera", one, START + i * STEP)
    space = load_label_space("camvid11")
    found = compare(open_side(tmp_path / "a.mcap"), open_side(tmp_path / "b.mcap"), space)
    times = [at for at, _ in found.series]
    assert times[0] == 0.0 and np.diff(times).min() > 0.01 and times[-1] < 1.0


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ({1: "road", 2: "car"}, ["id 0", "road", "car"]),
        ({0: "unlabelled", 1: "road", 2: "car", 255: "void"}, ["unlabelled", "road", "car"]),
        ({0: "road", 2: "car"}, ["road", "id 1", "car"]),
    ],
)
@pytest.mark.parametrize("topic", ["/segmentation/label", "/labeller/label"])
def test_classes_have_the_ids_that_a_recording_tells(tmp_path, ids, names, topic):
    with BagWriter(tmp_path / "a.mcap") as bag:
        kind = "vision_msgs/msg/VisionClass"
        classes = [bag.message(kind, class_id=i, class_name=name) for i, name in ids.items()]
        info = bag.message("vision_msgs/msg/LabelInfo", header=bag.header(START, ""), class_map=classes, threshold=0.0)
        bag.write(f"{topic.rpartition('/')[0]}/label_info", info, START)
        bag.add_label(topic, START, "camera", np.full((8, 8), 2, np.uint8))
    found = compared(tmp_path, tmp_path / "a.mcap", tmp_path / "a.mcap")
    assert list(found["classes"]) == names and found["classes"]["car"] is not None and not found["label_space_assumed"]


def test_what_segment_wrote_of_single_images_is_compared_by_its_labels(tmp_path, pairs):
    for side, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for i, pair in enumerate(pairs):
            cv2.imwrite(str(tmp_path / name / f"{i}_label.png"), pair[side])
            cv2.imwrite(str(tmp_path / name / f"{i}_color.png"), np.zeros((*pair[side].shape, 3), np.uint8))
            (tmp_path / name / f"{i}_overlay.jpg").write_bytes(b"")
    found = compared(tmp_path, tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(found["matrix"]["counts"], expected(pairs))


def test_what_segment_wrote_of_a_folder_is_compared_by_its_labels(tmp_path, pairs):
    for side, name in enumerate(("a_segmented", "b_segmented")):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name / "label", [pair[side] for pair in pairs])
        for kind in ("color", "confidence") if side else ():
            write_folder(tmp_path / name / kind, [np.zeros((*pair[0].shape, 3), np.uint8) for pair in pairs])
        (tmp_path / name / "overlay").mkdir()
        (tmp_path / name / "overlay" / "000.jpg").write_bytes(b"")
    found = compared(tmp_path, tmp_path / "a_segmented", tmp_path / "b_segmented")
    np.testing.assert_array_equal(found["matrix"]["counts"], expected(pairs))
    plain = write_folder(tmp_path / "plain", [one for one, _ in pairs])
    assert compared(tmp_path, plain, tmp_path / "a_segmented")["agreement"] == 1.0


def test_classes_of_ones_own_are_compared_under_their_names(tmp_path, pairs):
    names = [f"[kind] {i}" for i in range(11)]
    for side, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name / "labels", [pair[side] for pair in pairs])
        classes = {c: {"iou": 0.5} for c in names}
        figures = {"name": name, "label_space": "yard", "classes": classes, "labels": "labels"}
        (tmp_path / name / "metrics.json").write_text(json.dumps(figures))
    found = compared(tmp_path, tmp_path / "one", tmp_path / "two", "--out", str(tmp_path / "out"))
    assert found["label_space"] == "yard" and list(found["classes"]) == names
    np.testing.assert_array_equal(found["matrix"]["counts"], expected(pairs))
    space = label_space_of_names("yard", names)
    assert len({c.color for c in space.classes}) == 11
    # A name alone is not enough.
    for name in ("one", "two"):
        (tmp_path / name / "metrics.json").write_text(json.dumps({**figures, "name": name, "classes": {}}))
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 2


def test_names_in_brackets_are_shown_whole(tmp_path, pairs, capsys):
    names = ["[red]wall", "[/]", *(f"class {i}" for i in range(9))]
    for side, name in enumerate(("[1] one", "two [b]")):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name / "labels", [pair[side] % 3 for pair in pairs])
        figures = {"name": name, "label_space": "yard", "classes": dict.fromkeys(names, 1), "labels": "labels"}
        (tmp_path / name / "metrics.json").write_text(json.dumps(figures))
    compared(tmp_path, tmp_path / "[1] one", tmp_path / "two [b]")
    said = capsys.readouterr().out
    assert "[red]wall" in said and "[/]" in said and "A: [1] one (" in said and "B: two [b] (" in said


def test_the_picture_is_not_put_among_the_labels_that_are_compared(tmp_path, pairs, capsys):
    a = write_folder(tmp_path / "a", [one for one, _ in pairs])
    b = write_folder(tmp_path / "b", [other for _, other in pairs])
    for out in (a, b, b / "new"):
        assert main(["compare", str(a), str(b), "--out", str(out)]) == 2
        assert "would lie in the source's folder" in capsys.readouterr().err
    assert not (b / "new").exists() and len(list(a.iterdir())) == len(pairs)


def test_the_graph_of_equal_labels_has_a_scale_that_can_be_read(tmp_path, pairs):
    a = write_folder(tmp_path / "a", [one for one, _ in pairs])
    compared(tmp_path, a, a, "--out", str(tmp_path / "out"))
    axis = re.search(r'<div class="chart-y">(.*?)</div>', (tmp_path / "out" / "compare.html").read_text())[1]
    assert re.findall(r">([^<]+)</span>", axis) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_of_frames_close_together_the_worst_is_shown():
    worst = []
    for place, share in enumerate((0.9, 0.5, 0.8, 0.95)):
        _keep_worst(worst, Difference(place, share, *[np.zeros((2, 2), np.uint8)] * 2, place), apart=3)
    assert [one.share for one in worst] == [0.95, 0.9]


def test_the_picture_of_a_difference_has_what_b_says():
    space = load_label_space("camvid11")
    a, b = np.array([[0, 1], [2, 3]], np.uint8), np.array([[0, 5], [2, 255]], np.uint8)
    picture = changed_picture(Difference(0, 0.5, a, b, 0), space)
    assert picture[0, 1].tolist() == list(space.classes[5].color)[::-1]
    assert picture[0, 0].tolist() == picture[1, 0].tolist() == [60, 60, 60] and picture[1, 1].tolist() == [255] * 3
