"""Data sets in folders: pairs of a picture and its label image, read as everything else here expects them.

Known layouts, found by looking:

* **CamVid** (SegNet's copy): ``<split>/x.png`` with ``<split>annot/x.png``, ids as grey values.
* **Cityscapes**: ``leftImg8bit/<split>/<city>/x_leftImg8bit.png`` with
  ``gtFine/<split>/<city>/x_gtFine_labelTrainIds.png``, or ``..._labelIds.png``, which are mapped.
* **Pairs**: ``images/`` with ``labels/``, each with a folder per split or without, names equal up to the ending. A
  split may have subfolders: then the paths from the split's folder are equal.

A picture is uint8 (height, width, 3) in BGR; its labels are uint8 (height, width), 255 where there is no label.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import ImageRejected, frame_from_compressed
from rt_seg_ros.label_images import read_label_image
from rt_seg_ros.labels import UNLABELLED, LabelSpace, list_label_spaces, load_label_space
from rt_seg_ros.log import get_logger
from rt_seg_ros.overlap import map_ahead

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABEL_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
SHOWN_OFFENDERS = 5

_log = get_logger(__name__)

# Cityscapes' 34 label ids that have a train id (the data set's published definition).
_CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One picture and the file of its labels; ``name``: the picture's path within its split, without ending."""

    image: Path
    label: Path
    name: str


