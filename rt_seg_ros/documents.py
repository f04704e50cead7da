"""YAML documents from files, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rt_seg_ros.errors import UserError

#: libyaml's, where PyYAML was built with it: some ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


#: What PyYAML raises, dates and numbers that are none among it, and what is no text.
NO_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML file holds.

    :param what: what it is, for the error: ``recipe``
    :raises UserError: it cannot be read, or is not valid YAML (with line and column)
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 (both are safe)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
    except NO_YAML as error:
        raise UserError(f"{what} {path} is not valid YAML: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    """Return what a parser stumbled over, and where."""
    mark = getattr(error, "problem_mark", None)
    what = str(getattr(error, "problem", None) or " ".join(str(error).split()))
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark is not None else what
