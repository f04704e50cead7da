"""Scoring a model on frames with ground truth: every frame, as fast as it goes, through the pipeline itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.evaluation.labelled import LabelledFrame, LabelledFrames
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.overlap import prefetch
from rt_seg_ros.pipeline import Segmenter

Watch = Callable[[Iterable[LabelledFrame], str, int], Iterable[LabelledFrame]]


@dataclass
class Evaluation:
    """What was measured.

    ``seconds`` is the time inside the pipeline, ``sizes`` counts the frames by their (height, width).
    """

    name: str
    segmenter: Segmenter
    matrix: ConfusionMatrix
    frames: int = 0
    unmatched: int = 0
    rejected: int = 0
    seconds: float = 0.0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Speed of the pipeline: frames over the time spent in it, reading and scoring left out."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def protocol(self) -> str:
        """How the figures came about, in a line."""
        space = self.segmenter.label_space
        sizes = sorted(self.sizes)
        shown = "; ".join(self._seen(size) for size in sizes[:3])
        more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        return (
            f"{self.name}, {self.frames} frames, {shown}{more}, {space.num_classes} classes "
            f"({space.description or space.name}), single scale, labels at their own size; one confusion matrix over "
            "all frames, void ignored, a class without a true positive counts 0"
        )

    def _seen(self, size: tuple[int, int]) -> str:
        """Write a frame's size, and the network's where that is another; width x height, as the papers do."""
        working = self.segmenter.working_size(*size)
        own = f"{size[1]}x{size[0]}"
        return own if working == size else f"{own} (seen at {working[1]}x{working[0]})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; shares from 0 to 1."""
        matrix, space, card = self.matrix, self.segmenter.label_space, self.segmenter.card
        truth = matrix.matrix.sum(axis=1) + matrix.missed
        figures = zip(space.names, matrix.per_class_iou(), matrix.per_class_accuracy(), truth, strict=True)
        return {
            "data": self.name,
            "model": card.name,
            "network": card.network,
            "weights": str(card.weights) if card.weights else None,
            "sha256": card.sha256 or None,
            "label_space": space.name,
            "backend": self.segmenter.backend_name,
            "device": self.segmenter.device,
            "precision": self.segmenter.precision,
            "protocol": self.protocol,
            "frames": self.frames,
            "frames_without_truth": self.unmatched,
            "frames_rejected": self.rejected,
            "frames_per_second": round(self.frames_per_second, 3),
            "pixels": matrix.pixels,
            "miou": matrix.miou(),
            "pixel_accuracy": matrix.pixel_accuracy(),
            "class_accuracy": matrix.class_accuracy(),
            "classes": {
                name: {"iou": float(iou), "accuracy": float(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in figures
            },
            "confusion": {
                "rows": "truth",
                "columns": "prediction",
                "counts": matrix.matrix.tolist(),
                "unlabelled": matrix.missed.tolist(),
            },
        }


def evaluate(segmenter: Segmenter, frames: LabelledFrames, watch: Watch | None = None) -> Evaluation:
    """Segment and score every frame.

    :param watch: is handed (the frames, what is done, their number) and passes them on, as a progress bar does
    :raises UserError: what the frames cannot be read for, or not one frame with truth
    """
    result = Evaluation(frames.name, segmenter, ConfusionMatrix(segmenter.label_space.num_classes))
    items: Iterable[LabelledFrame] = prefetch(frames)
    rejected = 0
    for item in watch(items, f"evaluate {frames.name}", frames.total) if watch else items:
        size = (item.frame.height, item.frame.width)
        try:
            if not result.frames:
                segmenter.warm_up(*size)
            started = time.perf_counter()
            labels = segmenter.segment(item.frame).labels
        except ImageRejected:
            rejected += 1
            continue
        result.seconds += time.perf_counter() - started
        result.matrix.update(item.truth, labels)
        result.frames += 1
        result.sizes[size] = result.sizes.get(size, 0) + 1
    result.unmatched, result.rejected = frames.unmatched, frames.rejected + rejected
    if not result.frames:
        raise UserError(
            f"{frames.name} has no frame to score: {result.unmatched} images without truth of the same stamp, "
            f"{result.rejected} that cannot be used"
        )
    return result
