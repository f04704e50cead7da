"""Tensors out of a file, also out of a pickle: that only where it was asked for, and without running what it holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from rt_seg_ros.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SAFE_SUFFIX = ".safetensors"
_FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
_NAMED = 10  # tensors that do not fit, of which more are only counted
#: What trainers wrap tensors in.
_WRAPPINGS = ("state_dict", "model")


def is_pickle(path: str | Path) -> bool:
    """Whether a file of weights would have to be unpickled: all that is not called ``.safetensors``."""
    return Path(path).suffix != SAFE_SUFFIX


def read_pickle(path: Path, what: str) -> Any:
    """Read what PyTorch saved, onto the CPU; nothing but tensors, numbers, texts and containers of them is made.

    :param what: what the file is to the user, as in ``weights``
    :raises UserError: missing or damaged, or something else in it, such as code
    """
    import torch

    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a protocol that PyTorch itself does not write
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip reading raise whatever they like on a damaged file
        if held := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{what} {path}: refused: the pickle holds '{held[1]}', code that would run; "
                f"have its tensors saved as {SAFE_SUFFIX}"
            ) from error
        # PyTorch's own words advise to load it without care.
        reason = "no tensors that PyTorch saved" if isinstance(error, UnpicklingError) else _first_line(error)
        raise UserError(f"{what} {path}: cannot be read as a checkpoint: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_tensors(path: Path, what: str, allow_pickle: bool) -> dict[str, Tensor]:
    """Return tensors by name, out of the wrappings that trainers put around them.

    :param allow_pickle: read another file than ``.safetensors`` too
    :raises UserError: as :func:`read_pickle`; a pickle that was not asked for; no tensors by name in it
    """
    if is_pickle(path):
        if not allow_pickle:
            raise UserError(
                f"{what} {path}: no {SAFE_SUFFIX} file, and pickles can hold code; to read its tensors alone: "
                "--allow-pickle, in a recipe network.allow_pickle=true"
            )
        return tensors_in(read_pickle(path, what), f"{what} {path}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
        return tensors_in(load_file(path), f"{what} {path}")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{what} {path}: cannot be read: {error}") from error


def tensors_in(content: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; what else it holds is left out.

    :raises UserError: it is no mapping, or has no tensors
    """
    from torch import Tensor

    for wrapping in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}, not tensors by name")
    named = {str(key).removeprefix("module."): value for key, value in content.items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{where}: holds no tensors")
    return tensors


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], owner: str, where: str) -> None:
    """Hold tensors against those that a network has; ``num_batches_tracked`` may be missing.

    :param owner: whose they are to be, as in ``network 'cgnet'``
    :param where: what the tensors are, as in ``weights FILE``
    :raises UserError: naming those that are missing, unknown, of another shape, or not of finite numbers
    """
    problems = [f"missing {key}" for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    problems += [
        f"{key} has values that are no numbers"
        for key, value in state.items()
        if key in expected and str(value.dtype) in _FLOATS and not value.isfinite().all()
    ]
    problems += [
        f"{key} is of {value.dtype}"
        for key, value in state.items()
        if key in expected and value.is_floating_point() and str(value.dtype) not in _FLOATS
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(f"{where} do not fit {owner}: {'; '.join(problems[:_NAMED])}{more}")
