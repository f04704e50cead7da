"""From a frame to a network's input, and from its logits to labels at the frame's size, on the host.

All resizing takes pixel centres at half-integers (OpenCV's linear and area interpolation, PyTorch's
``align_corners=False``), so nothing shifts on the way there and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.images import Frame
from rt_seg_ros.labels import UNLABELLED

Size = tuple[int, int]  # (height, width)

# Where red, green and blue stand among a frame's channels.
_RGB_AT = {"bgr": (2, 1, 0), "rgb": (0, 1, 2), "bgra": (2, 1, 0), "rgba": (0, 1, 2)}


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


class Normaliser:
    """Frames to the network's input: resized, RGB planes, (value - mean) / std in float32.

    :param mean: RGB, 0..255
    :param std: RGB, 0..255
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        values = np.arange(256, dtype=np.float64)
        self._tables = [((values - m) / s).astype(np.float32).reshape(256, 1) for m, s in zip(mean, std, strict=True)]

    def write(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Write one frame into ``out``, float32 (3, h, w), whose h and w are the working size."""
        pixels = resize_pixels(frame.pixels, (out.shape[1], out.shape[2]))
        if frame.order == "mono":
            planes = [np.ascontiguousarray(pixels)] * 3
        else:
            split = cv2.split(pixels)
            planes = [split[i] for i in _RGB_AT[frame.order]]
        for plane, table, target in zip(planes, self._tables, out, strict=True):
            cv2.LUT(plane, table, target)


class LabelUpsampler:
    """Logits at a network's own resolution to labels and confidence at any size.

    Equals bilinear interpolation of the logits to that size, then arg max (the first of equals) and, for the
    confidence, the soft max's value there; but one class at a time, so that it stays in the cache. Not for
    several threads at once: the planes in between are kept from call to call.
    """

    def __init__(self) -> None:
        self._scratch: dict[Size, tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]] = {}

    def __call__(
        self, logits: NDArray[np.float32], size: Size, confidence: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return labels, uint8 ``size``, and the winning class's probability in 1/255, uint8 or None.

        :param logits: float32 (classes, h, w); one of at most 255 classes
        """
        best, current, wins = self._planes(size)
        extent = size[::-1]
        labels = np.zeros(size, np.uint8)
        cv2.resize(logits[0], extent, best, interpolation=cv2.INTER_LINEAR)
        for c in range(1, logits.shape[0]):
            cv2.resize(logits[c], extent, current, interpolation=cv2.INTER_LINEAR)
            cv2.compare(current, best, cv2.CMP_GT, wins)  # 255 where class c is ahead of all before it
            np.minimum(wins, np.uint8(c), out=wins)
            cv2.max(labels, wins, labels)  # c is larger than any label so far
            cv2.max(best, current, best)
        if not confidence:
            return labels, None
        total = np.zeros(size, np.float32)
        for c in range(logits.shape[0]):
            cv2.resize(logits[c], extent, current, interpolation=cv2.INTER_LINEAR)
            cv2.subtract(current, best, current)
            cv2.exp(current, current)
            cv2.add(total, current, total)
        cv2.divide(255.0, total, total)
        return labels, cv2.convertScaleAbs(total)  # type: ignore[return-value]

    def _planes(self, size: Size) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
        if size not in self._scratch:
            if len(self._scratch) >= 4:  # as many cameras of different sizes; more share
                self._scratch.clear()
            self._scratch[size] = (np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.uint8))
        return self._scratch[size]


def drop_uncertain(labels: NDArray[np.uint8], confidence: NDArray[np.uint8], threshold: float) -> None:
    """Set labels whose confidence is below ``threshold`` (0..1) to unlabelled, in place."""
    labels[confidence < round(threshold * 255)] = UNLABELLED
