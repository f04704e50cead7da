"""Writing files so that what was good stays good: aside first, then moved into place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rt_seg_ros.errors import UserError


def write_aside(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that the one that is there stays whole until the new one is on the disk.

    What is aside is named after this process: two that write one file do not mix, the last to end has it.

    :param write: is handed the open file
    :raises UserError: the folder cannot be written, or the disk is full; what was there is untouched
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    noted: list[OSError] = []
    try:
        with aside.open("wb") as file:
            write(_Noting(file, noted))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        # PyTorch's own writer turns some failures into a RuntimeError about positions.
        cause = noted[0] if noted else error
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path} could not be written: {cause.strerror or cause}; what was written before is still good"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, as :func:`write_aside` does.

    :raises UserError: as there
    """
    write_aside(path, lambda file: file.write(text.encode("utf-8")))


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are gone left aside in a folder."""
    for left in folder.glob(".*.part"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            with contextlib.suppress(OSError):
                left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


class _Noting:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes], noted: list[OSError]) -> None:
        self._file = file
        self._noted = noted

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self._noted.append(error)
            raise

    def flush(self) -> None:
        self._file.flush()
