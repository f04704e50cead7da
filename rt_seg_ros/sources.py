"""Where frames come from, apart from a live camera: an image, a folder of images, a video, a recorded drive."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected, frame_from_compressed
from rt_seg_ros.recordings import is_recording

Kind = Literal["image", "folder", "video", "drive"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2"}
)
#: What ``rt-seg segment`` writes of an image, by kind: ``KIND/NAME`` of a folder's, ``NAME_KIND`` of a single one.
RESULT_SUFFIXES = {"label": ".png", "color": ".png", "overlay": ".jpg", "confidence": ".png"}
#: Ends the name of the folder that it writes into, where none is given.
RESULT_ENDING = "_segmented"


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source, or what kept it from being one.

    ``name`` is unique in the source: the file's path in its folder, without suffix where that is no other's, or a
    running number. ``stamp_ns`` is the recording's stamp, or the time from the start of a video, in nanoseconds; 0 for
    images. ``recorded_ns`` is when it was recorded, where that is known. Either ``frame`` is there, or ``problem`` says
    why not.
    """

    name: str
    frame: Frame | None = None
    stamp_ns: int = 0
    frame_id: str = ""
    problem: str = ""
    recorded_ns: int | None = None


class Source(ABC):
    """Frames in their order; iterating starts from the first one each time."""

    kind: Kind
    path: Path
    left_out = 0
    """Number of images of a folder that are none of it, as ``rt-seg segment`` wrote them."""

    @abstractmethod
    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames; one that cannot be read comes with its ``problem``."""

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Number of frames as far as is known before they are read."""

    @property
    def fps(self) -> float:
        """Frames per second on average, 0 where there is no time."""
        return 0.0

    @property
    def stem(self) -> str:
        """Name for what is made of this source."""
        return stem_of(self.path)


