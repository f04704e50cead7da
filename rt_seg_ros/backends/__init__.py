"""Runtimes behind one narrow interface, and the choice among them.

A runtime is one module here with a ``create(card, device, precision, threads)``, a ``check(device, precision)`` and an
``unavailable()`` that says why it cannot run on this machine. It is imported only when it is chosen or asked.
"""

from __future__ import annotations

import importlib
import logging

from rt_seg_ros.backends.base import Backend, BatchResult
from rt_seg_ros.errors import UserError
from rt_seg_ros.zoo import ModelCard

__all__ = ["BACKENDS", "DEVICES", "PRECISIONS", "Backend", "BatchResult", "check_backend", "create_backend"]

_log = logging.getLogger(__name__)

#: Name to module, in the order in which ``auto`` tries them.
_MODULES = {"torch": "rt_seg_ros.backends.torch_backend"}

BACKENDS = ("auto", *_MODULES)
DEVICES = ("auto", "cpu", "cuda")  # and cuda:0, cuda:1, ...
PRECISIONS = ("fp32", "bf16", "fp16")


def create_backend(
    card: ModelCard, backend: str = "auto", device: str = "auto", precision: str = "fp32", threads: int = 0
) -> Backend:
    """Build the runtime for a model.

    :param backend: one of :data:`BACKENDS`; ``auto`` takes the first that works here
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``
    :param precision: one of :data:`PRECISIONS`
    :param threads: CPU threads; 0 leaves the runtime's own choice
    :raises UserError: a name that is not among these, or a runtime, device or precision that is not to be had
    """
    _check_names(backend, precision)
    reasons: list[str] = []
    for name in _MODULES if backend == "auto" else (backend,):
        module = importlib.import_module(_MODULES[name])
        reason = module.unavailable()
        if reason is None:
            created: Backend = module.create(card, device, precision, threads)
            chosen = f" ({'; '.join(reasons)})" if reasons else ""
            _log.info("backend %s on %s, %s%s", created.name, created.device, created.precision, chosen)
            return created
        reasons.append(f"{name}: {reason}")
    raise UserError(f"no backend for model '{card.name}' works here: {'; '.join(reasons)}")


def check_backend(backend: str, device: str, precision: str) -> None:
    """Check that a runtime, device and precision are to be had here, without loading a model.

    :raises UserError: as :func:`create_backend`
    """
    _check_names(backend, precision)
    for name in _MODULES if backend == "auto" else (backend,):
        module = importlib.import_module(_MODULES[name])
        if module.unavailable() is None:
            module.check(device, precision)
            return


def _check_names(backend: str, precision: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f"no backend '{backend}'; there are: {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise UserError(f"no precision '{precision}'; there are: {', '.join(PRECISIONS)}")
