"""The package's recipes train: two epochs on a few small frames, and weights that load.

Of recipes that differ in nothing but the network, and that within one family, the first is trained; and each network by
one of its own. That all others can be built and take a batch, ``test_recipe.py`` sees to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks.names import NETWORK_NAMES, network_info
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.recipe_files import list_recipes, load_recipe
from rt_seg_ros.training.run_folder import read_metrics
from rt_seg_ros.training.weights import export_weights
from rt_seg_ros.zoo import build_network, find_model

SIZE = (48, 64)
DRIVE = f"synth: {{seeds: [1], frames: 4, every: 9, size: {list(SIZE)}}}"
OVERRIDES = [
    "schedule={epochs: 2, batch: 2}",
    "run={device: cpu, threads: 1, validate_every: 2}",
    "augment.crop=[32, 48]",
    "data.size=null",
]


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few frames in Cityscapes' layout, with label ids as its files have them."""
    root = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / "ulm").mkdir(parents=True)
        for i in range(count):
            labels = np.full(SIZE, 23, np.uint8)  # sky
            labels[rng.integers(15, 30) :] = 7  # road
            labels[:, :4] = 0  # unlabelled
            image = (rng.integers(0, 100, (*SIZE, 3)) + 5 * labels[..., None]).astype(np.uint8)
            cv2.imwrite(str(root / "leftImg8bit" / split / "ulm" / f"ulm_{i}_leftImg8bit.png"), image)
            cv2.imwrite(str(root / "gtFine" / split / "ulm" / f"ulm_{i}_gtFine_labelIds.png"), labels)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A run folder that is removed: three dozen of them are gigabytes."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def recipes() -> list[str]:
    """Return which to train, as above."""
    chosen: dict[str, str] = {}
    loaded = {name: load_recipe(name) for name in list_recipes()}
    for name, recipe in sorted(loaded.items(), key=lambda one: NETWORK_NAMES.index(one[1].network.name)):
        document = recipe.model_dump(mode="json", exclude={"name", "description"})
        document["network"]["name"] = network_info(recipe.network.name).family
        chosen.setdefault(json.dumps(document), name)
    return sorted({*chosen.values(), *(f"{network}_camvid_cpu" for network in NETWORK_NAMES)})


def test_what_is_not_trained_is_of_another_network_alone() -> None:
    assert len(recipes()) > 25
    assert {f"{name}_camvid_cpu" for name in NETWORK_NAMES} <= set(list_recipes())


@pytest.mark.parametrize("name", recipes())
def test_recipe_trains(name: str, cityscapes: Path, out: Path) -> None:
    camvid = load_recipe(name).label_space == "camvid11"
    drive = [f"data.train=[{{{DRIVE}}}]", f"data.val=[{{name: val, {DRIVE}}}]"] if camvid else []
    crops = ["augment.begin.crop=[24, 32]"] if load_recipe(name).augment.begin else []
    recipe = load_recipe(name, [*OVERRIDES, *drive, *crops])
    trainer = Trainer(recipe, None if camvid else cityscapes, out)
    begin = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    assert trainer.run() and trainer.step == 4

    (row,) = read_metrics(out / "metrics.csv")
    assert row["step"] == 4 and row["epoch"] == 2 and np.isfinite(list(row.values())).all() and row["loss"] > 0
    assert sum(key.endswith("/miou") for key in row) == 1
    for key, value in trainer.network.named_parameters():
        assert value.isfinite().all(), key
    changed = [not torch.equal(value, begin[key]) for key, value in trainer.network.named_parameters()]
    assert np.mean(changed) > 0.9  # a slope or scale of a dead channel may stay

    card = export_weights(out)
    network = build_network(find_model(recipe.network.name, weights=card.weights))
    assert network.num_classes == load_label_space(recipe.label_space).num_classes
    stored = network.state_dict()
    for key, value in trainer.learner.weights().items():
        if value.is_floating_point():
            torch.testing.assert_close(stored[key], value.half().float(), msg=key)
