"""Weights that lie in a pickle, made into a file of this package's own form once: all that runs takes no other."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rt_seg_ros.cache import Cache
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import list_label_spaces, load_label_space
from rt_seg_ros.networks import create_network
from rt_seg_ros.pickles import SAFE_SUFFIX, check_tensors, read_pickle, tensors_in
from rt_seg_ros.training.about import card_of_run, needed_in_use
from rt_seg_ros.training.checkpoint import BEST, recipe_in
from rt_seg_ros.training.run_folder import ABOUT, LABELS, read_about
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE, DEFAULT_MEAN, DEFAULT_STD, save_weights

_CONVERTED = Cache("pickles", keep=16)
_FORMAT = 3
_USUAL_SIZE = (360, 480)


def weights_from_pickle(
    path: Path, network: str, label_space: str = "", options: Mapping[str, Any] | None = None
) -> Path:
    """Return weights as safetensors (fp16) with a card, in the user's cache; the pickle's code is never run.

    :param path: best.pt of a run folder, or what ``torch.save(network.state_dict())`` wrote
    :param network: the network's name; a run's checkpoint must be of it
    :param label_space: of a bare state dict; by default the package's own one of that many classes
    :param options: of the network, for a bare state dict
    :raises UserError: as :func:`rt_seg_ros.pickles.read_pickle`; another network; tensors that do not fit; values
        beyond fp16's; a cache that cannot be written
    """
    where = f"weights {path}"
    if not path.is_file():
        raise UserError(f"{where}: no such file")
    key = {
        "format": _FORMAT,
        "sha256": _hash_of(path),
        "file": path.name,
        "beside": [_hash_of(path.parent / name) for name in (LABELS, ABOUT)],
        "network": network,
        "label_space": label_space,
        "options": dict(options or {}),
    }
    name = f"{path.stem}{SAFE_SUFFIX}"
    if _CONVERTED.load(network, key) is None:
        content = read_pickle(path, "weights")
        if isinstance(content, Mapping) and "recipe" in content:
            state, about, card = _of_run(content, network, path)
        else:
            state = tensors_in(content, where)
            about = _of_tensors(state, network, label_space, dict(options or {}), where)
            card = {}
        _check(state, about, where)
        with tempfile.TemporaryDirectory(prefix="rt_seg_pickle_") as folder:
            file = Path(folder) / name
            save_weights(file, state, **about, card={**card, "source": path.name})
            files = {made.name: made.read_bytes() for made in (file, file.with_suffix(".yaml"))}
        if _CONVERTED.save(network, key, files) is None:
            raise UserError(f"{where}: {_CONVERTED.folder} cannot be written, where its tensors are to be kept")
    return _CONVERTED.path(network, key) / name


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _of_run(
    content: Mapping[str, Any], network: str, path: Path
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint of a training run holds, what its recipe says of it, and its card."""
    where = f"weights {path}"
    recipe = recipe_in(content, where)
    if recipe.network.name != network:
        raise UserError(f"{where} are of network '{recipe.network.name}', but model is '{network}'")
    if not isinstance(content.get("weights"), Mapping):
        raise UserError(f"{where}: to go on from (rt-seg train --resume), not to use; the run's weights are {BEST}")
    state, about = tensors_in(content["weights"], where), needed_in_use(path.parent, recipe)
    told = read_about(path.parent)
    card = card_of_run(path.parent, recipe, content["metrics"], told.get("start")) if told else {}
    return state, about, card


def _of_tensors(
    state: Mapping[str, Tensor], network: str, label_space: str, options: dict[str, Any], where: str
) -> dict[str, Any]:
    """Return what has to be assumed of a bare state dict, whose classifier tells the number of classes."""
    classes = _count_classes(state, network, options, where)
    known = [DEFAULT_LABEL_SPACE, *list_label_spaces()]
    fitting = [label_space] if label_space else [n for n in known if load_label_space(n).num_classes == classes]
    if not fitting:
        raise UserError(f"{where} have {classes} classes, as no label space here; name yours (--label-space FILE)")
    space = load_label_space(fitting[0])
    if space.num_classes != classes:
        raise UserError(f"{where} have {classes} classes, label space '{label_space}' {space.num_classes}")
    return {
        "network": network,
        "options": options,
        "num_classes": classes,
        "label_space": fitting[0],
        "mean": DEFAULT_MEAN,
        "std": DEFAULT_STD,
        "input_size": _USUAL_SIZE,
    }


def _count_classes(state: Mapping[str, Tensor], network: str, options: dict[str, Any], where: str) -> int:
    """Return the rows of the tensors whose rows are the classes."""
    of_classes = class_tensors(network, options)
    found = {len(state[key]) for key in of_classes if key in state and state[key].ndim}
    if len(found) != 1:
        raise UserError(f"{where} are not those of network '{network}': no classifier '{of_classes[0]}' in them")
    return found.pop()


def class_tensors(network: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names of a network's tensors whose rows are the classes."""
    two, three = _outline(network, 2, options), _outline(network, 3, options)
    return [key for key in two if two[key].shape[:1] != three[key].shape[:1]]


def _outline(network: str, classes: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a network's tensors without their values."""
    with torch.device("meta"):
        return create_network(network, classes, **options).state_dict()


def _check(state: Mapping[str, Tensor], about: Mapping[str, Any], where: str) -> None:
    """Hold tensors against the network, while the user's own file can still be named."""
    network = about["network"]
    check_tensors(state, _outline(network, about["num_classes"], about["options"]), f"network '{network}'", where)
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value.to(torch.float16)).all():
            raise UserError(f"{where}: {key} has values that fp16 cannot hold, in which weights are kept")
