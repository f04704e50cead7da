"""Where a training step's time goes: whole steps beside the bare forward and backward passes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.watcher import Watcher

_WARM_UP_STEPS = 3
_BLOCKS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds per step, and per forward and backward pass (with the loss) of one batch that is ready."""

    step: float
    passes: float
    batch: int

    def told(self) -> str:
        """Return the figures in a line."""
        return (
            f"a step takes {1e3 * self.step:.1f} ms ({self.batch / self.step:.1f} images/s), its forward and backward "
            f"passes alone {1e3 * self.passes:.1f} ms: {100 * self.passes / self.step:.1f} % of it"
        )


def time_steps(recipe: Recipe, root: Path | None, steps: int, watcher: Watcher | None = None) -> Timing:
    """Take so many steps, in blocks between which the bare passes take their turn; nothing is kept.

    :param root: data set folder that the recipe's relative paths start at
    :raises UserError: as :class:`Trainer`
    """
    with tempfile.TemporaryDirectory(prefix="rt_seg_timing_") as folder:
        trainer = Trainer(recipe, root, Path(folder) / "run", watcher)
        trainer.network.train()
        x, truth = trainer.batch(0)

        def passes() -> object:
            return trainer.learner.forward_backward(x, truth)

        for _ in range(_WARM_UP_STEPS):
            trainer.train_step()
            passes()
        counts = [steps * (b + 1) // _BLOCKS - steps * b // _BLOCKS for b in range(_BLOCKS)]
        whole = bare = 0.0
        for count in counts:
            whole += _seconds(trainer.train_step, count, trainer.device)
            bare += _seconds(passes, count, trainer.device)
        trainer.feed.close()
        return Timing(whole / steps, bare / steps, recipe.schedule.batch)


def _seconds(action: Callable[[], object], count: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
