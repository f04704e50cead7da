"""Losses over pixels. In each, pixels labelled 255 count for nothing, and a batch without labels gives 0.

Logits are float (B, C, H, W), truth int64 (B, H, W); the result is a scalar that always has a gradient.

Where several processes share a batch, each divides by the mean number of pixels that count, over all processes
(``average``): the mean of their losses, and of their gradients, is then that of the whole batch. Hard examples are
still chosen among each process's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.labels import UNLABELLED
from rt_seg_ros.training.distributed import World
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.sources import PictureSource

Loss = Callable[[Tensor, Tensor], Tensor]
Average = Callable[[Tensor], Tensor]
_SURE = 1e-6  # below it a pixel is certain: a root's gradient would be infinite there


def _own(value: Tensor) -> Tensor:
    return value


def class_weights(pixels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return 1 / ln(1.10 + p) by class, float32 (C,), of the classes' shares p (ENet, section 5.2; CGNet's 1.10).

    :param pixels: pixels (or any measure of them) per class
    """
    share = pixels / max(float(pixels.sum()), 1e-12)
    return (1.0 / np.log(1.10 + share)).astype(np.float32)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy, weighted by class where weights are given (then a weighted mean)."""

    weights: Tensor | None
    label_smoothing: float
    average: Average

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean over labelled pixels."""
        total = F.cross_entropy(
            logits, truth, self.weights, ignore_index=UNLABELLED, reduction="sum", label_smoothing=self.label_smoothing
        )
        valid = truth != UNLABELLED
        if self.weights is None:
            mass = valid.sum()
        else:
            mass = (self.weights[torch.where(valid, truth, 0)] * valid).sum()
        return total / self.average(mass).clamp(min=1e-6)


@dataclass(frozen=True)
class HardExamples:
    """Online hard example mining: cross entropy over the pixels the network is unsure of (after BiSeNet).

    A pixel is kept where its true class has a probability below ``threshold``; at least ``min_share`` of all
    pixels of the batch are kept, the worst first. Class weights scale the kept losses.
    """

    weights: Tensor | None
    threshold: float
    min_share: float
    average: Average

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean over the kept pixels."""
        plain = F.cross_entropy(logits, truth, ignore_index=UNLABELLED, reduction="none").reshape(-1)
        flat = truth.reshape(-1)
        valid = flat != UNLABELLED
        fewest = max(1, int(flat.numel() * self.min_share))
        # No branch on a count: that would make the device wait for the host in every step.
        kth = torch.topk(plain.detach(), fewest, sorted=True).values[-1]
        kept = valid & (plain.detach() >= torch.clamp(kth, max=-math.log(self.threshold)))
        factor = kept.to(plain.dtype)
        if self.weights is not None:
            factor = factor * self.weights[torch.where(valid, flat, 0)]
        return (plain * factor).sum() / self.average(factor.sum()).clamp(min=1e-6)


@dataclass(frozen=True)
class Focal:
    """Focal loss: pixels already right weigh less (Lin et al., section 3.2).

    ``sigmoid``: a yes/no question per class, balanced by ``alpha``, as Cross-CBAM's auxiliary head has it;
    otherwise (1 - p)^gamma on the cross entropy of the soft max.
    """

    weights: Tensor | None
    gamma: float
    alpha: float
    sigmoid: bool
    average: Average

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean over labelled pixels (and, with ``sigmoid``, over classes)."""
        valid = truth != UNLABELLED
        known = torch.where(valid, truth, 0)
        factor = valid.to(logits.dtype)
        if self.weights is not None:
            factor = factor * self.weights[known]
        if self.sigmoid:
            target = F.one_hot(known, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
            p = torch.sigmoid(logits)
            miss = target * (1 - p) + (1 - target) * p
            balance = target * self.alpha + (1 - target) * (1 - self.alpha)
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            losses = (balance * miss.clamp(min=_SURE) ** self.gamma * entropy).mean(1)
        else:
            entropy = F.cross_entropy(logits, known, reduction="none")
            losses = (1 - torch.exp(-entropy)).clamp(min=_SURE) ** self.gamma * entropy
        return (losses * factor).sum() / self.average(factor.sum()).clamp(min=1e-6)


def make_loss(
    kind: str,
    weights: Tensor | None = None,
    *,
    threshold: float = 0.7,
    min_share: float = 1 / 16,
    gamma: float = 2.0,
    alpha: float = 0.5,
    label_smoothing: float = 0.0,
    average: Average = _own,
) -> Loss:
    """Return a loss by name: ``cross_entropy``, ``ohem``, ``focal`` or ``sigmoid_focal``.

    :param weights: float32 (C,) by class, on the logits' device, or none
    :param average: mean of a number over all processes
    :raises ValueError: another name
    """
    if kind == "cross_entropy":
        return CrossEntropy(weights, label_smoothing, average)
    if kind == "ohem":
        return HardExamples(weights, threshold, min_share, average)
    if kind in ("focal", "sigmoid_focal"):
        return Focal(weights, gamma, alpha, kind == "sigmoid_focal", average)
    raise ValueError(f"loss kind '{kind}': cross_entropy, ohem, focal and sigmoid_focal exist")


@dataclass(frozen=True)
class HeadLosses:
    """The sum over a network's heads: the main one, and each auxiliary one by its weight."""

    main: Loss
    auxiliary: Loss
    auxiliary_weights: Sequence[float]

    def __call__(self, heads: Sequence[Tensor], truth: Tensor) -> Tensor:
        """Return the weighted sum.

        :param heads: logits of the main head, then of the auxiliary ones
        :raises ValueError: another number of auxiliary heads than of weights
        """
        if len(heads) - 1 != len(self.auxiliary_weights):
            raise ValueError(f"{len(heads) - 1} auxiliary heads, but {len(self.auxiliary_weights)} weights for them")
        total = self.main(heads[0].float(), truth)
        for weight, logits in zip(self.auxiliary_weights, heads[1:], strict=True):
            total = total + weight * self.auxiliary(logits.float(), truth)
        return total


def create_losses(recipe: Recipe, sources: Sequence[PictureSource], num_classes: int, world: World) -> HeadLosses:
    """Return a recipe's losses of a network's heads.

    :param sources: the training sources, in the recipe's order, from which class weights may be computed
    """
    section = recipe.loss
    weights = _weights_of(recipe, sources, num_classes, world.device)
    # All that is not named is an option of make_loss(): one that it does not know is an error.
    options = section.model_dump(exclude={"kind", "class_weights", "auxiliary_kind", "auxiliary_weights"})
    return HeadLosses(
        make_loss(section.kind, weights, **options, average=world.mean),
        make_loss(section.auxiliary_kind or section.kind, weights, **options, average=world.mean),
        section.auxiliary_weights,
    )


def _weights_of(
    recipe: Recipe, sources: Sequence[PictureSource], num_classes: int, device: torch.device
) -> Tensor | None:
    """Return the weights of the classes, float32 (C,); none: they count alike."""
    given = recipe.loss.class_weights
    if given == "none":
        return None
    if given == "computed":
        # Mean pixels per picture, by each source's share of the samples.
        shares = [section.weight for section in recipe.data.train]
        pixels = sum(share * source.class_pixels(num_classes) for share, source in zip(shares, sources, strict=True))
        return torch.from_numpy(class_weights(np.asarray(pixels))).to(device)
    return torch.tensor(given, dtype=torch.float32, device=device)
