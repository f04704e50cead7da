"""Images as they arrive, made into frames: the encodings of sensor_msgs/Image, and compressed images.

Works without ROS: a message's fields come in, a :class:`Frame` goes out. 8-bit colour and mono
images become views of the message's own bytes, without a copy; Bayer, YUV and 16-bit ones go through OpenCV.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Order = Literal["bgr", "rgb", "bgra", "rgba", "mono"]

#: Larger images are refused before anything is allocated for them.
MAX_PIXELS = 64_000_000

# A progressive JPEG has about ten scans; each of thousands, a few bytes long, would cost a pass over all pixels.
_MOST_SCANS = 64

# Each costs a step in Python: a large picture has some thousand, of either kind.
_MOST_SEGMENTS = 100_000

# What tells of a JPEG's segment: neither a stuffed byte, nor a marker without a length, nor one of several fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")

#: How a file begins.
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8"

CHANNELS: dict[str, int] = {"bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4, "mono": 1}
#: Where red, green and blue stand among a frame's channels.
RGB_AT: dict[str, tuple[int, int, int]] = {
    "bgr": (2, 1, 0),
    "rgb": (0, 1, 2),
    "bgra": (2, 1, 0),
    "rgba": (0, 1, 2),
    "mono": (0, 0, 0),
}
_TO_BGR: dict[str, int] = {
    "rgb": cv2.COLOR_RGB2BGR,
    "bgra": cv2.COLOR_BGRA2BGR,
    "rgba": cv2.COLOR_RGBA2BGR,
    "mono": cv2.COLOR_GRAY2BGR,
}


class ImageRejected(Exception):
    """An image that cannot be used.

    ``reason`` is one of :data:`REASONS`: short, for counting; the message tells the particulars.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


#: Every reason for which an image can be rejected here.
REASONS = ("empty", "too_large", "encoding", "step", "short_data", "corrupt")


@dataclass(frozen=True)
class Frame:
    """One image: ``pixels`` uint8, (H, W, C) or (H, W) for mono, with its channels in ``order``.

    ``pixels`` may be a read-only view of a message, with padded rows. ``peak`` is the largest sample of an image of
    16 bits, before it was scaled to 8; None where it had 8.
    """

    pixels: NDArray[np.uint8]
    order: Order = "bgr"
    peak: int | None = None

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    def bgr(self) -> NDArray[np.uint8]:
        """Return the image as uint8 (H, W, 3) in BGR order: the pixels themselves where they are that."""
        if self.order == "bgr":
            return self.pixels
        return cv2.cvtColor(self.pixels, _TO_BGR[self.order])  # type: ignore[return-value]


#: Decodes an image, once it is wanted; raises :class:`ImageRejected` where it cannot be used.
Read = Callable[[], Frame]


def as_frame(image: Frame | NDArray[np.uint8]) -> Frame:
    """Return ``image`` as a frame; an array is taken as OpenCV has it: BGR, BGRA or mono.

    :raises ImageRejected: for what is not a uint8 image.
    """
    if isinstance(image, Frame):
        shape, channels = image.pixels.shape, CHANNELS.get(image.order, 0)
        behind = (channels,) if channels > 1 else ()
        if image.pixels.dtype != np.uint8 or len(shape) < 2 or not channels or shape[2:] != behind:
            raise ImageRejected("encoding", f"expected uint8 of '{image.order}', got {image.pixels.dtype} {shape}")
        if not image.pixels.size:
            raise ImageRejected("empty", f"the image is empty: {shape}")
        return image
    if not isinstance(image, np.ndarray):
        raise ImageRejected("encoding", f"expected an array, uint8 (H, W[, 1, 3 or 4]), got {type(image).__name__}")
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4):
        raise ImageRejected("encoding", f"expected uint8 (H, W[, 1, 3 or 4]), got {image.dtype} {image.shape}")
    if image.size == 0:
        raise ImageRejected("empty", f"the image is empty: {image.shape}")
    if channels == 1:
        return Frame(image.reshape(image.shape[:2]), "mono")
    return Frame(image, "bgr" if channels == 3 else "bgra")


def blank_frame(height: int, width: int, order: Order = "bgr") -> Frame:
    """Return a black frame."""
    channels = CHANNELS[order]
    return Frame(np.zeros((height, width) if channels == 1 else (height, width, channels), np.uint8), order)


