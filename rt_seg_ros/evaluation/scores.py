"""All scores of a model against truth, frame by frame and over all frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.evaluation.boundary import BoundaryScore
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.evaluation.flicker import Flicker
from rt_seg_ros.labels import UNLABELLED

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameScores:
    """One frame's scores, 0 to 1; None where there is no truth.

    ``miou`` is the mean over the classes that occur in the frame's truth: over all classes, those that are elsewhere
    would count as missed.
    """

    coverage: float
    miou: float | None = None
    pixel_accuracy: float | None = None
    boundary_f: float | None = None
    flicker: float | None = None


@dataclass
class Scores:
    """Scores over all frames seen: ``scored`` of them had truth, ``void`` others truth that is void everywhere.

    :param num_classes: C
    :param in_sequence: the frames follow one another, so that flicker means something
    """

    num_classes: int
    in_sequence: bool
    matrix: ConfusionMatrix = field(init=False)
    boundary: BoundaryScore = field(init=False)
    flicker: Flicker = field(default_factory=Flicker, init=False)
    frames: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    void: int = field(default=0, init=False)
    _labelled: int = field(default=0, init=False)
    _pixels: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.num_classes)
        self.boundary = BoundaryScore(self.num_classes)

    @property
    def coverage(self) -> float | None:
        """Share of all pixels that have a label, 0 to 1."""
        return self._labelled / self._pixels if self._pixels else None

    def update(self, prediction: Labels, truth: Labels | None) -> FrameScores:
        """Count one frame.

        :param prediction: uint8 (H, W), 255 = unlabelled
        :param truth: uint8 (H, W), 255 = void; None where there is none
        """
        labelled = prediction.size - cv2.countNonZero(cv2.compare(prediction, UNLABELLED, cv2.CMP_EQ))
        self.frames += 1
        self._labelled += labelled
        self._pixels += prediction.size
        coverage = labelled / prediction.size
        flicker = self.flicker.update(prediction, truth) if self.in_sequence else None
        if truth is None:
            return FrameScores(coverage)
        one = ConfusionMatrix(self.num_classes)
        one.update(truth, prediction)
        if not one.pixels:
            self.void += 1
            return FrameScores(coverage, flicker=flicker)
        self.matrix.add(one)
        self.scored += 1
        boundary = self.boundary.update(truth, prediction)
        return FrameScores(coverage, one.miou_of_present(), one.pixel_accuracy(), boundary, flicker)
