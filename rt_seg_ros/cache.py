"""What takes long to make and can be made again: kept in the user's cache folder, private, checked before use.

An entry is a folder of files with ``about.json``, which names what they were made of (the key) and each one's SHA-256.
It appears whole or not at all. An entry that is damaged, of another key, or that others could have written is as good
as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rt_seg_ros.log import get_logger

_log = get_logger(__name__)

#: Names the folder, in place of the usual one.
VARIABLE = "RT_SEG_CACHE"
_NOWHERE = Path(os.devnull) / "rt_seg_ros"  # can neither be there nor be made
_ABOUT = "about.json"
_FORMAT = 1

Key = Mapping[str, Any]  # of what JSON can hold


def cache_dir() -> Path:
    """Return the folder: ``$RT_SEG_CACHE``, or ``rt_seg_ros`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    A user without a home has none, and no folder that others share serves instead: nothing is kept.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "rt_seg_ros"
    try:
        return Path.home() / ".cache" / "rt_seg_ros"
    except RuntimeError:  # a user without a home, as in some containers
        return _NOWHERE


class Cache:
    """Entries of one kind.

    :param kind: the name of their folder in :func:`cache_dir`
    :param keep: with more entries than this, those unused for longest go; 0: all stay
    """

    def __init__(self, kind: str, keep: int = 0) -> None:
        self.kind = kind
        self._keep = keep

    @property
    def folder(self) -> Path:
        """Where the entries are."""
        return cache_dir() / self.kind

    def path(self, name: str, key: Key) -> Path:
        """Return the folder of an entry, there or not; ``name`` is for people who look into the cache."""
        return self.folder / f"{name}-{hashlib.sha256(_canonical(key).encode()).hexdigest()[:16]}"

    def keys(self, name: str) -> list[dict[str, Any]]:
        """Return the keys of all entries of a name, as they say themselves; :meth:`load` looks closer."""
        found = []
        for about in self.folder.glob(f"{name}-*/{_ABOUT}"):
            try:
                found.append(dict(json.loads(about.read_text(encoding="utf-8"))["key"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def load(self, name: str, key: Key) -> dict[str, bytes] | None:
        """Return the files of an entry by name, or None where there is none that can be trusted."""
        path = self.path(name, key)
        try:
            return self._read(path, key) if path.exists() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is not used, and made anew: %s", path, error)
            return None

    def _read(self, path: Path, key: Key) -> dict[str, bytes]:
        for folder in (self.folder, path):
            _check_private(folder)
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        if about["format"] != _FORMAT or _canonical(about["key"]) != _canonical(key):
            raise ValueError("it was made of something else")
        files = {}
        for name, expected in about["files"].items():
            if Path(name).name != name:
                raise ValueError(f"it names a file outside of itself, '{name}'")
            files[name] = (path / name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != expected:
                raise ValueError(f"{name} is damaged")
        with contextlib.suppress(OSError):  # read-only: nothing is forgotten there either
            os.utime(path)  # used now
        return files

    def save(self, name: str, key: Key, files: Mapping[str, bytes]) -> Path | None:
        """Keep files, in place of an entry of the same key.

        :return: the entry's folder; None where it cannot be written, which is said in the log and no error: the
            files are then made again next time
        """
        path = self.path(name, key)
        aside: Path | None = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.stat().st_uid == os.geteuid():
                self.folder.chmod(0o700)
            _check_private(self.folder)
            aside = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))  # for its owner only
            for file, content in files.items():
                (aside / file).write_bytes(content)
            hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
            about = {"format": _FORMAT, "key": dict(key), "files": hashes}
            (aside / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            self._put(aside, path)
            self._forget()
        except (OSError, ValueError) as error:
            _log.warning(
                "%s cannot be kept in %s, and will be made anew each time (%s names another folder): %s",
                name,
                self.folder,
                VARIABLE,
                error,
            )
            return None
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        return path

    def _put(self, aside: Path, path: Path) -> None:
        """Move a folder to its place, and what is there out of the way; another process may be doing the same."""
        for _ in range(10):
            try:
                os.rename(aside, path)
                return
            except OSError:
                if not path.exists():
                    raise
            former = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
            try:
                os.rename(path, former / "former")
            except FileNotFoundError:
                pass  # the other one was first
            finally:
                shutil.rmtree(former, ignore_errors=True)
        raise OSError(f"{path} is being replaced all the time")

    def _forget(self) -> None:
        """Remove what was not used for longest, and what was left half written a day ago."""
        entries, yesterday = [], time.time() - 86400
        for path in self.folder.iterdir():
            try:
                entries.append((path.stat().st_mtime, path))
            except OSError:  # another process was first
                continue
        halves = [path for used, path in entries if path.name.startswith(".") and used < yesterday]
        whole = [path for _, path in sorted(entries, reverse=True) if not path.name.startswith(".")]
        for path in [*halves, *(whole[self._keep :] if self._keep else ())]:
            shutil.rmtree(path, ignore_errors=True)


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _check_private(folder: Path) -> None:
    """Check that nobody but this user (and root) can have written into a folder.

    :raises ValueError: saying why not
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid():
        raise ValueError(f"{folder} belongs to another user")
    if found.st_mode & 0o022:
        raise ValueError(f"others may write to {folder}")