# ---------------------------------------------------------------------------------------------------
# sensor_msgs/Image
# ---------------------------------------------------------------------------------------------------

_PLAIN: dict[str, Order] = {
    "bgr8": "bgr",
    "rgb8": "rgb",
    "bgra8": "bgra",
    "rgba8": "rgba",
    "mono8": "mono",
    "8UC1": "mono",
    "8UC3": "bgr",
    "8UC4": "bgra",
}
_PLAIN_16: dict[str, Order] = {
    "bgr16": "bgr",
    "rgb16": "rgb",
    "bgra16": "bgra",
    "rgba16": "rgba",
    "mono16": "mono",
    "16UC1": "mono",
    "16UC3": "bgr",
    "16UC4": "bgra",
}
# ROS names a Bayer pattern by its first row's first two pixels and second row's; OpenCV by the second row's
# second and third: BayerRG in OpenCV is bayer_bggr8 in ROS.
_BAYER: dict[str, int] = {
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
_YUV: dict[str, int] = {
    "yuv422": cv2.COLOR_YUV2BGR_UYVY,
    "uyvy": cv2.COLOR_YUV2BGR_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2BGR_YUY2,
    "yuyv": cv2.COLOR_YUV2BGR_YUY2,
}


# A plane of luma, and behind it one of chroma: half as many rows, each as long in bytes (nv12, nv21), or as many, each
# twice as long (nv24). Height is the image's and step that of luma, as V4L2 has it and, by its getHeightScaling() for
# the former, sensor_msgs.
_SEMI_PLANAR: dict[str, int | None] = {
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "nv21": cv2.COLOR_YUV2BGR_NV21,
    "nv24": None,  # OpenCV has nothing for it
}


def _layout(encoding: str, sample_bits: int = 16) -> tuple[int, int, Callable[[NDArray[Any]], Frame]] | None:
    """Return (bytes per sample, samples per pixel, conversion of the viewed array), or None for other encodings."""
    if encoding in _PLAIN:
        order = _PLAIN[encoding]
        return 1, CHANNELS[order], lambda a: Frame(a, order)
    if encoding in _PLAIN_16:
        order = _PLAIN_16[encoding]
        return 2, CHANNELS[order], lambda a: Frame(_to_8_bits(a, sample_bits), order, _peak(a))
    if encoding in _YUV:
        code = _YUV[encoding]
        return 1, 2, lambda a: Frame(cv2.cvtColor(a, code))
    bayer = _bayer(encoding)
    if bayer is not None:
        return 2 if encoding.endswith("16") else 1, 1, lambda a: _demosaiced(a, bayer, sample_bits)
    return None


def _bayer(encoding: str) -> int | None:
    """Return OpenCV's code of a Bayer encoding, None for any other."""
    for bits in ("16", "8"):
        if encoding.endswith(bits):
            return _BAYER.get(encoding.removesuffix(bits))
    return None


def _demosaiced(mosaic: NDArray[Any], code: int, sample_bits: int) -> Frame:
    """Return the colour image of a mosaic, uint8 or uint16 (H, W).

    :raises ImageRejected: for one that is smaller than the pattern
    """
    height, width = mosaic.shape
    if min(height, width) < 2:
        raise ImageRejected("empty", f"a Bayer image needs at least 2x2 pixels, got {width}x{height}")
    if mosaic.dtype == np.uint8:
        return Frame(cv2.cvtColor(mosaic, code))
    return Frame(cv2.cvtColor(_to_8_bits(mosaic, sample_bits), code), peak=_peak(mosaic))


def _to_8_bits(samples: NDArray[np.uint16], sample_bits: int) -> NDArray[np.uint8]:
    """Scale samples that use ``sample_bits`` to 0..255, rounded (as cv_bridge does); larger ones become 255."""
    return cv2.convertScaleAbs(samples, alpha=255.0 / (2**sample_bits - 1))  # type: ignore[return-value]


def _peak(samples: NDArray[np.uint16]) -> int:
    """Return the largest sample; of alpha, which is full where nothing is transparent, none counts."""
    return int((samples[:, :, :3] if samples.ndim == 3 else samples).max())


def _from_semi_planar(encoding: str, height: int, width: int, step: int, flat: NDArray[np.uint8]) -> Frame:
    """Make a frame of a plane of luma and one of chroma; arguments and errors as :func:`frame_from_ros`."""
    code = _SEMI_PLANAR[encoding]
    share = 1 if code is None else 2  # pixels to a sample of chroma, across and down
    if height % share or width % share:
        raise ImageRejected("step", f"{encoding} needs an even width and height, got {width}x{height}")
    if step < width:
        raise ImageRejected("step", f"step is {step} bytes, but a row of {width} {encoding} pixels takes {width}")
    rows, columns, chroma_step = height // share, width // share, 2 * step // share
    needed = step * height + chroma_step * (rows - 1) + 2 * columns
    if flat.size < needed:
        raise ImageRejected(
            "short_data",
            f"{flat.size} bytes of data; {width}x{height} {encoding} of step {step} takes {needed} with its chroma",
        )
    luma: NDArray[np.uint8] = np.ndarray((height, width), np.uint8, flat, 0, (step, 1))
    chroma: NDArray[np.uint8] = np.ndarray((rows, columns, 2), np.uint8, flat, step * height, (chroma_step, 2, 1))
    if code is not None:
        return Frame(cv2.cvtColorTwoPlane(luma, chroma, code))
    # As uyvy, whose chroma two pixels share, of each pixel twice: by the same arithmetic as the others.
    pairs = np.empty((height, width, 4), np.uint8)
    cv2.mixChannels([chroma, luma], [pairs], [0, 0, 2, 1, 1, 2, 2, 3])
    twice = cv2.cvtColor(pairs.reshape(height, 2 * width, 2), cv2.COLOR_YUV2BGR_UYVY)
    return Frame(cv2.resize(twice, (width, height), interpolation=cv2.INTER_NEAREST))  # type: ignore[arg-type]


def known_encodings() -> tuple[str, ...]:
    """Return the encodings that are understood."""
    bayer = [f"{pattern}{bits}" for pattern in _BAYER for bits in (8, 16)]
    return (*_PLAIN, *_PLAIN_16, *bayer, *_YUV, *_SEMI_PLANAR)


def frame_from_ros(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Any,
    is_bigendian: bool = False,
    max_pixels: int = MAX_PIXELS,
    sample_bits: int = 16,
) -> Frame:
    """Make a frame of the fields of a sensor_msgs/Image.

    :param data: bytes-like (``array.array``, ``bytes``, uint8 array); the frame keeps a view of it where the
        encoding allows
    :param step: length of a row in bytes, padding counted
    :param sample_bits: bits (8 to 16) that images of 16 use: of 12, 4095 is white, and so is what lies above
    :raises ImageRejected: zero size, or one that the encoding cannot have, more than ``max_pixels``, ``step`` shorter
        than a row, ``data`` shorter than all rows take, or an encoding that nothing here understands
    """
    if height <= 0 or width <= 0:
        raise ImageRejected("empty", f"image of {width}x{height} pixels")
    if height * width > max_pixels:
        raise ImageRejected("too_large", f"image of {width}x{height} pixels; the limit is {max_pixels} pixels")
    if encoding in _SEMI_PLANAR:
        return _from_semi_planar(encoding, height, width, step, np.frombuffer(data, np.uint8))
    layout = _layout(encoding, sample_bits)
    if layout is None:
        raise ImageRejected(
            "encoding", f"encoding {_shown(encoding)} is not known (known: {', '.join(known_encodings())})"
        )
    sample_bytes, samples, convert = layout
    row = width * samples * sample_bytes
    if step < row:
        raise ImageRejected("step", f"step is {step} bytes, but a row of {width} {encoding} pixels takes {row}")
    if encoding in _YUV and width % 2:
        raise ImageRejected("step", f"{encoding} needs an even width, got {width}")
    flat = np.frombuffer(data, np.uint8)
    # The last row's padding may be missing: drivers differ, and no pixel is lost by it.
    needed = step * (height - 1) + row
    if flat.size < needed:
        raise ImageRejected("short_data", f"{flat.size} bytes of data; {width}x{height} {encoding} takes {needed}")
    dtype = np.dtype(np.uint8) if sample_bytes == 1 else np.dtype(">u2" if is_bigendian else "<u2")
    if step % sample_bytes:
        raise ImageRejected("step", f"step is {step} bytes, not a whole number of {sample_bytes}-byte samples")
    pixels: NDArray[Any] = np.ndarray(
        (height, width, samples),
        dtype,
        buffer=flat,
        strides=(step, samples * sample_bytes, sample_bytes),
    )
    if samples == 1:
        pixels = pixels[:, :, 0]
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return convert(pixels)


def _shown(text: str) -> str:
    """Return what a message says, fit for one line of a log."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


# ---------------------------------------------------------------------------------------------------
# sensor_msgs/CompressedImage, and files
# ---------------------------------------------------------------------------------------------------


def frame_from_compressed(
    data: Any, max_pixels: int | None = MAX_PIXELS, message_format: str = "", sample_bits: int = 16
) -> Frame:
    """Decode a JPEG or PNG image into a BGR frame.

    :param data: bytes-like
    :param max_pixels: refuse a header that promises more, before memory is taken for it; None, for files of one's
        own: no limit, whatever other format OpenCV reads, upright as EXIF says, as viewers show them, and of 16 bits
        whose values take only 12 taken for one of 12, which in a stream would flicker
    :param message_format: ``format`` of a CompressedImage, which begins with the encoding of the image that was
        compressed: of one channel and a Bayer encoding, it is a mosaic
    :param sample_bits: as in :func:`frame_from_ros`; files tell it themselves
    :raises ImageRejected: no data, too large, another format, samples with a sign, or data that do not decode
    """
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size == 0:
        raise ImageRejected("empty", "no data")
    bayer = _bayer(message_format.partition(";")[0].strip())
    # OpenCV's own way to 8 bits takes every 16-bit image for one that uses them all.
    flags = cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_COLOR if bayer is None else cv2.IMREAD_ANYCOLOR)
    if max_pixels is not None:
        # As the sensor has it: turned by EXIF, it would fit neither its calibration nor other topics.
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        packed = buffer.tobytes()
        height, width = _promised_size(packed)
        if height * width > max_pixels:
            raise ImageRejected("too_large", f"image of {width}x{height} pixels; the limit is {max_pixels} pixels")
        scans = packed.count(b"\xff\xda") if packed[:2] == JPEG_MAGIC else 0
        if scans > _MOST_SCANS:
            raise ImageRejected("corrupt", f"a JPEG of {scans} scans; the limit is {_MOST_SCANS}")
    try:
        pixels: Any = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise ImageRejected("corrupt", f"the data do not decode: {error.err or 'OpenCV gave up'}") from error
    if pixels is None:
        raise ImageRejected("corrupt", f"{buffer.size} bytes that are no image OpenCV can decode")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageRejected("encoding", f"samples of {pixels.dtype}: 8 or 16 bits without sign are needed")
    if bayer is not None and pixels.ndim == 2:
        return _demosaiced(pixels, bayer, sample_bits)
    if pixels.dtype == np.uint8:
        return Frame(pixels)
    peak = _peak(pixels)
    if max_pixels is None:
        # Many cameras have 12 bits, and their files hold them as they are.
        pixels >>= 4 if peak < 4096 else 8
        return Frame(pixels.astype(np.uint8), peak=peak)
    return Frame(_to_8_bits(pixels, sample_bits), peak=peak)


def _promised_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) as the header of a PNG or JPEG has them, without decoding.

    :raises ImageRejected: for another format, or a header that breaks off or goes on without end
    """
    if data[:8] == PNG_MAGIC:
        # OpenCV takes memory for as much as a chunk says that it holds, also the last: each must lie within the data.
        at, kind = 8, b""
        for _ in range(_MOST_SEGMENTS):
            if at + 12 > len(data) or kind == b"IEND":
                break
            kind = data[at + 4 : at + 8]
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" and at <= len(data) and data[12:16] == b"IHDR":
            return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    elif data[:2] == JPEG_MAGIC:
        at = 2
        # As decoders do: whatever stands before a marker is skipped, so a damaged header hides no size from here.
        for _ in range(_MOST_SEGMENTS):
            found = _MARKER.search(data, at)
            if found is None or (at := found.start()) > len(data) - 9:
                break
            marker = data[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    else:
        raise ImageRejected("encoding", f"{len(data)} bytes that are neither JPEG nor PNG")
    raise ImageRejected("corrupt", f"the image breaks off within its {len(data)} bytes")
