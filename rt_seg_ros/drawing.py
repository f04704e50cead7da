"""Label images made visible: colour, overlay with a legend, error maps, contact sheets.

Everything here takes and gives BGR ``uint8`` images, OpenCV's order, unless a parameter says otherwise. Pixels
without a label (255, and any id that the label space does not have) stay as the camera saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros import lettering
from rt_seg_ros.labels import UNLABELLED, LabelSpace

Image = NDArray[np.uint8]

BORDER_LIGHT = 56
"""How much lighter than its surroundings the line between two classes is drawn."""
LEGEND_SHARE = 0.18
"""The legend covers at most this share of the image."""
_LEGEND_SMALLEST = 8  # font size in pixels under which nobody can read it
_INK = (244, 244, 244)
_PANEL_BACKGROUND = (34, 28, 24)
_PANEL_TITLE = (236, 232, 228)
_PANEL_CAPTION = (190, 182, 174)
_WRONG = (64, 72, 255)


@lru_cache(maxsize=32)
def _color_table(space: LabelSpace) -> Image:
    return np.ascontiguousarray(space.palette[:, ::-1]).reshape(256, 1, 3)


@lru_cache(maxsize=32)
def _unlabelled_table(space: LabelSpace) -> Image:
    table = np.full(256, 255, np.uint8)
    table[[entry.id for entry in space.classes]] = 0
    return table


def colourise(labels: Image, space: LabelSpace, out: Image | None = None) -> Image:
    """Paint each class in its colour; unlabelled pixels are black.

    :param labels: ``HxW`` ``uint8`` class ids.
    :param out: ``HxWx3`` buffer to write into.
    :returns: ``HxWx3`` ``uint8``.
    """
    if labels.size == 0:
        return np.zeros((*labels.shape, 3), np.uint8) if out is None else out
    return cv2.applyColorMap(labels, _color_table(space), dst=out)


def overlay(image: Image, labels: Image, space: LabelSpace, alpha: float = 0.5, legend: bool = True) -> Image:
    """Lay the classes' colours over an image, with fine lighter lines between classes and a legend.

    For a stream of frames a :class:`Painter` does the same with buffers that it keeps.

    :param image: ``HxWx3`` BGR.
    :param labels: ``HxW`` ``uint8`` class ids.
    :param alpha: opacity of the colours, 0 (the image alone) to 1.
    :param legend: name the classes that occur, in their colours, in the top left corner.
    :returns: ``HxWx3`` BGR.
    :raises ValueError: if the image and the labels differ in size.
    """
    return Painter(space, alpha, legend).overlay(image, labels)


class Painter:
    """Draws overlays of one stream of frames, without allocating anything per frame.

    :param space: label space of the labels to come.
    :param alpha: opacity of the colours, 0 to 1.
    :param legend: draw the legend.
    :param linger: number of frames for which a class stays in the legend after it was last seen, so that in a
        video the legend does not flicker with a class of a few pixels.
    """

    def __init__(self, space: LabelSpace, alpha: float = 0.5, legend: bool = True, linger: int = 0) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
        self.space = space
        self.alpha = alpha
        self.legend = legend
        self.linger = linger
        self._last_seen: dict[int, int] = {}
        self._frames = 0
        self._colors = np.empty((0, 0, 3), np.uint8)
        self._mask = np.empty((0, 0), np.uint8)

    def overlay(self, image: Image, labels: Image, out: Image | None = None) -> Image:
        """Draw one frame: see :func:`overlay`.

        :param out: ``HxWx3`` buffer to write into, which may be ``image`` itself; a new array by default.
        :raises ValueError: if the image and the labels differ in size.
        """
        if image.shape[:2] != labels.shape or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"cannot lay labels of shape {labels.shape} over an image of shape {image.shape}: "
                "expected HxW over HxWx3"
            )
        if out is None:
            out = np.empty_like(image, order="C")
        if labels.size == 0:
            return out
        if self._mask.shape != labels.shape:
            self._colors = np.empty((*labels.shape, 3), np.uint8)
            self._mask = np.empty(labels.shape, np.uint8)
        counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).reshape(-1) if self.legend else None
        if self.alpha > 0:
            self._blend(image, labels, out, counts)
        elif out is not image:
            np.copyto(out, image)
        if counts is not None:
            _draw_legend(out, self.space, self._shown(counts))
        return out

    def _blend(self, image: Image, labels: Image, out: Image, counts: NDArray[np.float32] | None) -> None:
        colors, mask = self._colors, self._mask
        colourise(labels, self.space, out=colors)
        # Where nothing is labelled the image is blended with itself.
        unlabelled = _unlabelled_table(self.space)
        if counts is None or counts[unlabelled > 0].any():
            cv2.LUT(labels, unlabelled, dst=mask)
            cv2.copyTo(image, mask, colors)
        cv2.addWeighted(image, 1 - self.alpha, colors, self.alpha, 0, dst=out)

        # The line runs on one side of the border only: as thin as the image's size allows.
        width = 1 + max(1, round(min(labels.shape) / 720))
        cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8), dst=mask)
        light = round(BORDER_LIGHT * min(1.0, 2 * self.alpha))
        cv2.add(out, (light, light, light, 0), dst=out, mask=mask)

    def _shown(self, counts: NDArray[np.float32]) -> dict[int, int]:
        """Pixels by class id of the classes that belong in the legend now.

        :param counts: pixels by label, (256,)
        """
        self._frames += 1
        shown = {}
        for entry in self.space.classes:
            pixels = int(counts[entry.id])
            if pixels:
                self._last_seen[entry.id] = self._frames
            last = self._last_seen.get(entry.id)
            if last is not None and self._frames - last <= self.linger:
                shown[entry.id] = pixels
        return shown


# --- Legend ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Legend:
    """A rendered legend: ``image * keep / 255 + ink`` at ``(x, y)``."""

    x: int
    y: int
    keep: Image
    ink: Image


def _draw_legend(image: Image, space: LabelSpace, pixels: dict[int, int]) -> None:
    """Draw the legend of these classes into an image in place; the rarest go first where there is no room."""
    height, width = image.shape[:2]
    frequent = sorted(pixels, key=pixels.__getitem__, reverse=True)
    for count in range(len(frequent), 0, -1):
        ids, left_out = tuple(sorted(frequent[:count])), len(frequent) - count
        size = _legend_size(space, ids, left_out, height, width)
        if size is not None:
            break
    else:
        return
    rendered = _legend(space, ids, left_out, size)
    rows, columns = rendered.keep.shape[:2]
    area = image[rendered.y : rendered.y + rows, rendered.x : rendered.x + columns]
    cv2.multiply(area, rendered.keep, dst=area, scale=1 / 255)
    cv2.add(area, rendered.ink, dst=area)


@lru_cache(maxsize=16)  # at 3840x2160 each takes 1.5 MB
def _legend(space: LabelSpace, ids: tuple[int, ...], left_out: int, size: int) -> _Legend:
    """Render the legend of these classes, and of how many are left out, in a font of this size."""
    inks = [lettering.coverage(name, size) for name in _legend_names(space, ids, left_out)]
    colors = [tuple(int(v) for v in space.palette[i][::-1]) for i in ids]
    row, pad, swatch, box_height, box_width = _legend_box(inks, size)
    keep = _rounded(box_height, box_width, 0.45 * size)
    keep = 255 - (keep.astype(np.uint16) * 170 // 255).astype(np.uint8)
    keep = cv2.merge([keep, keep, keep])
    ink = np.zeros_like(keep)
    for i, text in enumerate(inks):
        top = pad + i * row
        if i < len(colors):
            _swatch(keep, ink, pad, top, swatch, colors[i])
        # Small letters are about half the font size high: their middle goes to the swatch's middle.
        at = top + round(swatch / 2 + 0.30 * size) - size
        left = pad + swatch + pad if i < len(colors) else pad
        lettering.lay(keep, text, left, at, (0, 0, 0))
        lettering.lay(ink, text, left, at, _INK)
    return _Legend(pad, pad, keep, ink)


@lru_cache(maxsize=1024)  # where there is no room for all, each frame asks for ever fewer of them
def _legend_size(space: LabelSpace, ids: tuple[int, ...], left_out: int, height: int, width: int) -> int | None:
    """Return the font size of a legend for an image of this size, or None if none that can be read fits."""
    names = _legend_names(space, ids, left_out)
    # Grows more slowly than the image: a person comes no closer to a large screen.
    ideal = max(_LEGEND_SMALLEST, round(12 * (min(height, 0.75 * width) / 360) ** 0.75))
    for size in range(ideal, _LEGEND_SMALLEST - 1, -1):
        _, pad, _, box_height, box_width = _legend_box([lettering.coverage(name, size) for name in names], size)
        if box_width * box_height > LEGEND_SHARE * height * width:
            continue
        if box_width + 2 * pad <= width and box_height + 2 * pad <= height:
            return size
    return None


def _legend_names(space: LabelSpace, ids: tuple[int, ...], left_out: int) -> list[str]:
    return [space.classes[i].name for i in ids] + ([f"+ {left_out} more"] if left_out else [])


def _legend_box(inks: Sequence[Image], size: int) -> tuple[int, int, int, int, int]:
    """Return in pixels the distance of rows, the padding, a swatch's side, and the height and width of the whole."""
    row = line_step(size)
    pad = max(3, round(0.5 * size))
    swatch = max(5, round(0.85 * size))
    width = pad + swatch + pad + max(ink.shape[1] for ink in inks) + pad
    return row, pad, swatch, 2 * pad + row * len(inks) - (row - swatch), width


