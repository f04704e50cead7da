"""A graph of planes to logits, made into one of pixels to labels, computes what the host's way computes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rt_seg_ros.graphs.pixels import pixels_to_labels, pixels_to_logits, to_bfloat16
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import LabelUpsampler, Normaliser

onnx = pytest.importorskip("onnx", reason="needs onnx (pip install 'rt_seg_ros[test]')")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (pip install 'rt_seg_ros[test]')")

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
CLASSES = 5


def small_graph(dtype=np.float32, names=("image", "scores"), opset=17):
    """Return one convolution of stride 4, any size, with a cast to and fro where it is not in float32."""
    from onnx import TensorProto, helper, numpy_helper

    image, scores = names
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, (CLASSES, 3, 4, 4)).astype(dtype), "weight"),
        numpy_helper.from_array(rng.normal(0, 0.1, CLASSES).astype(dtype), "bias"),
    ]
    nodes = [
        helper.make_node("Cast", [image], ["x"], to=kind),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"], strides=[4, 4]),
        helper.make_node("Cast", ["y"], [scores], to=TensorProto.FLOAT),
    ]
    planes = helper.make_tensor_value_info(image, TensorProto.FLOAT, ["batch", 3, "height", "width"])
    logits = helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["batch", CLASSES, "rows", "columns"])
    graph = helper.make_graph(nodes, "small", [planes], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def on_the_host(model, image, size):
    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    Normaliser(MEAN, STD).write(Frame(image), planes[0])
    logits = run(model, **{model.graph.input[0].name: planes})[0][0]
    return logits, *LabelUpsampler()(logits, size, True)


@pytest.mark.parametrize("names", [("image", "scores"), ("pixels", "labels"), ("planes", "logits")])
@pytest.mark.parametrize(("label_size", "opset"), [(None, 17), ((48, 64), 18), ((100, 75), 20)])
def test_labels_and_confidence_are_those_of_the_host(names, label_size, opset):
    model = small_graph(names=names, opset=opset)
    image = picture(48, 64)
    _, labels, confidence = on_the_host(model, image, label_size or (48, 64))
    made = pixels_to_labels(model, MEAN, STD, size=(48, 64), label_size=label_size, confidence=True)
    assert [value.name for value in made.graph.output] == ["labels", "confidence"]
    got, certain = run(made, pixels=image[None])
    assert got.dtype == np.uint8 and got.shape == (1, *(label_size or (48, 64)))
    assert (got[0] == labels).mean() >= 0.999
    assert np.abs(certain[0].astype(int) - confidence).max() <= 1


def test_any_size_and_number_of_frames():
    model = small_graph()
    made = pixels_to_labels(model, MEAN, STD, batch=None)
    for size, count in (((48, 64), 1), ((32, 96), 3)):
        images = np.stack([picture(*size, seed) for seed in range(count)])
        (got,) = run(made, pixels=images)
        for labels, image in zip(got, images, strict=True):
            assert (labels == on_the_host(model, image, size)[1]).mean() >= 0.999


def test_logits_of_pixels_are_those_of_planes():
    model = small_graph()
    image = picture(48, 64)
    (got,) = run(pixels_to_logits(model, MEAN, STD, batch=None), pixels=image[None])
    assert np.allclose(got[0], on_the_host(model, image, (48, 64))[0], atol=1e-4)


def test_the_graph_itself_stays_and_its_first_operator_casts_the_bytes():
    """TensorRT takes bytes for nothing but a cast to or from floats."""
    model = small_graph()
    before = model.SerializeToString()
    made = pixels_to_labels(model, MEAN, STD, size=(48, 64), confidence=True)
    assert model.SerializeToString() == before
    takers = [node for node in made.graph.node if "pixels" in node.input]
    assert [node.op_type for node in takers if node.op_type != "Shape"] == ["Cast"]
    givers = {node.output[0]: node for node in made.graph.node}
    for output in ("labels", "confidence"):
        assert givers[output].op_type == "Cast"
        assert givers[givers[output].input[0]].op_type in ("Cast", "Add")  # of a float


def test_bfloat16_rounds_the_weights_of_an_fp16_graph():
    model = small_graph(np.float16)
    made = to_bfloat16(model)
    kinds = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    assert {tensor.data_type for tensor in made.graph.initializer} == {onnx.TensorProto.BFLOAT16}
    casts = [attribute.i for node in made.graph.node for attribute in node.attribute if attribute.name == "to"]
    assert set(casts) & kinds == {onnx.TensorProto.BFLOAT16}
    for old, new in zip(model.graph.initializer, made.graph.initializer, strict=True):
        exact = onnx.numpy_helper.to_array(old).astype(np.float32)
        rounded = onnx.numpy_helper.to_array(new).astype(np.float32)
        assert old.name == new.name and np.allclose(rounded, exact, rtol=2**-8)
        assert not (rounded.view(np.uint32) & 0xFFFF).any()
