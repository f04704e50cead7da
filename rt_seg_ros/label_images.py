"""Label images: class ids out of coded images as they are stored, not as they are shown, and into PNG.

Viewers show a palette's colours, and few bits as brightness; here its indices and their values are the ids. What has
no such values, or hides them behind a table of colours, is refused. Of files those of 16 bits and of three equal
channels are read as well, as some tools write ids so: nothing is lost.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import JPEG_MAGIC, PNG_MAGIC, ImageRejected

#: image_transport's word for PNG of a mono8 image, its trailing blank included.
LABEL_PNG_FORMAT = "mono8; png compressed "

_BMP = b"BM"
_TIFF = (b"II*\0", b"MM\0*")
_PNG_PALETTE = 3  # kind of its pixels, as its header has it


def read_label_image(path: Path) -> NDArray[np.uint8]:
    """Read a file's class ids, uint8 (H, W), as :func:`label_pixels` does; also 16 bits, and three equal channels.

    :raises ImageRejected: missing, damaged or of an unknown format
    :raises UserError: an image of another kind
    """
    try:
        return _ids_of_file(_decoded(path.read_bytes()))
    except (OSError, ImageRejected):
        raise ImageRejected(
            "corrupt", f"{path} cannot be read as an image: it is missing, damaged or of another format"
        ) from None
    except UserError as error:
        raise UserError(f"{path} is no label image: {error}") from None


def label_pixels(data: bytes) -> NDArray[np.uint8]:
    """Return the class ids of a coded image, uint8 (H, W), as they are: a palette's indices, and 0 and 1 of one bit.

    :raises ImageRejected: data that do not decode
    :raises UserError: an image of another kind
    """
    return _bytes_of_one_channel(_decoded(data))


def _decoded(data: bytes) -> NDArray[Any]:
    """Decode an image whose values are those stored, of any shape and type."""
    if data[:2] == JPEG_MAGIC:
        raise UserError("JPEG changes values, which are class ids here: take PNG")
    if data[:2] == _BMP and _bmp_shows_other_values(data):
        raise UserError("the colour table of a BMP stands for other values than its class ids: take PNG")
    if data[:4] in _TIFF and _tiff_shows_other_values(data):
        raise UserError("a TIFF of less than 8 bits, or with white as 0, is read as other values: take PNG")
    try:
        labels = _undisplayed(data)
    except cv2.error:
        labels = None
    if labels is None:
        raise ImageRejected("corrupt", f"{len(data)} bytes that do not decode")
    return labels


def _ids_of_file(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return decoded labels as ids, uint8 (H, W), where nothing is lost by that."""
    if labels.ndim == 3 and labels.shape[2] == 3:
        first = labels[:, :, 0]
        if (labels != first[:, :, None]).any():
            raise UserError(
                "it has colours; one grey channel, or a PNG's palette, is needed, whose values are class ids: "
                "docs/training.md shows how to make ids of colours"
            )
        labels = np.ascontiguousarray(first)
    if labels.dtype == np.uint16 and labels.size:
        if (largest := int(labels.max())) > 255:
            raise UserError(f"it has 16 bits and values up to {largest}; class ids are 0 to 255: renumber them")
        labels = labels.astype(np.uint8)
    return _bytes_of_one_channel(labels)


def _bytes_of_one_channel(labels: NDArray[Any]) -> NDArray[np.uint8]:
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(
            f"it has shape {labels.shape} and type {labels.dtype}; "
            "one grey channel of up to 8 bits, or a PNG's palette, is needed, whose values are class ids"
        )
    return labels


def label_png(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class ids, uint8 (H, W), as a PNG: uint8 (bytes,).

    :raises ValueError: for an array that no PNG holds
    """
    # Labels are flat areas: the least effort packs them as tightly as any, and several times faster.
    done, encoded = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"labels of shape {labels.shape} cannot be written as PNG")
    return encoded  # type: ignore[return-value]


def _undisplayed(data: bytes) -> NDArray[Any] | None:
    """Decode an image without making colours of a palette's indices, or brightness of few bits; None: it is none."""
    bits, kind = (data[24], data[25]) if data[:8] == PNG_MAGIC and data[12:16] == b"IHDR" and len(data) > 25 else (8, 0)
    if kind == _PNG_PALETTE:
        return _palette_indices(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is not None and pixels.ndim == 2 and bits < 8:
        pixels //= 255 // (2**bits - 1)  # OpenCV has stretched them to 0..255
    return pixels


def _bmp_shows_other_values(bmp: bytes) -> bool:
    """Return whether a BMP has a colour table that is not the identity: OpenCV gives what stands in it, not indices."""
    header = int.from_bytes(bmp[14:18], "little")
    old = header == 12  # that of OS/2: sizes of 16 bits, and three bytes to a colour
    bits = int.from_bytes(bmp[24:26] if old else bmp[28:30], "little")
    if not 1 <= bits <= 8:
        return False
    used = 0 if old else int.from_bytes(bmp[46:50], "little")
    count, entry = min(used or 2**bits, 2**bits), 3 if old else 4
    table = np.frombuffer(bmp[14 + header : 14 + header + count * entry], np.uint8)
    if table.size < count * entry:
        return False  # cut off: that it does not decode says more
    return bool((table.reshape(count, entry)[:, :3] != np.arange(count)[:, None]).any())


def _tiff_shows_other_values(tiff: bytes) -> bool:
    """Return whether a TIFF has less than 8 bits, or white as 0: OpenCV gives what is to be seen."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    begin = number(4, 4)
    values = {number(at, 2): number(at + 8, 2) for at in range(begin + 2, begin + 2 + 12 * number(begin, 2), 12)}
    bits_per_sample, photometric = values.get(258, 1), values.get(262)
    return bits_per_sample < 8 or photometric == 0


def _palette_indices(png: bytes) -> NDArray[np.uint8] | None:
    """Return the indices of a PNG with a palette, which OpenCV does not give."""
    import av  # takes a while, and few need it

    try:
        with av.open(io.BytesIO(png), "r", format="png_pipe") as container:
            frame: Any = next(container.decode(video=0))
            return frame.to_ndarray()[0]  # type: ignore[no-any-return]
    except (av.FFmpegError, StopIteration):
        return None