def line_step(size: int) -> int:
    """Distance in pixels between two entries of a legend of this font size."""
    return round(1.4 * size)


def _swatch(keep: Image, ink: Image, x: int, y: int, side: int, color: tuple[int, ...]) -> None:
    """Put a class's colour into a legend, with a light rim: dark colours must show on the dark ground."""
    rim = max(1, round(side / 14))
    keep[y : y + side, x : x + side] = 0
    ink[y : y + side, x : x + side] = [min(255, 70 + v) for v in color]
    ink[y + rim : y + side - rim, x + rim : x + side - rim] = color


def _rounded(height: int, width: int, radius: float) -> Image:
    """Coverage of a rectangle with round corners, smooth at the edge."""
    y = np.abs(np.arange(height) - (height - 1) / 2) - (height / 2 - radius)
    x = np.abs(np.arange(width) - (width - 1) / 2) - (width / 2 - radius)
    distance = np.hypot(np.maximum(y, 0)[:, None], np.maximum(x, 0)[None, :])
    return np.rint(np.clip(radius - distance + 0.5, 0, 1) * 255).astype(np.uint8)


# --- Reports --------------------------------------------------------------------------------------------------------


def error_map(labels: Image, truth: Image, image: Image) -> Image:
    """Show where a prediction is wrong: red. Right is the image, darkened and grey; no truth is black.

    :param labels: ``HxW`` predicted ids; unlabelled counts as wrong where the truth has a label.
    :param truth: ``HxW`` true ids, 255 where unknown.
    :param image: ``HxWx3`` BGR to show beneath.
    :returns: ``HxWx3`` BGR.
    """
    grey = cv2.convertScaleAbs(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), alpha=0.62, beta=18)
    result = cv2.merge([grey, grey, grey])
    known = truth != UNLABELLED
    wrong = known & (labels != truth)
    result[wrong] = (0.35 * result[wrong] + 0.75 * np.asarray(_WRONG)).clip(0, 255).astype(np.uint8)
    result[~known] = 0
    return result


