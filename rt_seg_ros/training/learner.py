"""What learns: a network with its losses, its optimiser and the average of its weights, a step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import SegmentationNetwork
from rt_seg_ros.training.distributed import World
from rt_seg_ros.training.ema import WeightAverage
from rt_seg_ros.training.losses import HeadLosses
from rt_seg_ros.training.optimiser import clip_gradients, create_optimiser
from rt_seg_ros.training.precision import prepare_for_cpu
from rt_seg_ros.training.recipe import Recipe

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The weight average moves after each of the first steps, then after every fourth, as far as four steps would move it:
# it is a pass over all weights. The one is a multiple of the other.
_AVERAGED_OFTEN, _AVERAGED_EVERY = 20, 4


class Learner:
    """A network that learns; it knows nothing of pictures, of the run, or of its folder.

    :param network: the one to train, with its auxiliary heads; it is moved to the device
    :param deployed: the same without, which is measured and shipped
    :param loss: of the network's heads
    :param world: the processes that learn together
    """

    def __init__(
        self,
        recipe: Recipe,
        network: SegmentationNetwork,
        deployed: SegmentationNetwork,
        loss: HeadLosses,
        world: World,
    ) -> None:
        self._recipe = recipe
        self._world = world
        self._device = world.device
        self.dtype = _DTYPES[recipe.run.precision]  # that it computes in, under autocast
        self.network = network.to(self._device)
        self._deployed = deployed.to(self._device)
        world.synchronise(network)
        if recipe.run.channels_last:
            _channels_last(network)
        if self._device.type == "cpu":
            prepare_for_cpu(network)
        self.optimiser = create_optimiser(recipe, network)
        self._average = WeightAverage(network, recipe.run.ema) if recipe.run.ema else None
        self.loss = loss
        fp16 = recipe.run.precision == "fp16" and self._device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=fp16)
        forward = world.wrapped(Heads(network))
        self._forward = torch.compile(forward) if recipe.run.compile else forward

    def learn(self, step: int, x: Tensor, truth: Tensor, factor: float) -> Tensor:
        """Take a step; return its loss, still on the device.

        :param step: its number, from 0
        :param x: normalised float32 (b, 3, h, w)
        :param truth: int64 (b, h, w), 255 = void
        :param factor: on the recipe's learning rate
        """
        recipe = self._recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.optimiser.lr * group["lr_scale"] * factor
        torch.manual_seed(_seed(recipe.run.seed, 4, step, self._world.rank))  # for dropout
        loss = self.forward_backward(x, truth)
        if recipe.optimiser.clip:
            self._scaler.unscale_(self.optimiser)
            clip_gradients(self.optimiser, recipe.optimiser.clip, in_step=not self._scaler.is_enabled())
        self._scaler.step(self.optimiser)
        self._scaler.update()
        taken = step + 1
        if self._average is not None:
            if taken <= _AVERAGED_OFTEN:
                self._average.update(self.network)
            elif taken % _AVERAGED_EVERY == 0:
                self._average.update(self.network, _AVERAGED_EVERY)
        return loss

    def forward_backward(self, x: Tensor, truth: Tensor) -> Tensor:
        """Compute a batch's gradients, and return its loss, on the device; the batch is as in :meth:`learn`."""
        with torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32):
            heads = self._forward(x)
        loss = self.loss(heads, truth)
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        return loss.detach()

    def weights(self) -> dict[str, Tensor]:
        """Return what is measured and shipped: the averaged weights, else the present ones, without auxiliary heads."""
        state = self._average.state if self._average is not None else self.network.state_dict()
        shipped = self._deployed.state_dict().keys()
        return {key: value for key, value in state.items() if key in shipped}

    def deployed(self) -> SegmentationNetwork:
        """Return the network that is measured and shipped, with :meth:`weights`, in eval mode."""
        self._deployed.load_state_dict(self.weights())
        network = self._deployed.eval()
        if self._recipe.run.channels_last:
            _channels_last(network)
        return network

    def spoilt(self) -> str | None:
        """Return the name of the first weights that are no numbers: a gradient can be none where the loss is one."""
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                return name
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self._average.state_dict() if self._average is not None else {},
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what a checkpoint kept.

        :raises UserError: it is of another network or optimiser
        """
        try:
            self.network.load_state_dict(saved["network"])
            settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimiser.param_groups]
            self.optimiser.load_state_dict(saved["optimiser"])
            for group, its_own in zip(self.optimiser.param_groups, settings, strict=True):
                group.update(its_own)  # the recipe's, which may differ from before
            if self._average is not None:
                self._average.load_state_dict(saved["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"the checkpoint does not fit this recipe's network or optimiser: {error}") from error
        if saved["scaler"]:
            self._scaler.load_state_dict(saved["scaler"])


class Heads(nn.Module):
    """All heads of a network as a module's forward, which is what can be compiled and shared among processes."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> main and auxiliary scores, each (N, classes, H, W)."""
        return self.network.forward_train(x)


def state_bytes(recipe: Recipe, network: nn.Module) -> int:
    """Return about how large a checkpoint becomes: weights, the optimiser's one or two of each, their average."""
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return weights * (1 + (1 if recipe.optimiser.kind == "sgd" else 2) + (1 if recipe.run.ema else 0))


def _seed(*numbers: int) -> int:
    """Return a seed that belongs to these numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _channels_last(network: nn.Module) -> None:
    """Lay a network's weights out as channels_last, in place."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
