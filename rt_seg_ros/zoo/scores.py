"""How good a card says its weights are, and on what: only scores on data that no part of the training learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from rt_seg_ros.zoo.card import ModelCard


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