def panel(
    rows: Sequence[Sequence[Image]],
    titles: Sequence[str] = (),
    captions: Sequence[str] = (),
    cell: tuple[int, int] | None = None,
) -> Image:
    """Put images side by side and in rows on one sheet.

    :param rows: images row by row, BGR or one channel; rows may differ in length.
    :param titles: one for each column, written above the first row.
    :param captions: one for each row, written above it.
    :param cell: (height, width) into which each image is fitted; by default that of the largest image.
    :returns: ``HxWx3`` BGR.
    :raises ValueError: if there is no image.
    """
    images = [image for row in rows for image in row]
    if not images:
        raise ValueError("a panel needs at least one image")
    if cell is None:
        cell = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    height, width = cell
    columns = max(len(row) for row in rows)
    size = max(11, round(0.03 * width + 3))
    gap = max(4, round(0.02 * width))
    line = lettering.line_height(size) + gap // 2
    head = line if any(titles) else 0
    caption = line if any(captions) else 0

    sheet = np.empty((gap + head + len(rows) * (caption + height + gap), gap + columns * (width + gap), 3), np.uint8)
    sheet[:] = _PANEL_BACKGROUND
    for column, title in enumerate(titles[:columns]):
        _write(sheet, title, gap + column * (width + gap), gap, width, size, _PANEL_TITLE, bold=True)
    for index, row in enumerate(rows):
        y = gap + head + index * (caption + height + gap)
        if index < len(captions):
            _write(sheet, captions[index], gap, y, columns * (width + gap) - gap, size, _PANEL_CAPTION)
        for column, image in enumerate(row):
            x = gap + column * (width + gap)
            _fit(sheet[y + caption : y + caption + height, x : x + width], image)
    return sheet


def _write(
    sheet: Image, text: str, x: int, y: int, width: int, size: int, color: tuple[int, int, int], bold: bool = False
) -> None:
    ink = lettering.coverage(text, size, bold)
    while ink.shape[1] > width and len(text) > 1:
        text = text[:-1]
        ink = lettering.coverage(text.rstrip() + "...", size, bold)
    lettering.lay(sheet, ink[:, :width], x, y, color)


def _fit(cell: Image, image: Image) -> None:
    """Draw an image into the middle of a cell, as large as it goes without distortion."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.size == 0:
        return
    scale = min(cell.shape[0] / image.shape[0], cell.shape[1] / image.shape[1])
    height = min(cell.shape[0], max(1, round(image.shape[0] * scale)))
    width = min(cell.shape[1], max(1, round(image.shape[1] * scale)))
    if (height, width) != image.shape[:2]:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=method)
    y, x = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    cell[y : y + height, x : x + width] = image
