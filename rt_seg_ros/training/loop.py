"""The training loop: a recipe in, a run folder out.

Its state is (step, weights, optimiser, weight average, generators, time used); everything else, also what a batch
shows and the learning rate, follows from the recipe and the step. A run that is continued on the CPU therefore equals
an unbroken one, unless ``schedule.max_minutes`` ties it to the clock.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rt_seg_ros.data.augment import Augmenter, AugmentOptions, draw_views, generator
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import SegmentationNetwork, create_network
from rt_seg_ros.training.about import describe_run
from rt_seg_ros.training.checkpoint import BEST, write_checkpoint, write_last
from rt_seg_ros.training.ema import WeightAverage
from rt_seg_ros.training.losses import HeadLosses, class_weights, make_loss
from rt_seg_ros.training.precision import prepare_for_cpu
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.run_folder import RunFolder
from rt_seg_ros.training.schedules import rate_factor
from rt_seg_ros.training.sources import Mixture, load_source
from rt_seg_ros.training.start import load_start
from rt_seg_ros.training.validation import validate
from rt_seg_ros.training.watcher import Progress, Watcher

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SAMPLES_SHOWN = 4


class TrainingError(UserError):
    """The loss is no longer a number."""


class Trainer:
    """One run.

    :param recipe: what to do
    :param root: data set folder that the recipe's relative paths start at
    :param out: run folder
    :param watcher: hears of progress
    :param checkpoint: content of the checkpoint to continue from
    :raises UserError: data, network options, device or folder that cannot be used; before any step is taken.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path | None,
        out: Path,
        watcher: Watcher | None = None,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.watcher = watcher or Watcher()
        self.space = load_label_space(recipe.label_space)
        self.device = choose_device(recipe.run.device)
        if recipe.run.threads:
            torch.set_num_threads(recipe.run.threads)
        self.folder = RunFolder(out, recipe, None if checkpoint is None else int(checkpoint["step"]))

        report = self.watcher.on_preparing
        data = recipe.data
        sources = [load_source(s, root, self.space, data.size, report) for s in data.train]
        self.validation = [load_source(s, root, self.space, None, report) for s in data.val]
        if len({s.name for s in self.validation}) < len(self.validation):
            raise UserError(f"data.val has two splits called {[s.name for s in self.validation]}: give each a name")
        self.folder.describe(describe_run(recipe, root, sources, self.validation, self.device))
        weights = self._class_weights(sources)
        self.mixture = Mixture([s.to(self.device) for s in sources], [s.weight for s in data.train], recipe.run.seed)
        self.steps = self._total_steps()

        torch.manual_seed(recipe.run.seed)
        self.network = self._network().to(self.device)
        if recipe.run.channels_last:
            _channels_last(self.network)
        if self.device.type == "cpu":
            prepare_for_cpu(self.network)
        self.optimiser = _optimiser(recipe, self.network)
        self.average = WeightAverage(self.network, recipe.run.ema) if recipe.run.ema else None
        loss = recipe.loss
        options = loss.model_dump(include={"threshold", "min_share", "gamma", "alpha", "label_smoothing"})
        self.loss = HeadLosses(
            make_loss(loss.kind, weights, **options),
            make_loss(loss.auxiliary_kind or loss.kind, weights, **options),
            loss.auxiliary_weights,
        )
        augment = recipe.augment.model_dump(exclude={"begin"})
        self.augmenter = Augmenter(AugmentOptions(**augment), data.mean, data.std, self.device)
        self._begin = self.augmenter
        if recipe.augment.begin:
            augment |= recipe.augment.begin.model_dump(exclude={"share"}) | {"scales": ()}
            self._begin = Augmenter(AugmentOptions(**augment), data.mean, data.std, self.device)
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=recipe.run.precision == "fp16" and self.device.type == "cuda"
        )
        self._forward = torch.compile(self.network.forward_train) if recipe.run.compile else self.network.forward_train

        self.step = 0
        self.best = -1.0
        self.seconds_before = 0.0
        self._started = time.monotonic()
        self._stopping = False
        if checkpoint is not None:
            self._restore(checkpoint)

    # -- the run ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the run to write a checkpoint and end after the present step."""
        self._stopping = True

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
        """How far the run is, 0 to 1: by steps, or by the clock where that is ahead."""
        share = self.step / self.steps
        budget = self.recipe.schedule.max_minutes
        return min(1.0, share if budget is None else max(share, self.seconds / (60.0 * budget)))

    @property
    def epoch(self) -> float:
        """Passes over the first source so far."""
        return self.step * self.recipe.schedule.batch / self.mixture.epoch_samples

    def run(self) -> bool:
        """Train to the end, or until asked to stop.

        :return: whether the run came to its end
        :raises TrainingError: the loss became NaN or infinite
        :raises UserError: a file could not be written
        """
        self._started = time.monotonic()
        with stop_on_signals(self):
            self._train()
        self.folder.close()
        return self.finished

    def _train(self) -> None:
        recipe, batch = self.recipe, self.recipe.schedule.batch
        # On a GPU, asking for every loss would make it wait for the host each time.
        check_every = 1 if self.device.type == "cpu" else 20
        pending: list[tuple[int, Tensor]] = []
        losses: list[float] = []
        saved_at = clock = time.monotonic()
        since = self.step
        speed = 0.0
        self.network.train()
        ended = self.finished
        while not ended and not self._stopping:
            pending.append((self.step, self.train_step()))
            ended = self.finished  # asked once, for the clock may run out at any moment
            if self.step % check_every == 0 or ended:
                losses += self._checked(pending)
                now = time.monotonic()
                current = (self.step - since) * batch / max(now - clock, 1e-9)
                speed = current if speed == 0.0 else 0.9 * speed + 0.1 * current
                clock, since = now, self.step
                self.watcher.on_step(self._progress(losses[-1], speed))
            if ended or self._validation_is_due():
                losses += self._checked(pending)
                self._validate(float(np.mean(losses)), speed)
                losses = losses[-1:]
                self._save()
                saved_at = clock = time.monotonic()
                since = self.step
            elif time.monotonic() - saved_at > 60 * recipe.run.checkpoint_minutes:
                losses += self._checked(pending)
                self._save()
                saved_at = time.monotonic()
        if self._stopping:
            self._checked(pending)
            self._save()

    def train_step(self) -> Tensor:
        """Take one step; return its loss, still on the device."""
        recipe = self.recipe
        x, truth = self.batch(self.step)
        factor = self.rate_factor()
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.optimiser.lr * group["lr_scale"] * factor
        with torch.autocast(self.device.type, _DTYPES[recipe.run.precision], enabled=recipe.run.precision != "fp32"):
            heads = self._forward(x)
        loss = self.loss(heads, truth)
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        if recipe.optimiser.clip:
            self._scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optimiser.clip)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        if self.average is not None:
            self.average.update(self.network)
        self.step += 1
        return loss.detach()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step: normalised float32 (B, 3, h, w), and int64 (B, h, w), 255 = void."""
        recipe = self.recipe
        count = recipe.schedule.batch
        rng = generator(recipe.run.seed, 3, step)
        begin = recipe.augment.begin
        early = begin is not None and max(step / self.steps, self.share) < begin.share
        augmenter = self._begin if early else self.augmenter
        parts = [
            augmenter(b.images, b.labels, b.sizes, draw_views(augmenter.options, b.sizes, rng))
            for b in self.mixture.batches(step * count, count)
        ]
        x = torch.cat([p[0] for p in parts])
        if recipe.run.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, torch.cat([p[1] for p in parts])

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

    def weights(self) -> dict[str, Tensor]:
        """Return what is measured and shipped: the averaged weights, else the present ones, without auxiliary heads."""
        state = self.average.state if self.average is not None else self.network.state_dict()
        return {key: value for key, value in state.items() if key in self._deployed}

    # -- parts -----------------------------------------------------------------------------------------------

    def _network(self) -> SegmentationNetwork:
        section = self.recipe.network
        options = dict(section.options)
        deployed = create_network(section.name, num_classes=self.space.num_classes, **options)
        self._deployed = set(deployed.state_dict())
        self._evaluated = deployed.to(self.device)
        if not self.recipe.loss.auxiliary_weights:
            network = copy.deepcopy(deployed)
        else:
            network = create_network(section.name, num_classes=self.space.num_classes, aux=True, **options)
            heads, weights = _auxiliary_heads(network), len(self.recipe.loss.auxiliary_weights)
            if heads != weights:
                raise UserError(
                    f"loss.auxiliary_weights has {weights} numbers, "
                    f"but network '{section.name}' has {heads} auxiliary heads"
                )
        if section.backbone_weights:
            network.load_backbone(Path(section.backbone_weights))
        if section.weights:
            load_start(section.weights, section.name, network)
        return network

    def _class_weights(self, sources: list[Any]) -> Tensor | None:
        given = self.recipe.loss.class_weights
        if given == "none":
            return None
        classes = self.space.num_classes
        if given == "computed":
            # Mean pixels per picture, by each source's share of the samples.
            shares = [section.weight for section in self.recipe.data.train]
            pixels = sum(share * source.class_pixels(classes) for share, source in zip(shares, sources, strict=True))
            return torch.from_numpy(class_weights(np.asarray(pixels))).to(self.device)
        if len(given) != classes:
            raise UserError(
                f"loss.class_weights has {len(given)} numbers; label space '{self.space.name}' has {classes} classes"
            )
        return torch.tensor(given, dtype=torch.float32, device=self.device)

    def _total_steps(self) -> int:
        schedule = self.recipe.schedule
        steps = max(1, math.ceil(schedule.epochs * self.mixture.epoch_samples / schedule.batch))
        return min(steps, schedule.max_steps) if schedule.max_steps else steps

    def _progress(self, loss: float, speed: float) -> Progress:
        share = self.share
        left = (self.steps - self.step) * self.recipe.schedule.batch / speed if speed else math.inf
        if self.recipe.schedule.max_minutes is not None:
            left = min(left, 60 * self.recipe.schedule.max_minutes - self.seconds)
        rate = self.recipe.optimiser.lr * self.rate_factor()
        return Progress(self.step, self.steps, share, self.epoch, loss, rate, speed, max(left, 0.0))

    def _checked(self, pending: list[tuple[int, Tensor]]) -> list[float]:
        """Fetch the losses of the last steps and empty the list."""
        if not pending:
            return []
        values = torch.stack([loss for _, loss in pending]).tolist()
        for (step, _), value in zip(pending, values, strict=True):
            if not math.isfinite(value):
                count = self.recipe.schedule.batch
                names = [n for b in self.mixture.batches(step * count, count) for n in b.names]
                raise TrainingError(
                    f"the loss became {value} at step {step} (epoch {self.epoch:.1f}); the checkpoint before is kept. "
                    "Lower optimiser.lr, set optimiser.clip, or look at this batch:\n  " + "\n  ".join(names)
                )
        pending.clear()
        return values

    def _validation_is_due(self) -> bool:
        every = self.recipe.run.validate_every * self.mixture.epoch_samples / self.recipe.schedule.batch
        return int(self.step / every) > int((self.step - 1) / every)

    def _validate(self, loss: float, speed: float) -> None:
        self._evaluated.load_state_dict(self.weights())
        network = self._evaluated.eval()
        if self.recipe.run.channels_last:
            _channels_last(network)
        precision = _DTYPES[self.recipe.run.precision]
        data = self.recipe.data
        scores = [
            validate(network, source, self.space.num_classes, data.mean, data.std, data.size, precision, _SAMPLES_SHOWN)
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
            row[f"{score.name}/miou"] = score.matrix.miou()
            row[f"{score.name}/pixel_accuracy"] = score.matrix.pixel_accuracy()
            for name, iou in zip(self.space.names, score.matrix.per_class_iou(), strict=True):
                row[f"{score.name}/{name}"] = float(iou)
        self.folder.add(row)
        if scores:
            self.folder.add_samples(self.step, [s for score in scores for s in score.samples], self.space)
        better = not scores or scores[0].matrix.miou() > self.best or self.recipe.run.keep == "last"
        if better:
            self.best = scores[0].matrix.miou() if scores else self.best
            content = {"step": self.step, "weights": self.weights(), "metrics": row, "recipe": self.recipe.to_yaml()}
            write_checkpoint(self.folder.path / BEST, content)
        self.watcher.on_validation(progress, scores, better)

    def _save(self) -> None:
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "recipe": self.recipe.to_yaml(),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "scaler": self._scaler.state_dict(),
            "generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        write_last(self.folder.path, content)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(checkpoint["network"])
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"the checkpoint does not fit this recipe's network or optimiser: {error}") from error
        if checkpoint["scaler"]:
            self._scaler.load_state_dict(checkpoint["scaler"])
        self.step = int(checkpoint["step"])
        self.seconds_before = float(checkpoint["seconds"])
        self.best = float(checkpoint["best"])
        torch.set_rng_state(checkpoint["generator"])
        if checkpoint["device_generator"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint["device_generator"], self.device)


def _channels_last(network: nn.Module) -> None:
    """Lay a network's weights out as channels_last, in place."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is the GPU where there is one.

    :raises UserError: a device that is not there, or no device's name
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"run.device is '{name}': use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"run.device is '{name}', but torch finds no CUDA device here: use cpu or auto")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"run.device is '{name}': use auto, cpu, cuda or cuda:N")
    return device


