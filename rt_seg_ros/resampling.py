"""From a frame to a network's input, and from its logits to labels at the frame's size, on the host.

All resizing takes pixel centres at half-integers (OpenCV's linear and area interpolation, PyTorch's
``align_corners=False``), so nothing shifts on the way there and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.border_cells import BorderCells
from rt_seg_ros.images import RGB_AT, Frame
from rt_seg_ros.labels import UNLABELLED
from rt_seg_ros.scratch import Scratch
from rt_seg_ros.working_size import Size

_PIXELS_AT_ONCE = 131_072  # three planes of them, float32, fit a core's own cache


def resize_pixels(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an image (H, W[, C]) to ``size``: area averages where it shrinks, linear where it grows."""
    height, width = pixels.shape[:2]
    # One after the other: where only one side shrinks, OpenCV's area interpolation shifts the image.
    shrunk = min(height, size[0]), min(width, size[1])
    if shrunk != (height, width):
        pixels = cv2.resize(pixels, shrunk[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if shrunk != size:
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return pixels


def resize_labels(labels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize labels (H, W) to ``size``: the nearest pixel by its centre, so that they fit the resized image."""
    if labels.shape == size:
        return labels
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]


class Normaliser:
    """Frames to the network's input: resized, RGB planes, (value - mean) / std in float32.

    Not for several threads at once: the planes in between are kept from call to call.

    :param mean: RGB, 0..255
    :param std: RGB, 0..255
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        values = np.arange(256, dtype=np.float64)
        self._tables = [((values - m) / s).astype(np.float32).reshape(256, 1) for m, s in zip(mean, std, strict=True)]
        self._scratch = Scratch()

    def write(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Write one frame into ``out``, float32 (3, h, w), whose h and w are the working size."""
        pixels = resize_pixels(frame.pixels, (out.shape[1], out.shape[2]))
        if frame.order == "mono":
            planes = [np.ascontiguousarray(pixels)] * 3
        else:
            kept = self._scratch("split", (pixels.shape[2], *pixels.shape[:2]), np.uint8)
            split = cv2.split(pixels, list(kept))  # into these, where they are of the right kind
            planes = [split[i] for i in RGB_AT[frame.order]]
        for plane, table, target in zip(planes, self._tables, out, strict=True):
            cv2.LUT(plane, table, target)


class LabelUpsampler:
    """Logits at a network's own resolution to labels and confidence at any size.

    Equals bilinear interpolation of the logits to that size, then arg max (the first of equals) and, for the
    confidence, the soft max's value there. Labels alone take the short cut of :mod:`rt_seg_ros.border_cells` where
    that is faster; confidence, which changes from pixel to pixel, is computed everywhere, in strips and one class at
    a time so that it stays in the cache. Not for several threads at once: what is needed in between is kept from call
    to call.
    """

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._border_cells: dict[tuple[Size, Size], BorderCells] = {}

    def __call__(
        self, logits: NDArray[np.float32], size: Size, confidence: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return labels, uint8 ``size``, and the winning class's probability in 1/255, uint8 or None.

        Both are new arrays, which the caller may keep.

        :param logits: float32 (classes, h, w); one of at most 255 classes
        """
        logits = np.ascontiguousarray(logits)
        if not confidence:
            labels = self._short_cut((logits.shape[1], logits.shape[2]), size)(logits)
            if labels is not None:
                return labels, None
        return self._everywhere(logits, size, confidence)

    def _short_cut(self, planes: Size, size: Size) -> BorderCells:
        key = planes, size
        if key not in self._border_cells:
            if len(self._border_cells) >= 16:  # as many cameras of different sizes; more take turns
                self._border_cells.clear()
            self._border_cells[key] = BorderCells(planes, size, self._scratch)
        return self._border_cells[key]

    def _everywhere(
        self, logits: NDArray[np.float32], size: Size, confidence: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        labels = np.zeros(size, np.uint8)
        certainty = np.empty(size, np.uint8) if confidence else None
        for strip in _strips(logits.shape[1], size):
            values = logits[:, strip.first : strip.end]
            self._in_strip(values, strip, labels[strip.rows], None if certainty is None else certainty[strip.rows])
        return labels, certainty

    def _in_strip(
        self, logits: NDArray[np.float32], strip: _Strip, labels: NDArray[np.uint8], certainty: NDArray[np.uint8] | None
    ) -> None:
        """Write a strip's labels (which come as zeros) and, where wanted, its confidence.

        :param logits: the rows that the strip is made of
        """
        whole = logits.shape[1] * strip.factor if strip.factor else len(labels), labels.shape[1]
        best_of_all = self._scratch("best", whole, np.float32)
        interpolated = self._scratch("current", whole, np.float32)
        best, current = best_of_all[strip.within], interpolated[strip.within]
        ahead = self._scratch("ahead of all", labels.shape, np.uint8)
        extent = whole[::-1]
        cv2.resize(logits[0], extent, best_of_all, interpolation=cv2.INTER_LINEAR)
        for c in range(1, logits.shape[0]):
            cv2.resize(logits[c], extent, interpolated, interpolation=cv2.INTER_LINEAR)
            cv2.compare(current, best, cv2.CMP_GT, ahead)  # 255 where class c is ahead of all before it
            np.minimum(ahead, np.uint8(c), out=ahead)
            cv2.max(labels, ahead, labels)  # c is larger than any label so far
            cv2.max(best, current, best)
        if certainty is None:
            return
        total = self._scratch("total", labels.shape, np.float32)
        total.fill(0)
        for c in range(logits.shape[0]):
            cv2.resize(logits[c], extent, interpolated, interpolation=cv2.INTER_LINEAR)
            cv2.subtract(current, best, current)
            cv2.exp(current, current)
            cv2.add(total, current, total)
        np.divide(255.0, total, out=total)  # OpenCV takes a number for an array where that has 4 rows and 1 column
        cv2.convertScaleAbs(total, certainty)


@dataclass(frozen=True)
class _Strip:
    """Rows of an enlarged image: ``rows``, made of the source's ``first`` to ``end``, enlarged ``factor`` times.

    ``within``: which rows of the enlarged strip these are; the source's rows beside them only serve the interpolation
    at their borders. A factor of 0: all rows, enlarged as it comes.
    """

    rows: slice
    first: int
    end: int
    within: slice
    factor: int


@lru_cache(maxsize=64)
def _strips(height: int, size: Size) -> list[_Strip]:
    """Divide an image into strips whose planes fit a core's cache.

    Only where it is enlarged by a whole number: a strip enlarged alone then equals that part of the whole.
    """
    factor, rest = divmod(size[0], height)
    if rest:
        return [_Strip(slice(None), 0, height, slice(None), 0)]
    count = max(1, min(height, round(size[0] * size[1] / _PIXELS_AT_ONCE)))
    strips = []
    for begin, end in pairwise(round(height * i / count) for i in range(count + 1)):
        first, last = max(begin - 1, 0), min(end + 1, height)
        within = slice((begin - first) * factor, (end - first) * factor)
        strips.append(_Strip(slice(begin * factor, end * factor), first, last, within, factor))
    return strips


def drop_uncertain(labels: NDArray[np.uint8], confidence: NDArray[np.uint8], threshold: float) -> None:
    """Set labels whose confidence is below ``threshold`` (0..1) to unlabelled, in place."""
    labels[confidence < round(threshold * 255)] = UNLABELLED
