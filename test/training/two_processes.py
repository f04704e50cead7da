"""What test_distributed.py has torchrun start: runs of two processes, of which each writes down how it went."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.training.checkpoint import read_checkpoint
from rt_seg_ros.training.distributed import FailedElsewhere, World, join_world
from rt_seg_ros.training.learner import Heads
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.losses import make_loss
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.start import make_networks


class StopAt(Trainer):
    """The second process alone is asked to stop after the second step."""

    def train_step(self) -> torch.Tensor:
        loss = super().train_step()
        if self.step == 2 and self.world.rank == 1:
            self.stop()
        return loss


def outcome(recipe: Recipe, data: Path, out: Path, world: World) -> str:
    """Return how a run ends that may be refused."""
    try:
        Trainer(recipe, data, out, world=world).run()
    except (UserError, FailedElsewhere) as error:
        return f"{type(error).__name__}: {error}"
    return "ended"


def exact_gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return the gradients of the first batch in float64, where no order of sums can hide a mistake."""
    recipe, world = trainer.recipe, trainer.world
    torch.manual_seed(recipe.run.seed)
    network = make_networks(recipe, load_label_space("camvid11"))[0].double()
    world.synchronise(network)
    forward = world.wrapped(Heads(network))
    x, truth = trainer.batch(0)
    heads = forward(x.double())
    weights = torch.linspace(0.5, 2.0, 11, dtype=torch.float64)
    make_loss("cross_entropy", weights, average=world.mean)(heads[0], truth).backward()
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


def main(recipe_path: str, data: str, out: str) -> None:
    """Train: whole; broken off and continued; and what is refused."""
    recipe, root, folder = load_recipe(recipe_path), Path(data), Path(out)
    with join_world("cpu") as world:
        whole = Trainer(recipe, root, folder / "whole", world=world)
        ended = [whole.run()]
        broken = StopAt(recipe, root, folder / "broken", world=world)
        ended.append(broken.run())
        step = broken.step
        checkpoint = read_checkpoint(folder / "broken")
        broken = Trainer(recipe, root, folder / "broken", checkpoint=checkpoint, world=world)
        ended.append(broken.run())
        odd = outcome(load_recipe(recipe_path, ["schedule.batch=3"]), root, folder / "odd", world)
        fails = {}
        for name, words in (("full", []), ("early", ["run.validate_every=1"])):  # at the last step, and before it
            if world.leads:
                (folder / name).mkdir()
                (folder / name / f".metrics.csv.{os.getpid()}.part").symlink_to("/dev/full")
            fails[name] = outcome(load_recipe(recipe_path, words), root, folder / name, world)
        state = {"whole": whole.network.state_dict(), "broken": broken.network.state_dict()}
        state["gradients"] = exact_gradients(whole)
        torch.save(state, folder / f"weights{world.rank}.pt")
        told = {"ended": ended, "step": step, "odd": odd, **fails, "share": len(whole.batch(0)[0])}
        (folder / f"told{world.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
