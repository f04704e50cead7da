"""What an exported file says of itself."""

from __future__ import annotations

import json

from rt_seg_ros import __version__
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.zoo import ModelCard

_INPUTS = {
    "logits": "image: float32 (N, 3, H, W), RGB, (value - mean) / std with mean and std in units of 0..255",
    "labels": "pixels: uint8 (N, H, W, 3), BGR",
}
_OUTPUTS = {
    "logits": "logits: float32 (N, classes, H / stride, W / stride), before soft max; resize bilinearly, half-pixel",
    "labels": "labels: uint8 (N, H, W), class ids",
}


def metadata(card: ModelCard, options: GraphOptions, precision: str = "") -> dict[str, str]:
    """Return what a file of this model says of itself: plain texts, JSON where they are lists or mappings.

    :param precision: where it is another than the graph's own (int8)
    :raises UserError: where the card's label space cannot be loaded
    """
    space = card.load_label_space()
    size = "any" if options.size is None else f"{options.size[0]}x{options.size[1]}"
    values = {
        "version": __version__,
        "model": card.name,
        "network": card.network,
        "options": json.dumps(dict(card.options)),
        "label_space": space.name,
        "classes": json.dumps([{"id": c.id, "name": c.name, "color": list(c.color)} for c in space.classes]),
        "mean": json.dumps(list(card.mean)),
        "std": json.dumps(list(card.std)),
        "weights_sha256": card.sha256 if card.weights is not None else "none: random weights",
        "input": _INPUTS[options.outputs],
        "output": _OUTPUTS[options.outputs],
        "size": size,
        "batch": "any" if options.size is None else str(options.batch),
        "precision": precision or options.precision,
        "licence": str(card.details.get("licence", "")),
    }
    return {f"rt_seg_ros.{key}": value for key, value in values.items()}
