"""Stamps of serialised messages, read and replaced without decoding the rest.

CDR: four bytes that say how the rest is written, then the fields in their order. A message that begins with a
std_msgs/Header has its stamp there first: int32 seconds, uint32 nanoseconds.
"""

from __future__ import annotations

import struct

_NANO = 1_000_000_000


def stamp_of(data: bytes) -> int:
    """Return the stamp (ns) of a serialised message that begins with a header; 0 where it is too short for one."""
    if len(data) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from(_layout(data), data, 4)
    return int(seconds) * _NANO + int(nanoseconds)


def restamped(data: bytes, stamp_ns: int) -> bytes:
    """Return a serialised message that begins with a header, with another stamp; as it is where it is too short."""
    if len(data) < 12:
        return bytes(data)
    stamp = struct.pack(_layout(data), *divmod(stamp_ns, _NANO))
    view = memoryview(data)
    return b"".join((view[:4], stamp, view[12:]))


def _layout(data: bytes) -> str:
    """Return the layout of a stamp: bit 0 of the second byte says little-endian."""
    return "<iI" if data[1] & 1 else ">iI"
