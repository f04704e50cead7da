"""Graphs in the form that runtimes compute fastest: what is rewritten, what is left alone, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.zoo import find_model

onnx = pytest.importorskip("onnx", reason="needs onnx (pip install onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from rt_seg_ros.graphs.rewrites import rewrite  # noqa: E402


def model_of(nodes, constants, channels=3):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", None, None])]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [image], results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, channels=3):
    x = np.random.default_rng(0).standard_normal((2, channels, 9, 13)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def rewritten(model, channels=3):
    """Rewrite; the results must stay."""
    before = run(model, channels)
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    for one, other in zip(run(model, channels), before, strict=True):
        assert one.shape == other.shape and np.allclose(one, other, atol=1e-6)
    return [node.op_type for node in model.graph.node]


def test_slopes_of_full_rank_also_where_they_are_shared():
    nodes = [
        helper.make_node("PRelu", ["x", "s"], ["a"], name="first"),
        helper.make_node("PRelu", ["a", "s"], ["y"], name="second"),
    ]
    model = model_of(nodes, {"s": np.array([0.1, -0.2, 2]).reshape(3, 1, 1)})
    assert rewritten(model) == ["PRelu", "PRelu"]
    assert [list(tensor.dims) for tensor in model.graph.initializer] == [[1, 3, 1, 1]]


@pytest.mark.parametrize(
    ("channels", "form", "becomes"),
    [
        (3, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, "Conv"),
        (3, {"kernel_shape": [2, 3], "strides": [1, 2]}, "Conv"),
        (3, {"kernel_shape": [2, 2]}, "Conv"),
        (3, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, "AveragePool"),  # borders count less
        (3, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "AveragePool"),
        (3, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, "AveragePool"),
        (16, {"kernel_shape": [3, 3], "strides": [2, 2]}, "AveragePool"),
    ],
)
def test_averages_of_few_channels(channels, form, becomes):
    model = model_of([helper.make_node("AveragePool", ["x"], ["y"], name="pool", **form)], {}, channels=channels)
    assert rewritten(model, channels) == [becomes]


@pytest.mark.parametrize("options", [{}, {"size": (96, 128)}, {"precision": "fp16"}], ids=["any", "fixed", "fp16"])
def test_cgnet_bears_every_rewriting(options):
    from rt_seg_ros.graphs.build import build_graph

    graph = build_graph(find_model("cgnet"), GraphOptions(**options)).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    slopes = [node for node in graph.node if node.op_type == "PRelu"]
    assert len(slopes) == 54 and all(len(shapes[node.input[1]]) == 4 for node in slopes)
    assert "AveragePool" not in {node.op_type for node in graph.node}
    assert {name for node in graph.node for name in node.input} >= shapes.keys()


def test_openvino_keeps_one_memory_layout():
    """The reason for the rewriting: each change of layout is a pass over a map, and CGNet had 60 of them."""
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")
    from rt_seg_ros.graphs.store import load_graph

    model = openvino.Core().read_model(model=load_graph(find_model("cgnet")))
    model.reshape([1, 3, 96, 128])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ops = [(op.get_rt_info()["layerType"].value, op) for op in compiled.get_runtime_model().get_ops()]
    changes = [op for kind, op in ops if kind == "Reorder" and np.prod(op.get_output_shape(0)[2:]) > 1]
    assert len(ops) > 100 and len(changes) <= 8, [op.get_friendly_name() for op in changes]
