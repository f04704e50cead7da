"""Reading a SQLite recording (.db3) that was cut off or never closed: page by page, as far as it goes.

SQLite itself refuses a file that is shorter than its header says, and finds rows through the inner pages of a tree,
which may lie anywhere: with one of them gone, messages that are whole cannot be reached. The leaves that hold the
messages lie in the order of recording, so they are read from the start of the file instead. Follows the file format
(https://www.sqlite.org/fileformat2.html, sections 1.3 header, 1.6 b-tree pages, 2.1 records).
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from rt_seg_ros.bags.torn import Channel, Torn, qos_profiles

MAGIC = b"SQLite format 3\0"
_HEADER = 100  # bytes; the first page's tree begins after them
_TABLE_LEAF = 0x0D
_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class TornSqlite(Torn):
    """A SQLite recording without its end: ``channels`` by id, ``counts`` by topic, first and last time."""

    def __init__(self, path: Path) -> None:
        """Go through the file once.

        :raises ValueError: if it is no SQLite file at all, or breaks off before its topics
        """
        self.path = path
        self._journal = has_journal(path)
        self.channels = self._read_channels()
        self._survey()

    def _read_channels(self) -> dict[int, Channel]:
        topics: dict[int, tuple[str, str, str, str]] = {}
        definitions: dict[str, MessageDefinition] = {}
        for number, texts in self._text_rows():
            if texts[1] in _FORMATS:
                definitions[texts[0]] = MessageDefinition(_FORMATS[texts[1]], texts[2])
            else:
                topics[number] = texts[0], texts[1], texts[2], texts[3] if len(texts) > 3 else ""
        if not topics:
            raise ValueError("it has no table of topics, or breaks off before it")
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        return {
            number: Channel(name, kind, definitions.get(kind, none), encoding, qos_profiles(qos))
            for number, (name, kind, encoding, qos) in topics.items()
        }

    # SQLite alone can merge what waits in a journal; such a file is whole, and SQLite reads it.

    def _text_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (row id, texts) of the tables of topics and of message definitions."""
        if not self._journal:
            for number, record in _records(self.path):
                texts = _texts(record)
                if len(texts) >= 3 and (texts[1] in _FORMATS or "/" in texts[1]):
                    yield number, texts
                elif not texts and _message_row(record) is not None:
                    return  # topics stand before the first message: all of a long file need not be read for them
            return
        with closing(self._connect()) as database:
            try:
                yield from (
                    (int(row[0]), [str(v) for v in row[1:]])
                    # id, name, type, serialization_format and, but for the oldest recordings, offered_qos_profiles
                    for row in database.execute("SELECT * FROM topics")
                )
                columns = "id, topic_type, encoding, encoded_message_definition"
                yield from (
                    (int(row[0]), [str(v) for v in row[1:]])
                    for row in database.execute(f"SELECT {columns} FROM message_definitions")  # noqa: S608 - columns of this file
                )
            except sqlite3.Error:
                return  # Humble's recordings have no definitions

    def rows(self) -> Iterator[tuple[int, int, bytes]]:
        """See :meth:`Torn.rows`; in the order of recording."""
        if not self._journal:
            for _, record in _records(self.path):
                row = _message_row(record)
                if row is not None:
                    yield row
            return
        with closing(self._connect()) as database:
            try:
                yield from database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
            except sqlite3.Error:
                return

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)


def is_torn(path: Path) -> bool:
    """Return whether a SQLite file was cut off or never closed: rosbags may open it, and fail or end on the way."""
    return cut_off(path) or has_journal(path)


