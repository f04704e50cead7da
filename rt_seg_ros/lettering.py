"""Text in images, the same way with OpenCV 4 and 5: a true-type face where OpenCV has one, smoothed strokes elsewhere.

Text is rendered as coverage, 0 to 255, which the caller lays over an image in any colour.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 8
_HERSHEY_HEIGHT = 22  # pixels from the baseline to the top of capitals at scale 1
# Letters that no accent makes of an ASCII one.
_SPELLINGS = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D"}
    | {"ł": "l", "Ł": "L", "þ": "th", "Þ": "Th", "\u0131": "i"}
    | {"\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)
_lock = threading.Lock()  # a font face keeps state while it draws


@lru_cache(maxsize=1)
def _face() -> Any | None:
    """OpenCV 5's sans-serif face; None with OpenCV 4."""
    engine: Any = cv2  # the type stubs know OpenCV 4's functions only
    try:
        return engine.FontFace("sans")
    except (AttributeError, cv2.error):
        return None


@lru_cache(maxsize=512)
def coverage(text: str, size: int, bold: bool = False) -> NDArray[np.uint8]:
    """Render one line of text.

    :param size: font size in pixels; capitals are about 0.7 of it high.
    :returns: ``HxW`` coverage, read-only, ``line_height(size)`` rows high with the base line at ``size``.
    """
    height = line_height(size)
    if not text:
        image = np.zeros((height, 0), np.uint8)
    else:
        with _lock:
            face = _face()
            image = _with_face(face, text, size, bold) if face is not None else _with_strokes(text, size, bold)
    image.setflags(write=False)
    return image


def line_height(size: int) -> int:
    """Rows of a line of this font size: ascenders above the base line, descenders below."""
    return size + (size * 3 + 9) // 10


def lay(image: NDArray[np.uint8], ink: NDArray[np.uint8], x: int, y: int, color: tuple[int, int, int]) -> None:
    """Blend coverage into a BGR image in place, its top left corner at ``(x, y)``, cut at the image's edges."""
    if x < 0 or y < 0:
        ink = ink[max(0, -y) :, max(0, -x) :]
        x, y = max(0, x), max(0, y)
    area = image[y : y + ink.shape[0], x : x + ink.shape[1]]
    if area.size == 0:
        return
    weight = ink[: area.shape[0], : area.shape[1], None].astype(np.float32) / 255
    area[...] = np.rint(area + weight * (np.asarray(color, np.float32) - area)).astype(np.uint8)


def _with_face(face: Any, text: str, size: int, bold: bool) -> NDArray[np.uint8]:
    engine: Any = cv2
    weight = 600 if bold else 400
    _, _, width, _ = engine.getTextSize((1, 1), text, (0, 0), face, size, weight)
    # Wide enough that the engine never wraps the line; cut to what was drawn afterwards.
    canvas = np.zeros((line_height(size), width + 4 * size, 3), np.uint8)
    engine.putText(canvas, text, (1, size), (255, 255, 255), face, size, weight)
    return _trimmed(canvas[:, :, 0])


def _with_strokes(text: str, size: int, bold: bool) -> NDArray[np.uint8]:
    text = _ascii(text)
    font, big = cv2.FONT_HERSHEY_SIMPLEX, size * _SMOOTHING
    scale = 0.7 * big / _HERSHEY_HEIGHT
    thickness = max(1, round(big * (0.13 if bold else 0.08)))
    (width, _), _ = cv2.getTextSize(text, font, scale, thickness)
    rows, columns = line_height(size), width // _SMOOTHING + 4
    canvas = np.zeros((rows * _SMOOTHING, columns * _SMOOTHING), np.uint8)
    cv2.putText(canvas, text, (_SMOOTHING, big), font, scale, 255, thickness, cv2.LINE_AA)
    return _trimmed(cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA))


def _ascii(text: str) -> str:
    """Spell a text with what OpenCV's strokes have, without accents; what has no such spelling is a question mark."""
    parts = unicodedata.normalize("NFKD", text.translate(_SPELLINGS))
    return "".join(c for c in parts if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


def _trimmed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inked = np.flatnonzero(image.any(axis=0))
    return np.ascontiguousarray(image[:, : int(inked[-1]) + 1 if inked.size else 0])
