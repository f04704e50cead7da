"""``rt-seg evaluate`` on data sets: its figures equal an independent computation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from rt_seg_ros import zoo
from rt_seg_ros.cli import main
from rt_seg_ros.cli.evaluation_tables import _Grid
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig

SIZES = [(96, 128), (80, 120), (96, 128)]


@pytest.fixture(scope="module")
def frames() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of several sizes with labels, some of them void."""
    rng = np.random.default_rng(0)
    result = []
    for height, width in SIZES:
        coarse = rng.integers(0, 12, (height // 8, width // 8), np.uint8)  # 11 is CamVid's void
        labels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
        image = (labels[..., None] * np.array([20, 11, 17]) + rng.integers(0, 30, (height, width, 3))).astype(np.uint8)
        result.append((image, labels))
    return result


def expected(weights: Path, frames: list[tuple[np.ndarray, np.ndarray]], ratio: float = 1.0) -> dict[str, float]:
    """Figures by scikit-learn, of labels by the pipeline."""
    segmenter = Segmenter(SegmenterConfig(weights=str(weights), downsampling_ratio=ratio, backend="torch"))
    guess = np.concatenate([segmenter.segment(image).labels.reshape(-1) for image, _ in frames])
    truth = np.concatenate([labels.reshape(-1) for _, labels in frames])
    t, p = truth[truth < 11], guess[truth < 11]
    return {
        "miou": jaccard_score(t, p, labels=range(11), average="macro", zero_division=0),
        "pixel_accuracy": accuracy_score(t, p),
        "class_accuracy": recall_score(t, p, labels=range(11), average="macro", zero_division=0),
        "pixels": t.size,
    }


def test_a_folder_with_only_test_in_it(weights, frames, tmp_path, capsys):
    for i, (image, labels) in enumerate(frames):
        for folder, pixels in (("test", image), ("testannot", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), pixels)
    report, figures = tmp_path / "report", tmp_path / "new" / "figures.json"
    command = ["evaluate", str(tmp_path), "--split", "test", "--weights", str(weights), "--backend", "torch"]
    assert main([*command, "--report", str(report), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found == json.loads((report / "metrics.json").read_text())
    for name, value in expected(weights, frames).items():
        assert found[name] == pytest.approx(value), name
    assert found["frames"] == 3
    assert found["frames_per_second"] == pytest.approx(1e3 / found["latency_ms"]["total"]["mean"], rel=0.02)
    assert found["classes"]["sky"]["pixels"] == sum((labels == 0).sum() for _, labels in frames)
    assert found["sha256"] == zoo.read_card(weights.with_suffix(".yaml")).sha256
    assert sorted(p.name for p in report.iterdir()) == ["labels", "metrics.json", "per_frame.csv", "report.html"]
    assert sorted(p.name for p in (report / "labels").iterdir()) == ["0.png", "1.png", "2.png"]
    assert len((report / "per_frame.csv").read_text().splitlines()) == 4
    out = capsys.readouterr().out
    assert f"class accuracy {100 * found['class_accuracy']:.2f} %" in out
    assert f"mIoU {100 * found['miou']:.2f} %" in out and "3 frames" in out and "bicyclist" in out
    assert "11 classes (CamVid, the 11 classes of the SegNet protocol), single scale" in out
    assert "test, offline, 3 frames, 120x80; 128x96, 11 classes" in out
    assert found["flicker"] is None and found["coverage"] == 1.0  # pictures are no sequence
    assert set(found["latency_ms"]) == {"decode", "preprocess", "network", "postprocess", "total"}
    assert all(stage["frames"] == 3 for stage in found["latency_ms"].values())


def test_labels_are_scored_at_their_own_size_whatever_the_network_sees(weights, frames, tmp_path):
    for i, (image, labels) in enumerate(frames):
        for folder, pixels in (("images", image), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), pixels)
    figures = tmp_path / "figures.json"
    arguments = ["--weights", str(weights), "--backend", "torch", "--ratio", "0.8", "--json", str(figures)]
    assert main(["evaluate", str(tmp_path), *arguments]) == 0
    found = json.loads(figures.read_text())
    assert found["miou"] == pytest.approx(expected(weights, frames, 0.8)["miou"])


def test_what_cannot_be_scored(weights, frames, tmp_path, capsys, monkeypatch):
    image, labels = frames[0]
    for folder, pixels in (("images", image), ("labels", np.where(labels == 11, 42, labels).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), pixels)
        cv2.imwrite(str(tmp_path / folder / "0.png"), np.where(pixels == 42, 0, pixels))
    command = ["evaluate", str(tmp_path), "--weights", str(weights)]
    with monkeypatch.context() as patch:
        patch.setattr("rt_seg_ros.evaluation.offline.Segmenter", lambda _: pytest.fail("work was begun"))
        assert main(command) == 2
    assert "a.png has ids outside label space 'camvid11'" in capsys.readouterr().err
    for option in (["--topic", "/image"], ["--truth", "/label"]):
        assert main([*command, *option]) == 2
        assert "are for recorded drives" in capsys.readouterr().err
    for option in ("--live", "--bag=x.mcap"):
        assert main([*command, option]) == 2
        assert "needs a recorded drive" in capsys.readouterr().err
    for name, options in (("none", []), ("none", ["--topic", "/image"]), ("none.mcap", ["--split", "val"])):
        assert main(["evaluate", str(tmp_path / name), "--weights", str(weights), *options]) == 2
        assert f"there is nothing at {tmp_path / name}\n" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_anything_is_done(weights, frames, tmp_path, capsys, monkeypatch):
    for folder, pixels in (("images", frames[0][0]), ("labels", frames[0][1])):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), pixels)
    monkeypatch.setattr("rt_seg_ros.cli.evaluate.evaluate_models", lambda job: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    command = ["evaluate", str(tmp_path), "--weights", str(weights)]
    for option, place, said in (
        ("--report", "file", "is a file; give a folder"),
        ("--report", "file/report", "cannot be made"),
        ("--json", "folder", "is a folder"),
        ("--json", "file/x.json", "is a file; give a folder"),
    ):
        assert main([*command, option, str(tmp_path / place)]) == 2
        assert said in capsys.readouterr().err, (option, place)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert main([*command, "--report", str(tmp_path / "report")]) == 2
    assert "has 0 MB left" in capsys.readouterr().err


def as_pairs(folder: Path, frames: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    for i, pair in enumerate(frames):
        for name, pixels in zip(("images", "labels"), pair, strict=True):
            (folder / name).mkdir(exist_ok=True, parents=True)
            cv2.imwrite(str(folder / name / f"{i}.png"), pixels)
    return folder


def test_a_data_set_that_names_other_classes_is_refused(weights, frames, tmp_path, capsys):
    data = as_pairs(tmp_path / "yard", frames[:1])
    names = [f"kind{i}" for i in range(11)]

    def evaluated(*options: str, name: str = "garden", names: list[str] = names) -> int:
        classes = "".join(f"- {{name: {entry}, color: [{i}, 0, 0]}}\n" for i, entry in enumerate(names))
        (data / "labels.yaml").write_text(f"name: {name}\nvoid_ids: [11]\nclasses:\n{classes}")
        return main(["evaluate", str(data), "--weights", str(weights), "--backend", "torch", *options])

    assert evaluated() == 2
    assert f"{data / 'labels.yaml'} has other classes (garden) than the model (camvid11): " in capsys.readouterr().err
    assert evaluated("--label-space", "camvid11") == 0
    assert evaluated(names=[name.upper() for name in load_label_space("camvid11").names]) == 0
    (data / "labels.yaml").write_text("nc: 3\n")  # another program's
    assert main(["evaluate", str(data), "--weights", str(weights), "--backend", "torch"]) == 0


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_report_does_not_replace_labels_that_no_report_wrote(weights, frames, tmp_path, capsys):
    data, other = as_pairs(tmp_path / "pp", frames), as_pairs(tmp_path / "other", frames)
    (tmp_path / "mixed" / "labels").mkdir(parents=True)
    before = {folder: content(folder) for folder in (data, other)}
    command = ["evaluate", str(data), "--weights", str(weights), "--backend", "torch", "--report"]
    for place, path, said in (
        (data, data / "labels", "would replace the source"),
        (data / "labels", data / "labels" / "report.html", "would lie in the source's folder"),
        (data / "images" / "new", data / "images" / "new" / "report.html", "would lie in the source's folder"),
        (other, other / "labels", "no earlier report wrote it; choose another folder"),
    ):
        assert main([*command, str(place)]) == 2
        error = capsys.readouterr().err
        assert f"{path} " in error and said in error, error
    assert {folder: content(folder) for folder in (data, other)} == before
    report = tmp_path / "report"
    for _ in range(2):  # its own it replaces
        assert main([*command, str(report)]) == 0
    cv2.imwrite(str(report / "labels" / "0.png"), frames[0][1])  # as one corrects labels by hand
    assert main([*command, str(report)]) == 2
    assert f"{report / 'labels'} is not replaced" in capsys.readouterr().err


def test_figures_replace_nothing_but_figures(weights, frames, tmp_path, capsys):
    data, file = as_pairs(tmp_path / "pp", frames[:1]), tmp_path / "package.json"
    command = ["evaluate", str(data), "--weights", str(weights), "--backend", "torch", "--json", str(file)]
    file.write_text('{"data": "mine"}')
    assert main(command) == 2
    assert f"{file} is not replaced" in capsys.readouterr().err and file.read_text() == '{"data": "mine"}'
    file.write_text("")
    for _ in range(2):
        assert main(command) == 0


def test_what_has_nothing_to_do_or_is_of_another_kind_is_told(weights, frames, tmp_path, capsys, monkeypatch):
    data, video = as_pairs(tmp_path / "pp", frames[:1]), tmp_path / "v.mp4"
    video.write_bytes(b"a video")
    assert main(["evaluate", str(video)]) == 2
    error = capsys.readouterr().err
    assert f"{video} is a file, and neither a data set's folder nor a recording" in error
    assert main(["evaluate", str(data), "--weights", str(weights), "--tolerance", "1"]) == 2
    assert "--tolerance is for recorded drives" in capsys.readouterr().err
    assert main(["evaluate", str(data), "--model", "all", "--label-space", "cityscapes19"]) == 2
    assert "no weights for label space 'cityscapes19', only for camvid11" in capsys.readouterr().err
    monkeypatch.setattr("rt_seg_ros.zoo.finding.models_dir", lambda: tmp_path)
    assert main(["evaluate", str(data), "--model", "all", "--label-space", "cityscapes19"]) == 2
    assert "there are no weights yet" in capsys.readouterr().err


def test_tables_cut_no_figure(weights, frames, tmp_path, capsys, monkeypatch):
    data, figures = as_pairs(tmp_path / "pp", frames[:1]), tmp_path / "figures.json"
    monkeypatch.setenv("COLUMNS", "20")  # what a pipe goes to is no terminal, whatever this says
    command = ["evaluate", str(data), "--model", "cgnet,frfnet_slim", "--allow-random-weights", "--backend", "torch"]
    assert main([*command, "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert "…" not in out and "models on pp" in out
    for model in found["models"]:
        (row,) = [line for line in out.splitlines() if line.split()[:1] == [model["name"]] and len(line.split()) > 7]
        assert f"{100 * model['miou']:.2f}" in row


@pytest.mark.parametrize("width", [8, 24, 40, 80, 200])
def test_tables_go_over_several_blocks_in_a_narrow_terminal(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    figures = [f"{10 ** (i % 4)}.{i}7" for i in range(9)]
    names = ["\nmodel", *(f"figure\n{i}" for i in range(9))]
    _Grid("a title", names, [["a_network_with_a_long_name", *figures]], ["mean", *figures]).show(console)
    out = console.file.getvalue()
    words = out.split()
    assert all(words.count(figure) == 2 for figure in figures) and "…" not in out
    if width >= 40:
        assert max(map(len, out.splitlines())) <= width


def test_models_that_cannot_be_had_are_refused(weights, frames, tmp_path, capsys):
    for folder, pixels in (("images", frames[0][0]), ("labels", frames[0][1])):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), pixels)
    for arguments, said in (
        (["--model", "cgnet,nonesuch"], "no model 'nonesuch'"),
        (["--model", "cgnet,frfnet", "--weights", str(weights)], "--weights is one file"),
        (["--model", "all,cgnet"], "goes alone"),
        (["--model", ","], "names no model"),
        (["--rate", "2"], "together with --live"),
    ):
        assert main(["evaluate", str(tmp_path), *arguments]) == 2
        assert said in capsys.readouterr().err, arguments


@pytest.mark.camvid
def test_shipped_weights_score_what_their_card_says(camvid, tmp_path):
    """On CamVid's validation frames, within 0.1 points."""
    cards = [card for card in zoo.list_models() if "camvid val" in card.scores]
    if not cards:
        pytest.skip("no weights in models/ with a score on CamVid val")
    for card in cards:
        figures = tmp_path / f"{card.name}.json"
        assert main(["evaluate", str(camvid), "--split", "val", "--model", card.name, "--json", str(figures)]) == 0
        found = 100 * json.loads(figures.read_text())["miou"]
        assert found == pytest.approx(card.scores["camvid val"]["miou"], abs=0.1), card.name


@pytest.mark.camvid
def test_a_drive_of_camvid_frames_scores_what_the_data_set_does(camvid, tmp_path):
    """A few validation frames, with the shipped weights: exactly the same figures."""
    for folder in ("val", "valannot"):
        (tmp_path / "few" / folder).mkdir(parents=True)
        for file in sorted((camvid / folder).glob("*.png"))[::12]:
            (tmp_path / "few" / folder / file.name).symlink_to(file)
    assert main(["drive", "from-camvid", str(tmp_path / "few"), str(tmp_path / "drive")]) == 0
    figures = {}
    for name, split in (("few", ["--split", "val"]), ("drive", [])):
        command = ["evaluate", str(tmp_path / name), *split, "--json", str(tmp_path / f"{name}.json")]
        assert main(command) == 0
        figures[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert figures["drive"]["frames_scored"] == 9
    for score in ("miou", "pixel_accuracy", "class_accuracy", "boundary_f", "confusion", "classes"):
        assert figures["drive"][score] == figures["few"][score], score


def test_labels_of_pictures_in_subfolders_do_not_replace_one_another(weights, frames, tmp_path):
    for i, (image, labels) in enumerate(frames):
        for kind, pixels in (("images", image), ("labels", labels)):
            (tmp_path / "set" / kind / "val" / f"drive{i}").mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "set" / kind / "val" / f"drive{i}" / "1.png"), pixels)
    report = tmp_path / "report"
    command = ["evaluate", str(tmp_path / "set"), "--weights", str(weights), "--backend", "torch", "--no-video"]
    for _ in range(2):  # the second replaces the first
        assert main([*command, "--report", str(report)]) == 0
        found = sorted(path.relative_to(report).as_posix() for path in report.rglob("1.png"))
        assert [name.split("/")[-2] for name in found] == ["drive0", "drive1", "drive2"]
