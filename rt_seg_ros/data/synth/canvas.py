"""Where a frame is painted: the picture, anti-aliased, and its labels, from the same coverage.

Everything is painted from far to near. A shape is rasterised once, several times finer than the frame; its coverage
of a pixel blends the picture, and the pixel takes the shape's label where at least half of it is covered. So the two
images can never disagree about an edge by more than the pixel that the edge runs through.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_SHIFT = 4  # fractional bits of OpenCV's polygon corners
_LIMIT = 60000.0
_FINE_AREA = 30_000  # larger shapes are sampled twice, not four times, along each axis
_LARGE_AREA = 4_000

Box = tuple[int, int, int, int]


class Canvas:
    """One frame in the making: ``image`` BGR uint8 (H, W, 3), ``labels`` uint8 (H, W)."""

    def __init__(self, height: int, width: int) -> None:
        """Start with black pixels of label 0."""
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self._scratch = np.zeros(0, np.uint8)

    def facets(
        self,
        points: NDArray[np.float64],
        faces: Sequence[tuple[int, int]],
        colours: Sequence[Sequence[float]],
        label: int,
    ) -> None:
        """Paint a shape made of flat convex faces, the later over the earlier.

        :param points: corners of all faces in pixels, (V, 2)
        :param faces: each face as the range of its corners
        :param colours: each face's colour, BGR
        :param label: the whole shape's label
        """
        if not faces:
            return
        box = self._box(points)
        if box is None:
            return
        buffer, factor = self._fine(box, 4)
        corners = _corners(points, box, factor)
        for (start, stop), colour in zip(faces, colours, strict=True):
            cv2.fillConvexPoly(buffer, corners[start:stop], (*colour, 255.0), cv2.LINE_8, _SHIFT)
        layer = cv2.resize(buffer, (box[2] - box[0], box[3] - box[1]), interpolation=cv2.INTER_AREA)
        alpha = cv2.extractChannel(layer, 3)
        colour = cv2.cvtColor(layer, cv2.COLOR_BGRA2BGR)
        self._lay(colour, alpha, box, label, _half(factor), premultiplied=True)  # type: ignore[arg-type]

    def mark(self, outline: NDArray[np.float64], colour: Sequence[float]) -> None:
        """Paint a convex polygon (N, 2) on the picture alone: paint on a road has the road's label."""
        corners = np.rint(np.clip(outline, -_LIMIT, _LIMIT) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillConvexPoly(self.image, corners, colour, cv2.LINE_AA, _SHIFT)

    def textured(
        self,
        texture: NDArray[np.uint8],
        homography: NDArray[np.float64],
        outline: NDArray[np.float64],
        label: int,
        tone: NDArray[np.uint8],
    ) -> None:
        """Paint a flat textured surface.

        :param texture: BGR uint8 (h, w, 3)
        :param homography: (3, 3) from texture to frame pixels
        :param outline: the convex polygon (N, 2) of the surface in the frame
        :param tone: a look-up table uint8 (1, 256, 3) for the light that falls on it
        """
        box = self._box(outline)
        if box is None:
            return
        w, h = box[2] - box[0], box[3] - box[1]
        mask, factor = self._fine(box, 1)
        cv2.fillConvexPoly(mask, _corners(outline, box, factor), 255, cv2.LINE_8, _SHIFT)
        coverage = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA)
        into_box = homography.copy()
        into_box[0] -= box[0] * homography[2]
        into_box[1] -= box[1] * homography[2]
        layer = cv2.warpPerspective(texture, into_box, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._lay(cv2.LUT(layer, tone), coverage, box, label, _half(factor))  # type: ignore[arg-type]

    def sprite(
        self,
        picture: NDArray[np.uint8],
        low: tuple[float, float],
        high: tuple[float, float],
        label: int,
        tone: NDArray[np.uint8],
    ) -> None:
        """Paint a cut-out picture upright between two corners.

        :param picture: BGRA uint8 (h, w, 4), colours not multiplied by alpha
        :param low, high: where the outer edges of the picture's first and last pixels come to lie in the frame
        :param tone: as for :meth:`textured`
        """
        x_scale = (high[0] - low[0]) / picture.shape[1]
        y_scale = (high[1] - low[1]) / picture.shape[0]
        box = self._box(np.array((low, high)))
        if box is None or x_scale <= 0 or y_scale <= 0:
            return
        matrix = np.array([
            [x_scale, 0.0, low[0] - box[0] + 0.5 * x_scale],
            [0.0, y_scale, low[1] - box[1] + 0.5 * y_scale],
        ])  # fmt: skip
        layer = cv2.warpAffine(picture, matrix, (box[2] - box[0], box[3] - box[1]), flags=cv2.INTER_LINEAR)
        alpha = cv2.extractChannel(layer, 3)
        colour = cv2.LUT(cv2.cvtColor(layer, cv2.COLOR_BGRA2BGR), tone)
        self._lay(colour, alpha, box, label, _half(0))  # type: ignore[arg-type]

    def _box(self, points: NDArray[np.float64]) -> Box | None:
        """Return the pixels (x0, y0, x1, y1) that a shape with these corners can touch, None where none."""
        left, top, wide, tall = cv2.boundingRect(np.clip(points, -_LIMIT, _LIMIT).astype(np.float32))
        right, bottom = left + wide, top + tall
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.width, right + 1), min(self.height, bottom + 1)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _fine(self, box: Box, channels: int) -> tuple[NDArray[np.uint8], int]:
        """Return a cleared buffer for the box, and how many times finer it is."""
        w, h = box[2] - box[0], box[3] - box[1]
        factor = 4 if w * h <= _FINE_AREA else 2
        size = w * h * factor * factor * channels
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        flat = self._scratch[:size]
        flat.fill(0)
        return flat.reshape(h * factor, w * factor, channels), factor

    def _lay(
        self,
        colour: NDArray[np.uint8],
        alpha: NDArray[np.uint8],
        box: Box,
        label: int,
        half: int,
        premultiplied: bool = False,
    ) -> None:
        """Blend a layer over the box; where its alpha is above ``half``, the pixel takes the label."""
        x0, y0, x1, y1 = box
        image = self.image[y0:y1, x0:x1]
        np.copyto(self.labels[y0:y1, x0:x1], label, where=alpha > half)
        if not premultiplied and alpha.size > _LARGE_AREA:
            _blend_large(image, colour, alpha)
            return
        alpha3 = cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR)
        if not premultiplied:
            colour = cv2.multiply(colour, alpha3, scale=1 / 255)  # type: ignore[assignment]
        below = cv2.multiply(image, cv2.bitwise_not(alpha3), scale=1 / 255)
        cv2.add(colour, below, dst=image)