class Dataset:
    """Pictures with labels, by index; nothing is kept in memory.

    ``dataset[i]`` gives (BGR uint8 (H, W, 3), labels uint8 (H, W) with 255 for void), both at the files' own size.
    """

    def __init__(
        self, name: str, label_space: LabelSpace, pairs: list[Pair], id_map: NDArray[np.uint8] | None = None
    ) -> None:
        """Take the pairs as found.

        :param id_map: uint8 (256,), from the ids in files to the label space's raw ids; none changes nothing
        """
        self.name = name
        self.label_space = label_space
        self.pairs = pairs
        self._id_map = id_map

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read one pair.

        :raises UserError: a file that cannot be read, or sizes that differ, by name.
        """
        image = self.image(index)
        labels = self.labels(index)
        if image.shape[:2] != labels.shape:
            raise UserError(_size_mismatch(self.pairs[index], image.shape[:2], labels.shape))
        return image, labels

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read picture ``index``: BGR uint8 (H, W, 3)."""
        path = self.pairs[index].image
        try:
            return frame_from_compressed(path.read_bytes(), max_pixels=None).pixels
        except (OSError, ImageRejected) as error:
            raise UserError(
                f"{path} cannot be read as a picture: it is missing, damaged or of an unknown format"
            ) from error

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Read the labels of picture ``index``: uint8 (H, W), 255 = no label.

        :raises UserError: a file that cannot be read, or holds ids outside the label space.
        """
        raw = self.raw_labels(index)
        if problem := self._strange(index, raw):
            raise UserError(problem)
        return self.label_space.from_raw(raw)

    def _strange(self, index: int, raw: NDArray[np.uint8]) -> str:
        """Say which ids are outside the label space; nothing if none are."""
        ids = ids_outside(raw, self.label_space)
        if not ids:
            return ""
        space = self.label_space
        return (
            f"{self.pairs[index].label} has ids outside label space '{space.name}' (0 to {space.num_classes - 1}, "
            f"void {sorted({*space.void_ids, UNLABELLED})}): {', '.join(str(v) for v in ids[:10])}"
        )

    def raw_labels(self, index: int) -> NDArray[np.uint8]:
        """Read label image ``index`` with the ids of its file (Cityscapes' label ids as train ids)."""
        path = self.pairs[index].label
        try:
            raw = read_label_image(path)
        except ImageRejected as error:
            raise UserError(str(error)) from error
        return np.asarray(raw if self._id_map is None else self._id_map[raw], np.uint8)

    def file_names(self, index: int) -> tuple[str, str]:
        """Return the paths of picture and labels ``index``, for messages."""
        pair = self.pairs[index]
        return str(pair.image), str(pair.label)


def open_dataset(path: str | Path, split: str | None = None, label_space: LabelSpace | str | None = None) -> Dataset:
    """Open a data set's folder, whose layout is found by looking.

    :param path: the data set's root
    :param split: ``train``, ``val``, ``test``...; pairs of ``images/`` and ``labels/`` need none
    :param label_space: a label space or its name; none = Cityscapes' for its layout, else ``camvid11``
    :raises UserError: no such folder, unknown layout, no such split, missing partners (the first few by name).
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"data set folder {root} {'is no folder' if root.exists() else 'does not exist'}")
    if isinstance(label_space, str):
        label_space = load_label_space(label_space)
    if (root / "leftImg8bit").is_dir():
        space = label_space or load_label_space("cityscapes19")
        if space.name in list_label_spaces() and space.names != load_label_space("cityscapes19").names:
            raise UserError(f"{root} is laid out as Cityscapes, whose classes are not those of '{space.name}'")
        return _cityscapes(root, _known_split(root, split, dataset_splits(root)), space)
    space = label_space or load_label_space("camvid11")
    if (root / "images").is_dir():
        return _pair_folder(root, split, space)
    if splits := dataset_splits(root):
        split = _known_split(root, split, splits)
        return _matched(root, split, root / split, root / f"{split}annot", space)
    raise UserError(
        f"{root} has no layout of a data set known here: neither <split>/ with <split>annot/ (CamVid), "
        "nor leftImg8bit/ with gtFine/ (Cityscapes), nor images/ with labels/; "
        f"it holds: {', '.join(sorted(p.name for p in root.iterdir())[:10]) or 'nothing'}"
    )


def dataset_splits(path: str | Path) -> list[str]:
    """Return the splits with labels of a data set's folder; none where its layout has none, or is not known."""
    root = Path(path).expanduser()
    if (root / "leftImg8bit").is_dir():
        return _folders(root / "leftImg8bit")
    if (root / "images").is_dir():
        return [name for name in _folders(root / "images") if (root / "labels" / name).is_dir()]
    return [name for name in _folders(root) if (root / f"{name}annot").is_dir()]


def is_dataset(path: str | Path) -> bool:
    """Return whether a folder has the layout of a data set, labels included."""
    root = Path(path).expanduser()
    return all((root / name).is_dir() for name in ("images", "labels")) or bool(dataset_splits(root))


def folder_name(path: Path) -> str:
    """Return the last name of a path, also of ``.`` and ``..``; a link's own."""
    return Path(os.path.abspath(path)).name  # Path.resolve would follow links


def ids_outside(raw: NDArray[np.uint8], space: LabelSpace) -> list[int]:
    """Return the ids of a label image, uint8 of any shape, that are neither a class nor void, in their order."""
    present = np.bincount(raw.reshape(-1), minlength=256) > 0
    present[: space.num_classes] = False
    present[[*space.void_ids, UNLABELLED]] = False
    return [int(v) for v in np.flatnonzero(present)]


Visit = Callable[[NDArray[np.uint8], NDArray[np.uint8]], object]


def check_dataset(
    dataset: Dataset, indices: Sequence[int] | None = None, visit: Visit | None = None, threads: int = 1
) -> None:
    """Read every pair once and refuse what would spoil a training run; warn of classes that no pixel has.

    :param indices: which pairs; none: all
    :param visit: is handed each pair that is good, in order: what ``dataset[index]`` gives
    :param threads: how many read at once
    :raises UserError: unreadable files, size mismatches, ids outside the label space: the first few by name; labels
        that are void in all pairs.
    """
    problems: list[str] = []
    present = np.zeros(256, bool)
    indices = range(len(dataset)) if indices is None else indices
    for image, labels, found in map_ahead(lambda i: _examined(dataset, i), indices, threads):
        problems += found
        if len(problems) > SHOWN_OFFENDERS:
            break
        if labels is not None:
            present |= cv2.calcHist([labels], [0], None, [256], [0, 256]).reshape(-1) > 0
        if visit is not None and image is not None and labels is not None and not found:
            visit(image, labels)
    if problems:
        raise UserError(_listed(f"data set {dataset.name} cannot be used", problems))
    if len(indices) < len(dataset):  # a share of it may well have none
        return
    space = dataset.label_space
    if not present[:UNLABELLED].any():
        void = ", ".join(str(v) for v in sorted({*space.void_ids, UNLABELLED}))
        raise UserError(
            f"data set {dataset.name} cannot be used: no pixel of its {len(dataset)} label images has a class, all are "
            f"void ({void} in label space '{space.name}'); are these the labels, and in that label space?"
        )
    missing = [c.name for c in space.classes if not present[c.id]]
    if missing:
        names = ", ".join(missing[:SHOWN_OFFENDERS]) + (", ..." if len(missing) > SHOWN_OFFENDERS else "")
        black_and_white = present[UNLABELLED] and present.sum() == 2
        hint = "; in a mask of 0 and 255 the latter means unlabelled: write 0 and 1" if black_and_white else ""
        _warn(f"warning: data set {dataset.name}: no pixel of its {len(dataset)} label images is {names}{hint}")


@cache
def _warn(text: str) -> None:
    """Say it once, however often the data set is read."""
    _log.warning("%s", text)


def _examined(dataset: Dataset, index: int) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None, list[str]]:
    """Read one pair; return it with all that is wrong with it."""
    try:
        image, raw = dataset.image(index), dataset.raw_labels(index)
    except UserError as error:
        return None, None, [str(error)]
    problems = []
    if image.shape[:2] != raw.shape:
        problems.append(_size_mismatch(dataset.pairs[index], image.shape[:2], raw.shape))
    if strange := dataset._strange(index, raw):
        problems.append(strange)
    return image, dataset.label_space.from_raw(raw), problems


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not _is_hidden(p)) if path.is_dir() else []


