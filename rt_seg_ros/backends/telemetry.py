"""Importing runtimes without their telemetry.

Left to themselves, OpenVINO reports over the network that it was imported, and ONNX Runtime (from 1.29 on) which models
it loads; both leave an identity in the home folder, unless a person opts out. A robot does neither.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_OPENVINO = "openvino_telemetry"
_loading = threading.RLock()  # the guard of one thread must not go while another is within


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Within this, ``openvino``, ``nncf`` and ``onnxruntime`` are to be imported for the first time."""
    # Read once, when it is loaded. Whoever wants to report sets it to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with _loading:
        if _OPENVINO in sys.modules:  # somebody else has decided
            yield
            return
        sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # as if it were not installed: OpenVINO does without
        try:
            yield
        finally:
            del sys.modules[_OPENVINO]
