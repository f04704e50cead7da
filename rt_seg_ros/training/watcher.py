"""How a run tells of itself, without knowing who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what shows progress need not import torch
    from rt_seg_ros.training.validation import SplitScore


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever shows it."""

    step: int
    steps: int
    share: float
    epoch: float
    loss: float
    rate: float
    images_per_second: float
    seconds_left: float


class Watcher:
    """Hears of a run's progress; this one keeps silent."""

    def on_preparing(self, what: str, done: int, total: int) -> None:
        """Hear of data being read or rendered."""

    def on_step(self, progress: Progress) -> None:
        """Hear of a step."""

    def on_validation(self, progress: Progress, scores: list[SplitScore], best: bool) -> None:
        """Hear of scores."""

    def on_message(self, text: str) -> None:
        """Hear something worth a line."""
