"""The model that a name, a label space and a file of weights ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.labels import comes_with_the_package, is_label_file, list_label_spaces, load_label_space
from rt_seg_ros.resources import models_dir
from rt_seg_ros.zoo.card import ModelCard
from rt_seg_ros.zoo.weights import read_card, read_weights_header

DEFAULT_LABEL_SPACE = "camvid11"


def list_models() -> list[ModelCard]:
    """Return the cards of all weights that come with the package, by name."""
    return [read_card(path) for path in sorted(models_dir().glob("*.yaml"))]


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
        if comes_with_the_package(space):
            return space.name
    return label_space


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
