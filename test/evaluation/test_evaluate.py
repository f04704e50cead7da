"""``rt-seg evaluate``: its figures equal an independent computation, for every kind of data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from rt_seg_ros import zoo
from rt_seg_ros.bags import BagWriter
from rt_seg_ros.cli import main
from rt_seg_ros.networks import create_network
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig

SIZES = [(96, 128), (80, 120), (96, 128)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small CGNet of random weights."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    zoo.save_weights(
        path,
        create_network("cgnet", num_classes=11, m=2, n=2).state_dict(),
        network="cgnet",
        options={"m": 2, "n": 2},
        num_classes=11,
        label_space="camvid11",
        mean=(100.0, 100.0, 100.0),
        std=(60.0, 60.0, 60.0),
        input_size=(96, 128),
        card={},
    )
    return path


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
    segmenter = Segmenter(SegmenterConfig(weights=str(weights), downsampling_ratio=ratio))
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
    command = ["evaluate", str(tmp_path), "--split", "test", "--weights", str(weights)]
    assert main([*command, "--report", str(report), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found == json.loads((report / "metrics.json").read_text())
    for name, value in expected(weights, frames).items():
        assert found[name] == pytest.approx(value), name
    assert found["frames"] == 3 and found["frames_per_second"] > 0
    assert found["classes"]["sky"]["pixels"] == sum((labels == 0).sum() for _, labels in frames)
    assert found["sha256"] == zoo.read_card(weights.with_suffix(".yaml")).sha256
    assert cv2.imread(str(report / "confusion.png")).shape[0] > 200
    out = capsys.readouterr().out
    assert f"mIoU {100 * found['miou']:.2f} %" in out and "3 frames" in out and "bicyclist" in out
    assert "11 classes (CamVid, the 11 classes of the SegNet protocol), single scale" in out
    assert "test, 3 frames, 120x80; 128x96, 11 classes" in out


def test_labels_are_scored_at_their_own_size_whatever_the_network_sees(weights, frames, tmp_path):
    for i, (image, labels) in enumerate(frames):
        for folder, pixels in (("images", image), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), pixels)
    figures = tmp_path / "figures.json"
    arguments = ["--weights", str(weights), "--ratio", "0.8", "--json", str(figures)]
    assert main(["evaluate", str(tmp_path), *arguments]) == 0
    found = json.loads(figures.read_text())
    assert found["miou"] == pytest.approx(expected(weights, frames, 0.8)["miou"])


def test_a_drive_is_paired_by_stamp(weights, frames, tmp_path, capsys):
    drive, figures = tmp_path / "drive.mcap", tmp_path / "figures.json"
    with BagWriter(drive) as bag:
        for i, (image, labels) in enumerate(frames):
            stamp = 1_000_000_000 + 100_000_000 * i
            bag.add_image("/camera/image_raw", stamp, "camera", image, "bgr8")
            if i != 1:  # one image without truth
                bag.add_label("/camera/label", stamp, "camera", np.where(labels == 11, 255, labels).astype(np.uint8))
    assert main(["evaluate", str(drive), "--weights", str(weights), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert (found["frames"], found["frames_without_truth"]) == (2, 1)
    assert found["miou"] == pytest.approx(expected(weights, [frames[0], frames[2]])["miou"])
    assert "1 images without truth" in capsys.readouterr().out
    assert main(["evaluate", str(drive), "--weights", str(weights), "--split", "val"]) == 2
    assert "recorded drive: leave it out" in capsys.readouterr().err


def test_what_cannot_be_scored(weights, frames, tmp_path, capsys):
    image, labels = frames[0]
    for folder, pixels in (("images", image), ("labels", np.where(labels == 11, 42, labels).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), pixels)
    command = ["evaluate", str(tmp_path), "--weights", str(weights)]
    assert main(command) == 2
    assert "a.png has ids outside label space 'camvid11'" in capsys.readouterr().err
    assert main([*command, "--topic", "/image"]) == 2
    assert "topics are for recorded drives" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none"), "--weights", str(weights)]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*command, "--report", str(tmp_path / "file" / "report")]) == 2
    assert "cannot be made" in capsys.readouterr().err


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
