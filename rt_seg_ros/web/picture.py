"""A segmented frame as it travels to a browser: the camera's image as JPEG, the labels as packed class ids.

Labels travel apart from the image and without colour, so that opacity and the choice of classes cost the browser
nothing but a repaint. They are packed by zlib and not as PNG: what a browser reads back from a canvas may be altered
(some do so against fingerprinting), and an altered id is another class.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import resize_labels
from rt_seg_ros.working_size import Size

#: Wider pictures are shrunk for the page: no window shows more, and a robot's network carries it.
MAX_WIDTH = 1280
_MAX_HEIGHT = 65500  # of a JPEG
_JPEG_QUALITY = 85
_PACKING = 1  # zlib's least effort: labels are flat areas


@dataclass
class Picture:
    """One frame and its labels.

    It is packed when the first browser asks, and once for all of them: frames that nobody sees cost nothing.

    :param frame: the camera's image; None where it is not to be had
    :param labels: uint8 (H, W) class ids, or the same as PNG
    :param name: of the frame in its source
    :param stamp_ns: of the frame (ns)
    :param space: number of the label space that the ids belong to: see :class:`~rt_seg_ros.web.board.Board`
    :param position: place of the frame in its source, from 0; -1 where it has none
    """

    frame: Frame | None
    labels: NDArray[np.uint8] | bytes
    name: str = ""
    stamp_ns: int = 0
    space: int = 0
    position: int = -1
    _packed: tuple[dict[str, object], bytes] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def packed(self) -> tuple[dict[str, object], bytes]:
        """Return what describes the picture, and its bytes: ``image_bytes`` of JPEG, then ``label_bytes``.

        Described are ``name``, ``stamp``, ``space``, ``position``, the image's ``width`` and ``height``, the labels'
        ``label_width`` and ``label_height``, and ``counts``: the number of pixels of each class id that occurs.
        """
        with self._lock:
            if self._packed is None:
                self._packed = self._pack()
            return self._packed

    def _pack(self) -> tuple[dict[str, object], bytes]:
        labels = self._label_image()
        counts = np.bincount(labels.reshape(-1), minlength=256)
        image = b""
        height, width = labels.shape
        if self.frame is not None:
            pixels = self.frame.bgr()
            height, width = _shown_size(*pixels.shape[:2])
            if pixels.shape[:2] != (height, width):
                pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
            image = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        labels = resize_labels(labels, _shown_size(*labels.shape))
        ids = zlib.compress(np.ascontiguousarray(labels).tobytes(), _PACKING)
        about: dict[str, object] = {
            "name": self.name,
            "stamp": self.stamp_ns / 1e9,
            "space": self.space,
            "position": self.position,
            "width": width,
            "height": height,
            "label_width": labels.shape[1],
            "label_height": labels.shape[0],
            "counts": {int(i): int(counts[i]) for i in np.flatnonzero(counts)},
            "image_bytes": len(image),
            "label_bytes": len(ids),
        }
        return about, image + ids

    def _label_image(self) -> NDArray[np.uint8]:
        if not isinstance(self.labels, bytes):
            return self.labels
        decoded = cv2.imdecode(np.frombuffer(self.labels, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None or decoded.ndim != 2 or decoded.dtype != np.uint8:
            raise ValueError("these are no labels: expected a PNG of 8 bits in one channel")
        return decoded  # type: ignore[return-value]


def _shown_size(height: int, width: int) -> Size:
    """Return the (height, width) at which something is sent."""
    scale = min(1.0, MAX_WIDTH / width, _MAX_HEIGHT / height)
    return max(1, round(height * scale)), max(1, round(width * scale))
