"""The confusion matrix, and the figures that papers read from it.

Protocol: pixels without a true label are ignored, one matrix is summed over the whole split, and a class
without a single true positive counts as 0 in the mean (a class that neither truth nor prediction ever shows
too).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels seen; ``matrix`` is int64 (C, C), rows truth."""

    def __init__(self, num_classes: int) -> None:
        """Begin with nothing counted.

        :param num_classes: C; ids from C up are void in the truth, and wrong in a prediction
        :raises ValueError: not between 1 and 255
        """
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes is {num_classes}: between 1 and 255 are possible")
        self.num_classes = num_classes
        self.missed: NDArray[np.int64] = np.zeros(num_classes, np.int64)
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one label image, or several in one array.

        A pixel whose prediction is no class (255) is a miss of its true class and false for none.

        :param truth: uint8, any shape; ids from ``num_classes`` up are ignored
        :param prediction: uint8, same shape
        :raises ValueError: other types, or shapes that differ
        """
        if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise ValueError(f"uint8 label images are needed, not {truth.dtype} and {prediction.dtype}")
        if truth.shape != prediction.shape:
            raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
        c = self.num_classes
        counts = _joint_histogram(truth, prediction, c)
        self.matrix += counts[:c, :c]
        self.missed += counts[:c, c]

    def add(self, other: ConfusionMatrix) -> None:
        """Add what another matrix has counted.

        :raises ValueError: numbers of classes that differ
        """
        if other.num_classes != self.num_classes:
            raise ValueError(f"{other.num_classes} classes cannot be added to {self.num_classes}")
        self.matrix += other.matrix
        self.missed += other.missed

    @property
    def pixels(self) -> int:
        """Number of pixels counted, void left out."""
        return int(self.matrix.sum() + self.missed.sum())

    def per_class_iou(self) -> NDArray[np.float64]:
        """Return intersection over union by class id, float64 (C,) from 0 to 1; 0 without a true positive."""
        hits = np.diag(self.matrix).astype(np.float64)
        union = self._truth() + self.matrix.sum(axis=0) - hits
        return _ratio(hits, union)

    def miou(self) -> float:
        """Return the mean of ``per_class_iou`` over all classes, 0 to 1."""
        return float(self.per_class_iou().mean())

    def miou_of_present(self) -> float:
        """Return the mean of ``per_class_iou`` over the classes that the truth has, 0 to 1; 0 where it has none."""
        present = self._truth() > 0
        return float(self.per_class_iou()[present].mean()) if present.any() else 0.0

    def per_class_accuracy(self) -> NDArray[np.float64]:
        """Return the share of each class's pixels that is found (recall), float64 (C,) from 0 to 1."""
        return _ratio(np.diag(self.matrix).astype(np.float64), self._truth())

    def class_accuracy(self) -> float:
        """Return the mean of ``per_class_accuracy``, 0 to 1."""
        return float(self.per_class_accuracy().mean())

    def pixel_accuracy(self) -> float:
        """Return the share of all labelled pixels that is right, 0 to 1; 0 where nothing was counted."""
        return float(np.trace(self.matrix) / self.pixels) if self.pixels else 0.0

    def _truth(self) -> NDArray[np.float64]:
        return (self.matrix.sum(axis=1) + self.missed).astype(np.float64)


def _joint_histogram(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], c: int) -> NDArray[np.int64]:
    """Return how often each pair of ids occurs, int64 (c + 1, c + 1); ids from ``c`` up are counted as ``c``."""
    # Labels come in areas: there are far fewer runs of equal pairs than pixels, and a run is counted at once.
    t, p = truth.reshape(-1), prediction.reshape(-1)
    ends = np.flatnonzero((t[1:] != t[:-1]) | (p[1:] != p[:-1]))
    ends = np.append(ends, t.size - 1) if t.size else ends
    true, predicted = np.minimum(t[ends], c).astype(np.intp), np.minimum(p[ends], c)
    lengths = np.diff(ends, prepend=-1)
    counts = np.bincount(true * (c + 1) + predicted, weights=lengths, minlength=(c + 1) ** 2)  # exact below 2**53
    return counts.astype(np.int64).reshape(c + 1, c + 1)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
