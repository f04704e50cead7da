"""Networks by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.labels import MAX_CLASSES
from rt_seg_ros.networks.names import network_info

if TYPE_CHECKING:
    from rt_seg_ros.networks.base import SegmentationNetwork


def create_network(name: str, num_classes: int = 19, **options: Any) -> SegmentationNetwork:
    """Build a network, randomly initialised, in training mode.

    :param name: one of :func:`rt_seg_ros.networks.list_networks`
    :param num_classes: output channels, 1 to 255
    :param options: the network's own options over those of its row in the table; ``aux=True`` adds
        the heads that only training uses (``forward`` gives the main head alone, ``forward_train`` all), and is
        accepted by networks without such heads as well
    :raises UserError: unknown name or option, or a value that the network does not have
    """
    info = network_info(name)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"network '{name}': num_classes is {num_classes}; it must be from 1 to {MAX_CLASSES}")
    constructor = getattr(import_module(f"rt_seg_ros.networks.{info.family}"), info.constructor)
    known = [option for option in inspect.signature(constructor).parameters if option != "num_classes"]
    for option in options:
        if option not in known:
            near = did_you_mean(option, known)
            raise UserError(f"network '{name}' has no option '{option}'{near}; its options: {', '.join(known)}")
    try:
        network: SegmentationNetwork = constructor(num_classes=num_classes, **{**info.default_options, **options})
    except (TypeError, ValueError, RuntimeError) as error:  # what Python and PyTorch say of a value of another kind
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"network '{name}' cannot be built with {given}: {reason}") from error
    return network
