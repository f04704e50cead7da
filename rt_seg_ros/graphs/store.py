"""The graphs that this machine runs: made once, by a process of their own, and kept.

Nothing here imports torch: a node that finds its graph ready does without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

from rt_seg_ros.cache import Cache
from rt_seg_ros.errors import NoGraph, UserError
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.labels import parse_label_space
from rt_seg_ros.log import get_logger
from rt_seg_ros.zoo import ModelCard, check_hash

_log = get_logger(__name__)

_FORMAT = 1
_GRAPH = "model.onnx"
_GRAPHS = Cache("graphs", keep=48)
_QUANTISED = Cache("int8")
_making = threading.Lock()
#: Those that make a graph now, with the thread that waits for it.
_processes: dict[subprocess.Popen[bytes], threading.Thread] = {}
_abandoned: WeakSet[threading.Thread] = WeakSet()
_LONGEST = 900  # seconds


def load_graph(card: ModelCard, options: GraphOptions | None = None) -> bytes:
    """Return the ONNX graph of a card's network, from the cache or made now.

    :raises UserError: weights that cannot be loaded, or nobody waits for it any more
    :raises NoGraph: it cannot be made, as without PyTorch
    """
    options = options or GraphOptions()
    weights = check_hash(card)
    key = {**_model_key(card, weights), "graph": dataclasses.asdict(options), "source": _source_hash()}
    with _making:
        found = _GRAPHS.load(card.network, key)
        if found is not None and _GRAPH in found:
            return found[_GRAPH]
        _log.info("writing %s as a graph for other runtimes; this is done once", card.name)
        graph = _make(dataclasses.replace(card, sha256=weights), options)
        _GRAPHS.save(card.network, key, {_GRAPH: graph})
    return graph


def load_quantised(card: ModelCard, runtime: str) -> dict[str, bytes] | None:
    """Return the files of a card's int8 model for a runtime, or None where none was made."""
    return _QUANTISED.load(card.network, _quantised_key(card, runtime))


def save_quantised(card: ModelCard, runtime: str, files: Mapping[str, bytes]) -> Path | None:
    """Keep a card's int8 model for a runtime, in place of an earlier one; None where it cannot be kept."""
    return _QUANTISED.save(card.network, _quantised_key(card, runtime), files)


def model_key(card: ModelCard) -> dict[str, Any]:
    """Return what everything depends on that is made of a card's graph: network, weights, and this package's code.

    :raises UserError: weights that are missing or damaged
    """
    return {**_model_key(card, check_hash(card)), "source": _source_hash()}


def _quantised_key(card: ModelCard, runtime: str) -> dict[str, Any]:
    # Not of the sources: what somebody calibrated stays good when the package is updated.
    return {**_model_key(card, check_hash(card)), "runtime": runtime, "precision": "int8"}


def _model_key(card: ModelCard, weights: str) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "network": card.network,
        "options": dict(card.options),
        "num_classes": card.num_classes,
        "weights": weights or f"random of PyTorch {_version('torch')}",
    }


@lru_cache(maxsize=1)
def _source_hash() -> str:
    """Return a hash of the code that graphs come of: changed code makes new ones."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("networks/*.py"), *package.glob("graphs/*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _make(card: ModelCard, options: GraphOptions) -> bytes:
    if "torch" in sys.modules:
        try:
            from rt_seg_ros.graphs.build import build_graph

            return build_graph(card, options).SerializeToString()
        except ModuleNotFoundError as error:
            raise lacking(error) from error
    with tempfile.TemporaryDirectory(prefix="rt_seg_graph_") as folder:
        out = Path(folder) / _GRAPH
        order = {"card": card_to_json(card), "options": dataclasses.asdict(options), "out": str(out)}
        status, said = _run_aside(order, Path(folder) / "said")
        if status != 0 or not out.is_file():
            lines = said.strip().splitlines()
            why = lines[-1] if lines else f"exit status {status}"
            kind = UserError if status == -signal.SIGKILL else NoGraph  # killed: nobody waits for it any more
            raise kind(f"the graph of model '{card.name}' could not be made: {why}")
        return out.read_bytes()


def lacking(error: ModuleNotFoundError) -> NoGraph:
    """Return what to say where something is not installed that making a graph takes."""
    return NoGraph(f"it takes '{error.name}' once, which is not installed (pip install torch onnx)")


def _run_aside(order: Mapping[str, Any], log: Path) -> tuple[int, str]:
    """Run a process of its own, which ends when this one does; return its status and what it said."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable or "python3", "-m", "rt_seg_ros.graphs"]
    try:
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(  # noqa: S603 - this package's own module, by this interpreter
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, bufsize=0, env=environment
            )
    except OSError as error:
        return -1, str(error)
    with process:  # at its end standard input is closed, which ends the process
        waiting = _processes[process] = threading.current_thread()
        try:
            if waiting in _abandoned:
                process.kill()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once, and says why
                process.stdin.write(json.dumps(order).encode() + b"\n")  # of which nothing is left to be written later
            status = process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1, f"it took more than {_LONGEST} s"
        finally:
            del _processes[process]
    return status, log.read_text(encoding="utf-8", errors="replace")


def abandon_graphs(thread: threading.Thread | None = None, later: bool = True) -> None:
    """End what is being made now, as nobody waits for it any more; who asked for it gets a :class:`UserError`.

    :param thread: end only what this thread asked for
    :param later: and what it will yet ask for
    """
    if thread is not None and later:
        _abandoned.add(thread)
    for process, waiting in list(_processes.items()):
        if thread in (None, waiting):
            process.kill()


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """Return what of a card a graph needs, as plain values."""
    fields = ("name", "network", "label_space", "num_classes", "sha256")
    plain: dict[str, Any] = {name: getattr(card, name) for name in fields}
    return {
        **plain,
        "options": dict(card.options),
        "weights": str(card.weights.resolve()) if card.weights else None,
        "mean": list(card.mean),
        "std": list(card.std),
        "space": card.space.to_document() if card.space else None,
    }


def card_from_json(document: Mapping[str, Any]) -> ModelCard:
    """Return the card that :func:`card_to_json` wrote."""
    values = dict(document)
    values["weights"] = Path(values["weights"]) if values["weights"] else None
    values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
    values["space"] = parse_label_space(values["space"], "the card's label space") if values["space"] else None
    return ModelCard(**values)