def _is_hidden(path: Path) -> bool:
    """Return whether a name begins with a dot, as macOS puts beside every file that it copies to a foreign disk."""
    return path.name.startswith(".")


def _known_split(root: Path, split: str | None, there: list[str]) -> str:
    if split is None:
        if len(there) == 1:
            return there[0]
        raise UserError(
            f"data set {root} has several splits: name one of {', '.join(there)}" if there
            else f"data set {root} has no split with labels"
        )  # fmt: skip
    if split not in there:
        raise UserError(f"data set {root} has no split '{split}' with labels; it has: {', '.join(there) or 'none'}")
    return split


def _with_ending(folder: Path, endings: tuple[str, ...], deep: bool) -> Iterator[Path]:
    """Yield a folder's files that end so; ``deep``: its subfolders' as well, links to folders among them."""
    for path in sorted(folder.iterdir()):
        if _is_hidden(path):
            continue
        if path.suffix.lower() in endings:
            yield path
        elif deep and path.is_dir() and not folder.resolve().is_relative_to(path.resolve()):  # a link back would loop
            yield from _with_ending(path, endings, deep)


def _files(folder: Path, endings: tuple[str, ...], deep: bool) -> dict[str, Path]:
    """Return files by their paths from the folder without ending."""
    found: dict[str, Path] = {}
    for path in _with_ending(folder, endings, deep):
        key = path.relative_to(folder).with_suffix("").as_posix()
        key = unicodedata.normalize("NFC", key)  # macOS writes an umlaut as two characters, others as one
        if key in found:
            raise UserError(f"{found[key]} and {path} have one name: keep one of them")
        found[key] = path
    return found


