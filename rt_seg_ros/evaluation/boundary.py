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

    def update(self, truth: Labels, prediction: Labels) -> float | None:
        """Count one frame.

        :param truth: uint8 (H, W), 255 = void
        :param prediction: uint8 (H, W), 255 = unlabelled
        :return: the frame's own score: mean F over the classes that have an edge in its truth; None without one
        """
        counts = np.zeros_like(self.counts)
        reach = tolerance_pixels(*truth.shape)
        window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        void = cv2.inRange(truth, self.num_classes, UNLABELLED)
        has_void = cv2.countNonZero(void) > 0
        # The class where there is an edge of it, 255 elsewhere.
        true_edges = _edges(truth, void if has_void else None)
        edges = _edges(prediction, None)
        judged = cv2.bitwise_or(edges, cv2.dilate(void, window)) if has_void else edges
        # What is drawn close to is any predicted edge, also one that precision leaves out.
        present = [_histogram(image)[: self.num_classes] for image in (judged, true_edges, edges)]
        counts[0], counts[2] = present[0], present[1]
        for c in np.flatnonzero(present[1]):
            if not present[2][c]:
                continue
            true = cv2.inRange(true_edges, int(c), int(c))
            # Nothing farther away than the tolerance matches: most classes fill a small part of the image.
            area = _around(true, reach)
            true, found = true[area], cv2.inRange(edges[area], int(c), int(c))
            counts[3, c] = cv2.countNonZero(cv2.bitwise_and(true, cv2.dilate(found, window)))
            if present[0][c]:
                found = cv2.inRange(judged[area], int(c), int(c)) if has_void else found
                counts[1, c] = cv2.countNonZero(cv2.bitwise_and(found, cv2.dilate(true, window)))
        self.counts += counts
        there = counts[2] > 0
        return float(_f(counts)[there].mean()) if there.any() else None

    def per_class(self) -> NDArray[np.float64]:
        """Return F by class id, float64 (C,) from 0 to 1; NaN for a class without an edge in truth and prediction."""
        return np.where(self.counts[0] + self.counts[2] > 0, _f(self.counts), np.nan)

    def mean(self) -> float | None:
        """Return the mean of F over the classes that have an edge in the truth; None where none has."""
        there = self.counts[2] > 0
        return float(_f(self.counts)[there].mean()) if there.any() else None


def _f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(counts[1] / counts[0])
        recall = np.nan_to_num(counts[3] / counts[2])
        return np.nan_to_num(2 * precision * recall / (precision + recall))


def _around(mask: Labels, margin: int) -> tuple[slice, slice]:
    """Return rows and columns of what is set in a mask, with a margin."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)


def _edges(labels: Labels, void: Labels | None) -> Labels:
    """Return each edge pixel's class, and 255 where there is no edge.

    :param void: 255 where a pixel makes no edge, neither its own nor its neighbour's
    """
    none = np.full(labels.shape, 255, np.uint8)
    across = cv2.compare(labels[:, 1:], labels[:, :-1], cv2.CMP_EQ)
    down = cv2.compare(labels[1:], labels[:-1], cv2.CMP_EQ)
    if void is not None:
        across |= void[:, 1:] | void[:, :-1]
        down |= void[1:] | void[:-1]
    none[:, 1:] &= across
    none[:, :-1] &= across
    none[1:] &= down
    none[:-1] &= down
    return cv2.bitwise_or(labels, none)  # type: ignore[return-value]


def _histogram(image: Labels) -> NDArray[np.int64]:
    return cv2.calcHist([image], [0], None, [256], [0, 256]).reshape(-1).astype(np.int64)
