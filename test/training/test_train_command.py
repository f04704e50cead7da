"""``rt-seg train`` from end to end: a data set and a rendered drive in, weights with a card out, and their score."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from rt_seg_ros import zoo
from rt_seg_ros.cli import main
from rt_seg_ros.training.checkpoint import read_checkpoint, write_checkpoint
from rt_seg_ros.training.run_folder import read_metrics

NO_DRIVES = "data.train=[{path: ., split: train}]"  # they take a while to render
RECIPE = """\
inherits: cgnet_camvid
description: a small one for tests
network: {name: cgnet, options: {m: 2, n: 2}}
data:
  train:
    - {path: ., split: train}
    - {name: drives, weight: 0.5, synth: {seeds: [1, 2, 7], frames: 1, every: 3, size: [72, 96]}}
  val:
    - {name: pairs, path: ., split: val}
  licence: none
augment: {crop: [48, 64]}
schedule: {batch: 2, epochs: 2, warm_up_steps: 2}
run: {device: cpu, precision: fp32, threads: 1, validate_every: 1, ema: 0.5}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A pair folder: sky over road."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            labels = np.zeros((72, 96), np.uint8)
            labels[rng.integers(20, 50) :] = 3
            labels[:3] = 11
            image = np.where(labels[..., None] == 3, (60, 60, 60), (200, 180, 90)).astype(np.uint8)
            for kind, pixels in (("images", image), ("labels", labels)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / kind / split / f"{i}.png"), pixels)
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def trained(data, recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(recipe), "--data", str(data), "--out", str(out), "optimiser.lr=0.01"]) == 0
    return out


def test_weights_come_out_with_a_card_that_says_where_from(trained, data):
    card = zoo.read_card(trained / "cgnet_camvid11.yaml")
    zoo.check_hash(card)
    details = card.details
    assert {"data", "protocol", "command", "licence", "commit", "hardware", "versions"} <= set(details)
    assert details["data"] == [
        f"{data.name} train, 4 frames of 96x72, 67 % of the samples",
        "rendered drives of seeds 1-2, 7 (1 of each, 1 in 3), 3 frames of 96x72, 33 % of the samples",
    ]
    assert details["protocol"].startswith("pairs val, 2 frames, 96x72, 11 classes (CamVid, the 11 classes of")
    assert details["command"] == f"rt-seg train recipe.yaml --data {data.name}"
    assert details["training"]["steps"] == 6 and details["licence"] == "none"
    rows = read_metrics(trained / "metrics.csv")
    best = max(row["pairs/miou"] for row in rows)
    assert card.scores["pairs val"]["miou"] == pytest.approx(100 * best, abs=0.01)
    assert len(card.scores["pairs val"]["per_class_iou"]) == 11


def test_evaluate_repeats_the_cards_score(trained, data, tmp_path):
    weights = trained / "cgnet_camvid11.safetensors"
    figures = tmp_path / "figures.json"
    command = ["evaluate", str(data), "--split", "val", "--weights", str(weights), "--json", str(figures)]
    assert main(command) == 0
    card = zoo.read_card(weights.with_suffix(".yaml"))
    assert 100 * json.loads(figures.read_text())["miou"] == pytest.approx(card.scores["pairs val"]["miou"], abs=0.1)


