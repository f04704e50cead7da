"""Label spaces: which id is which class, in which colour, and what counts as unlabelled.

A label space is one YAML file, in ``config/labels`` or anywhere a user keeps it::

    name: camvid11
    description: CamVid, the 11 classes of the SegNet protocol
    void_ids: [11]                # ids in files that mean "no label"; 255 always does
    classes:                      # listed by id, from 0, or in any order with an id each: {id: 0, name: ...}
      - {name: sky, color: [128, 128, 128]}     # RGB

In memory, in drives and on topics a pixel without a label is 255, whatever its id in a data set's files.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.documents import read_yaml
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.resources import config_dir

UNLABELLED = 255
MAX_CLASSES = 255  # ids are bytes, and 255 says "unlabelled"
_KEYS = ("name", "description", "void_ids", "classes")
_CLASS_KEYS = ("id", "name", "color")
_FROM_0 = "ids of classes start at 0: where 0 is void in your label images, renumber them as docs/training.md shows"


@dataclass(frozen=True)
class LabelClass:
    """One class: its id in label images, its name, its RGB colour."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """The classes a network tells apart, in the order of its output channels."""

    name: str
    classes: tuple[LabelClass, ...]
    void_ids: frozenset[int] = field(default_factory=frozenset)
    description: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by id."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """RGB colours by id, uint8 (256, 3); ids without a class are black."""
        palette = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            palette[c.id] = c.color
        palette.setflags(write=False)
        return palette

    @cached_property
    def _canonical(self) -> NDArray[np.uint8]:
        table = np.full(256, UNLABELLED, np.uint8)
        for c in self.classes:
            table[c.id] = c.id
        return table

    def id_of(self, name: str) -> int:
        """Return the id of a class.

        :raises UserError: for a name that is not in this label space; the message lists those that are.
        """
        for c in self.classes:
            if c.name == name:
                return c.id
        near = did_you_mean(name, self.names)
        raise UserError(f"label space '{self.name}' has no class '{name}'{near}; it has: {', '.join(self.names)}")

    def from_raw(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map ids as a data set's files hold them to ids as used here: void and unknown become 255.

        :param raw: uint8, any shape
        :return: uint8, same shape, a copy
        """
        return self._canonical[raw]

    def to_document(self) -> dict[str, Any]:
        """Return what a file of this label space holds, as plain values."""
        return {
            "name": self.name,
            "description": self.description,
            "void_ids": sorted(self.void_ids),
            "classes": [{"name": c.name, "color": list(c.color)} for c in self.classes],
        }


def label_space_of_names(name: str, names: Sequence[str]) -> LabelSpace:
    """Return a label space of which nothing but the classes' names is known: it has colours that tell them apart."""
    return LabelSpace(name, tuple(LabelClass(i, known, colour_of_its_own(i)) for i, known in enumerate(names)))


def in_short(names: Sequence[str]) -> str:
    """Return the first of these names, for a message."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def colour_of_its_own(class_id: int) -> tuple[int, int, int]:
    """Return a colour (RGB) for a class whose own is not known."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.55, 0.85)  # the golden ratio: far from the last
    return round(red * 255), round(green * 255), round(blue * 255)


def list_label_spaces() -> list[str]:
    """Return the names of the label spaces that come with the package."""
    return sorted(path.stem for path in (config_dir() / "labels").glob("*.yaml"))


def load_label_space(name_or_path: str | Path) -> LabelSpace:
    """Load a label space by the name of one that comes with the package, or from a YAML file.

    :raises UserError: unknown name, unreadable file, or a file that breaks the format, naming the entry.
    """
    path = Path(name_or_path).expanduser()
    if not is_label_file(name_or_path):
        name = str(name_or_path)
        if name not in list_label_spaces():
            near = did_you_mean(name, list_label_spaces())
            raise UserError(
                f"no label space '{name}'{near}: there are {', '.join(list_label_spaces())}; "
                "for one of your own give the path of its .yaml file"
            )
        path = config_dir() / "labels" / f"{name}.yaml"
    document = read_yaml(path, "label space file")
    return parse_label_space(document, f"label space file {path}", path.stem)


def is_label_file(name_or_path: str | Path) -> bool:
    """Return whether a label space is given as a file; else by the name of one that comes with the package."""
    return Path(name_or_path).suffix in (".yaml", ".yml")


def comes_with_the_package(space: LabelSpace) -> bool:
    """Return whether a label space is one of the package's own, in all that it says."""
    return space.name in list_label_spaces() and space == load_label_space(space.name)


def parse_label_space(document: Any, where: str, name: str = "") -> LabelSpace:
    """Return the label space that a document describes, as a label space file does.

    :param where: what holds the document, for messages
    :param name: what it is called where it does not say
    :raises UserError: what breaks the format, naming the entry
    """

    def bad(what: str) -> UserError:
        return UserError(f"{where}: {what}")

    if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
        raise bad("expected a mapping with a list 'classes' of {name, color}")
    if unknown := _unknown(document, _KEYS):
        raise bad(unknown)
    entries = document["classes"]
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise bad(f"{len(entries)} classes; between 1 and {MAX_CLASSES} are possible")
    ids = _ids(entries, bad)
    classes: list[LabelClass] = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise bad(f"class {i} is {entry!r}; expected {{name: ..., color: [red, green, blue]}}")
        if unknown := _unknown(entry, _CLASS_KEYS):
            raise bad(f"class '{entry['name']}': {unknown}")
        color = entry.get("color")
        if not (
            isinstance(color, list)
            and len(color) == 3
            and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in color)
        ):
            raise bad(f"class '{entry['name']}' has color {color!r}; expected three integers from 0 to 255")
        if any(c.name == entry["name"] for c in classes):
            raise bad(f"class name '{entry['name']}' appears twice")
        classes.append(LabelClass(ids[i], entry["name"], (color[0], color[1], color[2])))
    void = document.get("void_ids", [])
    if not isinstance(void, list) or not all(isinstance(v, int) and len(classes) <= v <= 255 for v in void):
        raise bad(f"void_ids is {void!r}; expected a list of ids from {len(classes)} to 255; {_FROM_0}")
    name = str(document.get("name") or name)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise bad(f"its name is {name!r}; give it one (name: ...) of letters, digits, - and _: weights are named by it")
    return LabelSpace(
        name=name,
        classes=tuple(sorted(classes, key=lambda c: c.id)),
        void_ids=frozenset(void),
        description=str(document.get("description") or ""),
    )


def _unknown(entry: Iterable[Any], known: tuple[str, ...]) -> str:
    """Say which key is not known; nothing if all are."""
    for key in entry:
        if key not in known:
            near = did_you_mean(str(key), known)
            return f"no such key '{key}'{near}; there are: {', '.join(known)}"
    return ""


def _ids(entries: list[Any], bad: Callable[[str], UserError]) -> list[int]:
    """Return the id of each class: as given, or by place where no class gives one."""
    given = [entry["id"] for entry in entries if isinstance(entry, dict) and "id" in entry]
    if not given:
        return list(range(len(entries)))
    if len(given) < len(entries):
        raise bad(f"{len(given)} of {len(entries)} classes have an id; give it to all, or to none")
    if any(type(i) is not int for i in given) or sorted(given) != list(range(len(entries))):
        raise bad(f"the ids of its classes are {given}; expected 0 to {len(entries) - 1}, each once; {_FROM_0}")
    return given
