"""What is wrong with a YAML document, in one line."""

from __future__ import annotations

import yaml


def yaml_problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Return what a parser stumbled over, and where."""
    mark = getattr(error, "problem_mark", None)
    what = str(getattr(error, "problem", None) or " ".join(str(error).split()))
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark is not None else what
