"""What each step learns from: random views of its pictures."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.data.augment import Augmenter, AugmentOptions, Views, draw_views, generator
from rt_seg_ros.training.feed import Feed
from rt_seg_ros.training.recipe import Recipe


class Batches:
    """The views that successive steps learn from, on the device; each a function of the recipe's seed and the step.

    :param feed: where the pictures come from
    """

    def __init__(self, recipe: Recipe, feed: Feed, device: torch.device) -> None:
        self._recipe = recipe
        self._feed = feed
        data, begin = recipe.data, recipe.augment.begin
        augment = recipe.augment.model_dump(exclude={"begin"})
        self._augmenter = Augmenter(AugmentOptions(**augment), data.mean, data.std, device)
        self._early = self._augmenter
        if begin:
            augment |= begin.model_dump(exclude={"share"}) | {"scales": ()}
            self._early = Augmenter(AugmentOptions(**augment), data.mean, data.std, device)

    def batch(self, step: int, share: float) -> tuple[Tensor, Tensor]:
        """Return this process's share of a step's batch: normalised float32 (b, 3, h, w); int64 (b, h, w), 255 = void.

        The views are drawn for the whole batch, so that they do not depend on how many processes share it.

        :param share: how far the run is by then, 0 to 1
        :raises UnreadError: as :meth:`rt_seg_ros.training.feed.Feed.portions`
        """
        rng = generator(self._recipe.run.seed, 3, step)
        begin = self._recipe.augment.begin
        augmenter = self._early if begin is not None and share < begin.share else self._augmenter
        parts = []
        for portion in self._feed.portions(step):
            views = draw_views(augmenter.options, portion.group.sizes, rng)
            if len(portion.rows):
                sizes = portion.group.sizes[portion.rows]
                parts.append(augmenter(portion.images, portion.labels, sizes, _of_rows(views, portion.rows)))
        x = torch.cat([part[0] for part in parts])
        if self._recipe.run.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, torch.cat([part[1] for part in parts])


def _of_rows(views: Views, rows: NDArray[np.int64]) -> Views:
    return Views(**{field.name: getattr(views, field.name)[rows] for field in fields(views)})
