"""Images as no camera should send them, drawn from a seed: raw ones and compressed ones.

Each comes with the reasons for which it may be rejected; those that may also happen to be good have None among them.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from rt_seg_ros.images import REASONS, known_encodings

#: What the node under test is told; the bombs promise more.
MAX_PIXELS = 250_000
LARGEST = 2**32 - 1
Reasons = frozenset[str | None]
_ANY: Reasons = frozenset((*REASONS, None))
_SIZES = (1, 2, 3, 5, 7, 16, 33, 64, 90)


@dataclass
class Raw:
    """The fields of a sensor_msgs/Image."""

    encoding: str = "bgr8"
    height: int = 64
    width: int = 96
    step: int = 288
    is_bigendian: int = 0
    data: bytes = b""


@dataclass
class Malformed:
    """A message: what is wrong with it, its fields or bytes, and what may come of it."""

    kind: str
    reasons: Reasons
    raw: Raw = field(default_factory=Raw)
    packed: bytes = b""


def draw(rng: random.Random, compressed: bool) -> Malformed:
    """Return the next message."""
    kinds = _COMPRESSED if compressed else _RAW
    name = rng.choice(list(kinds))
    drawn = kinds[name](rng)
    drawn.kind = name
    return drawn


def _samples(encoding: str) -> int:
    """Return the bytes of a pixel; of two planes, of one in the first."""
    if encoding.startswith("nv"):
        return 1
    if encoding.startswith(("yuv", "uyvy", "yuyv")):
        return 2
    channels = 1 if encoding.startswith(("mono", "bayer")) or encoding.endswith("C1") else 4
    if "C" not in encoding and channels > 1:
        channels = 4 if "a" in encoding else 3
    elif channels > 1:
        channels = int(encoding[-1])
    return channels * (2 if "16" in encoding else 1)


def _good(rng: random.Random) -> Raw:
    encoding = rng.choice(known_encodings())
    height, width = rng.choice(_SIZES[2:]), 2 * rng.choice(_SIZES[2:])
    step = width * _samples(encoding) + 2 * rng.choice((0, 0, 3))
    rows = height
    if encoding.startswith("nv"):  # rows of chroma below those of luma
        height *= 2
        rows = 3 * height if encoding == "nv24" else 3 * height // 2
    return Raw(encoding, height, width, step, rng.randrange(2), rng.randbytes(rows * step))


def _fault(reasons: set[str | None], change: Callable[[random.Random, Raw], None]) -> Callable[..., Malformed]:
    def make(rng: random.Random) -> Malformed:
        raw = _good(rng)
        change(rng, raw)
        return Malformed("", frozenset(reasons), raw)

    return make


def _encoding(rng: random.Random, raw: Raw) -> None:
    names = ("", "32FC1", "64FC3", "8UC2", "16SC1", "BGR8", " bgr8", "bgr8 ", "rgb", "bayer_rggb12", "nv42", "mono32")
    odd = (
        "".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(1, 40))),
        "x" * 10_000,
        "bgr8\n[INFO] all is well",
    )
    raw.encoding = rng.choice((*names, *odd))


def _nan(rng: random.Random, raw: Raw) -> None:
    raw.encoding, raw.step = "32FC1", 4 * raw.width
    raw.data = np.full(raw.height * raw.width, rng.choice((np.nan, np.inf, -np.inf, 1e38)), np.float32).tobytes()


def _zero(rng: random.Random, raw: Raw) -> None:
    setattr(raw, rng.choice(("height", "width")), 0)
    if rng.random() < 0.3:
        raw.height = raw.width = raw.step = 0


def _huge(rng: random.Random, raw: Raw) -> None:
    huge = (LARGEST, LARGEST - 1, 2**31, 2**31 - 1, 2**16, 2**16 + 1, MAX_PIXELS + 1)
    raw.height, raw.width = rng.choice(huge), rng.choice(huge)
    raw.step = rng.choice((0, raw.step, LARGEST, raw.width % 2**32))


def _narrow(rng: random.Random, raw: Raw) -> None:
    raw.encoding, raw.step, raw.width = "mono8", 8192, 8192
    raw.height, raw.data = 1, bytes(8192)


def _short_step(rng: random.Random, raw: Raw) -> None:
    raw.step = rng.randrange(raw.width * _samples(raw.encoding))


def _long_step(rng: random.Random, raw: Raw) -> None:
    raw.step = rng.choice((LARGEST, 2**31, 2**20)) - rng.randrange(2)


def _short_data(rng: random.Random, raw: Raw) -> None:
    raw.data = raw.data[: rng.randrange((raw.height - 1) * raw.step + raw.width * _samples(raw.encoding))]


def _long_data(rng: random.Random, raw: Raw) -> None:
    raw.data += rng.randbytes(rng.randrange(1, 3000))


def _odd(rng: random.Random, raw: Raw) -> None:
    raw.encoding, raw.step = rng.choice(("yuv422", "yuyv")), 400
    raw.width, raw.data = raw.width - 1, bytes(400 * raw.height)


def _anything(rng: random.Random, raw: Raw) -> None:
    raw.height, raw.width, raw.step = (
        rng.choice((rng.randrange(200), rng.getrandbits(rng.randrange(1, 33)))) for _ in range(3)
    )
    raw.is_bigendian, raw.data = rng.randrange(256), rng.randbytes(rng.choice((0, 1, rng.randrange(30_000))))


_RAW: dict[str, Callable[[random.Random], Malformed]] = {
    "unknown encoding": _fault({"encoding"}, _encoding),
    "32FC1 of NaN": _fault({"encoding"}, _nan),
    "no size": _fault({"empty"}, _zero),
    "size up to 2^32-1": _fault({"too_large"}, _huge),
    "narrow": _fault({"too_large"}, _narrow),
    "short step": _fault({"step"}, _short_step),
    "long step": _fault({"short_data", "step"}, _long_step),
    "short data": _fault({"short_data"}, _short_data),
    "long data": _fault({None}, _long_data),
    "odd width of YUV": _fault({"step"}, _odd),
    "anything": _fault(set(_ANY), _anything),
}


# ---------------------------------------------------------------------------------------------------
# Compressed
# ---------------------------------------------------------------------------------------------------


def _picture(rng: random.Random) -> bytes:
    height, width = rng.choice(_SIZES[3:]), rng.choice(_SIZES[3:])
    pixels = np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    if rng.random() < 0.7:
        pixels = cv2.blur(pixels, (9, 9))
    if rng.random() < 0.5:
        return cv2.imencode(".png", pixels if rng.random() < 0.7 else pixels[:, :, 0])[1].tobytes()
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, rng.randrange(2)]
    return cv2.imencode(".jpg", pixels, progressive)[1].tobytes()


def _packed(reasons: set[str | None], make: Callable[[random.Random], bytes]) -> Callable[..., Malformed]:
    return lambda rng: Malformed("", frozenset(reasons), packed=make(rng))


def _cut(rng: random.Random) -> bytes:
    data = _picture(rng)
    return data[: rng.randrange(len(data))]


def _flipped(rng: random.Random) -> bytes:
    data = bytearray(_picture(rng))
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(len(data) if rng.random() < 0.4 else min(len(data), 200))] = rng.randrange(256)
    return bytes(data)


def _spliced(rng: random.Random) -> bytes:
    one, other = _picture(rng), _picture(rng)
    a, b = sorted(rng.randrange(len(one)) for _ in range(2))
    c, d = sorted(rng.randrange(len(other)) for _ in range(2))
    return one[:a] + rng.choice((other[c:d], one[a:b] * 3, b"", rng.randbytes(40))) + one[b:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(height: int, width: int) -> bytes:
    """Return a whole PNG of zeros, of a thousandth of its size."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(min(width, 8000) + 1)) for _ in range(min(height, 2000))) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _bomb(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return png_bomb(rng.choice((600, 2**31 - 1)), rng.choice((600, 5000)))
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", rng.randrange(600, 65501), rng.randrange(600, 65501))
    return bytes(data)


