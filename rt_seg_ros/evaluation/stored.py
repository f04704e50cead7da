"""Labels on the disk: written by an evaluation beside its report, read again for pictures and comparisons.

Labels of a drive are a rosbag2 of lossless PNGs with the source's stamps, those of a data set a folder of PNGs with
its file names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import BagReader, BagWriter, open_bag
from rt_seg_ros.bags.cdr import stamp_of
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE, ResultTopics
from rt_seg_ros.bags.types import LABEL_INFO
from rt_seg_ros.data.datasets import LABEL_ENDINGS
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import Aside
from rt_seg_ros.label_images import LABEL_PNG_FORMAT, label_png, read_label_image
from rt_seg_ros.labels import UNLABELLED, LabelSpace
from rt_seg_ros.png_marks import is_marked, marked
from rt_seg_ros.recordings import is_recording
from rt_seg_ros.sources import RESULT_SUFFIXES, result_of_image

Labels = NDArray[np.uint8]

BAG_SUFFIX = ".mcap"
_MARK = "rt_seg_ros evaluate"


class LabelBag:
    """Writes labels of a drive; a context manager, moved into place when it ends well."""

    def __init__(self, path: Path, space: LabelSpace) -> None:
        self.path = path
        self._writer = BagWriter(path, overwrite=True)
        self._topics = ResultTopics(self._writer, space)

    def __enter__(self) -> LabelBag:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, at)

    def add(self, name: str, stamp_ns: int, recorded_ns: int, frame_id: str, labels: Labels) -> None:
        """Write the labels of one frame.

        :raises UserError: if the disk does not take it
        """
        del name
        self._topics.add_label_info(stamp_ns, frame_id, recorded_ns)
        topic = f"{DEFAULT_NAMESPACE}/label/compressed"
        png = label_png(labels).tobytes()
        self._writer.add_compressed_image(topic, stamp_ns, frame_id, png, LABEL_PNG_FORMAT, recorded_ns)


class LabelFolder:
    """Writes labels of a data set; a context manager, moved into place when it ends well.

    Its images are marked: a folder that holds any other file is not replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = Aside(path)
        self._made = self._aside.folder / "made"

    @staticmethod
    def wrote(path: Path) -> bool:
        """Return whether everything in a folder was written by this class."""
        return path.is_dir() and all(is_marked(file, _MARK) for file in path.rglob("*") if not file.is_dir())

    def __enter__(self) -> LabelFolder:
        if self.path.exists() and not self.wrote(self.path):
            raise UserError(f"{self.path} is not replaced: it holds something else than an earlier report's labels")
        try:
            self._aside.make()
            self._made.mkdir()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._aside.put_in_place(self._made)
        except OSError as problem:
            raise UserError(f"{self.path} cannot be written: {problem.strerror}") from problem
        finally:
            self._aside.remove()

    def add(self, name: str, stamp_ns: int, recorded_ns: int, frame_id: str, labels: Labels) -> None:
        """Write the labels of one frame, as ``name``.png.

        :raises UserError: if the disk does not take it
        """
        del stamp_ns, recorded_ns, frame_id
        try:
            path = self._made / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)  # pictures of a data set may lie in subfolders
            path.write_bytes(marked(label_png(labels).tobytes(), _MARK))
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error


def file_name(model: str) -> str:
    """Return a model's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "-", model)


@dataclass(frozen=True)
class StoredLabels:
    """One frame's labels: its stamp (ns), or its path in a folder without suffix; how to read it: uint8 (H, W), ids."""

    key: int | str
    load: Callable[[], Labels]


def told_classes(bag: BagReader, topic: str) -> tuple[str, ...]:
    """Return the names of classes by id, as the label info below a topic of label images, or beside it, has them last.

    Empty where there is none; an id between others that has no name is called by its number.
    """
    plain = topic.removesuffix("/compressed")
    every = [t for t, info in bag.topics.items() if info.type == LABEL_INFO and info.count]
    infos = [t for place in (plain, plain.rpartition("/")[0]) for t in every if t.rpartition("/")[0] == place]
    names: dict[int, str] = {}
    for _, _, message in bag.messages(infos[:1]) if infos else ():
        names = {c.class_id: c.class_name for c in message.class_map if c.class_id < UNLABELLED}
    return tuple(names.get(i, f"id {i}") for i in range(max(names, default=-1) + 1))


class LabelStream:
    """Labels frame by frame: a rosbag2's topic of label images, or a folder of them with its subfolders.

    ``path`` is where they lie: label/ of what ``rt-seg segment`` wrote of a folder. ``by_stamp`` says whether keys are
    stamps; ``class_names`` are those that a recording tells, empty where none.

    :param topic: of a rosbag2 with several topics of label images
    :raises UserError: nothing there, or no label images
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        self.path = path
        self.class_names: tuple[str, ...] = ()
        self.damage = ""
        self._files: list[Path] = []
        self._topic = ""
        self.by_stamp = path.is_file() or (path.is_dir() and is_recording(path))
        if self.by_stamp:
            with open_bag(path) as bag:
                self.damage = bag.damage
                # Beside its own labels a result bag has the truth that the source had.
                own = [t for t in bag.label_topics() if t.startswith(f"{DEFAULT_NAMESPACE}/label")]
                self._topic = bag.label_topic(topic or (own[0] if len(own) == 1 else None))
                self.count = bag.topics[self._topic].count
                self.class_names = told_classes(bag, self._topic)
        elif path.is_dir():
            if topic:
                raise UserError(f"topic '{topic}' was given, but {path} is a folder of images")
            kinds = {f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith(".")}
            if "label" in kinds and kinds <= RESULT_SUFFIXES.keys():
                self.path = path = path / "label"
            self._files = sorted(
                f
                for f in path.rglob("*")
                if f.suffix.lower() in LABEL_ENDINGS
                and not any(part.startswith(".") for part in f.relative_to(path).parts)
            )
            kinds_of = {f: result_of_image(f)[1] for f in self._files}
            if "label" in kinds_of.values() and all(kinds_of.values()):  # of single images, all kinds in one folder
                self._files = [f for f, kind in kinds_of.items() if kind == "label"]
            self.count = len(self._files)
            if not self._files:
                raise UserError(f"{path} holds no label images ({', '.join(LABEL_ENDINGS)}) and no recording")
        else:
            raise UserError(f"there is nothing at {path}")

    def __iter__(self) -> Iterator[StoredLabels]:
        if not self.by_stamp:
            for file in self._files:
                key = file.relative_to(self.path).with_suffix("").as_posix()
                yield StoredLabels(key, partial(read_label_image, file))
            return
        with open_bag(self.path) as bag:
            count = 0
            try:
                for _, kind, recorded, data in bag.raw_messages([self._topic]):
                    count += 1
                    load = partial(bag.decode_labels, self._topic, kind, data)
                    yield StoredLabels(stamp_of(data) or recorded, load)
            except UserError as error:
                if not count:
                    raise
                self.damage = f"{error}; {count} label images before that were read"
