"""The boundary F-score: how well the edges between classes lie where they should.

After the BF score of G. Csurka, D. Larlus, F. Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013: for each class, precision is the share of its predicted edge that has a true edge of that
class within a tolerance, recall the share of its true edge that has a predicted one, and F their harmonic mean. As
there, the tolerance is 0.75 % of the image's diagonal. Two things differ, and are meant to:

* Edges are counted over all frames before precision and recall are taken, as the confusion matrix is, so that a frame
  with three pixels of a class does not weigh as much as one with three thousand.
* "Within" is measured along rows and columns, each by itself (a square, as in the Boundary IoU of B. Cheng et al.,
  CVPR 2021), which costs a fraction of a disc.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.labels import UNLABELLED

#: Of the image's diagonal.
TOLERANCE = 0.0075

Labels = NDArray[np.uint8]


def tolerance_pixels(height: int, width: int) -> int:
    """Return how far apart edges may lie in an image of this size, in whole pixels; at least 1."""
    return max(1, int(TOLERANCE * float(np.hypot(height, width))))


class BoundaryScore:
    """Edge pixels by class over all frames seen, and how many of them match.

    A pixel is an edge of its class where one of its four neighbours has another one. Towards void there is no edge,
    as nobody knows what is there; for the same reason predicted edges in void or within the tolerance of it are left
    out of precision.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        #: int64 (4, C): predicted edge pixels, those of them that match, true edge pixels, those of them that match.
        self.counts: NDArray[np.int64] = np.zeros((4, num_classes), np.int64)
        ids = np.arange(256)
        # From a class to its bit, sixteen classes a table; ids beyond them have none.
        self._tables = [
            np.where((ids >= first) & (ids < min(first + 16, num_classes)), 1 << np.clip(ids - first, 0, 15), 0).astype(
                np.uint16
            )
            for first in range(0, num_classes, 16)
        ]

    def update(self, truth: Labels, prediction: Labels) -> float | None:
        """Count one frame.

        :param truth: uint8 (H, W), 255 = void
        :param prediction: uint8 (H, W), 255 = unlabelled
        :return: the frame's own score: mean F over the classes that have an edge in its truth; None without one
        """
        reach = tolerance_pixels(*truth.shape)
        # With a border as wide as the tolerance, what is near a pixel lies at the same offsets everywhere.
        borders = reach, reach, reach, reach, cv2.BORDER_REPLICATE
        true_labels, labels = cv2.copyMakeBorder(truth, *borders), cv2.copyMakeBorder(prediction, *borders)
        void = cv2.inRange(true_labels, self.num_classes, UNLABELLED)
        has_void = cv2.countNonZero(void) > 0
        true_at = _edges(true_labels, reach, self.num_classes, towards_unknown=not has_void)
        at = _edges(labels, reach, self.num_classes, towards_unknown=True)
        true_classes, classes = true_labels.ravel()[true_at], labels.ravel()[at]
        found, right = np.zeros(true_at.shape, bool), np.zeros(at.shape, bool)
        for table in self._tables:
            bits, true_bits = table[classes], table[true_classes]
            found |= (_spread(at, bits, labels.shape, reach)[true_at] & true_bits) != 0
            right |= (_spread(true_at, true_bits, labels.shape, reach)[at] & bits) != 0
        if has_void:  # no edge near void is judged, of either side; one that is judged may find its like there
            near_void = cv2.dilate(void, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).ravel()
            judged, true_judged = near_void[at] == 0, near_void[true_at] == 0
            classes, right = classes[judged], right[judged]
            true_classes, found = true_classes[true_judged], found[true_judged]
        rows = classes, classes[right], true_classes, true_classes[found]
        counts = np.array([np.bincount(row, minlength=self.num_classes) for row in rows])
        self.counts += counts
        return _mean(counts)

    def per_class(self) -> NDArray[np.float64]:
        """Return F by class id, float64 (C,) from 0 to 1; NaN for a class without an edge in truth and prediction."""
        return np.where(self.counts[0] + self.counts[2] > 0, _f(self.counts), np.nan)

    def mean(self) -> float | None:
        """Return the mean of F over the classes that have an edge in the truth; None where none has."""
        return _mean(self.counts)


def _f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(counts[1] / counts[0])
        recall = np.nan_to_num(counts[3] / counts[2])
        return np.nan_to_num(2 * precision * recall / (precision + recall))


def _mean(counts: NDArray[np.int64]) -> float | None:
    there = counts[2] > 0
    return float(_f(counts)[there].mean()) if there.any() else None


def _edges(labels: Labels, border: int, num_classes: int, towards_unknown: bool) -> NDArray[np.intp]:
    """Return where a pixel of a class has a neighbour with another label, as indices into the flat image.

    :param labels: uint8 (H, W), with a border that repeats the outermost pixels, in which no edges are looked for
    :param towards_unknown: whether a neighbour may also be of no class
    """
    flat = labels.ravel()
    known = flat < num_classes
    edge = np.zeros(flat.size, bool)
    for step in (1, labels.shape[1]):  # the next in the row, then in the column
        differ = flat[step:] != flat[:-step]
        if not towards_unknown:
            differ &= known[step:]
            differ &= known[:-step]
        edge[step:] |= differ
        edge[:-step] |= differ
    edge &= known
    image = edge.reshape(labels.shape)
    image[:border] = image[-border:] = False
    image[:, :border] = image[:, -border:] = False
    return np.flatnonzero(edge)


def _spread(at: NDArray[np.intp], sets: NDArray[np.uint16], shape: tuple[int, ...], reach: int) -> NDArray[np.uint16]:
    """Return for each pixel the classes within ``reach`` rows and columns of it.

    Each step doubles how many neighbours are joined: a window of 9 takes four steps each way, for all classes at once.

    :param at: where there are any, as indices into the flat image; none within ``reach`` of its sides
    :param sets: uint16, which there, one bit a class
    :param shape: (H, W) of the image
    :return: uint16, by the same indices; what stands within ``reach`` of the sides means nothing
    """
    stride = shape[1]
    # Joining takes in what is right and below: all is moved that way by the reach, so that the window lies around.
    moved = reach * (stride + 1)
    size = shape[0] * stride + moved
    now, then = np.zeros(size, np.uint16), np.empty(size, np.uint16)
    now[at + moved] = sets
    for offset in (1, stride):
        joined = 1
        while joined < 2 * reach + 1:
            step = min(joined, 2 * reach + 1 - joined)
            size -= step * offset
            np.bitwise_or(now[:size], now[step * offset :][:size], out=then[:size])
            now, then = then, now
            joined += step
    return now