def cut_off(path: Path) -> bool:
    """Return whether a SQLite file is shorter than its header says, or holds nothing; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return False
    if len(header) < _HEADER or header[: len(MAGIC)] != MAGIC:
        return True
    page, _ = _page_size(header)
    pages = int.from_bytes(header[28:32], "big")
    return path.stat().st_size < page * pages


def has_journal(path: Path) -> bool:
    """Return whether a write-ahead log lies beside a SQLite file: its recorder was ended before it closed the file."""
    log = path.with_name(f"{path.name}-wal")
    return log.is_file() and log.stat().st_size > 0


def _page_size(header: bytes) -> tuple[int, int]:
    """Return the size of a page and how much of it is used, bytes."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size, size - header[20]


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (row id, record) of every whole row of every table, as they lie in the file."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[: len(MAGIC)] != MAGIC:
            return
        size, usable = _page_size(header)
        if size < 512 or size & (size - 1) or usable < 480:
            return
        number = 1
        while True:
            file.seek(number * size)  # the first page holds the schema
            page = file.read(size)
            if len(page) < size:
                return
            number += 1
            if page[0] == _TABLE_LEAF:
                yield from _payloads(file, page, size, usable)


def _payloads(file: BinaryIO, page: bytes, size: int, usable: int) -> Iterator[tuple[int, bytes]]:
    """Yield (row id, record) of a leaf; a record that goes on in pages that are gone is left out."""
    cells = int.from_bytes(page[3:5], "big")
    if 8 + 2 * cells > size:
        return
    largest = usable - 35
    smallest = (usable - 12) * 32 // 255 - 23
    for at in struct.unpack_from(f">{cells}H", page, 8):
        try:
            length, at = _varint(page, at)
            number, at = _varint(page, at)
        except IndexError:
            continue
        if length <= largest:
            if at + length <= usable:
                yield number, page[at : at + length]
            continue
        local = smallest + (length - smallest) % (usable - 4)
        local = local if local <= largest else smallest
        if at + local + 4 > usable:
            continue
        parts = [page[at : at + local]]
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        left = length - local
        while left > 0 and following:
            file.seek((following - 1) * size)
            more = file.read(size)
            if len(more) < 4 + min(left, usable - 4):
                break
            parts.append(more[4 : 4 + min(left, usable - 4)])
            left -= len(parts[-1])
            following = int.from_bytes(more[:4], "big")
        if left == 0:
            yield number, b"".join(parts)


def _columns(record: bytes) -> tuple[list[int], int]:
    """Return the types of a record's columns, and where the first one begins.

    :raises IndexError: a record that is too short for what it says
    """
    end, at = _varint(record, 0)
    kinds = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
    return kinds, at


def _message_row(record: bytes) -> tuple[int, int, bytes] | None:
    """Return (topic id, time, message) of a record, or None for one of another table."""
    try:
        kinds, at = _columns(record)
        # The row id stands for the first column, which is NULL in the record; the last is a blob.
        if len(kinds) != 4 or kinds[0] != 0 or kinds[3] < 12 or kinds[3] % 2:
            return None
        topic, at = _integer(record, at, kinds[1])
        stamp, at = _integer(record, at, kinds[2])
    except (IndexError, KeyError):
        return None
    size = (kinds[3] - 12) // 2
    return (topic, stamp, record[at : at + size]) if at + size == len(record) else None


def _texts(record: bytes) -> list[str]:
    """Return the columns after the first of a record whose other columns are all texts, or nothing."""
    try:
        kinds, at = _columns(record)
        if len(kinds) < 4 or kinds[0] != 0 or any(kind < 13 or kind % 2 == 0 for kind in kinds[1:]):
            return []
        texts = []
        for kind in kinds[1:]:
            size = (kind - 13) // 2
            texts.append(record[at : at + size].decode("utf-8"))
            at += size
    except (IndexError, UnicodeDecodeError):
        return []
    return texts


_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _integer(record: bytes, at: int, kind: int) -> tuple[int, int]:
    if kind in (8, 9):
        return kind - 8, at
    size = _INTEGER_BYTES[kind]
    return int.from_bytes(record[at : at + size], "big", signed=True), at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of one to nine bytes, seven bits each and the ninth whole; return it and where it ends."""
    value = 0
    for i in range(9):
        byte = data[at + i]
        if i == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    raise AssertionError
