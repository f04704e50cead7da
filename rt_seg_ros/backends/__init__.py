"""Runtimes behind one narrow interface, and the choice among them.

A runtime is one module here, imported only when it is chosen or asked, with

- ``unavailable()``: why it cannot be used on this machine, or None; quick, it loads nothing;
- ``check(device, precision)``: the device that is meant, or :class:`UserError` where device or precision are not to be
  had; it loads the runtime only where the answer lies in there;
- ``create(card, device, precision, threads)``: the backend; :class:`Unavailable` or :class:`NoGraph` where another
  runtime may do it, any other error, as of damaged weights, where none will;
- where making a model ready takes long, ``not_ready(card, device, precision)``: why it would now, or None; ``auto``
  passes over what is not ready.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import TypeVar

from rt_seg_ros.backends.base import Backend, BatchResult, Unavailable
from rt_seg_ros.backends.cuda_driver import find_gpu, missing_gpu
from rt_seg_ros.errors import NoGraph, UserError
from rt_seg_ros.log import get_logger
from rt_seg_ros.zoo import ModelCard

__all__ = [
    "BACKENDS",
    "DEVICES",
    "PRECISIONS",
    "Backend",
    "BatchResult",
    "check_backend",
    "check_choice",
    "create_backend",
    "other_backends",
]

_log = get_logger(__name__)

T = TypeVar("T")

_MODULES = {
    "torch": "rt_seg_ros.backends.torch_backend",
    "tensorrt": "rt_seg_ros.backends.tensorrt_backend",
    "openvino": "rt_seg_ros.backends.openvino_backend",
    "onnxruntime": "rt_seg_ros.backends.onnxruntime_backend",
}
#: What ``auto`` tries, the fastest first; docs/performance.md has the figures.
_ON_GPU = ("tensorrt", "torch")
_ON_CPU = ("openvino", "onnxruntime", "torch")
#: Those whose check() loads nothing in any case.
_QUICKLY_CHECKED = ("onnxruntime",)

BACKENDS = ("auto", *_MODULES)
DEVICES = ("auto", "cpu", "cuda")  # and cuda:0, cuda:1, ...
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def create_backend(
    card: ModelCard, backend: str = "auto", device: str = "auto", precision: str = "fp32", threads: int = 0
) -> Backend:
    """Build the runtime for a model.

    :param backend: one of :data:`BACKENDS`; ``auto`` takes the fastest that works here with this device and precision
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``
    :param precision: one of :data:`PRECISIONS`
    :param threads: CPU threads; 0 leaves the runtime's own choice
    :raises UserError: a name that is not among these, or a runtime, device or precision that is not to be had
    """

    def create(module: ModuleType, on: str) -> Backend:
        if backend == "auto":
            _check_ready(module, card, on, precision)
        created: Backend = module.create(card, on, precision, threads)
        return created

    created, passed_over = _first_to_be_had(backend, device, precision, create)
    created.live = backend == "auto"  # who did not ask for a runtime does not wait for it
    why = f" (passed over: {'; '.join(passed_over)})" if passed_over else ""
    idle = backend == device == "auto" and created.device == "cpu" and not missing_gpu()  # a GPU that is there
    level = logging.WARNING if idle else logging.INFO
    _log.log(level, "backend %s on %s, %s%s", created.name, created.device, created.precision, why)
    return created


def check_backend(backend: str, device: str, precision: str) -> None:
    """Check that a runtime, device and precision are to be had here, without loading a model.

    :raises UserError: as :func:`create_backend`
    """
    _first_to_be_had(backend, device, precision, lambda module, on: None)


def check_choice(backend: str, device: str, precision: str) -> None:
    """Check of a runtime, device and precision what shows at once: no runtime is loaded for it.

    What passes may still be refused by :func:`check_backend` and :func:`create_backend`.

    :raises UserError: as these
    """
    _check_names(backend, device, precision)
    if device.startswith("cuda"):
        find_gpu(device)
    if backend == "auto":
        return
    module = _load(backend)
    reason = module.unavailable()
    if reason:
        raise Unavailable(reason)
    if backend in _QUICKLY_CHECKED:
        _check(module, device, precision)


def other_backends(
    card: ModelCard, device: str, precision: str, threads: int, without: Collection[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], Backend]]:
    """Build backends that can take the place of one that failed, each when it is asked for.

    The order is that of ``auto``; the CPU's come last, whatever device is wanted. Where ``precision`` is not to be
    had, it is fp32. What cannot be built is passed over, for whatever reason: a GPU that is lost raises anything.

    :param without: (runtime, "cpu" or "cuda") of those to leave out
    :return: each with its (runtime, "cpu" or "cuda")
    """
    on_gpu = () if device == "cpu" or missing_gpu() else _ON_GPU
    gpu = device if device.startswith("cuda") else "cuda"
    for name, on in [*((name, gpu) for name in on_gpu), *((name, "cpu") for name in _ON_CPU)]:
        place = (name, on.partition(":")[0])
        if place in without:
            continue
        module = _load(name)
        for wanted in dict.fromkeys((precision, "fp32")):
            try:
                _check(module, on, wanted)
                _check_ready(module, card, on, wanted)
                created: Backend = module.create(card, on, wanted, threads)
            except Exception as error:
                _log.info("%s on %s, %s cannot take over: %s", name, on, wanted, error)
                continue
            yield place, created
            break


def _first_to_be_had(
    backend: str, device: str, precision: str, use: Callable[[ModuleType, str], T]
) -> tuple[T, list[str]]:
    """Return what ``use`` makes of the first runtime to be had and its device, and why others were passed over."""
    _check_names(backend, device, precision)
    passed_over: list[str] = []
    for name, on in _candidates(backend, device, passed_over):
        module = _load(name)
        try:
            _check(module, on, precision)
            return use(module, on), passed_over
        except (Unavailable, NoGraph) as reason:
            if backend != "auto":
                raise
            passed_over.append(f"{name}: {reason}")
    python = f" (this is {sys.executable}, in no virtual environment)" if sys.prefix == sys.base_prefix else ""
    raise UserError(f"no backend for device '{device}' and precision '{precision}': {'; '.join(passed_over)}{python}")


def _candidates(backend: str, device: str, passed_over: list[str]) -> list[tuple[str, str]]:
    """Return what to try, as (runtime, device); what is left out without a try goes to ``passed_over``."""
    if backend != "auto":
        return [(backend, device)]
    if device == "cpu":
        return [(name, "cpu") for name in _ON_CPU]
    if device != "auto":
        return [(name, device) for name in _ON_GPU]
    missing = missing_gpu()
    if missing:
        passed_over.append(f"cuda: {missing}")
    return [*((name, "cuda") for name in (() if missing else _ON_GPU)), *((name, "cpu") for name in _ON_CPU)]


def _load(name: str) -> ModuleType:
    return importlib.import_module(_MODULES[name])


def _check(module: ModuleType, device: str, precision: str) -> None:
    reason = module.unavailable()
    if reason:
        raise Unavailable(reason)
    try:
        module.check(device, precision)
    except Unavailable:
        raise
    except UserError as error:
        raise Unavailable(str(error)) from error


def _check_ready(module: ModuleType, card: ModelCard, device: str, precision: str) -> None:
    reason = module.not_ready(card, device, precision) if hasattr(module, "not_ready") else None
    if reason:
        raise Unavailable(reason)


def _check_names(backend: str, device: str, precision: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f"no backend '{backend}'; there are: {', '.join(BACKENDS)}")
    kind, colon, index = device.partition(":")
    if kind not in DEVICES or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UserError(f"no device '{device}'; there are: {', '.join(DEVICES)}, cuda:N")
    if precision not in PRECISIONS:
        raise UserError(f"no precision '{precision}'; there are: {', '.join(PRECISIONS)}")