@contextlib.contextmanager
def stop_on_signals(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run after its present step; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: object) -> None:
        trainer.stop()
        trainer.watcher.on_message("stopping after this step, with a checkpoint")
        signal.signal(number, before[signal.Signals(number)])

    for asked in (signal.SIGINT, signal.SIGTERM):
        before[asked] = signal.signal(asked, ask)
    try:
        yield
    finally:
        for asked, handler in before.items():
            signal.signal(asked, handler)


@torch.no_grad()
def _auxiliary_heads(network: SegmentationNetwork) -> int:
    """Count a network's auxiliary heads by asking it."""
    mode = network.training
    heads = len(network.eval().maps(torch.zeros(1, 3, 64, 64), auxiliary=True)) - 1
    network.train(mode)
    return heads


def _optimiser(recipe: Recipe, network: SegmentationNetwork) -> torch.optim.Optimizer:
    section = recipe.optimiser
    if section.backbone_scale is not None:
        network.backbone_lr_scale = network.backbone_weight_decay_scale = section.backbone_scale
    groups = [
        {
            "params": group["params"],
            "lr": section.lr * group["lr_scale"],
            "lr_scale": group["lr_scale"],
            "weight_decay": section.weight_decay * group["weight_decay_scale"],
        }
        for group in network.parameter_groups()
        if group["params"]
    ]
    if section.kind == "sgd":
        return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum, fused=True)
    kind = torch.optim.Adam if section.kind == "adam" else torch.optim.AdamW
    return kind(groups, lr=section.lr, betas=section.betas, fused=True)
