"""A process that segments with OpenVINO or ONNX Runtime does not pay for PyTorch, and tells nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rt_seg_ros.graphs.store import load_graph
from rt_seg_ros.zoo import find_model

CODE = """
import sys
import numpy as np
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
segmenter = Segmenter(SegmenterConfig(backend={backend!r}, device="cpu"))
labels = segmenter.segment(np.full((96, 128, 3), 90, np.uint8), confidence=True).labels
assert labels.shape == (96, 128), labels.shape
print(segmenter.backend_name)
for name in ("torch", "onnx", "nncf", "matplotlib"):
    assert name not in sys.modules, name
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


@pytest.mark.parametrize(("backend", "taken"), [("auto", "openvino"), ("onnxruntime", "onnxruntime")])
def test_torch_is_not_imported_where_the_graph_is_there(backend, taken, monkeypatch, tmp_path):
    pytest.importorskip(taken)
    load_graph(find_model("cgnet"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(backend=backend)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [taken]
    assert not list(tmp_path.iterdir())  # the runtimes' telemetry would leave an identity there
