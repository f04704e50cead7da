"""ONNX export of every network agrees with PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_network_behaviour import lived_in

from rt_seg_ros.networks import SegmentationNetwork, list_networks
from rt_seg_ros.networks.frfnet import FRFNet

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (pip install 'rt_seg_ros[test]')")
pytest.importorskip("onnx", reason="needs onnx (pip install 'rt_seg_ros[test]')")

#: 32 divides neither, and no grid of the pyramids divides the maps at 1/32.
SIZE = (120, 168)


def check_export(net: SegmentationNetwork, path: Path, *, by_tracing: bool) -> None:
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = net(x).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of themselves, and of sizes becoming constants
        torch.onnx.export(net, (x,), path, opset_version=18, dynamo=not by_tracing, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert scores.shape == expected.shape
    near = np.abs(scores - expected) <= 1e-4 * max(1.0, np.abs(expected).max())
    same = scores.argmax(1) == expected.argmax(1)
    first, second = np.sort(expected, 1)[:, -1], np.sort(expected, 1)[:, -2]
    same |= first - second <= 2e-4 * max(1.0, np.abs(expected).max())  # as good as equal: either class will do
    if isinstance(net, FRFNet):  # FFM's masks are steps: rounding may take one or not, and changes what is around it
        assert near.mean() >= 0.9 and same.mean() >= 0.99
    else:
        assert near.all() and same.all()


@pytest.mark.parametrize("name", list_networks())
def test_export_by_tracing(name: str, tmp_path: Path) -> None:
    check_export(lived_in(name), tmp_path / "net.onnx", by_tracing=True)


@pytest.mark.parametrize("name", ["csrnet_light", "frfnet_slim"])
def test_export_by_torch_export_of_the_folded_network(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript (pip install 'rt_seg_ros[test]')")
    check_export(lived_in(name).fuse(), tmp_path / "net.onnx", by_tracing=False)
