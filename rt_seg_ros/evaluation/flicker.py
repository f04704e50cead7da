"""Temporal flicker: labels that change from frame to frame where nothing changed.

Of the pixels whose true label is the same in two frames, the share whose predicted label is not. The frames are one
that has truth and the next that has it. What truly moves is no flicker, and neither is a mistake that stays. Without
truth only the share of all pixels whose label changes can be told, which holds both.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.labels import UNLABELLED

Labels = NDArray[np.uint8]


@dataclass
class Share:
    """A share of pixels over all pairs of frames seen: ``part`` of ``whole`` pixels in ``pairs`` pairs."""

    part: int = 0
    whole: int = 0
    pairs: int = 0

    def add(self, part: int, whole: int) -> None:
        """Count one pair of frames, unless there is nothing in it to compare."""
        self.part += part
        self.whole += whole
        self.pairs += whole > 0

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None where nothing was counted."""
        return self.part / self.whole if self.whole else None


class Flicker:
    """Compares each frame with the one before it.

    ``flicker``: as above; ``changed``: share of pixels whose predicted label changes, over all consecutive frames;
    ``truth_changed``: share of those whose true label does, over the frames that have truth. Where the size changes,
    a new series begins.
    """

    def __init__(self) -> None:
        self.flicker, self.changed, self.truth_changed = Share(), Share(), Share()
        self._last: Labels | None = None
        self._last_with_truth: tuple[Labels, Labels] | None = None

    def update(self, prediction: Labels, truth: Labels | None = None) -> float | None:
        """Count one frame.

        :param prediction: uint8 (H, W), kept until the next frame
        :param truth: uint8 (H, W), 255 = void; None where there is none
        :return: the flicker from the last frame with truth to this one, 0 to 1; None where it cannot be told
        """
        if self._last is not None and self._last.shape == prediction.shape:
            self.changed.add(_count(cv2.compare(prediction, self._last, cv2.CMP_NE)), prediction.size)
        self._last = prediction
        if truth is None:
            return None
        before, self._last_with_truth = self._last_with_truth, (prediction, truth)
        if before is None or before[1].shape != truth.shape:
            return None
        known = cv2.bitwise_and(
            cv2.compare(truth, UNLABELLED, cv2.CMP_NE), cv2.compare(before[1], UNLABELLED, cv2.CMP_NE)
        )
        same = cv2.bitwise_and(known, cv2.compare(truth, before[1], cv2.CMP_EQ))
        part = _count(cv2.bitwise_and(same, cv2.compare(prediction, before[0], cv2.CMP_NE)))
        whole, labelled = _count(same), _count(known)
        self.flicker.add(part, whole)
        self.truth_changed.add(labelled - whole, labelled)
        return part / whole if whole else None


def _count(mask: NDArray[np.uint8]) -> int:
    return int(cv2.countNonZero(mask))
