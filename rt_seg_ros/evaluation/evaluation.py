"""What an evaluation of one model has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rt_seg_ros.evaluation.frames import Frames, Item
from rt_seg_ros.evaluation.matching import Matching
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.evaluation.statistics import Distribution
from rt_seg_ros.evaluation.usage import Usage
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

Mode = Literal["offline", "live"]


@dataclass
class FrameCounts:
    """Where the frames went.

    ``played``: read from the recording or the data set; ``received``: that reached the pipeline (offline all of them,
    live what reached the node); ``processed``, ``dropped``, ``rejected``: what became of those.
    """

    played: int = 0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    rejected: int = 0

    @property
    def lost(self) -> int:
        """Frames that were played and did not reach the node."""
        return self.played - self.received

    @property
    def unaccounted(self) -> int:
        """Frames that were received and neither processed, dropped nor rejected: none, or something is wrong."""
        return self.received - self.processed - self.dropped - self.rejected


@dataclass
class Evaluation:
    """One model on one set of frames.

    ``name``: what the model is called here; ``stages``: milliseconds of each frame by stage, in their order;
    ``seconds``: from the first frame to the last result; ``busy_seconds``: of those, inside the pipeline;
    ``scoring``: CPU time of each frame's scores, offline, on a thread beside the network; ``sizes``: of each frame's
    (height, width), how many frames had it and at what size the network saw them; ``rejections``: images that cannot
    be used by reason, the first of them in ``first_rejected``; ``problems``: what could not be read or written, in
    words; ``stored``: names of the files in the report's folder that hold its ``labels`` and its ``video``.
    """

    name: str
    card: ModelCard
    space: LabelSpace
    data: str
    path: str
    mode: Mode
    scores: Scores
    backend: str = ""
    device: str = ""
    precision: str = ""
    topic: str = ""
    rate: float = 0.0
    truth: str = ""
    damage: str = ""
    counts: FrameCounts = field(default_factory=FrameCounts)
    matching: Matching = field(default_factory=Matching)
    stages: dict[str, Distribution] = field(default_factory=dict)
    sizes: dict[Size, tuple[int, Size]] = field(default_factory=dict)
    seconds: float = 0.0
    busy_seconds: float = 0.0
    load_seconds: float = 0.0
    scoring: Distribution = field(default_factory=Distribution)
    usage: Usage = field(default_factory=Usage)
    machine: dict[str, Any] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)
    first_rejected: str = ""
    problems: list[str] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)

    @property
    def is_scored(self) -> bool:
        """Whether there was truth for any pixel."""
        return self.scores.matrix.pixels > 0

    @property
    def is_void(self) -> bool:
        """Whether there was truth, and all of it was void."""
        return self.scores.void > 0 and not self.is_scored

    def note_rejected(self, item: Item, error: ImageRejected) -> None:
        """Note why an image cannot be used."""
        self.rejections[error.reason] = self.rejections.get(error.reason, 0) + 1
        self.first_rejected = self.first_rejected or f"frame {item.index}, {item.name}: {error}"

    @property
    def reasons(self) -> str:
        """The rejections in words; empty where there are none."""
        return ", ".join(f"{reason}: {count}" for reason, count in self.rejections.items())

    def add_outcome(self, frames: Frames, problems: Sequence[str]) -> None:
        """Add what the frames, all of them read, tell of truth and damage, and what could not be read or written.

        :param problems: what could not be written
        """
        self.matching = replace(frames.matching)
        self.damage = frames.damage
        images, truths = max(self.counts.rejected, sum(self.rejections.values())), self.matching.truth_rejected
        if images:
            told = f" ({self.reasons}); the first: {self.first_rejected}" if self.reasons else ""
            self.problems.append(f"{images} image{'s' if images > 1 else ''} cannot be used{told}")
        if truths:
            what = f"{truths} label image{'s' if truths > 1 else ''} of the truth cannot be used"
            self.problems.append(f"{what}; the first: {self.matching.first_rejected}")
        if self.matching.none_near:
            self.problems.append(self.matching.none_near)
        self.problems += problems

    @property
    def frames_per_second(self) -> float:
        """Speed of the pipeline: frames over the time spent in it, reading, scoring and writing left out."""
        return self.counts.processed / self.busy_seconds if self.busy_seconds else 0.0

    @property
    def throughput(self) -> float:
        """Frames a second of the whole run: processed frames over the time from the first to the last result."""
        return self.counts.processed / self.seconds if self.seconds else 0.0

    @property
    def total(self) -> Distribution:
        """The stage ``total``, in milliseconds; empty where no frame was timed."""
        return self.stages.get("total", Distribution())

    def count_size(self, size: Size, working: Size) -> None:
        """Count a frame of a size, which the network saw at another."""
        self.sizes[size] = (self.sizes.get(size, (0, working))[0] + 1, working)

    def add_stages(self, timings: dict[str, float]) -> None:
        """Count one frame's milliseconds by stage."""
        for stage, milliseconds in timings.items():
            self.stages.setdefault(stage, Distribution()).add(milliseconds)

    @property
    def protocol(self) -> str:
        """How the figures came about, in a line."""
        sizes = sorted(self.sizes)
        shown = "; ".join(self._seen(size) for size in sizes[:3])
        more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        how = f"live, played at {self.rate:g} times its speed" if self.mode == "live" else "offline"
        scored = ""
        if self.is_scored:
            part = "" if self.scores.scored == self.counts.processed else f" ({self.scores.scored} scored)"
            scored = (
                f"{part}, {self.space.num_classes} classes ({self.space.description or self.space.name}), single "
                "scale, labels at their own size; one confusion matrix over all frames, void ignored, a class without "
                "a true positive counts 0"
            )
        return f"{self.data}, {how}, {self.counts.processed} frames, {shown}{more}{scored}"

    def _seen(self, size: Size) -> str:
        """Write a frame's size, and the network's where that is another; width x height, as the papers do."""
        working = self.sizes[size][1]
        own = f"{size[1]}x{size[0]}"
        return own if working == size else f"{own} (seen at {working[1]}x{working[0]})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; shares from 0 to 1, None where there is no truth."""
        scores, counts, matching = self.scores, self.counts, self.matching
        matrix, flicker = scores.matrix, scores.flicker
        scored = self.is_scored
        return {
            "name": self.name,
            "data": self.data,
            "path": self.path,
            "topic": self.topic or None,
            "mode": self.mode,
            "rate": self.rate or None,
            "damage": self.damage or None,
            "problems": self.problems,
            "labels": self.stored.get("labels"),
            "video": self.stored.get("video"),
            "model": self.card.name,
            "network": self.card.network,
            "weights": str(self.card.weights) if self.card.weights else None,
            "sha256": self.card.sha256 or None,
            "label_space": self.space.name,
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "machine": self.machine,
            "protocol": self.protocol,
            "frames": counts.processed,
            "frames_scored": scores.scored,
            "frames_played": counts.played,
            "frames_received": counts.received,
            "frames_dropped": counts.dropped,
            "frames_rejected": counts.rejected,
            "rejected_by_reason": self.rejections,
            "frames_lost": counts.lost,
            "frames_unaccounted": counts.unaccounted,
            "truth": {
                "source": self.truth or None,
                "frames_without_truth": matching.frames_without_truth if self.truth else None,
                "truth_without_frame": matching.truth_without_frame,
                "rejected": matching.truth_rejected,
                "void": scores.void,
                "resized": matching.truth_resized,
                "largest_offset_ms": matching.largest_offset_ns / 1e6,
            },
            "frames_per_second": round(self.frames_per_second, 3),
            "throughput": round(self.throughput, 3),
            "seconds": round(self.seconds, 3),
            "load_seconds": round(self.load_seconds, 3),
            "latency_ms": {stage: values.to_dict() for stage, values in self.stages.items()},
            "scoring_cpu_ms": self.scoring.to_dict() if self.scoring.count else None,
            "usage": self.usage.to_dict(),
            "pixels": matrix.pixels,
            "coverage": scores.coverage,
            "miou": matrix.miou() if scored else None,
            "pixel_accuracy": matrix.pixel_accuracy() if scored else None,
            "class_accuracy": matrix.class_accuracy() if scored else None,
            "boundary_f": scores.boundary.mean(),
            "flicker": flicker.flicker.value,
            "flicker_pairs": flicker.flicker.pairs,
            "label_change": flicker.changed.value,
            "truth_change": flicker.truth_changed.value,
            "classes": self._classes() if scored else {},
            "confusion": {
                "rows": "truth",
                "columns": "prediction",
                "counts": matrix.matrix.tolist(),
                "unlabelled": matrix.missed.tolist(),
            }
            if scored
            else None,
        }

    def _classes(self) -> dict[str, Any]:
        matrix = self.scores.matrix
        columns = zip(
            self.space.names,
            matrix.per_class_iou(),
            matrix.per_class_accuracy(),
            self.scores.boundary.per_class(),
            matrix.matrix.sum(axis=1) + matrix.missed,
            strict=True,
        )
        return {
            name: {
                "iou": float(iou),
                "accuracy": float(accuracy),
                "boundary_f": None if edge != edge else float(edge),  # NaN: it has no edge
                "pixels": int(pixels),
            }
            for name, iou, accuracy, edge, pixels in columns
        }
