"""Scoring a recording of what the node published: accuracy against truth, latency, and where every frame went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import open_bag
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.labels import LabelSpace

STAGES = ("wait_ms", "decode_ms", "preprocess_ms", "network_ms", "postprocess_ms", "publish_ms", "total_ms", "age_ms")


@dataclass
class ReplayScore:
    """What a recording of the node's topics tells.

    ``matrix`` over the ``scored`` labels that truth of the same stamp was there for; ``stages``: milliseconds of
    each processed frame by stage, float64 (processed,); ``received`` to ``rejected``: the node's own final count.
    ``played`` frames were sent;
    ``ious``: stamp in the drive (ns) and mIoU of each scored frame.
    """

    matrix: ConfusionMatrix
    scored: int = 0
    labels: int = 0
    played: int = 0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    rejected: int = 0
    stages: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    ious: list[tuple[int, float]] = field(default_factory=list)

    @property
    def unaccounted(self) -> int:
        """Frames that were received and neither processed, dropped nor rejected: none, or something is wrong."""
        return self.received - self.processed - self.dropped - self.rejected

    @property
    def lost(self) -> int:
        """Frames that were played and did not reach the node."""
        return self.played - self.received


def score_recording(
    recording: Path,
    space: LabelSpace,
    drive: Path,
    stamps: Mapping[int, int],
    node: str = "/segmentation",
    truth_topic: str | None = None,
) -> ReplayScore:
    """Score a recording of the node's label and stats topics against the drive that was played to it.

    :param space: the label space that both speak
    :param drive: a rosbag2 with label images, equal in stamp to the images that were played
    :param stamps: from the stamp a frame was played under to the one it has in ``drive`` (ns)
    :param node: the node's full name
    :param truth_topic: label images in ``drive``; may be left out where there is one such topic
    :raises UserError: where a recording cannot be read, or there is no such topic
    """
    score = ReplayScore(ConfusionMatrix(space.num_classes), played=len(stamps))
    rows: list[list[float]] = []
    with open_bag(recording) as bag, open_bag(drive) as source:
        for _, _, message in bag.messages([f"{node}/stats"]):
            rows.append([float(getattr(message, stage)) for stage in STAGES])
            if message.received >= score.received:
                score.received, score.processed = int(message.received), int(message.processed)
                score.dropped, score.rejected = int(message.dropped), int(message.rejected)
        if f"{node}/label" in bag.topics:
            truths = source.labels(truth_topic)
            stamp_of_truth, truth = -1, None
            for published, _, labels in bag.labels(f"{node}/label"):
                score.labels += 1
                stamp = stamps.get(published, -1)
                while stamp_of_truth < stamp:  # both are in the order of time
                    stamp_of_truth, _, truth = next(truths, (2**63, "", None))
                if truth is not None and stamp_of_truth == stamp:
                    one = ConfusionMatrix(space.num_classes)
                    one.update(space.from_raw(truth), labels)
                    score.matrix.add(one)
                    score.ious.append((stamp, one.miou()))
    score.scored = len(score.ious)
    table = np.array(rows, np.float64).reshape(-1, len(STAGES))
    score.stages = {stage: table[:, i] for i, stage in enumerate(STAGES)}
    return score
