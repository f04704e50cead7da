"""The weights that a run goes on from: those of a model by name, or of a file."""

from __future__ import annotations

from pathlib import Path

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import SegmentationNetwork
from rt_seg_ros.zoo import ModelCard, build_network, find_model


def start_card(weights: str, network: str) -> ModelCard:
    """Return the card of a recipe's ``network.weights``: a model's name, or a .safetensors file.

    :raises UserError: as :func:`rt_seg_ros.zoo.find_model`
    """
    path = Path(weights).expanduser()
    return find_model(network, weights=path) if path.suffix else find_model(weights)


def load_start(weights: str, name: str, network: SegmentationNetwork) -> None:
    """Load a model's weights into the network that is trained; its auxiliary heads begin anew.

    :param name: the network's name
    :raises UserError: no such model or file, or weights of another network or number of classes
    """
    card = start_card(weights, name)
    state = build_network(card).state_dict()
    expected = network.state_dict()
    wrong = [key for key, value in state.items() if key not in expected or value.shape != expected[key].shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"network.weights '{weights}' ({card.network}, {card.num_classes} classes) do not fit network '{name}' "
            f"with {network.num_classes} classes: {', '.join(wrong[:3])}{more}"
        )
    network.load_state_dict(expected | state)