def stem_of(path: Path) -> str:
    """Return a file's name without suffix, or a folder's, which has none: what follows a dot is part of it."""
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def open_source(path: str | Path, topic: str = "", leave_out: Iterable[Path] = ()) -> Source:
    """Open what a path names: an image, a folder of images (with its subfolders), a video, or a rosbag2.

    :param topic: the image topic of a rosbag2; may be left out where it has only one.
    :param leave_out: folders in a folder of images that are none of it.
    :raises UserError: nothing there, nothing known, no images, or no such topic.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is nothing at {path}")
    suffix = path.suffix.lower()
    if is_recording(path):
        return _Drive(path, topic)
    if topic:
        raise UserError(f"topic '{topic}' was given, but {path} is not a rosbag2")
    if path.is_dir():
        return _Folder(path, leave_out)
    if suffix in IMAGE_SUFFIXES:
        return _Image(path)
    from rt_seg_ros.video import VIDEO_SUFFIXES

    if suffix in VIDEO_SUFFIXES:
        return _Video(path)
    raise UserError(
        f"{path} is of no kind that is known by its name: images ({', '.join(sorted(IMAGE_SUFFIXES))}), "
        f"videos ({', '.join(sorted(VIDEO_SUFFIXES))}), rosbag2 (a folder, .mcap, .db3), or a folder of images"
    )


def _read_image(path: Path, name: str) -> SourceFrame:
    try:
        return SourceFrame(name, frame_from_compressed(path.read_bytes(), max_pixels=None))
    except OSError as error:
        return SourceFrame(name, problem=f"{path}: {error.strerror}")
    except ImageRejected as error:
        return SourceFrame(name, problem=f"{path}: {error}")


class _Image(Source):
    kind = "image"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def total(self) -> int:
        return 1

    def __iter__(self) -> Iterator[SourceFrame]:
        yield _read_image(self.path, self.path.stem)


class _Folder(Source):
    kind = "folder"

    def __init__(self, path: Path, leave_out: Iterable[Path]) -> None:
        self.path = path
        left_out = [folder.resolve() for folder in leave_out]
        files = sorted(
            file
            for file in _files_below(path)
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()  # no pipe, whose writer may never come
            and not any(folder in file.resolve().parents for folder in left_out)
        )
        written = _written(path, files)
        self.files = [file for file in files if file not in written]
        self.left_out = len(written)
        if not self.files:
            but = f" ({len(written)} that an earlier rt-seg segment wrote are left out)" if written else ""
            raise UserError(f"there is no image in {path}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}{but}")

    @property
    def total(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[SourceFrame]:
        relative = [file.relative_to(self.path) for file in self.files]
        stems = [file.with_suffix("").as_posix() for file in relative]
        whole = {inside.as_posix() for inside in relative}
        # A name without suffix may be another file's too, or all of another's: that of photo.png.jpg beside photo.png.
        shared = whole | {stem for stem, count in Counter(stems).items() if count > 1}
        for file, inside, stem in zip(self.files, relative, stems, strict=True):
            yield _read_image(file, inside.as_posix() if stem in shared else stem)


def result_of_image(file: Path) -> tuple[str, str]:
    """Return image and kind of a file that is named as ``rt-seg segment`` names what it writes of a single image.

    Both are empty for any other.
    """
    name, _, kind = file.stem.rpartition("_")
    return (name, kind) if name and RESULT_SUFFIXES.get(kind) == file.suffix else ("", "")


def _files_below(path: Path) -> Iterator[Path]:
    """Yield what lies in a folder and those in it, also behind links, each folder once."""
    seen = {path.resolve()}
    for folder, folders, names in os.walk(path, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if (here / name).resolve() not in seen]
        seen.update((here / name).resolve() for name in folders)
        yield from (here / name for name in names)


def _written(path: Path, files: list[Path]) -> set[Path]:
    """Return those of a folder's images that an earlier ``rt-seg segment`` wrote there.

    It is known by the name of its folder, or by an overlay of each image beside its labels or colours.
    """
    found: dict[tuple[Path, str], dict[str, dict[str, Path]]] = {}  # of a place, and of each single image in it
    for file in files:
        name, kind = result_of_image(file)
        if kind:
            found.setdefault((file.parent, name), {}).setdefault(kind, {})[name] = file
        for folder in file.relative_to(path).parents:
            top = path / folder
            if top != path and RESULT_SUFFIXES.get(top.name) == file.suffix:
                inside = file.relative_to(top).with_suffix("").as_posix()
                found.setdefault((top.parent, ""), {}).setdefault(top.name, {})[inside] = file
    written: set[Path] = set()
    for (place, _), kinds in found.items():
        overlays = kinds.get("overlay", {}).keys()
        ours = place != path and place.name.endswith(RESULT_ENDING)
        if ours or (overlays and any(overlays <= kinds.get(kind, {}).keys() for kind in ("label", "color"))):
            written.update(file for names in kinds.values() for file in names.values())
    return written


class _Video(Source):
    kind = "video"

    def __init__(self, path: Path) -> None:
        from rt_seg_ros.video import VideoReader

        self.path = path
        self._reader = VideoReader(path)

    @property
    def total(self) -> int | None:
        return self._reader.frame_count or None

    @property
    def fps(self) -> float:
        return self._reader.fps

    def __iter__(self) -> Iterator[SourceFrame]:
        count = 0
        for seconds, image in self._reader:
            yield SourceFrame(f"{count:06d}", Frame(image), round(seconds * 1e9))
            count += 1
        if self._reader.problem:
            yield SourceFrame(f"{count:06d}", problem=self._reader.problem)


class _Drive(Source):
    kind = "drive"

    def __init__(self, path: Path, topic: str) -> None:
        from rt_seg_ros.bags import open_bag

        self.path = path
        with open_bag(path) as bag:
            self.topic = bag.image_topic(topic or None)
            self._count = bag.topics[self.topic].count
            self._seconds = bag.duration_ns / 1e9

    @property
    def total(self) -> int:
        return self._count

    @property
    def fps(self) -> float:
        return (self._count - 1) / self._seconds if self._count > 1 and self._seconds > 0 else 0.0

    def __iter__(self) -> Iterator[SourceFrame]:
        from rt_seg_ros.bags import open_bag
        from rt_seg_ros.bags.cdr import stamp_of

        count = 0
        # Opened here once more: SQLite wants to be read by the thread that opened it.
        with open_bag(self.path) as bag:
            damage = f"{self.path}: {bag.damage}" if bag.damage else ""
            try:
                for _, kind, recorded, data in bag.raw_messages([self.topic]):
                    name = f"{count:06d}"
                    try:
                        image = bag.decode_image(self.topic, kind, recorded, data)
                    except ImageRejected as error:
                        stamp = stamp_of(data) or recorded
                        problem = f"image {count} of {self.topic}, stamp {stamp / 1e9:.3f}: {error}"
                        yield SourceFrame(name, stamp_ns=stamp, problem=problem, recorded_ns=recorded)
                    else:
                        yield SourceFrame(name, image.frame, image.stamp_ns, image.frame_id, recorded_ns=recorded)
                    count += 1
            except UserError as error:
                if not count:
                    raise
                damage = f"{error}; {count} images before that were read"
            if damage:
                yield SourceFrame(f"{count:06d}", problem=damage)
