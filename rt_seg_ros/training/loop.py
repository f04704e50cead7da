"""The training loop: a recipe in, a run folder out.

When to take a step, measure, save and end is decided here; how a step is taken stands in ``learner``, what it learns
from in ``batches``.

The state of a run is (step, weights, optimiser, weight average, time used); everything else, also what a batch shows,
what dropout drops and the learning rate, follows from the recipe and the step. A run that is continued on the CPU
therefore equals an unbroken one, unless ``schedule.max_minutes`` ties it to the clock.

Several processes (see ``distributed``) take the same steps, each on its share of the batch.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rt_seg_ros.backends.torch_backend import cpu_has_bf16
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import remove_leftovers
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.training.about import describe_run, frame_size, parts_before
from rt_seg_ros.training.batches import Batches
from rt_seg_ros.training.checkpoint import BEST, recipe_in, write_checkpoint, write_last
from rt_seg_ros.training.checks import check_continued, check_recipe
from rt_seg_ros.training.distributed import Decision, FailedElsewhere, World, choose_device
from rt_seg_ros.training.feed import Feed, UnreadError
from rt_seg_ros.training.learner import Learner, state_bytes
from rt_seg_ros.training.losses import create_losses
from rt_seg_ros.training.mixture import Mixture
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.run_folder import RunFolder, label_space_of, read_about
from rt_seg_ros.training.schedules import rate_factor
from rt_seg_ros.training.signals import stop_on_signals
from rt_seg_ros.training.sources import OpenSource, PictureSource, load_sources, open_sources
from rt_seg_ros.training.start import describe_start, make_networks, start_remarks
from rt_seg_ros.training.validation import validate
from rt_seg_ros.training.watcher import Progress, Watcher
from rt_seg_ros.working_size import working_size

_SAMPLES_SHOWN = 4
_CHECKPOINTS = 4  # the last, the one before, a new one being written; and the best weights


class TrainingError(UserError):
    """The loss is no longer a number."""


class Trainer:
    """One run.

    Before data are read, all that can be told without them is checked. Where anything is refused, or the reading
    interrupted, no new folder stays behind.

    :param recipe: what to do
    :param root: data set folder that the recipe's relative paths start at
    :param out: run folder
    :param watcher: hears of progress
    :param checkpoint: content of the checkpoint to continue from
    :param world: the processes that take part; none: this one alone
    :raises UserError: data, network options, device or folder that cannot be used; before any step is taken.
    :raises FailedElsewhere: another process was refused something
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path | None,
        out: Path,
        watcher: Watcher | None = None,
        checkpoint: dict[str, Any] | None = None,
        world: World | None = None,
    ) -> None:
        self.recipe = recipe
        self.watcher = watcher or Watcher()
        self.world = world or World(choose_device(recipe.run.device))
        self.device = self.world.device
        if recipe.run.threads:
            torch.set_num_threads(recipe.run.threads)
        self.folder: RunFolder | None = None
        try:
            self.world.together(lambda: self._prepare(root, out, checkpoint))
            sources = load_sources(self._opened[0], recipe.data.mean, self.world, self.watcher.on_preparing)
            self.validation: list[PictureSource] = []
            self.world.together(self._load_validation)
            self._set_up(sources)
            if checkpoint is not None:
                self._restore(checkpoint)
            self.world.together(lambda: self._begin_folder(root, sources))
        except BaseException:
            if self.folder is not None:
                self.folder.discard()
            raise

    def _prepare(self, root: Path | None, out: Path, checkpoint: dict[str, Any] | None) -> None:
        """Do and check all that needs no data."""
        recipe, data = self.recipe, self.recipe.data
        before: Recipe | None = None
        if checkpoint is not None:
            before = recipe_in(checkpoint, "the checkpoint")
            check_continued(recipe, before)
        self.space = load_label_space(recipe.label_space) if checkpoint is None else label_space_of(out, recipe)
        self.world.share_of(recipe.schedule.batch)
        check_recipe(recipe, self.space, before)
        torch.manual_seed(recipe.run.seed)
        self.network, self._deployed = make_networks(recipe, self.space, checkpoint is None)
        self._start = describe_start(recipe, self.network, self.space) if checkpoint is None else None
        self._opened: tuple[list[OpenSource], list[OpenSource]] = (
            open_sources(data.train, root, self.space, data, data.size),
            open_sources(data.val, root, self.space, data, None),
        )
        names = [source.name for source in self._opened[1]]
        if len(set(names)) < len(names):
            raise UserError(f"data.val has two splits of one name, {', '.join(names)}: give each a name")
        if self.world.leads:
            room = state_bytes(recipe, self.network) * (_CHECKPOINTS if checkpoint is None else 1)
            self.folder = RunFolder(out, None if checkpoint is None else int(checkpoint["step"]), room)

    def _load_validation(self) -> None:
        if self.world.leads:
            alone = World(self.device)
            self.validation = load_sources(self._opened[1], self.recipe.data.mean, alone, self.watcher.on_preparing)

    def _set_up(self, sources: Sequence[PictureSource]) -> None:
        recipe, data = self.recipe, self.recipe.data
        losses = create_losses(recipe, sources, self.space.num_classes, self.world)
        learnt, resized = frame_size(recipe, sources), data.size is not None
        self._seen = partial(working_size, learnt=learnt, resized=resized)  # as who uses the weights shows it frames
        self.mixture = Mixture([s.to(self.device) for s in sources], [s.weight for s in data.train], recipe.run.seed)
        self.steps = self._total_steps()
        self.feed = Feed(self.mixture, recipe.schedule.batch, self.steps, self.world, recipe.run.workers)
        self.batches = Batches(recipe, self.feed, self.device)
        self.learner = Learner(recipe, self.network, self._deployed, losses, self.world)

        self.step = 0
        self.best = -1.0
        self.seconds_before = 0.0
        self._clock = 0.0
        self._started = time.monotonic()
        self._saved_at = self._started
        self._saved_step = 0  # before the first step there is nothing to save
        self._losses: list[float] = []  # since the last validation
        self._unread: UnreadError | None = None
        self._asked_to_stop = False

    def _begin_folder(self, root: Path | None, sources: Sequence[PictureSource]) -> None:
        if self.folder is not None:
            remove_leftovers(self.folder.path)
            start = self._start or read_about(self.folder.path).get("start")
            about = describe_run(self.recipe, root, sources, self.validation, self.world, self.space, start)
            if before := parts_before(read_about(self.folder.path), about, self.step):
                about["before"] = before
            self.folder.begin(self.recipe, self.space, about, root)
            self.watcher.on_message(f"licence of the weights, by the recipe: {about['licence']}")
            if anew := (self._start or {}).get("begun_anew"):
                more = f" and {len(anew) - 4} more" if len(anew) > 4 else ""
                self.watcher.on_message(f"nothing in network.weights fits {', '.join(anew[:4])}{more}: begun anew")
            if self._start:
                frames = frame_size(self.recipe, sources)
                for remark in start_remarks(self.recipe, self.space, frames, about["validation"]):
                    self.watcher.on_message(remark)
            if self.device.type == "cpu" and self.recipe.run.precision == "bf16" and not cpu_has_bf16():
                self.watcher.on_message("this CPU has no instructions for bf16: run.precision=fp32 is faster here")

    # -- the run ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the run to write a checkpoint and end after the present step; any process may be asked."""
        self._asked_to_stop = True

    @property
    def finished(self) -> bool:
        """Whether the run is at its end."""
        return self.share >= 1.0

    @property
    def seconds(self) -> float:
        """Time used, that of earlier parts of the run included."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """How far the run is, 0 to 1: by steps, or by the clock, read before each step, where that is ahead."""
        return self._share_at(self.step)

    @property
    def epoch(self) -> float:
        """Passes over the first source so far."""
        return self.step * self.recipe.schedule.batch / self.mixture.epoch_samples

    def run(self) -> bool:
        """Train to the end, or until asked to stop.

        :return: whether the run came to its end
        :raises TrainingError: the loss became NaN or infinite
        :raises UserError: a file could not be written; or the next batch not be read, after a checkpoint
        :raises FailedElsewhere: another process failed
        """
        self._started = self._saved_at = time.monotonic()
        try:
            with stop_on_signals(self.stop):
                self._train()
        finally:
            self.feed.close()
            if self.folder is not None:
                self.folder.close()
        return self.finished

    def _train(self) -> None:
        batch = self.recipe.schedule.batch
        # On a GPU, asking for every loss would make it wait for the host each time.
        check_every = 1 if self.device.type == "cpu" else 20
        pending: list[tuple[int, Tensor]] = []
        clock, since = time.monotonic(), self.step
        speed = 0.0
        self._read_next()
        decision = self._announced(self._decide())
        if self.finished:  # a run that is continued only to end where it stood
            with self.world.leading():
                self._measure_if_missing()
        self.network.train()
        while not self.finished and not decision.stop:
            pending.append((self.step, self.train_step()))
            self._read_next()
            decision = self._announced(self._decide())
            if self.step % check_every == 0 or self.finished:
                self._check(pending)
                now = time.monotonic()
                current = (self.step - since) * batch / max(now - clock, 1e-9)
                speed = current if speed == 0.0 else 0.9 * speed + 0.1 * current
                clock, since = now, self.step
                self.watcher.on_step(self._progress(self._losses[-1], speed))
            if self.finished or self._validation_is_due():
                self._check(pending)
                loss = float(np.mean(self._losses))
                self._losses = []
                with self.world.leading():
                    self._validate(loss, speed)
                    self._save()
                clock, since = time.monotonic(), self.step
            elif decision.save:
                self._check(pending)
                with self.world.leading():
                    self._save()
        if decision.stop and not self.finished:
            self._check(pending)
            with self.world.leading():
                if self.step or self._unread is None:
                    self._save()
        self._decide()  # nobody leaves before the one that leads has written all
        if self._unread is not None and not self.finished:
            raise UserError(f"{self._unread}; {self._kept()}") from self._unread

    def _measure_if_missing(self) -> None:
        """Validate what was reached, and keep the best, where the folder does not have it yet."""
        if self.folder is None:
            return
        rows = self.folder.rows
        if not rows or rows[-1]["step"] < self.step or not (self.folder.path / BEST).is_file():
            self._validate(float(np.mean(self._losses)) if self._losses else math.nan, 0.0)
            self._losses = []
            self._save()

    def _announced(self, decision: Decision) -> Decision:
        """Say that the run stops here, where no signal's handler is in the midst of anything."""
        if decision.stop and not self.finished:
            self.watcher.on_message("stopping after this step, with a checkpoint")
        return decision

    def _read_next(self) -> None:
        """Have the next step's pictures at hand; where they cannot be had, all processes stop, with a checkpoint."""
        if self.finished:
            return
        try:
            self.feed.fetch(self.step)
        except UnreadError as error:
            self._unread = error
            self.stop()

    def _kept(self) -> str:
        """Return what there is to continue from."""
        if self.folder is None:
            return "the process that leads has the checkpoints"
        if not self._saved_step:
            return "there is no checkpoint to continue from"
        command = shlex.join(["rt-seg", "train", "--resume", str(self.folder.path)])
        return f"step {self._saved_step} is kept: {command}"

    def _decide(self) -> Decision:
        """Agree with all processes on what comes next, and set the clock by the one that leads."""
        schedule, now = self.recipe.schedule, time.monotonic()
        due = now - self._saved_at > 60 * self.recipe.run.checkpoint_minutes
        clock = 0.0 if schedule.max_minutes is None else self.seconds / (60.0 * schedule.max_minutes)
        decision = self.world.decide(self._asked_to_stop, due, clock)
        self._clock = decision.clock
        return decision

    def train_step(self) -> Tensor:
        """Take one step; return its loss, still on the device."""
        x, truth = self.batch(self.step)
        loss = self.learner.learn(self.step, x, truth, self.rate_factor())
        self.step += 1
        return loss

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's share of a step's batch, as :meth:`Batches.batch`."""
        return self.batches.batch(step, self._share_at(step))

    def rate_factor(self) -> float:
        """Return the present factor on the learning rate."""
        s = self.recipe.schedule
        return rate_factor(
            s.kind,
            self.step,
            self.share,
            power=s.power,
            final=s.final,
            warm_up_steps=s.warm_up_steps,
            warm_up_start=s.warm_up_start,
        )

    # -- parts -----------------------------------------------------------------------------------------------

    def _total_steps(self) -> int:
        schedule = self.recipe.schedule
        steps = max(1, math.ceil(schedule.epochs * self.mixture.epoch_samples / schedule.batch))
        return min(steps, schedule.max_steps) if schedule.max_steps else steps

    def _share_at(self, step: int) -> float:
        return min(1.0, max(step / self.steps, self._clock))

    def _progress(self, loss: float, speed: float) -> Progress:
        left = (self.steps - self.step) * self.recipe.schedule.batch / speed if speed else math.inf
        if self.recipe.schedule.max_minutes is not None:
            left = min(left, 60 * self.recipe.schedule.max_minutes - self.seconds)
        rate = self.recipe.optimiser.lr * self.rate_factor()
        return Progress(self.step, self.steps, self.share, self.epoch, loss, rate, speed, max(left, 0.0))

    def _check(self, pending: list[tuple[int, Tensor]]) -> None:
        """Fetch the losses of the last steps, over all processes, and empty the list.

        :raises TrainingError: one is no number
        """
        if not pending:
            return
        values = self.world.mean(torch.stack([loss for _, loss in pending])).tolist()
        for (step, _), value in zip(pending, values, strict=True):
            if math.isfinite(value):
                continue
            if not self.world.leads:
                raise FailedElsewhere
            count = self.recipe.schedule.batch
            raise TrainingError(
                f"the loss became {value} at step {step} (epoch {self.epoch:.1f}); {self._kept()}. "
                "Lower optimiser.lr, set optimiser.clip, or look at this batch:\n  "
                + "\n  ".join(self.mixture.names(step * count, count))
            )
        pending.clear()
        self._losses += values

    def _validation_is_due(self) -> bool:
        every = self.recipe.run.validate_every * self.mixture.epoch_samples / self.recipe.schedule.batch
        return int(self.step / every) > int((self.step - 1) / every)

    def _check_weights(self) -> None:
        """Refuse to keep weights that are no numbers.

        :raises TrainingError: naming the first
        """
        if name := self.learner.spoilt():
            raise TrainingError(
                f"{name} has values that are no numbers after step {self.step} (epoch {self.epoch:.1f}); "
                f"{self._kept()}. Lower optimiser.lr, or set optimiser.clip"
            )

    def _validate(self, loss: float, speed: float) -> None:
        if self.folder is None:
            return
        self._check_weights()
        network, classes, data = self.learner.deployed(), self.space.num_classes, self.recipe.data
        scores = [
            validate(network, source, classes, data.mean, data.std, self._seen, self.learner.dtype, _SAMPLES_SHOWN)
            for source in self.validation
        ]
        progress = self._progress(loss, speed)
        row: dict[str, float] = {
            "epoch": round(self.epoch, 3),
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            "loss": loss,
            "lr": progress.rate,
            "images_per_s": speed,
        }
        for score in scores:
            row |= score.figures(self.space.names)
        self.folder.add(row)
        if scores:
            self.folder.add_samples(self.step, [s for score in scores for s in score.samples], self.space)
        better = not scores or scores[0].matrix.miou() > self.best or self.recipe.run.keep == "last"
        if better:
            self.best = scores[0].matrix.miou() if scores else self.best
            content = {
                "step": self.step,
                "weights": self.learner.weights(),
                "metrics": row,
                "recipe": self.recipe.to_yaml(),
            }
            write_checkpoint(self.folder.path / BEST, content)
        self.watcher.on_validation(progress, scores, better)

    def _save(self) -> None:
        if self.folder is None:
            return
        self._check_weights()
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": self._losses,
            "recipe": self.recipe.to_yaml(),
            **self.learner.state_dict(),
        }
        write_last(self.folder.path, content)
        self._saved_at = time.monotonic()
        self._saved_step = self.step

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.learner.load_state_dict(checkpoint)
        self.step = self._saved_step = int(checkpoint["step"])
        self.seconds_before = float(checkpoint["seconds"])
        self._losses = list(checkpoint.get("losses", []))  # older checkpoints have none
        if self.folder is not None and (self.folder.path / BEST).is_file():  # else the first from here on is
            self.best = float(checkpoint["best"])
