"""What is known of a model: its network, its label space, its weights, and what the document beside these says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace, load_label_space, parse_label_space
from rt_seg_ros.working_size import Size, working_size

#: RGB, 0..255: ImageNet's, for networks without weights of their own.
DEFAULT_MEAN = (123.675, 116.28, 103.53)
DEFAULT_STD = (58.395, 57.12, 57.375)


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
        space = self.space or load_label_space(self.label_space)
        if space.num_classes != self.num_classes:
            raise UserError(
                f"model '{self.name}' has {self.num_classes} classes, label space '{space.name}' {space.num_classes}"
            )
        return space


def parse_card(document: Any, name: str, weights: Path, where: str) -> ModelCard:
    """Make a card of a document: that of a YAML file, or of a weight file's header.

    :param where: what to call it to the user
    :raises UserError: without a field that a card needs, or one of a wrong type or value.
    """
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
