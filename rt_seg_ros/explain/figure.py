"""Score-CAM maps as one picture: a network a row, the image first, then a layer after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros import lettering
from rt_seg_ros.drawing import panel

Image = NDArray[np.uint8]

_GREY_SHARE = 0.55  # of the image that stays grey under a map
_WORDS = (206, 200, 194)
_COLOURS = cv2.COLORMAP_INFERNO  # from dark to bright as the map grows, also without colour vision


@dataclass(frozen=True)
class Row:
    """One network: ``caption`` above, then pictures with a title each."""

    caption: str
    titles: Sequence[str]
    pictures: Sequence[Image]


def heat(image: Image, cam: NDArray[np.float32]) -> Image:
    """Lay a map, float32 (H, W) from 0 to 1, over an image, BGR of the same size: dark where it is 0, bright at 1."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float32)
    colours = cv2.applyColorMap(np.rint(cam * 255).astype(np.uint8), _COLOURS).astype(np.float32)
    weight = (1 - _GREY_SHARE) + _GREY_SHARE * cam[:, :, None]
    return np.rint(grey * (1 - weight) + colours * weight).astype(np.uint8)


def outlined(image: Image, mask: NDArray[np.bool_]) -> Image:
    """Draw the border of a region into a copy of an image."""
    result = image.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(min(mask.shape) / 240))
    cv2.drawContours(result, contours, -1, (20, 20, 20), thickness + 2, cv2.LINE_AA)
    cv2.drawContours(result, contours, -1, (255, 255, 255), thickness, cv2.LINE_AA)
    return result


def figure(rows: Sequence[Row]) -> Image:
    """Put the rows on one sheet, and say below what the colours mean."""
    size = max(11, round(0.03 * rows[0].pictures[0].shape[1] + 3))
    sheets: list[Image] = []
    for row in rows:
        sheet = panel([row.pictures], row.titles)
        ground = tuple(int(v) for v in sheet[0, 0])
        sheets += [_line([row.caption], sheet.shape[1], size, ground), sheet]
    width = max(sheet.shape[1] for sheet in sheets)
    ramp = cv2.applyColorMap(np.linspace(0, 255, 12 * size, dtype=np.uint8)[None], _COLOURS)
    sheets.append(_line(["nothing", ramp, "most of each map"], width, size, ground))
    return np.vstack([_widened(sheet, width, ground) for sheet in sheets])


def _widened(sheet: Image, width: int, ground: tuple[int, ...]) -> Image:
    return cv2.copyMakeBorder(sheet, 0, 0, 0, width - sheet.shape[1], cv2.BORDER_CONSTANT, value=ground)  # type: ignore[return-value]


def _line(parts: Sequence[str | Image], width: int, size: int, ground: tuple[int, ...]) -> Image:
    """Write words, and strips of colour between them, from the left."""
    gap = size // 2
    sheet = np.full((lettering.line_height(size) + gap, width, 3), ground, np.uint8)
    left = gap
    for part in parts:
        if isinstance(part, str):
            ink = lettering.coverage(part, size)
            lettering.lay(sheet, ink, left, gap, _WORDS)
            left += ink.shape[1] + gap
        else:
            area = sheet[gap + size // 3 : gap + size, left : left + part.shape[1]]
            area[...] = part[:, : area.shape[1]]
            left += part.shape[1] + gap
    return sheet
