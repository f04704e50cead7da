"""Builds an engine in a process of its own, while this one serves.

Building takes minutes, gigabytes and PyTorch's graph exporter; none of that is to be seen where frames are waiting. The
process is nice, tells how far it is, and ends when whoever asked for it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt_seg_ros.backends.cuda_driver import find_gpu, using
from rt_seg_ros.backends.engines import Engines, EngineSpec, load_tensorrt
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.store import card_from_json, card_to_json
from rt_seg_ros.processes import end_with_parent

_SAYS = "rt_seg_engine:"  # begins the lines that are meant for us; runtimes print what they like


class EngineProcess:
    """The building of one engine.

    :param engines: whose engine
    :param progress: told how much is done, 0 to 1, in the thread that calls :meth:`run`
    """

    def __init__(self, engines: Engines, spec: EngineSpec, progress: Callable[[float], None]) -> None:
        self._engines = engines
        self._spec = spec
        self._progress = progress
        self._lock = threading.RLock()  # cancelled by a finalizer, on any thread
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self) -> bytes:
        """Build, and wait for it; the engine is kept, too.

        :raises UserError: it cannot be built, or was cancelled
        """
        with tempfile.TemporaryDirectory(prefix="rt_seg_engine_") as folder:
            out, errors = Path(folder) / "engine", Path(folder) / "errors"
            order: dict[str, Any] = {
                "card": card_to_json(self._engines.card),
                "spec": dataclasses.asdict(self._spec),
                "flavour": self._engines.tensorrt.__name__,
                "gpu": self._engines.gpu.index if self._engines.gpu else None,
                "out": str(out),
            }
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable or "python3", "-m", "rt_seg_ros.backends.engine_process"]
            with errors.open("w", encoding="utf-8") as errors_file:
                try:
                    process = subprocess.Popen(  # noqa: S603 - this package's own module, by this interpreter
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=errors_file,
                        bufsize=0,
                        env=environment,
                    )
                except OSError as error:
                    raise UserError(f"the engine ({self._spec}) could not be built: {error}") from error
            with process:
                with self._lock:
                    self._process = process
                try:
                    if not self._cancelled:
                        self._follow(process, order)
                finally:
                    process.kill()
            if self._cancelled:
                raise UserError(f"building the engine ({self._spec}) was cancelled")
            if process.returncode != 0 or not out.is_file():
                said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                reason = said[-1] if said else f"exit status {process.returncode}"
                raise UserError(f"the engine ({self._spec}) could not be built: {reason}")
            return out.read_bytes()

    def _follow(self, process: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once, and says why
            process.stdin.write(json.dumps(order).encode() + b"\n")  # of which nothing is left to be written later
        for said in process.stdout:
            line = said.decode(errors="replace")
            if line.startswith(_SAYS):
                self._progress(float(line.removeprefix(_SAYS)))
        process.wait()

    def cancel(self) -> None:
        """End it; :meth:`run` raises then."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()


def main() -> int:
    """Build what standard input asks for; the last line on standard error is the reason of a failure."""
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    order = json.loads(sys.stdin.readline())
    end_with_parent()

    def tell(share: float) -> bool:
        print(_SAYS, f"{share:.4f}", flush=True)
        return True

    try:
        tensorrt = load_tensorrt(order["flavour"])
        gpu = None if order["gpu"] is None else find_gpu(f"cuda:{order['gpu']}")
        spec = EngineSpec.from_json(order["spec"])
        engines = Engines(card_from_json(order["card"]), tensorrt, gpu)
        with using(gpu) if gpu is not None else contextlib.nullcontext():
            engine = engines.build(spec, tell)
        engines.save(spec, engine)
        Path(order["out"]).write_bytes(engine)
    except ModuleNotFoundError as error:
        print(f"it takes '{error.name}', which is not installed (pip install {error.name})", file=sys.stderr)
        return 2
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
