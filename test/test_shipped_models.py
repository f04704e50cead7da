"""The weights that come with the package: each file, its card, and the evidence beside them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from rt_seg_ros.cli import main
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.labels import UNLABELLED
from rt_seg_ros.networks import list_networks
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.resources import models_dir
from rt_seg_ros.zoo import build_network, card_score, check_hash, find_model, list_models

CARDS = {card.name: card for card in list_models()}
RUNS = sorted(folder.name for folder in (models_dir() / "runs").glob("*"))
assert RUNS, "without them, nothing is held against their metrics"

#: Of each the mean scores by class, to three digits, that :func:`fingerprint` gives; new weights have a new line, which
#: the test's failure prints.
FINGERPRINTS = {
    "cgnet_camvid11": [-3.838, 0.904, -1.598, -4.079, -5.242, 1.819, 1.936, -4.244, 0.928, -4.057, -2.65],
    "cgnet_camvid11_train": [-3.818, 0.769, -1.643, -3.868, -4.814, 1.497, 2.135, -4.191, 0.869, -3.783, -2.388],
    "crosscbam_l_camvid11": [-3.212, -0.937, -1.398, -4.857, -6.905, 0.003, 5.166, -5.208, -1.442, -6.79, -5.089],
    "crosscbam_m_camvid11": [-4.822, 1.094, -1.129, -6.181, -5.691, 0.227, 5.311, -3.637, 0.631, -3.17, -1.631],
    "csrnet_heavy_camvid11": [-2.826, -0.298, -1.155, -4.474, -4.95, 1.441, 1.537, -4.702, -0.267, -4.931, -3.215],
    "csrnet_light_camvid11": [-1.742, 2.646, -1.008, -6.998, -6.33, 1.123, 2.235, -6.231, -3.265, -5.878, -2.284],
    "csrnet_medium_camvid11": [-3.43, 2.221, -1.931, -6.127, -3.964, 0.35, 1.712, -6.908, -5.296, -4.128, -3.118],
    "frfnet_camvid11": [-5.881, 0.17, -2.037, 0.057, -0.259, 0.154, -1.837, 0.033, -2.116, -3.688, -3.76],
    "frfnet_slim_camvid11": [-4.298, -3.627, -2.437, 4.221, -0.318, -0.818, -3.86, -1.628, -3.367, -3.581, -3.468],
}


def fingerprint(name: str) -> list[float]:
    """Return the mean score of each class for a pattern, in float64: what a network computes with its weights."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (96, 128)), indexing="ij")
    planes = [torch.sin(x / (5 + 3 * c)) + torch.cos(y / (7 - c)) + ((x + 2 * y) // (16 + 8 * c) % 2) for c in range(3)]
    with torch.inference_mode():
        means = build_network(find_model(name)).double().logits(torch.stack(planes)[None]).mean((0, 2, 3))
    return [round(mean, 3) for mean in means.tolist()]


@pytest.mark.parametrize("name", CARDS)
def test_a_network_computes_with_its_weights_what_it_was_trained_as(name):
    found = fingerprint(name)
    line = f'"{name}": {found},'
    assert FINGERPRINTS.get(name) == pytest.approx(found, abs=0.005), f"of new weights, the line is now: {line}"


def test_the_twin_is_what_its_trainval_version_went_on_from():
    twin, shipped = CARDS["cgnet_camvid11_train"], CARDS["cgnet_camvid11"]
    assert not card_score(twin).of_start and card_score(shipped).of_start
    assert shipped.details["start"]["sha256"] == twin.sha256
    assert find_model("cgnet_camvid11_train").weights != find_model("cgnet").weights


def best_on_val(folder: Path) -> float:
    with (folder / "metrics.csv").open(newline="") as file:
        return max(100 * float(row["camvid/miou"]) for row in csv.DictReader(file))


@pytest.mark.parametrize("network", list_networks())
def test_a_plain_name_is_enough(network):
    assert find_model(network).name == f"{network}_camvid11"


@pytest.mark.parametrize("name", CARDS)
def test_a_file_is_the_one_its_card_describes_and_sees_a_street(name):
    card = CARDS[name]
    check_hash(card)
    drive = SyntheticDrive(1003, 360, 480)
    image, truth = drive.render(30)
    labels = Segmenter(SegmenterConfig(model=name)).segment(image).labels
    seen = truth != UNLABELLED
    assert np.mean(labels[seen] == truth[seen]) > 0.89


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_how_it_was_trained_and_what_it_scores(name):
    card = CARDS[name]
    score = card_score(card)
    assert score is not None
    # Weights that saw the validation frames have no figure of their own, only that of those they went on from, or none.
    seen = any("camvid val" in text for text in card.details["data"])
    if seen and card.details["start"].get("begun_anew"):
        assert not score.on_validation_split
    else:
        assert score.data == "camvid val" and score.of_start == seen
    for key in ("command", "data", "licence", "hardware", "versions", "training", "validation", "protocol"):
        assert card.details[key], key
    assert any(scores.startswith("rendered drive") for scores in card.scores)


@pytest.mark.parametrize("name", RUNS)
def test_a_cards_figure_stands_in_the_metrics_of_its_run(name):
    score = card_score(CARDS[name])
    parts = {folder.name: folder for folder in (models_dir() / "runs" / name).iterdir()}
    if score.on_validation_split:
        # The last part that did not learn from val.
        on_train = next(
            parts[part] for part in ("finish", "longer4", "longer3", "longer2", "longer", "train") if part in parts
        )
        assert best_on_val(on_train) == pytest.approx(score.miou, abs=0.006)
    else:
        assert list(parts) == ["trainval"], "what was measured on val has its figure in the card"
    for folder in parts.values():
        assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "about.yaml", "metrics.csv", "curves.png"}


def test_the_page_has_the_table_that_the_command_prints(capsys):
    assert main(["models", "--markdown"]) == 0
    page = (models_dir() / "README.md").read_text(encoding="utf-8")
    between = page.split("<!-- models: begin", 1)[1].split("-->\n", 1)[1].split("<!-- models: end -->", 1)[0]
    assert between.strip() == capsys.readouterr().out.strip()


@pytest.mark.parametrize("model", ["cgnet", "crosscbam_m", "csrnet_light", "frfnet_slim"])
def test_labels_stay_in_place_in_frames_whose_sides_do_not_divide(model):
    frame, truth = SyntheticDrive(1003, 360, 480).render(20)  # which no training used
    segmenter = Segmenter(SegmenterConfig(model=model, device="cpu"))
    whole = segmenter.segment(frame).labels
    part = np.ascontiguousarray(frame[:345, :465])
    labels = segmenter.segment(part).labels
    # The scene is the same, so labels are; taken as they are, such frames keep 92 to 95 % of them, shifted.
    assert (labels == whole[:345, :465]).mean() > 0.96
    wrong, before = ((one[:345, :465] != truth[:345, :465]).mean() for one in (labels, whole))
    assert wrong < before + 0.01
