"""Networks as ONNX graphs: any size or one, logits or labels, both of PyTorch's exporters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from backend_helpers import cut, lived_in_card, same

from rt_seg_ros import __version__
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.metadata import metadata
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import Normaliser
from rt_seg_ros.zoo import build_network, find_model

onnx = pytest.importorskip("onnx", reason="needs onnx (pip install onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")


@pytest.fixture(scope="module")
def card():
    return find_model("cgnet")


def build(card, exporter="", **options):
    from rt_seg_ros.graphs.build import build_graph

    return build_graph(card, GraphOptions(**options), exporter)


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def planes_of(card, *images):
    planes = np.empty((len(images), 3, *images[0].shape[:2]), np.float32)
    for image, out in zip(images, planes, strict=True):
        Normaliser(card.mean, card.std).write(Frame(image), out)
    return planes


def expected_scores(card, planes, full=False):
    import torch

    network = build_network(card)
    with torch.inference_mode():
        x = torch.from_numpy(planes)
        return (network(x) if full else network.logits(x)).numpy()


def test_logits_of_any_size_and_number(card):
    session = session_of(build(card))
    (entry,), (out,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("image", "tensor(float)", ["batch", 3, "height", "width"])
    assert (out.name, out.type, out.shape[:2]) == ("logits", "tensor(float)", ["batch", 11])
    for images in ([cut(97, 131)], [cut(64, 72, 0), cut(64, 72, 1)]):
        planes = planes_of(card, *images)
        assert np.allclose(session.run(None, {"image": planes})[0], expected_scores(card, planes), atol=1e-3)


def test_a_fixed_size_and_number_are_fixed(card):
    session = session_of(build(card, size=(64, 80), batch=2))
    assert session.get_inputs()[0].shape == [2, 3, 64, 80] and session.get_outputs()[0].shape == [2, 11, 8, 10]


@pytest.mark.parametrize(("size", "least"), [(None, 0.9999), ((96, 128), 0.9999)])
def test_labels_in_the_graph(card, size, least):
    session = session_of(build(card, size=size, outputs="labels"))
    (entry,), (out,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type) == ("pixels", "tensor(uint8)") and (out.name, out.type) == (
        "labels",
        "tensor(uint8)",
    )
    image = cut(96, 128)
    labels = session.run(None, {"pixels": image[None]})[0]
    expected = expected_scores(card, planes_of(card, image), full=True).argmax(1).astype(np.uint8)
    assert same(labels, expected) >= least


def test_half_precision_keeps_its_inputs_and_outputs(card):
    model = build(card, precision="fp16", outputs="labels")
    types = {tensor.data_type for tensor in model.graph.initializer if tensor.name.startswith("network.")}
    assert types == {onnx.TensorProto.FLOAT16}
    image = cut(96, 128)
    labels = session_of(model).run(None, {"pixels": image[None]})[0]
    expected = expected_scores(card, planes_of(card, image), full=True).argmax(1).astype(np.uint8)
    assert same(labels, expected) >= 0.99
    assert model.ByteSize() < 0.6 * build(card, outputs="labels").ByteSize()


def test_a_graph_says_what_it_is(card):
    model = build(card, size=(64, 80), batch=2, opset=18)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["rt_seg_ros.version"] == model.producer_version == __version__
    assert said["rt_seg_ros.network"] == "cgnet" and said["rt_seg_ros.label_space"] == "camvid11"
    assert said["rt_seg_ros.weights_sha256"] == card.sha256 and said["rt_seg_ros.size"] == "64x80"
    assert said["rt_seg_ros.batch"] == "2" and metadata(card, GraphOptions())["rt_seg_ros.batch"] == "any"
    assert json.loads(said["rt_seg_ros.mean"]) == list(card.mean) and json.loads(said["rt_seg_ros.std"]) == list(
        card.std
    )
    classes = json.loads(said["rt_seg_ros.classes"])
    assert [c["name"] for c in classes] == list(card.load_label_space().names)
    assert "CC BY-NC" in said["rt_seg_ros.licence"]
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]


def test_the_exporter_that_will_remain_writes_the_same(tmp_path):
    """Of a network whose pooling grid divides no map, at a size that the example was not."""
    pytest.importorskip("onnxscript", reason="needs onnxscript (pip install onnxscript)")
    card = lived_in_card("frfnet_slim", tmp_path)
    planes = planes_of(card, cut(101, 67))
    by_tracing, by_export = (
        session_of(build(card, exporter)).run(None, {"image": planes})[0] for exporter in ("tracing", "torch.export")
    )
    assert by_tracing.shape == by_export.shape
    # FFM's masks are steps: rounding may take one or not.
    assert (np.abs(by_tracing - by_export) <= 1e-3 * np.abs(by_tracing).max()).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (56, 64)}, "size is 56x64; each side must be 64 to 8192"),
        ({"size": (64, 9000)}, "each side must be 64 to 8192"),
        ({"batch": 2}, "batch is 2"),
        ({"batch": 0, "size": (64, 64)}, "batch is 0"),
        ({"opset": 9}, "opset is 9; there are 17 to 20"),
        ({"outputs": "masks"}, "outputs is 'masks'; there are: logits, labels"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
    ],
)
def test_what_a_graph_cannot_be_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        GraphOptions(**options).check()


@pytest.mark.parametrize(("rows", "height", "width"), [(8, 12, 15), (4, 12, 15), (2, 34, 60), (8, 3, 100), (2, 12, 3)])
def test_grid_columns_are_rounded_as_ever(rows, height, width):
    from rt_seg_ros.networks.csrnet import columns_beside

    assert columns_beside(rows, height, width) == max(1, round(width / height * rows))
