"""A run that is interrupted and continued equals an unbroken one, bit for bit, on the CPU."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rt_seg_ros.errors import UserError
from rt_seg_ros.training.checkpoint import BEST, LAST, PREVIOUS, read_checkpoint, write_checkpoint
from rt_seg_ros.training.loop import Trainer, TrainingError
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.run_folder import ABOUT, METRICS, read_about, read_metrics
from rt_seg_ros.training.weights import export_weights


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "cgnet_camvid_paper",
        [
            "network={name: cgnet, options: {n: 3, dropout: 0.2}}",
            "augment={crop: [32, 48], scale: [0.5, 1.5], brightness: 0.3, contrast: 0.3, saturation: 0.3}",
            "schedule={kind: poly, batch: 2, max_steps: 7, warm_up_steps: 3}",
            "run={device: cpu, precision: fp32, ema: 0.9, validate_every: 1000, threads: 1}",
            *overrides,
        ],
    )


class StopAt(Trainer):
    """Asks itself to stop after a step, as Ctrl-C does."""

    last_step = 3

    def train_step(self) -> torch.Tensor:
        loss = super().train_step()
        if self.step == self.last_step:
            self.stop()
        return loss


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return one == other


BEGIN = "augment.begin={share: 0.6, scale: [0.4, 0.8], crop: [16, 32]}"  # its last step is the fifth, after the break


@pytest.mark.parametrize("overrides", [["optimiser.kind=adamw"], ["optimiser.kind=sgd"], [BEGIN]], ids=str)
def test_continued_run_equals_unbroken(streets: Path, tmp_path: Path, overrides: list[str]) -> None:
    recipe = small_recipe("optimiser.lr=0.01", *overrides)
    assert Trainer(recipe, streets, tmp_path / "whole").run()

    assert not StopAt(recipe, streets, tmp_path / "broken").run()
    checkpoint = read_checkpoint(tmp_path / "broken")
    assert checkpoint["step"] == 3
    torch.rand(5)  # what else the process drew in between
    assert Trainer(recipe, streets, tmp_path / "broken", checkpoint=checkpoint).run()

    whole, broken = (read_checkpoint(tmp_path / name) for name in ("whole", "broken"))
    for key in ("step", "network", "optimiser", "average", "best"):
        assert same(whole[key], broken[key]), key


def test_run_folder_holds_what_a_run_leaves(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    Trainer(small_recipe(), streets, out).run()
    names = {p.name for p in out.iterdir()}
    assert {"recipe.yaml", "metrics.csv", "about.yaml", "last.pt", "best.pt", "samples"} <= names
    assert load_recipe(out / "recipe.yaml") == small_recipe()
    with pytest.raises(UserError, match="already holds a run"):
        Trainer(small_recipe(), streets, out)


def test_two_do_not_train_in_one_folder(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trainer = StopAt(small_recipe(), streets, out)
    with pytest.raises(UserError, match=f"another process trains in run folder {out}"):
        Trainer(small_recipe(), streets, out)
    trainer.run()
    assert Trainer(small_recipe(), streets, out, checkpoint=read_checkpoint(out)).run()


def test_truncated_checkpoint_is_refused_and_the_one_before_offered(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe(), streets, out).run()
    Trainer(small_recipe(), streets, out, checkpoint=read_checkpoint(out)).run()
    assert read_checkpoint(out)["step"] == 7
    whole = (out / LAST).read_bytes()
    (out / LAST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{LAST}.*truncated or damaged.*{PREVIOUS}"):
        read_checkpoint(out)
    assert read_checkpoint(out / PREVIOUS)["step"] == 3


@pytest.mark.parametrize("text", ["step,loss\n3,many\n", "epoch,loss\n1,2\n", "step\n3,4,5\n"])
def test_a_table_of_validations_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(text)
    with pytest.raises(UserError, match=f"{METRICS} cannot be read"):
        read_metrics(tmp_path / METRICS)


@pytest.mark.parametrize("text", ["- 1", "commit: 2020-13-45", "commit: !!timestamp x", "["])
def test_facts_of_a_run_that_are_none_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(UserError, match=f"{ABOUT} cannot be read"):
        read_about(tmp_path)


def test_a_run_that_was_stopped_between_two_moves_goes_on_from_the_newer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / PREVIOUS, {"step": 3})
    write_checkpoint(tmp_path / f"new-{LAST}", {"step": 7})
    assert read_checkpoint(tmp_path)["step"] == 7
    write_checkpoint(tmp_path / LAST, {"step": 8})
    assert read_checkpoint(tmp_path)["step"] == 8


def test_a_run_that_is_continued_only_to_end_is_measured_and_gives_what_it_reached(
    streets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe(), streets, out).run()
    assert not (out / BEST).exists()
    assert Trainer(small_recipe("schedule.max_steps=3"), streets, out, checkpoint=read_checkpoint(out)).run()
    assert read_checkpoint(out / BEST)["step"] == 3 and export_weights(out).details["training"]["best_step"] == 3
    measured = (out / METRICS).read_text()
    assert Trainer(small_recipe("schedule.max_steps=3"), streets, out, checkpoint=read_checkpoint(out)).run()
    assert (out / METRICS).read_text() == measured, "once is enough"


def test_a_run_whose_time_is_up_when_it_is_continued_is_measured_too(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe("run.keep=last"), streets, out).run()
    recipe = small_recipe("run.keep=last", "schedule.max_minutes=0.00001")
    assert Trainer(recipe, streets, out, checkpoint=read_checkpoint(out)).run()
    assert export_weights(out).details["training"]["best_step"] == 3


def test_losses_are_means_since_the_last_validation_whether_the_run_was_broken_off_or_not(
    streets: Path, tmp_path: Path
) -> None:
    seen: list[float] = []

    class Watching(Trainer):
        def _check(self, pending: Any) -> None:
            before = len(self._losses)
            super()._check(pending)
            seen.extend(self._losses[before:])

    def rows(folder: Path) -> list[float]:
        return [row["loss"] for row in read_metrics(folder / METRICS)]

    few = "run.validate_every=0.25", "schedule.max_steps=6"
    run = Watching(small_recipe(*few), streets, tmp_path / "whole")
    run.run()
    steps = [int(row["step"]) for row in read_metrics(tmp_path / "whole" / METRICS)]
    begins = [0, *steps[:-1]]
    expected = [np.mean(seen[begin:end]) for begin, end in zip(begins, steps, strict=True)]
    assert len(seen) == 6 and rows(tmp_path / "whole") == pytest.approx(expected, rel=1e-4)

    out = tmp_path / "parts"
    StopAt(small_recipe(*few), streets, out).run()
    Trainer(small_recipe(*few), streets, out, checkpoint=read_checkpoint(out)).run()
    assert rows(out) == pytest.approx(rows(tmp_path / "whole"), rel=1e-4)


def test_a_folder_without_a_checkpoint_is_not_offered_to_be_continued(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe(), streets, out).run()
    for path in out.glob("*.pt"):
        path.unlink()
    (out / METRICS).write_text("epoch,step\n")
    with pytest.raises(UserError, match="what is left of a run that has no checkpoint: remove it"):
        Trainer(small_recipe(), streets, out)


def test_a_fork_does_not_hold_the_folder(streets: Path, tmp_path: Path) -> None:
    run = Trainer(small_recipe(), streets, tmp_path / "run")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        run.folder.close()
        Trainer(small_recipe(), streets, tmp_path / "run").folder.close()
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_the_best_of_a_folder_that_is_not_there_counts_for_nothing(streets: Path, tmp_path: Path) -> None:
    Trainer(small_recipe(), streets, tmp_path / "run").run()
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / LAST).rename(tmp_path / "other" / LAST)
    checkpoint = {**read_checkpoint(tmp_path / "other"), "best": 2.0}
    assert Trainer(small_recipe("schedule.max_steps=9"), streets, tmp_path / "other", checkpoint=checkpoint).run()
    assert read_checkpoint(tmp_path / "other" / BEST)["step"] == 9


def test_a_run_that_is_continued_otherwise_tells_how_it_began(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe("optimiser.lr=0.01"), streets, out).run()
    for words in (["optimiser.lr=0.002"], ["optimiser.lr=0.002"], ["optimiser.lr=0.003"]):
        recipe = small_recipe(*words, "schedule.max_steps=3")
        Trainer(recipe, streets, out, checkpoint=read_checkpoint(out)).run()
    card = export_weights(out).details
    rates = [
        re.search("optimiser.lr=([0-9.]+)", command)[1]
        for command in (card["command"], *(part["command"] for part in card["before"]))
    ]
    assert rates == ["0.003", "0.01", "0.002"] and [part["until_step"] for part in card["before"]] == [3, 3]


class Spoilt(Trainer):
    """In one step a gradient is no number, while the loss is."""

    at = 5

    def train_step(self) -> torch.Tensor:
        loss = super().train_step()
        if self.step == self.at:
            with torch.no_grad():
                next(self.network.parameters())[0] = float("nan")
        return loss


def test_weights_that_are_no_numbers_are_not_kept(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    StopAt(small_recipe(), streets, out).run()
    for steps in (5, 7):
        trainer = Spoilt(small_recipe(f"schedule.max_steps={steps}"), streets, out, checkpoint=read_checkpoint(out))
        with pytest.raises(TrainingError, match=r"no numbers after step 5|the loss became nan"):
            trainer.run()
        assert read_checkpoint(out)["step"] == 3 and not (out / BEST).exists()


def test_loss_that_is_no_number_stops_the_run_and_names_the_files(streets: Path, tmp_path: Path) -> None:
    trainer = Trainer(small_recipe(), streets, tmp_path / "run")
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"train/\d\.png"):
        trainer.run()
    assert not (tmp_path / "run" / LAST).exists()


def test_a_damaged_checkpoint_is_refused_whatever_reading_it_raises(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / LAST).write_bytes(b"damaged")

    def damaged(*_: Any, **__: Any) -> None:
        raise IndexError("pop from empty list")

    monkeypatch.setattr(torch, "load", damaged)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_checkpoint(tmp_path / LAST)
