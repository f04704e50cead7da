"""The network that a run trains, and the weights that it begins with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.networks import SegmentationNetwork, create_network
from rt_seg_ros.pickles import is_pickle
from rt_seg_ros.training.pickled import class_tensors, weights_from_pickle
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard, build_network, find_model, learnt_from, read_weights_header

_MUCH_LARGER = 2.0  # times as many pixels
_LEAST_SHARE = 0.2  # of a network's values: less than this is chance


def make_networks(
    recipe: Recipe, space: LabelSpace, with_weights: bool = True
) -> tuple[SegmentationNetwork, SegmentationNetwork]:
    """Build the network to train, with its auxiliary heads, and the one to measure and ship, without.

    :param space: the label space that is learnt
    :param with_weights: load what the recipe begins with; else both are randomly initialised
    :raises UserError: weights that cannot be read, or do not fit
    """
    section, num_classes = recipe.network, space.num_classes
    deployed = create_network(section.name, num_classes, **section.options)
    if recipe.loss.auxiliary_weights:
        network = create_network(section.name, num_classes, **{**section.options, "aux": True})
    else:
        network = copy.deepcopy(deployed)
    if with_weights and section.backbone_weights:
        network.load_backbone(Path(section.backbone_weights).expanduser(), section.allow_pickle)
    if with_weights and section.weights:
        load_start(recipe, network, deployed, space)
    return network, deployed


def start_card(recipe: Recipe) -> ModelCard:
    """Return the card of a recipe's ``network.weights``: a model's name, or a file.

    :raises UserError: as :func:`rt_seg_ros.zoo.find_model`, and for a pickle, where the recipe takes one, as
        :func:`rt_seg_ros.training.pickled.weights_from_pickle`
    """
    section = recipe.network
    assert section.weights
    path = Path(section.weights).expanduser()
    if not path.suffix:
        return find_model(section.weights)
    if section.partial:
        if is_pickle(path):
            raise UserError(f"network.weights {path}: with network.partial=true it must be a .safetensors file")
        return read_weights_header(path)
    if section.allow_pickle and is_pickle(path):
        path = weights_from_pickle(path, section.name, recipe.label_space, section.options)
    return find_model(section.name, weights=path)


def describe_start(
    recipe: Recipe, network: SegmentationNetwork | None = None, space: LabelSpace | None = None
) -> dict[str, Any] | None:
    """Return what a card tells of the weights that the run goes on from: all that their own card does.

    :param network: the one that went on from them, in ``space``; which of its parts began anew is then told too
    :raises UserError: as :func:`start_card`
    """
    if not recipe.network.weights:
        return None
    card = start_card(recipe)
    told = {"model": card.name, "sha256": card.sha256, "scores": dict(card.scores), **card.details}
    if recipe.network.partial and network is not None and space is not None:
        anew = _misfits(network.state_dict(), build_network(card).state_dict())
        if _other_classes(card, space):
            anew += [key for key in class_tensors(recipe.network.name, recipe.network.options) if key not in anew]
        told["begun_anew"] = sorted({key.rpartition(".")[0] or key for key in anew})
    return told


def start_remarks(recipe: Recipe, space: LabelSpace, frames: Size, measured_on: Sequence[str] = ()) -> list[str]:
    """Return what is likely to surprise where a run goes on from weights.

    :param frames: (height, width) of the frames to learn from
    :param measured_on: what the run's own card says of the data that it is measured on
    :raises UserError: as :func:`start_card`
    """
    if not recipe.network.weights:
        return []
    card, remarks = start_card(recipe), []
    if not recipe.network.partial and _other_classes(card, space):
        theirs = ", ".join(card.load_label_space().names[:3])
        remarks.append(
            f"network.weights know {theirs}...: the classifier goes on from these, place by place; with "
            "network.partial=true it begins anew"
        )
    if not np.allclose((*card.mean, *card.std), (*recipe.data.mean, *recipe.data.std), atol=0.01):
        remarks.append(
            f"network.weights learnt with data.mean={list(card.mean)} data.std={list(card.std)}, and see other colours "
            "with the recipe's"
        )
    for data in (line.partition(", ")[0] for line in measured_on):
        if learnt_from(card.details, data):
            remarks.append(f"network.weights learnt from {data}: scores on it will flatter, and measure nothing")
    known = card.frame_size
    if known is not None and frames[0] * frames[1] > _MUCH_LARGER * known[0] * known[1]:
        remarks.append(
            f"pictures are {frames[1]}x{frames[0]}; network.weights learnt from {known[1]}x{known[0]}, and know things "
            "as large as there: data.size makes them smaller"
        )
    return remarks


def load_start(recipe: Recipe, network: SegmentationNetwork, deployed: SegmentationNetwork, space: LabelSpace) -> None:
    """Load a model's weights into the network that is trained; its auxiliary heads begin anew.

    With ``network.partial`` they may be of another network, or of other classes: what does not fit begins anew, and so
    does a classifier of other classes, whatever their number.

    :param deployed: the same without these heads
    :raises UserError: no such model or file, weights of another network or number of classes, or, in part, weights
        of which little fits
    """
    section = recipe.network
    card = start_card(recipe)
    state = build_network(card).state_dict()
    expected = network.state_dict()
    described = f"network.weights '{section.weights}' ({card.network}, {card.num_classes} classes)"
    wrong = _misfits(state, expected)
    lacking = [key for key in deployed.state_dict() if key not in state]
    if section.partial:
        if _other_classes(card, space):
            wrong += [key for key in class_tensors(card.network, card.options) if key not in wrong]
        state = {key: value for key, value in state.items() if key not in wrong}
        taken, all_values = (sum(value.numel() for value in part.values()) for part in (state, expected))
        if taken < _LEAST_SHARE * all_values:
            raise UserError(
                f"{described} fit only {100 * taken / all_values:.0f} % of network '{section.name}', by name and "
                f"shape: begin without them, or with those of a network that is more alike"
            )
    elif wrong or lacking:
        wrong += [f"no {key}" for key in lacking]
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{described} do not fit network '{section.name}' with {network.num_classes} classes: "
            f"{', '.join(wrong[:3])}{more}. With network.partial=true what fits is taken"
        )
    network.load_state_dict(expected | state)


def _other_classes(card: ModelCard, space: LabelSpace) -> bool:
    return card.load_label_space().names != space.names


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names in ``state`` that ``expected`` has not, or has in another shape."""
    return [key for key, value in state.items() if key not in expected or value.shape != expected[key].shape]
