"""Weights and their cards: found by name, checked by hash, never unpickled.

A weight file is ``models/<network>_<label space>.safetensors`` (fp16); beside it lies its card of the same name,
``.yaml``. What is needed to run the network (its name and options, label space, normalisation) is also in the
safetensors header, so a file somewhere else works without its card. A label space of one's own stands there whole. (The
size of the frames that they learnt from is not in the headers of files that are older than that field.)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rt_seg_ros.documents import NO_YAML, read_yaml
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.files import write_together
from rt_seg_ros.labels import LabelSpace, is_label_file, list_label_spaces, load_label_space, parse_label_space
from rt_seg_ros.pickles import check_tensors, is_pickle
from rt_seg_ros.resources import models_dir
from rt_seg_ros.working_size import Size, working_size

if TYPE_CHECKING:  # torch costs a second to import, and a node on another runtime never needs it
    from torch import Tensor

    from rt_seg_ros.networks import SegmentationNetwork

DEFAULT_LABEL_SPACE = "camvid11"
#: RGB, 0..255: ImageNet's, for networks without weights of their own.
DEFAULT_MEAN = (123.675, 116.28, 103.53)
DEFAULT_STD = (58.395, 57.12, 57.375)
_HEADER_KEY = "rt_seg_ros"
_FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """A network, the label space it speaks, and its weights, with where they come from.

    ``mean`` and ``std`` are RGB in units of 0..255. Sizes are (height, width): ``input_size`` of the views that it was
    trained on, ``frame_size`` of the frames that these were cut from; where ``resized``, training brought every
    frame to ``frame_size``, whatever its own, and so does the use of the weights.
    ``weights`` is None for a network that has none, which then runs only with ``allow_random_weights``.
    ``space`` is the label space itself, where the weights bring one of their own; ``label_space`` is then its name.
    """

    name: str
    network: str
    label_space: str
    num_classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    sha256: str = ""
    mean: tuple[float, float, float] = DEFAULT_MEAN
    std: tuple[float, float, float] = DEFAULT_STD
    input_size: tuple[int, int] | None = None
    frame_size: tuple[int, int] | None = None
    resized: bool = False
    scores: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    space: LabelSpace | None = None

    def working_size(self, frame: Size, ratio: float = 0.0) -> Size:
        """Return the (height, width) at which the network sees a frame of this size.

        :param ratio: see :func:`rt_seg_ros.working_size.working_size`
        """
        return working_size(frame, ratio, self.frame_size, self.resized)

    def load_label_space(self) -> LabelSpace:
        """Return the label space, checked against the number of classes.

        :raises UserError: where it cannot be loaded or has another number of classes.
        """
        space = self.space or self._brought() or load_label_space(self.label_space)
        if space.num_classes != self.num_classes:
            raise UserError(
                f"model '{self.name}' has {self.num_classes} classes, label space '{space.name}' {space.num_classes}"
            )
        return space

    def _brought(self) -> LabelSpace | None:
        """Return the label space that the weights bring, where a copy of their card has only its name."""
        if self.weights is None or is_label_file(self.label_space) or self.label_space in list_label_spaces():
            return None
        space = read_weights_header(self.weights).space
        return space if space and space.name == self.label_space else None


@dataclass(frozen=True)
class CardScore:
    """A card's headline: mean IoU in percent, the data, and the figures by class (percent; empty: not told).

    ``of_start``: measured before the last parts of the training, which took these data in as well. ``protocol`` says
    how it was measured ("": not told).
    """

    miou: float
    data: str
    of_start: bool = False
    per_class_iou: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""

    @property
    def on_validation_split(self) -> bool:
        """Whether the data are a data set's validation split, and not a drive, say."""
        return self.data.endswith("val")


