"""Reading an MCAP file that was cut off or has no index: record by record from its start, as far as it goes.

Follows the MCAP specification (https://mcap.dev/spec): a file is a magic number, then records of one byte of kind,
eight of length, and content; chunks hold records of their own, compressed or not.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from rt_seg_ros.bags.torn import Channel, Torn, qos_profiles

MAGIC = b"\x89MCAP0\r\n"

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_LARGEST = 1 << 32  # bytes of one record: more is damage


class TornMcap(Torn):
    """An MCAP file without its end: ``channels`` by id, ``counts`` by topic, first and last log time.

    ``complete``: it has its end after all.
    """

    def __init__(self, path: Path) -> None:
        """Go through the file once.

        :raises ValueError: if it is no MCAP file at all
        """
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.complete = False
        self._survey()

    def rows(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel, log time in ns, serialised message), and note the channels on the way."""
        schemas: dict[int, tuple[str, str, str]] = {}
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError("no MCAP file: its first bytes are others")
            for kind, content in _records(file):
                if kind == _CHUNK:
                    for inner, inner_content in _chunk(content):
                        yield from self._take(inner, inner_content, schemas)
                elif kind in (_FOOTER, _DATA_END):
                    file.seek(-len(MAGIC), os.SEEK_END)
                    self.complete = file.read() == MAGIC
                    return
                else:
                    yield from self._take(kind, content, schemas)

    def _take(
        self, kind: int, content: bytes, schemas: dict[int, tuple[str, str, str]]
    ) -> Iterator[tuple[int, int, bytes]]:
        try:
            if kind == _SCHEMA:
                number, at = _unpack("<H", content, 0)
                name, at = _string(content, at)
                encoding, at = _string(content, at)
                text, _ = _string(content, at)
                schemas[number] = (name, encoding, text)
            elif kind == _CHANNEL:
                number, at = _unpack("<H", content, 0)
                if number in self.channels:  # by a pass before
                    return
                schema, at = _unpack("<H", content, at)
                topic, at = _string(content, at)
                encoding, at = _string(content, at)
                name, form, text = schemas.get(schema, ("", "", ""))
                language = MessageDefinitionFormat.IDL if form == "ros2idl" else MessageDefinitionFormat.MSG
                qos = qos_profiles(_metadata(content, at).get("offered_qos_profiles", ""))
                self.channels[number] = Channel(topic, name, MessageDefinition(language, text), encoding, qos)
            elif kind == _MESSAGE:
                number, _ = _unpack("<H", content, 0)
                stamp, _ = _unpack("<Q", content, 6)
                yield number, stamp, content[22:]
        except (struct.error, UnicodeDecodeError):
            return  # one damaged record; the next may be whole


def _unpack(form: str, content: bytes, at: int) -> tuple[int, int]:
    return int(struct.unpack_from(form, content, at)[0]), at + struct.calcsize(form)


def _string(content: bytes, at: int) -> tuple[str, int]:
    length, at = _unpack("<I", content, at)
    return content[at : at + length].decode("utf-8"), at + length


def _metadata(content: bytes, at: int) -> dict[str, str]:
    """Read a map of texts: its length in bytes, then keys and values in turn."""
    length, at = _unpack("<I", content, at)
    end = at + length
    found = {}
    while at < end:
        key, at = _string(content, at)
        found[key], at = _string(content, at)
    return found


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, content); the last chunk may come incomplete, other records not."""
    size = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(9)
        if len(head) < 9:
            return
        kind, length = struct.unpack("<BQ", head)
        if kind == 0 or length > _LARGEST:
            return
        content = file.read(min(length, size))  # by a damaged length there may not be the memory
        if len(content) < length:
            if kind == _CHUNK:
                yield kind, content
            return
        yield kind, content


def _chunk(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a chunk, as many as can be read."""
    try:
        compression, at = _string(content, 28)
        _, at = _unpack("<Q", content, at)
        data = _decompress(compression, content[at:])
    except (struct.error, UnicodeDecodeError):
        return
    at = 0
    while at + 9 <= len(data):
        kind, length = struct.unpack_from("<BQ", data, at)
        at += 9
        if at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += length


def _decompress(compression: str, data: bytes) -> bytes:
    """Return what can be had of compressed data whose end may be missing."""
    if compression == "":
        return data
    try:
        if compression == "zstd":
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
            return bytes(zstd.ZstdDecompressor().decompress(data))
        if compression == "lz4":
            from lz4.frame import LZ4FrameDecompressor

            return bytes(LZ4FrameDecompressor().decompress(data))
    except Exception:  # each library has errors of its own for data that break off
        return b""
    return b""