def test_weights_can_be_exported_again_and_a_run_is_not_overwritten(trained, data, recipe, tmp_path, capsys):
    assert main(["train", "--resume", str(trained), "--export-weights", str(tmp_path / "mine.safetensors")]) == 0
    assert zoo.read_card(tmp_path / "mine.yaml").details == zoo.read_card(trained / "cgnet_camvid11.yaml").details
    assert main(["train", "--resume", str(trained), "--export-weights", str(tmp_path / "mine.safetensors")]) == 2
    assert main(["train", "--resume", str(trained), "--export-weights", str(tmp_path / "mine")]) == 2
    assert not (tmp_path / "mine").exists()
    assert "exists already" in capsys.readouterr().err
    assert main(["train", str(recipe), "--data", str(data), "--out", str(trained)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    # Weights that the run did not begin with would stand in its card.
    assert main(["train", "--resume", str(trained), "network.weights=crosscbam_m"]) == 2
    assert "network.weights was None, now 'crosscbam_m'" in capsys.readouterr().err


def test_a_run_that_goes_on_leaves_its_folder_the_weights_that_it_exports(trained, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine.safetensors"
    shutil.copytree(trained, run)
    more = ["schedule.epochs=3", "run.keep=last", "--export-weights", str(mine)]
    assert main(["train", "--resume", str(run), *more]) == 0
    assert (run / "cgnet_camvid11.safetensors").read_bytes() == mine.read_bytes()
    assert mine.read_bytes() != (trained / "cgnet_camvid11.safetensors").read_bytes()


def test_terminate_writes_a_checkpoint_and_resume_goes_on(data, recipe, tmp_path):
    out = tmp_path / "run"
    words = [str(recipe), "--data", str(data), "--out", str(out), "schedule.epochs=100000", "run.validate_every=1e6"]
    run = subprocess.Popen(
        [sys.executable, "-m", "rt_seg_ros.cli", "train", *words, NO_DRIVES],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert run.stdout is not None
        told = ""
        while not told.startswith("step ") and run.poll() is None:
            told = run.stdout.readline()
        assert not (out / "last.pt").exists()
        run.send_signal(signal.SIGTERM)
        told += run.communicate(timeout=60)[0]
    finally:
        run.kill()
    assert run.returncode == 3, told
    assert f"rt-seg train --resume {out}" in told
    step = read_checkpoint(out)["step"]
    assert step > 0
    assert main(["train", "--resume", str(out), f"schedule.max_steps={step + 2}"]) == 0
    assert read_checkpoint(out)["step"] == step + 2
    assert (out / "cgnet_camvid11.safetensors").is_file()


def test_errors_come_before_any_step(data, recipe, tmp_path, capsys):
    def refused(*words: str) -> str:
        assert main(["train", *words]) == 2
        return capsys.readouterr().err

    assert "name a recipe" in refused()
    assert "one recipe at a time" in refused("cgnet_camvid", "frfnet_camvid")
    assert "--data DIR" in refused(str(recipe), "--out", str(tmp_path / "a"))
    assert "no split 'trane'" in refused(
        str(recipe), "data.train.0.split=trane", "--data", str(data), "--out", str(tmp_path / "b")
    )
    assert "network 'cgnet' has 0 auxiliary heads" in refused(
        str(recipe), "loss.auxiliary_weights=[1.0]", NO_DRIVES, "--data", str(data), "--out", str(tmp_path / "c")
    )
    assert "class_weights has 2 numbers" in refused(
        str(recipe), "loss.class_weights=[1, 2]", NO_DRIVES, "--data", str(data), "--out", str(tmp_path / "d")
    )
    (tmp_path / "file").touch()
    assert "cannot be made" in refused(str(recipe), "--data", str(data), "--out", str(tmp_path / "file" / "run"))
    assert "no checkpoint" in refused("--resume", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("# mine\ninherits: cgnet_camvid\n")
    mine = str(tmp_path / "mine" / "recipe.yaml"), "--data", str(data), "--out", str(tmp_path / "mine")
    assert "holds the recipe itself" in refused(*mine)
    assert (tmp_path / "mine" / "recipe.yaml").read_text().startswith("# mine")
    write_checkpoint(tmp_path / "best.pt", {"step": 1, "weights": {}, "recipe": "{}"})
    assert "holds the best weights alone" in refused("--resume", str(tmp_path / "best.pt"))


def test_a_run_whose_data_were_moved_goes_on_with_their_new_place(data, recipe, tmp_path, capsys):
    moved, run = tmp_path / "moved", str(tmp_path / "run")
    shutil.copytree(data, tmp_path / "here")
    words = ["--data", str(tmp_path / "here"), "--out", run, "schedule.max_steps=1"]
    assert main(["train", str(recipe), *words, NO_DRIVES]) == 0
    (tmp_path / "here").rename(moved)
    go_on = ["train", "--resume", run, "schedule.max_steps=2"]
    capsys.readouterr()
    assert main(go_on) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"data set folder {tmp_path / 'here'} does not exist: give its new place by --data")
    assert "\n" not in said
    assert main([*go_on, "--data", str(moved)]) == 0
    assert main(go_on) == 0  # the new place is kept


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_teaches_by_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    examples = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  rt-seg {command} ")]
    assert len(examples) >= 4


def test_a_steps_time_is_told_beside_its_passes(data, recipe, capsys):
    assert main(["train", str(recipe), "--data", str(data), NO_DRIVES, "--time-steps", "2"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"a step takes [\d.]+ ms \([\d.]+ images/s\), its forward and .* [\d.]+ ms: [\d.]+ % of it", told
    )
    for words in (["--time-steps", "0"], ["--time-steps", "1", "--out", "x"], ["--time-steps", "1", "--resume", "x"]):
        assert main(["train", *([] if "--resume" in words else [str(recipe)]), "--data", str(data), *words]) == 2
    assert "leave --resume, --export-weights and --out away" in capsys.readouterr().err


def test_list_names_every_recipe_with_what_it_is(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cgnet_camvid_paper ") and "its paper" in line for line in lines)


def test_about_is_plain_yaml(trained):
    about = yaml.safe_load((trained / "about.yaml").read_text())
    assert about["versions"]["torch"] and about["hardware"].endswith("1 thread")