def card_score(card: ModelCard) -> CardScore | None:
    """Return the score on a validation split, else the first there is; None where nothing was measured.

    Weights that learnt from the validation split, be it in a part before, have none of their own on it: theirs is
    that of the weights they went on from, where these were of the whole network; what began with parts of another one
    was never measured.
    """
    own, *before = training_parts(card.details)
    found = _scores_in({**own, "scores": card.scores}, False)
    for part in takewhile(lambda part: not part.get("begun_anew"), before):
        found += _scores_in(part, True)
    on_split = [score for score in found if score.on_validation_split]
    return next(iter([*on_split, *found]), None)


def training_parts(details: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what a card says of a training, then of that of the weights that it went on from, and so on."""
    part: Any = details
    while isinstance(part, Mapping):
        yield part
        part = part.get("start")


def learnt_from(part: Mapping[str, Any], data: str) -> bool:
    """Return whether a training, or one before it, learnt from these data, by their name on a card: ``camvid val``."""
    return any(str(line).startswith(f"{data}, ") for one in training_parts(part) for line in one.get("data") or ())


def _scores_in(part: Mapping[str, Any], of_start: bool) -> list[CardScore]:
    """Return the scores that a card tells of one part of the training, on data that it had not learnt from."""
    found = []
    scores, protocol = part.get("scores"), str(part.get("protocol") or "")
    for data, figures in scores.items() if isinstance(scores, Mapping) else ():
        value = figures.get("miou") if isinstance(figures, Mapping) else None
        if isinstance(value, (int, float)) and not learnt_from(part, str(data)):
            by_class = dict(figures.get("per_class_iou") or {})
            found.append(CardScore(float(value), str(data), of_start, by_class, protocol))
    return found


def list_models() -> list[ModelCard]:
    """Return the cards of all weights that come with the package, by name."""
    return [read_card(path) for path in sorted(models_dir().glob("*.yaml"))]


def read_card(path: Path) -> ModelCard:
    """Read the card of a weight file.

    :raises UserError: unreadable, or without a field that a card needs.
    """
    document = read_yaml(path, "model card")
    return _card_from(document, path.stem, path.with_suffix(".safetensors"), str(path))


def find_model(
    model: str,
    label_space: str | None = None,
    weights: str | Path | None = None,
    allow_random_weights: bool = False,
) -> ModelCard:
    """Find a model to run.

    :param model: a network's name (``cgnet``), or that of weights of this package (``cgnet_camvid11``)
    :param label_space: name or YAML path; by default that of the weights, else camvid11. A file's of as many classes
        as the weights have gives these other names and colours
    :param weights: a .safetensors file to use instead of the package's own
    :param allow_random_weights: accept a network that has no weights (for tests of everything around it)
    :raises UserError: unknown model, no weights, or weights of another network or label space
    """
    from rt_seg_ros.networks.names import NETWORK_NAMES

    given = read_weights_header(Path(weights).expanduser()) if weights else None
    if label_space and not (given and _brings(given, label_space)):
        load_label_space(label_space)  # a misspelt one is not to be told as one without weights
        label_space = _name_if_known(label_space)
    shipped = list_models()
    by_name = {card.name: card for card in shipped}
    if model not in NETWORK_NAMES and model not in by_name:
        known = [*NETWORK_NAMES, *by_name]
        raise UserError(f"no model '{model}'{did_you_mean(model, known)}; there are: {', '.join(known)}")
    network = by_name[model].network if model in by_name else model

    if given:
        if given.network != network:
            raise UserError(f"weights {weights} are of network '{given.network}', but model is '{model}'")
        return _in_label_space(given, label_space)

    if model in by_name:
        return _in_label_space(by_name[model], label_space)
    wanted = label_space or DEFAULT_LABEL_SPACE
    # The plain name is the best of a network; twins trained for comparison go by their own names.
    plain = {c.label_space: c for c in shipped if c.network == model and c.name == f"{model}_{c.label_space}"}
    if wanted in plain:
        return plain[wanted]
    default = plain.get(DEFAULT_LABEL_SPACE)
    if default and is_label_file(wanted) and load_label_space(wanted).num_classes == default.num_classes:
        return _in_label_space(default, wanted)
    if allow_random_weights:
        space = load_label_space(wanted)
        return ModelCard(name=model, network=model, label_space=wanted, num_classes=space.num_classes)
    raise UserError(
        f"model '{model}' has no weights for label space '{wanted}' yet; there are weights for: "
        f"{', '.join(sorted(by_name)) or 'none'}. Train it (rt-seg train), give a file (weights; rt-seg: --weights), "
        "or run it untrained (allow_random_weights; rt-seg: --allow-random-weights)"
    )


def _name_if_known(label_space: str) -> str:
    """Return the name of a label space that comes with the package, also where its file is given."""
    if is_label_file(label_space):
        space = load_label_space(label_space)
        if _comes_with_the_package(space):
            return space.name
    return label_space


def _comes_with_the_package(space: LabelSpace) -> bool:
    return space.name in list_label_spaces() and space == load_label_space(space.name)


def _brings(card: ModelCard, label_space: str) -> bool:
    """Return whether the weights bring a label space of this name, which is none of the package's."""
    return card.space is not None and label_space == card.label_space and label_space not in list_label_spaces()


def _in_label_space(card: ModelCard, label_space: str | None) -> ModelCard:
    if not label_space or (label_space == card.label_space and card.space is None) or _brings(card, label_space):
        return card
    space = load_label_space(label_space)  # other names or colours for the same classes are welcome
    if space.num_classes != card.num_classes:
        raise UserError(
            f"model '{card.name}' was trained for '{card.label_space}' ({card.num_classes} classes); "
            f"label space '{label_space}' has {space.num_classes}"
        )
    return replace(card, label_space=label_space, space=None)


def read_weights_header(path: Path) -> ModelCard:
    """Read what a weight file says of itself; where its card lies beside it, the card, with the hash that this tells.

    :raises UserError: missing, not safetensors (a pickle is never opened), or without this package's metadata.
    """
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
    card_path = path.with_suffix(".yaml")
    if card_path.is_file() and _may_be_a_card(card_path):
        return read_card(card_path)
    return replace(_card_from(document, path.stem, path, f"weights {path}"), sha256=_sha256(path))


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


def _card_from(document: Any, name: str, weights: Path, where: str) -> ModelCard:
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected a mapping")
    known = {"network", "options", "label_space", "space", "num_classes", "sha256"}
    known |= {"mean", "std", "input_size", "frame_size", "resized", "scores"}
    try:
        space = document.get("space")
        return ModelCard(
            name=name,
            network=str(document["network"]),
            options=dict(document.get("options") or {}),
            label_space=str(document["label_space"]),
            num_classes=int(document["num_classes"]),
            weights=weights,
            sha256=str(document.get("sha256", "")),
            mean=_triple(document["mean"]),
            std=_triple(document["std"], above=0.0),
            input_size=_size(document.get("input_size")),
            frame_size=_size(document.get("frame_size")),
            resized=bool(document.get("resized", False)),
            scores=dict(document.get("scores") or {}),
            details={k: v for k, v in document.items() if k not in known},
            space=None if space is None else parse_label_space(space, f"label space in {where}"),
        )
    except KeyError as error:
        raise UserError(f"{where}: has no field {error}") from error
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{where}: a field has the wrong type or value: {error}") from error


def _size(values: Any) -> tuple[int, int] | None:
    if not values:
        return None
    height, width = int(values[0]), int(values[1])
    if min(height, width) < 1:
        raise ValueError(f"{height}x{width} is no size of an image")
    return height, width


def _triple(values: Any, above: float = -math.inf) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    if not all(above < value < math.inf for value in (red, green, blue)):
        raise ValueError(f"{values} are no mean or deviation of pixels")
    return red, green, blue


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
        **({} if _comes_with_the_package(space) else {"space": space.to_document()}),
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