def _matched(
    root: Path, split: str, image_folder: Path, label_folder: Path, space: LabelSpace, deep: bool = False
) -> Dataset:
    images, labels = _files(image_folder, IMAGE_ENDINGS, deep), _files(label_folder, LABEL_ENDINGS, deep)
    problems = [f"{images[stem]} has no labels in {label_folder}" for stem in images if stem not in labels]
    if problems and any(_with_ending(label_folder, (".jpg", ".jpeg"), deep)):
        problems.insert(0, f"{label_folder} has JPEG files, which do not keep class ids: take PNG")
    problems += [f"{labels[stem]} has no picture in {image_folder}" for stem in labels if stem not in images]
    if problems:
        raise UserError(_listed(f"data set {root} is not complete", problems))
    if not images:
        raise UserError(f"{image_folder} holds no pictures ({', '.join(IMAGE_ENDINGS)})")
    name = f"{folder_name(root)}/{split}" if split else folder_name(root)
    pairs = [
        Pair(image, labels[stem], image.relative_to(image_folder).with_suffix("").as_posix())
        for stem, image in images.items()
    ]
    return Dataset(name, space, pairs)


def _pair_folder(root: Path, split: str | None, space: LabelSpace) -> Dataset:
    images, labels = root / "images", root / "labels"
    if not labels.is_dir():
        raise UserError(f"{root} has images/ but no labels/ beside it")
    splits = dataset_splits(root)
    if not splits:
        if split is not None:
            raise UserError(f"data set {root} has no splits (images/ and labels/ hold files): leave the split out")
        return _matched(root, "", images, labels, space)  # subfolders of both would be splits
    if split is None and (loose := _files(images, IMAGE_ENDINGS, False)):
        one = next(iter(loose.values())).relative_to(root)
        raise UserError(
            f"data set {root} has pictures beside its splits ({', '.join(splits)}), such as {one}: name a split, or "
            "put them into one"
        )
    split = _known_split(root, split, splits)
    return _matched(root, split, images / split, labels / split, space, deep=True)


def _cityscapes(root: Path, split: str, space: LabelSpace) -> Dataset:
    image_root, label_root = root / "leftImg8bit" / split, root / "gtFine" / split
    images = sorted(p for p in image_root.glob("*/*_leftImg8bit.png") if not _is_hidden(p))
    if not images:
        raise UserError(f"{image_root} holds no <city>/*_leftImg8bit.png")
    pairs: list[Pair] = []
    problems: list[str] = []
    mapped = False
    for image in images:
        stem = label_root / image.parent.name / image.name.replace("_leftImg8bit.png", "_gtFine")
        train_ids, label_ids = Path(f"{stem}_labelTrainIds.png"), Path(f"{stem}_labelIds.png")
        if train_ids.is_file() and not mapped:
            pairs.append(Pair(image, train_ids, image.stem))
        elif label_ids.is_file() and (mapped or not pairs):
            mapped = True
            pairs.append(Pair(image, label_ids, image.stem))
        else:
            problems.append(f"{image} has no {label_ids if mapped else train_ids}")
    if problems:
        raise UserError(_listed(f"data set {root} is not complete", problems))
    id_map = None
    if mapped:
        if space.names != load_label_space("cityscapes19").names:
            raise UserError(
                f"{pairs[0].label} has Cityscapes' label ids, which become train ids of cityscapes19; label space "
                f"'{space.name}' has other classes: give label images with its ids (*_labelTrainIds.png)"
            )
        id_map = np.full(256, UNLABELLED, np.uint8)
        id_map[list(_CITYSCAPES_TRAIN_IDS)] = list(_CITYSCAPES_TRAIN_IDS.values())
    return Dataset(f"{folder_name(root)}/{split}", space, pairs, id_map)


def _size_mismatch(pair: Pair, image: tuple[int, ...], label: tuple[int, ...]) -> str:
    return (
        f"{pair.image} is {image[0]}x{image[1]} (height x width) but its labels {pair.label} are {label[0]}x{label[1]}"
    )


def _listed(heading: str, problems: list[str]) -> str:
    shown = [f"  {line}" for line in problems[:SHOWN_OFFENDERS]]
    if len(problems) > SHOWN_OFFENDERS:
        shown.append("  ... and more")
    return "\n".join([f"{heading}:", *shown])
