"""Writing files so that what was good stays good: aside first, then moved into place."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rt_seg_ros.errors import UserError

#: How text stands in a file that UTF-8 has no bytes for, as parts of names of files that were none: ``\udce9``.
NOT_UTF8 = "backslashreplace"

#: A file's content, or what writes it into the open file that it is handed.
Content = bytes | Callable[[IO[bytes]], object]


def write_together(files: Mapping[Path, Content], wait: bool = True) -> None:
    """Write files so that those that are there stay whole until all the new ones are on the disk.

    What is aside is named after this process: two that write one file do not mix, the last to end has it. Folders are
    made where they are missing.

    :param wait: until the disk has them, so that not even a power cut leaves half a file
    :raises UserError: a folder cannot be written, or the disk is full; what was there is untouched
    """
    files = {path.resolve(): content for path, content in files.items()}  # a link stays one
    asides = {path: path.with_name(f".{_shortened(path.name)}.{os.getpid()}.part") for path in files}
    noted: list[OSError] = []
    at = next(iter(files))
    try:
        for at, content in files.items():
            at.parent.mkdir(parents=True, exist_ok=True)
            with asides[at].open("wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(_Noting(file, noted))  # type: ignore[arg-type]
                file.flush()
                if wait:
                    os.fsync(file.fileno())
        for at, aside in asides.items():
            os.replace(aside, at)
    except (OSError, RuntimeError) as error:
        # PyTorch's own writer turns some failures into a RuntimeError about positions.
        cause = noted[0] if noted else error
        if not isinstance(cause, OSError):
            raise
        kept = "; what was there before is untouched" if at.is_file() else ""
        raise UserError(f"{at} cannot be written: {cause.strerror or cause}{kept}") from error
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _shortened(name: str) -> str:
    """Return a name to which something can be added: file systems take 255 bytes, mostly."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 200 else hashlib.sha256(encoded).hexdigest()


def write_aside(path: Path, content: Content) -> None:
    """Write one file: see :func:`write_together`."""
    write_together({path: content})


def write_bytes(path: Path, data: bytes, wait: bool = True) -> None:
    """Write one file: see :func:`write_together`."""
    write_together({path: data}, wait)


def write_text(path: Path, text: str) -> None:
    """Write one text file, UTF-8 whatever names of files are in it: see :func:`write_together`."""
    write_bytes(path, text.encode("utf-8", NOT_UTF8))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file: see :func:`write_together`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def json_keys(path: Path) -> set[str]:
    """Return the keys of a file's JSON object; none where it holds no such."""
    try:
        with path.open("rb") as file:
            content = json.load(file) if file.peek(1)[:1] == b"{" else {}
    except (OSError, ValueError):
        return set()
    return set(content)


def check_folder(folder: Path, needed: int = 0) -> None:
    """Make a folder and try to write into it.

    :param needed: bytes that will be written there, about
    :raises UserError: where that does not go
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from error
    trial = folder / f".trial.{os.getpid()}.part"
    try:
        trial.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    finally:
        trial.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.0f} MB left, and about {needed / 1e6:,.0f} MB will be written: make room, "
            "or choose a folder on another disk"
        )


def check_file(path: Path, replaceable: Callable[[Path], bool] | None = None) -> None:
    """Try whether a file can be written, and leave what is there.

    :param replaceable: says whether what is there may be replaced
    :raises UserError: where that does not go
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file that could be replaced: give another name")
    check_folder(path.absolute().parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path} cannot be written to: it is read-only")
    if replaceable is not None and path.is_file() and path.stat().st_size and not replaceable(path):
        raise UserError(f"{path} is not replaced: it holds something else than such figures; choose another name")


def check_apart(path: Path, sources: Sequence[Path]) -> None:
    """Refuse a place that is, holds or lies in what is read.

    :raises UserError: the path, and what to do
    """
    place = path.resolve()
    for source in sources:
        own = source.resolve()
        if place == own or place in own.parents:
            raise UserError(f"{path} would replace the source {source}: choose another place")
        if own in place.parents:
            raise UserError(f"{path} would lie in the source's folder {source}: choose another place")


_REPLACED = "replaced"  # what was there before, in the folder aside


class Aside:
    """A folder beside ``path``, in which the file or folder that belongs there is made, to be moved there whole.

    ``folder`` is named after this process: two that make one thing do not mix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.absolute().parent / f".{path.name}.{os.getpid()}.part"
        self._replaced = self.folder / _REPLACED

    def make(self) -> None:
        """Make the folder, empty, and remove what processes that are gone left of theirs.

        :raises OSError: where that does not go
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder.parent, self.path.name)
        if self.folder.exists():  # of one that had this process's number
            shutil.rmtree(self.folder)
        self.folder.mkdir()

    def put_in_place(self, made: Path) -> None:
        """Move ``made``, a file or folder, to ``path``, and what is there into the folder aside.

        Where that fails or is interrupted, what was there is there again, if the new one is not.

        :raises OSError: where it fails
        """
        try:
            if self.path.exists():
                os.replace(self.path, self._replaced)
            os.replace(made, self.path)
        except BaseException:  # Ctrl-C between the two as well
            if self._replaced.exists() and not self.path.exists():
                os.replace(self._replaced, self.path)
            raise

    def remove(self) -> None:
        """Remove the folder, unless it holds the only one of what belongs at ``path``."""
        if self.path.exists() or not self._replaced.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what processes that are gone left aside in a folder, but nothing that is there alone.

    :param name: of the file, or folder, that they wrote; by default of any
    """
    for left in folder.glob(f".{glob.escape(name) or '*'}.*.part"):
        process = left.name.split(".")[-2]
        if not process.isdecimal() or is_running(int(process)):
            continue
        place = folder / left.name[1:].rsplit(".", 2)[0]
        if (left / _REPLACED).exists() and not place.exists():  # killed between the two moves of Aside.put_in_place
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def is_running(process: int) -> bool:
    """Return whether there is a process of this number."""
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
