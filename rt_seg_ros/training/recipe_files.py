"""Recipes as files: found, with their ancestors, overridden, checked.

A recipe lies in ``config/train`` or anywhere else; ``inherits: NAME`` takes another one first, which the rest then
overrides key by key (lists are replaced whole); ``inherits: [ONE, TWO]`` takes several, the later over the earlier. On
the command line ``key.sub=value`` overrides once more. A label space's file is looked for beside the recipe that names
it; one that is named on the command line, in the present folder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rt_seg_ros.documents import NO_YAML, read_yaml
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.labels import is_label_file
from rt_seg_ros.resources import config_dir
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.schema_errors import explained


def list_recipes() -> list[str]:
    """Return the names of the package's recipes (``base*``, which are none by themselves, left out)."""
    return sorted(p.stem for p in (config_dir() / "train").glob("*.yaml") if not p.stem.startswith("base"))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or file, with its ancestors, then ``overrides`` (``key.sub=value``).

    :raises UserError: unknown recipe, bad YAML, a circle of ancestors, or keys and values the schema refuses.
    """
    document = _with_ancestors(name_or_path, ())
    for override in overrides:
        override_document(document, override)
        if override.startswith("label_space="):
            resolve_label_space(document, Path.cwd())
    return parse_recipe(document, f"recipe {name_or_path}")


def parse_recipe(document: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a document against the schema.

    :raises UserError: naming each key, its value, and what is allowed.
    """
    try:
        return Recipe.model_validate(dict(document))
    except ValidationError as error:
        raise UserError("\n".join([f"{where}:", *explained(error, Recipe)])) from error


def _with_ancestors(name_or_path: str | Path, descendants: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(name_or_path, descendants[-1].parent if descendants else None)
    if path in descendants:
        circle = " -> ".join(p.stem for p in [*descendants, path])
        raise UserError(f"recipe {path} inherits from itself: {circle}")
    document = read_yaml(path, "recipe")
    if not isinstance(document, dict):
        raise UserError(f"recipe {path}: a mapping of keys to values is needed")
    resolve_label_space(document, path.parent)
    parent = document.pop("inherits", None)
    document.setdefault("name", path.stem)
    if parent is None:
        return document
    below: dict[str, Any] = {}
    for one in parent if isinstance(parent, list) else [parent]:
        below = _merged(below, _with_ancestors(str(one), (*descendants, path)))
    return _merged(below, document)


def resolve_label_space(document: dict[str, Any], folder: Path) -> None:
    """Make a label space's file one that is found from everywhere."""
    given = document.get("label_space")
    if isinstance(given, str) and is_label_file(given):
        document["label_space"] = str((folder / Path(given).expanduser()).resolve())


def _find(name_or_path: str | Path, beside: Path | None) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        candidate = path if path.is_absolute() or beside is None else beside / path
        if candidate.is_file():
            return candidate.resolve()
        raise UserError(f"recipe file {candidate} does not exist")
    for folder in (beside, config_dir() / "train"):
        if folder is not None and (folder / f"{path}.yaml").is_file():
            return (folder / f"{path}.yaml").resolve()
    known = list_recipes()
    raise UserError(
        f"no recipe '{path}'{did_you_mean(str(path), known)}: there are {', '.join(known)}; "
        "for one of your own give the path of its .yaml file"
    )


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(below)
    for key, value in above.items():
        # Another network's options are not this one's.
        whole = key == "network" and isinstance(value, dict) and _is_another(value, result.get(key))
        if isinstance(value, dict) and isinstance(result.get(key), dict) and not whole:
            result[key] = _merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _is_another(network: Mapping[str, Any], below: Any) -> bool:
    former = below.get("name") if isinstance(below, dict) else None
    return bool(network.get("name", former) != former)


def override_document(document: dict[str, Any], override: str) -> None:
    """Apply one ``key.sub=value`` to a document, in place.

    :raises UserError: not of that form, or a place that the document does not have
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}': write it as key.sub=value, such as schedule.epochs=100")
    try:
        value = yaml.safe_load(text)
    except NO_YAML as error:
        raise UserError(f"override '{override}': the value is not valid YAML") from error
    *parents, last = key.split(".")
    place: Any = document
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}  # a section that was left out, or said to be null
        place = place[_index(place, part, override)] if isinstance(place, list) else place[part]
        if not isinstance(place, (dict, list)):
            raise UserError(f"override '{override}': '{part}' has no keys below it")
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise UserError(f"override '{override}': '{part}' is not an index of a list of {len(items)} (from 0)")
    return int(part)
