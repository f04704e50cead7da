"""Two real processes, on the CPU: they train one model, and that of one process with the same batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from two_processes import exact_gradients

from rt_seg_ros.errors import UserError
from rt_seg_ros.training.checkpoint import read_checkpoint
from rt_seg_ros.training.distributed import Team, World, join_world
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.recipe_files import load_recipe

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Two sizes, void and class weights: each would show where a share of the batch, or of the loss, is not the right one.
RECIPE = """\
inherits: cgnet_camvid_paper
network: {name: cgnet, options: {m: 2, n: 2}}
data:
  train:
    - {path: ., split: train}
    - {name: others, path: ., split: small, weight: 0.6}
  val:
    - {name: val, path: ., split: val}
augment: {crop: [32, 48], scale: [0.5, 1.5], scales: [], brightness: 0.3, contrast: 0.3, saturation: 0.3}
loss: {class_weights: computed}
optimiser: {kind: sgd, lr: 0.02, clip: 1.0}
schedule: {batch: 4, max_steps: 4, warm_up_steps: 0}
run: {device: cpu, precision: fp32, ema: 0.9, validate_every: 1000, threads: 1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "shared.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def two(streets: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two processes leave behind (see two_processes.py), and what each tells."""
    out = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [*TORCHRUN, str(script), str(recipe), str(streets), str(out)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return out, [json.loads((out / f"told{rank}.json").read_text()) for rank in range(2)]


def weights(folder: Path, rank: int, run: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"weights{rank}.pt", weights_only=True)[run]
    return state


def test_both_processes_end_with_equal_weights(two):
    out, told = two
    first, second = weights(out, 0, "whole"), weights(out, 1, "whole")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert [t["share"] for t in told] == [2, 2]


def test_the_gradients_of_two_processes_are_those_of_one(two, streets, recipe, tmp_path):
    """Batch norm, class weights, void and pictures of two sizes included, in float64."""
    mine = exact_gradients(Trainer(load_recipe(recipe), streets, tmp_path / "run"))
    for rank in range(2):
        theirs = weights(two[0], rank, "gradients")
        assert list(mine) == [name.removeprefix("network.") for name in theirs] and len(mine) > 50
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-7, atol=1e-12, msg=name)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((one[k] - other[k]).square().sum().item() for k in one if one[k].is_floating_point()) ** 0.5


def test_two_processes_learn_what_one_learns(two, streets, recipe, tmp_path):
    """Rounding tips a PReLU over now and then; without common norms they are 60 % apart, without a common loss 12 %."""
    alone = Trainer(load_recipe(recipe), streets, tmp_path / "run")
    begin = {key: value.clone() for key, value in alone.network.state_dict().items()}
    assert alone.run()
    mine, theirs = alone.network.state_dict(), weights(two[0], 0, "whole")
    assert list(mine) == list(theirs)
    assert apart(mine, theirs) < 0.03 * apart(mine, begin)
    mine, theirs = (read_checkpoint(path) for path in (tmp_path / "run", two[0] / "whole"))
    assert mine["step"] == theirs["step"] == 4


def test_one_process_can_go_on_where_two_stopped(two, streets, recipe, tmp_path):
    checkpoint = read_checkpoint(two[0] / "broken" / "previous.pt")
    assert checkpoint["step"] == 2
    alone = Trainer(load_recipe(recipe), streets, tmp_path / "run", checkpoint=checkpoint)
    assert alone.run()
    theirs = weights(two[0], 0, "whole")
    assert apart(alone.network.state_dict(), theirs) < 0.03 * apart(checkpoint["network"], theirs)


def test_one_asked_to_stop_stops_both_and_the_run_can_be_continued(two):
    out, told = two
    assert [t["ended"] for t in told] == [[True, False, True]] * 2 and [t["step"] for t in told] == [2, 2]
    for rank in range(2):
        whole, broken = weights(out, rank, "whole"), weights(out, rank, "broken")
        assert all(torch.equal(whole[key], broken[key]) for key in whole)


def test_what_one_process_cannot_do_stops_both_and_is_said_once(two):
    out, told = two
    assert told[0]["odd"].startswith("UserError: schedule.batch is 3, which 2 processes cannot share equally")
    assert told[1]["odd"] == "FailedElsewhere: " and not (out / "odd").exists()
    for when in ("full", "early"):
        assert "metrics.csv cannot be written: No space left on device" in told[0][when]
        assert told[1][when] == "FailedElsewhere: "


def test_the_command_under_torchrun_stops_with_a_checkpoint(streets, recipe, tmp_path):
    out = tmp_path / "run"
    words = ["train", str(recipe), "--data", str(streets), "--out", str(out), "schedule.max_steps=100000"]
    run = subprocess.Popen(
        [*TORCHRUN, "-m", "rt_seg_ros.cli", *words, "run.checkpoint_minutes=0.0001"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 120
        while not (out / "previous.pt").exists() and run.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        told = run.communicate(timeout=120)[0]
    finally:
        run.kill()
    assert run.returncode != 0
    assert told.count(f"rt-seg train --resume {out}") == 1 and told.count("reading others: 3 frames") == 1, told
    about = (out / "about.yaml").read_text()
    assert "2 processes, each on" in about and read_checkpoint(out)["step"] > 0


def test_several_processes_need_a_batch_that_divides():
    world = World(torch.device("cpu"))
    assert world.share_of(5) == 5
    world.size = 4
    assert world.share_of(8) == 2
    with pytest.raises(UserError, match=r"schedule\.batch is 6, which 4 processes cannot share equally: take 4 or 8"):
        world.share_of(6)


def test_one_process_of_torchrun_is_alone(monkeypatch):
    for key, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    with join_world("cpu") as world:
        assert world.leads and world.size == 1 and not isinstance(world, Team)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="torchrun"), join_world("cpu"):
        pass


def test_synchronised_norm_is_batch_norm_where_one_process_has_all(tmp_path):
    import torch.distributed as dist

    from rt_seg_ros.training.norms import synchronise_norms

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3))
        with torch.no_grad():
            plain[1].weight.uniform_(0.5, 2.0)
            plain[1].bias.normal_()
        other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3))
        other.load_state_dict(plain.state_dict())
        synchronise_norms(other)
        x = torch.randn(2, 3, 9, 8) + 3
        slope = torch.randn(2, 5, 7, 6)
        for net in (plain, other):
            net(x)  # the statistics move twice
            (net(x) * slope).sum().backward()
        for mine, theirs in zip(other.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.state_dict(), plain.state_dict())
        torch.testing.assert_close(other.eval()(x), plain.eval()(x))
    finally:
        dist.destroy_process_group()
