"""Marks in PNG files, by which who wrote them knows them again, and replaces no others."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_HEADER = 33  # bytes: the signature and the first chunk


def marked(png: bytes, software: str) -> bytes:
    """Return a PNG with a text chunk behind its header by which the file is known again.

    :param software: who wrote it, ASCII
    """
    return png[:_HEADER] + _mark(software) + png[_HEADER:]


def is_marked(file: Path, software: str) -> bool:
    """Return whether a file is a PNG that :func:`marked` has marked with the same.

    :raises OSError: where it cannot be read
    """
    if not file.is_file():
        return False
    mark = _mark(software)
    with file.open("rb") as png:
        return png.read(_HEADER + len(mark))[_HEADER:] == mark


def _mark(software: str) -> bytes:
    chunk = b"tEXt" + b"Software\0" + software.encode("ascii")
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