def _blend_large(image: NDArray[np.uint8], colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> None:
    """Blend in place: what is opaque is copied, only the rest is reckoned."""
    cv2.copyTo(colour, cv2.compare(alpha, 255.0, cv2.CMP_EQ), image)
    rest = np.flatnonzero((alpha - np.uint8(1)).ravel() < 254)  # 1 to 254
    if rest.size:
        rows, columns = np.divmod(rest, alpha.shape[1])
        share = alpha[rows, columns].astype(np.int32)[:, None]
        below = image[rows, columns].astype(np.int32)
        above = colour[rows, columns].astype(np.int32)
        image[rows, columns] = (above * share + below * (255 - share) + 127) // 255


def _half(factor: int) -> int:
    """Return the alpha at which half a pixel is covered; OpenCV's polygons are half a fine pixel larger all round."""
    return 127 + (128 // factor if factor else 0)


def _corners(points: NDArray[np.float64], box: Box, factor: int) -> NDArray[np.int32]:
    """Return corners in the finer grid of a box, as OpenCV's fixed point."""
    unit = float(factor << _SHIFT)
    # The centre of pixel 0 lies at (factor - 1) / 2 of the finer grid.
    first = (factor - 1) * (1 << _SHIFT) / 2
    fine = points * unit + (first - box[0] * unit, first - box[1] * unit)
    limit = _LIMIT * (1 << _SHIFT)
    np.minimum(fine, limit, out=fine)
    np.maximum(fine, -limit, out=fine)
    return np.rint(fine).astype(np.int32)
