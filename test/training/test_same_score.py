"""A run's own score is what its weights get when they are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt_seg_ros.cli import main
from rt_seg_ros.zoo import read_weights_header


def test_pictures_that_were_resized_for_training_are_resized_in_use(streets: Path, tmp_path: Path) -> None:
    run, weights, figures = tmp_path / "run", tmp_path / "mine.safetensors", tmp_path / "figures.json"
    command = ["train", "cgnet_camvid", "--data", str(streets), "--out", str(run), "--export-weights", str(weights)]
    command += ["network.options={m: 2, n: 2}", "schedule={epochs: 6, batch: 3, warm_up_steps: 0}"]
    command += ["data.size=[72, 96]"]
    command += ["run={device: cpu, precision: fp32, threads: 1, validate_every: 6, ema: 0.0}", "augment.crop=[48, 64]"]
    command += ["data.train=[{path: ., split: train}]", "data.val=[{path: ., split: val}]"]
    assert main(command) == 0
    card = read_weights_header(weights)
    (score,) = card.scores.values()
    assert 0 < score["miou"] < 100 and card.input_size == (48, 64)
    assert card.frame_size == (72, 96) and card.resized
    use = ["evaluate", str(streets), "--split", "val", "--model", "cgnet", "--weights", str(weights)]
    assert main([*use, "--backend", "torch", "--device", "cpu", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert 100 * found["miou"] == pytest.approx(score["miou"], abs=0.3)  # fp16 of what was measured
