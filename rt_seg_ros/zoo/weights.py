"""Weight files: safetensors with their card beside them, read by their header, checked by hash, never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rt_seg_ros.documents import NO_YAML, read_yaml
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_together
from rt_seg_ros.labels import LabelSpace, comes_with_the_package, is_label_file, list_label_spaces, load_label_space
from rt_seg_ros.pickles import check_tensors, is_pickle
from rt_seg_ros.zoo.card import ModelCard, parse_card

if TYPE_CHECKING:  # torch costs a second to import, and a node on another runtime never needs it
    from torch import Tensor

    from rt_seg_ros.networks import SegmentationNetwork

_HEADER_KEY = "rt_seg_ros"
_FORMAT = 1


def read_card(path: Path) -> ModelCard:
    """Read the card of a weight file.

    A label space of one's own that it only names, as one written by hand may, is that of the weights' header.

    :raises UserError: unreadable, or without a field that a card needs.
    """
    card = parse_card(read_yaml(path, "model card"), path.stem, path.with_suffix(".safetensors"), str(path))
    if card.space is not None or is_label_file(card.label_space) or card.label_space in list_label_spaces():
        return card
    try:
        space = _card_in_header(path.with_suffix(".safetensors")).space
    except UserError:
        return card  # whoever needs its weights, or its label space, is told
    return replace(card, space=space) if space and space.name == card.label_space else card


def read_weights_header(path: Path) -> ModelCard:
    """Read what a weight file says of itself; where its card lies beside it, the card, with the hash that this tells.

    :raises UserError: missing, not safetensors (a pickle is never opened), or without this package's metadata.
    """
    card = _card_in_header(path)
    card_path = path.with_suffix(".yaml")
    if card_path.is_file() and _may_be_a_card(card_path):
        return read_card(card_path)
    return replace(card, sha256=_sha256(path))


def _card_in_header(path: Path) -> ModelCard:
    """Return what the header alone says."""
    if is_pickle(path):
        raise UserError(
            f"weights {path}: only .safetensors files are loaded; pickles can run code and are refused "
            "(rt-seg takes the tensors of one with --allow-pickle)"
        )
    if not path.is_file():
        raise UserError(f"weights {path}: there is no such file")
    metadata = _safetensors_header(path).get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_HEADER_KEY), str):
        raise UserError(f"weights {path}: no '{_HEADER_KEY}' metadata in its header; export it with rt-seg train")
    try:
        document = json.loads(metadata[_HEADER_KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(f"weights {path}: its metadata is not valid JSON: {error}") from error
    return parse_card(document, path.stem, path, f"weights {path}")


def _may_be_a_card(path: Path) -> bool:
    """Return whether a document of that name is not something else, such as the recipe of one's own."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, *NO_YAML):
        return True  # a damaged one: reading it tells
    return not isinstance(document, dict) or "num_classes" in document


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Return the JSON header: 8 bytes of its length, then itself."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100_000_000):
            raise UserError(f"weights {path}: truncated or no safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise UserError(f"weights {path}: its header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise UserError(f"weights {path}: its header is damaged")
    return header


def check_hash(card: ModelCard) -> str:
    """Compare the weight file with its card.

    :return: the file's SHA-256; "" for a card without weights
    :raises UserError: missing, or another file than the card describes (also a Git LFS pointer, or a torn copy).
    """
    if card.weights is None:
        return ""
    if not card.weights.is_file():
        raise UserError(f"weights {card.weights}: there is no such file")
    found = _sha256(card.weights)
    if card.sha256 and found != card.sha256:
        raise UserError(
            f"weights {card.weights}: its SHA-256 is {found[:12]}..., its card says {card.sha256[:12]}...; "
            "the file is damaged or not the one described: fetch it again"
        )
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def build_network(card: ModelCard) -> SegmentationNetwork:
    """Build the card's network with its weights (float32), in eval mode.

    A card without weights gives a network of random ones, from a fixed seed.

    :raises UserError: wrong hash, damaged file, or tensors that do not fit the network (named).
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rt_seg_ros.networks import create_network

    if card.weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create_network(card.network, num_classes=card.num_classes, **card.options).eval()
    check_hash(card)
    network = create_network(card.network, num_classes=card.num_classes, **card.options).eval()
    try:
        state = load_file(card.weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {card.weights}: cannot be read: {error}") from error
    check_tensors(state, network.state_dict(), f"network '{card.network}'", f"weights {card.weights}")
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()},
        strict=False,  # only num_batches_tracked may be missing, as checked above
    )
    return network


def save_weights(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    network: str,
    options: Mapping[str, Any],
    num_classes: int,
    label_space: str | LabelSpace,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    input_size: tuple[int, int],
    frame_size: tuple[int, int] | None = None,
    resized: bool = False,
    card: Mapping[str, Any],
) -> ModelCard:
    """Write weights as fp16 safetensors, with their card beside them.

    Both are written aside and moved into place: an older pair survives a failure.

    :param path: ``<name>.safetensors``
    :param state: the network's state dict; ``num_batches_tracked`` is left out
    :param label_space: a label space, its name or its file; one that does not come with the package is written whole
    :param card: what else the card tells: ``data``, ``protocol``, ``command``, ``scores``, ``licence``...
    :raises UserError: where the folder cannot be written, or there is no such label space.
    """
    import torch
    from safetensors.torch import save

    space = label_space if isinstance(label_space, LabelSpace) else load_label_space(label_space)
    header: dict[str, Any] = {
        "format": _FORMAT,
        "network": network,
        "options": dict(options),
        "label_space": space.name,
        **({} if comes_with_the_package(space) else {"space": space.to_document()}),
        "num_classes": num_classes,
        "mean": [round(float(v), 4) for v in mean],
        "std": [round(float(v), 4) for v in std],
        "input_size": list(input_size),
        **({"frame_size": list(frame_size)} if frame_size else {}),
        **({"resized": True} if resized else {}),
    }
    tensors = {
        key: (
            value.detach().to("cpu", torch.float16) if value.is_floating_point() else value.detach().cpu()
        ).contiguous()
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    content = save(tensors, {_HEADER_KEY: json.dumps(header)})
    card_path = path.with_suffix(".yaml")
    document = {**header, "sha256": hashlib.sha256(content).hexdigest(), **dict(card)}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    write_together({path: content, card_path: text.encode("utf-8")})
    path.chmod(0o644)  # for whoever runs the node
    return read_card(card_path)