def scan_bomb(scans: int, side: int = 64) -> bytes:
    """Return a progressive JPEG with the last of its scans again and again."""
    data = cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data[data.rfind(b"\xff\xc4") : -2]
    return data[:-2] + last * scans + data[-2:]


def _lying_chunk(rng: random.Random) -> bytes:
    return lying_png(rng.choice((b"IDAT", b"IEND")), rng.choice((LARGEST, 2**31 - 1, 2**30, 10**6)))


def lying_png(chunk: bytes, length: int) -> bytes:
    """Return a PNG of which a chunk says that it is so many bytes long."""
    data = bytearray(cv2.imencode(".png", np.zeros((32, 48, 3), np.uint8))[1].tobytes())
    at = data.index(chunk) - 4
    data[at : at + 4] = struct.pack(">I", length)
    return bytes(data)


def _no_picture(rng: random.Random) -> bytes:
    heads = (
        b"BM",
        b"GIF89a",
        b"II*\x00",
        b"RIFF",
        b"\x89PNG",
        b"\xff",
        b"v/1\x01",
        b"<svg>",
        b"#?RADIANCE",
        b"P6 9 9 255 ",
    )
    return rng.choice(heads) + rng.randbytes(rng.randrange(1, 500))


_COMPRESSED: dict[str, Callable[[random.Random], Malformed]] = {
    "cut": _packed({"corrupt", "empty", "encoding", None}, _cut),
    "bytes changed": _packed(set(_ANY), _flipped),
    "spliced": _packed(set(_ANY), _spliced),
    "size bomb": _packed({"too_large"}, _bomb),
    "scan bomb": _packed({"corrupt"}, lambda rng: scan_bomb(rng.randrange(60, 3000))),
    "lying chunk": _packed({"corrupt"}, _lying_chunk),
    "no picture": _packed({"encoding", "corrupt"}, _no_picture),
    "no data": _packed({"empty"}, lambda rng: b""),
}
