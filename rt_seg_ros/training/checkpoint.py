"""Checkpoints: written aside and moved into place, the one before kept, read without running any code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from rt_seg_ros.documents import NO_YAML
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_aside
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import parse_recipe

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
_FORMAT = 1


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, and lists and dicts of them) to ``path``.

    A file that is there stays whole until the new one is on the disk.

    :raises UserError: the folder cannot be written, or the disk is full; what was there is untouched.
    """
    write_aside(path, lambda file: torch.save({"format": _FORMAT, **content}, file))


def write_last(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``folder``/last.pt; the one that was there becomes previous.pt.

    :raises UserError: as :func:`write_checkpoint`
    """
    new = folder / f"new-{LAST}"
    write_checkpoint(new, content)
    try:
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(new, folder / LAST)
    except OSError as error:
        raise UserError(f"{new} could not be moved to {LAST}: {error.strerror}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    :param path: a checkpoint, or a run folder, whose last.pt is meant
    :raises UserError: missing, truncated or of another program; where the one before is there it is offered.
    """
    if path.is_dir():
        found = checkpoint_in(path)
        if found is None:
            raise UserError(f"run folder {path} holds no checkpoint ({LAST}): nothing to continue from")
        path = found
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip reading raise whatever they like on a damaged file
        raise UserError(
            f"checkpoint {path} is truncated or damaged ({path.stat().st_size} bytes){_offer(path)}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} is not a checkpoint of rt-seg train (format {_FORMAT}){_offer(path)}")
    return content


def recipe_in(content: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe that a checkpoint's run went by.

    :param content: of the checkpoint
    :param where: what it is, for the error: ``the checkpoint``
    :raises UserError: as :func:`rt_seg_ros.training.recipe.parse_recipe`; another program's recipe
    """
    try:
        document = yaml.safe_load(str(content["recipe"]))
    except NO_YAML:
        document = None
    if not isinstance(document, dict):
        raise UserError(f"recipe in {where}: not one of rt-seg train's, a mapping of keys to values")
    return parse_recipe(document, f"recipe in {where}")


def checkpoint_in(folder: Path) -> Path | None:
    """Return the checkpoint from which a run folder's run goes on; None where there is none."""
    names = (LAST, f"new-{LAST}", PREVIOUS)  # the second: stopped between two moves
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _offer(path: Path) -> str:
    before = path.with_name(PREVIOUS)
    if path.name != PREVIOUS and before.is_file():
        return f"; the one before is there: --resume {before}"
    return ""
