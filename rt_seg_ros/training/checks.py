"""What is refused of a recipe before any data are read."""

from __future__ import annotations

import torch

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.networks import create_network
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.working_size import STEP, Size


def check_recipe(recipe: Recipe, space: LabelSpace, before: Recipe | None = None) -> None:
    """Check what a recipe asks for against the label space and the network.

    :param space: the label space that is learnt
    :param before: the recipe that a run which is continued went by until now: sizes that are the same stay
    :raises UserError: class weights, sizes, network options, auxiliary heads or a batch that do not fit
    """
    weights = recipe.loss.class_weights
    if isinstance(weights, list) and len(weights) != space.num_classes:
        raise UserError(
            f"loss.class_weights has {len(weights)} numbers; label space '{space.name}' has {space.num_classes} classes"
        )
    if before is None or _sizes_of(before) != _sizes_of(recipe):
        _check_sizes(recipe)
    _check_network(recipe, space.num_classes)


def check_continued(recipe: Recipe, before: Recipe) -> None:
    """Refuse to continue a run as something else.

    :param before: the recipe that it went by until now
    :raises UserError: naming what differs
    """
    kept = {
        "network.name": (before.network.name, recipe.network.name),
        "network.options": (before.network.options, recipe.network.options),
        "network.weights": (before.network.weights, recipe.network.weights),
        "network.backbone_weights": (before.network.backbone_weights, recipe.network.backbone_weights),
        "label_space": (before.label_space, recipe.label_space),
        "number of loss.auxiliary_weights": (len(before.loss.auxiliary_weights), len(recipe.loss.auxiliary_weights)),
        "optimiser.kind": (before.optimiser.kind, recipe.optimiser.kind),
        "use of run.ema": (before.run.ema > 0, recipe.run.ema > 0),
    }
    changed = [f"{key} was {was!r}, now {now!r}" for key, (was, now) in kept.items() if was != now]
    if changed:
        raise UserError(
            f"a run cannot be continued as another: {'; '.join(changed)}. Begin a new run instead; "
            "with --weights FILE it goes on from the weights of this one"
        )


def _sizes_of(recipe: Recipe) -> dict[str, Size | None]:
    """Return the (height, width) at which a network is to see pictures, by their keys in the recipe."""
    begin = recipe.augment.begin
    return {
        "augment.crop": recipe.augment.crop,
        "data.size": recipe.data.size,
        "augment.begin.crop": begin.crop if begin else None,
    }


def _check_sizes(recipe: Recipe) -> None:
    """Check the sizes at which a network is to see pictures; runs that are there already may have others.

    :raises UserError: one that labels would be shifted at
    """
    for name, size in _sizes_of(recipe).items():
        if size is not None and any(side % STEP for side in size):
            near = [max(STEP, STEP * round(side / STEP)) for side in size]
            raise UserError(f"{name} is {list(size)}; use multiples of {STEP}, such as {near}: others shift the labels")


def _check_network(recipe: Recipe, num_classes: int) -> None:
    """Send a batch through the recipe's network; only shapes are computed.

    :raises UserError: options, auxiliary heads, a crop or a batch that do not go with it
    """
    section, weights = recipe.network, recipe.loss.auxiliary_weights
    crops = [recipe.augment.crop, *([recipe.augment.begin.crop] if recipe.augment.begin else [])]
    for height, width in crops:
        try:
            with torch.device("meta"):
                network = create_network(section.name, num_classes, **{**section.options, "aux": bool(weights)})
                heads = len(network.forward_train(torch.zeros(min(recipe.schedule.batch, 2), 3, height, width))) - 1
        except (TypeError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"network '{section.name}' with options {section.options} cannot be trained on views of "
                f"{height}x{width}: {reason}"
            ) from error
        if heads != len(weights):
            raise UserError(
                f"loss.auxiliary_weights has {len(weights)} numbers, "
                f"but network '{section.name}' has {heads} auxiliary heads"
            )
