"""A graph of normalised planes to logits, made into one of pixels to labels, for runtimes on a GPU.

Only bytes cross the bus then: uint8 frames in, uint8 labels out, and everything between lies in the graph. It is made
of a finished graph (also a quantised one), without PyTorch. Kept to what TensorRT takes: the first operator casts the
bytes, and bytes are only ever cast to and from floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_seg_ros.working_size import Size

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

#: Names of what goes in and comes out.
PIXELS, LABELS, CONFIDENCE, LOGITS = "pixels", "labels", "confidence", "logits"
_PREFIX = "pixels/"  # of everything that is added

#: Name to element type and shape, but for the batch.
_Outputs = dict[str, "tuple[int, list[int | str | None]]"]


def pixels_to_labels(
    model: ModelProto,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    size: Size | None = None,
    batch: int | None = 1,
    label_size: Size | None = None,
    confidence: bool = False,
) -> ModelProto:
    """Return the graph with ``pixels``, uint8 (N, H, W, 3), BGR, in; ``labels``, uint8 (N, H', W'), out.

    :param model: float32 (N, 3, H, W), RGB, (value - mean) / std, to float32 (N, classes, h, w); left as it is
    :param mean: RGB, 0..255
    :param std: RGB, 0..255
    :param size: (height, width) of the pixels; None: any, where the graph takes any
    :param batch: N; None: any, where the graph takes any
    :param label_size: (height, width) of the labels; None: that of the pixels
    :param confidence: also give ``confidence``, uint8 (N, H', W'): the label's soft max in 1/255
    """
    from onnx import TensorProto

    form = _Form(model)
    form.normalise(mean, std)
    if label_size is None:
        form.node("Shape", [PIXELS], "pixels_shape")
        extent = form.node("Slice", ["pixels_shape", form.constant([1]), form.constant([3])], "label_size")
    else:
        extent = form.constant(label_size)
    form.node("Shape", [form.logits], "logits_shape")
    form.node("Slice", ["logits_shape", form.constant([0]), form.constant([2])], "batch_and_classes")
    form.node("Concat", ["batch_and_classes", extent], "full_shape", axis=0)
    form.node(
        "Resize",
        [form.logits, "", "", "full_shape"],
        "full",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    form.node("ArgMax", ["full"], "index", axis=1, keepdims=0)
    form.node("Cast", ["index"], "label", to=TensorProto.FLOAT)
    form.node("Cast", ["label"], LABELS, to=TensorProto.UINT8)
    if confidence:
        # The soft max's largest value is one over the sum of exponents below the largest score.
        axis = form.constant([1])
        if form.opset < 18:
            form.node("ReduceMax", ["full"], "best", axes=[1], keepdims=1)
        else:
            form.node("ReduceMax", ["full", axis], "best", keepdims=1)
        form.node("Sub", ["full", "best"], "below")
        form.node("Exp", ["below"], "exponents")
        form.node("ReduceSum", ["exponents", axis], "total", keepdims=0)
        form.node("Div", [form.constant(255.0), "total"], "share")
        form.node("Add", ["share", form.constant(0.5)], "rounded")  # the cast cuts off
        form.node("Cast", ["rounded"], CONFIDENCE, to=TensorProto.UINT8)
    sides = label_size or size or ("height", "width")
    outputs: _Outputs = dict.fromkeys((LABELS, CONFIDENCE)[: 2 if confidence else 1], (TensorProto.UINT8, [*sides]))
    return form.finish(size, batch, outputs)


def pixels_to_logits(
    model: ModelProto,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch: int | None = 1,
) -> ModelProto:
    """Return the graph with ``pixels`` of any size in, as in :func:`pixels_to_labels`; ``logits`` out.

    These are float32 (N, classes, h, w). For runtimes that take images and give labels of any size: the rest is done
    by whoever knows the label's size.
    """
    from onnx import TensorProto

    form = _Form(model)
    form.normalise(mean, std)
    form.node("Identity", [form.logits], LOGITS)
    return form.finish(None, batch, {LOGITS: (TensorProto.FLOAT, [None, "rows", "columns"])})


class _Form:
    """A copy of a graph, with nodes added before and after those it has."""

    def __init__(self, model: ModelProto) -> None:
        self._model = _copy(model)
        graph = self._model.graph
        (planes,), (logits,) = graph.input, graph.output
        self._planes, self.logits = _ceded(planes.name), _ceded(logits.name)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [_ceded(name) for name in names]
        self._before: list[Any] = []
        self._after: list[Any] = []
        self._names: set[str] = set()
        self.opset = next(entry.version for entry in self._model.opset_import if entry.domain in ("", "ai.onnx"))

    def constant(self, value: Any) -> str:
        """Add a constant, of int64 or float32 as its value is, and return its name."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"{_PREFIX}constant_{len(self._model.graph.initializer)}"
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, *, first: bool = False, **attributes: Any) -> str:
        """Add a node and return the name of its output; names given here before mean what was added under them."""
        from onnx import helper

        sources = [f"{_PREFIX}{name}" if name in self._names else name for name in inputs]
        final = output in (LABELS, CONFIDENCE, LOGITS, self._planes)
        if not final:
            self._names.add(output)
        target = output if final else f"{_PREFIX}{output}"
        made = helper.make_node(kind, sources, [target], name=f"{_PREFIX}{output}", **attributes)
        (self._before if first else self._after).append(made)
        return output

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Add what makes planes of pixels."""
        from onnx import TensorProto

        self.node("Cast", [PIXELS], "float", first=True, to=TensorProto.FLOAT)
        self.node("Transpose", ["float"], "bgr", first=True, perm=[0, 3, 1, 2])
        self.node("Gather", ["bgr", self.constant([2, 1, 0])], "rgb", first=True, axis=1)
        means, deviations = (self.constant(np.reshape(np.asarray(v, float), (1, 3, 1, 1))) for v in (mean, std))
        self.node("Sub", ["rgb", means], "centred", first=True)
        self.node("Div", ["centred", deviations], self._planes, first=True)

    def finish(self, size: Size | None, batch: int | None, outputs: _Outputs) -> ModelProto:
        """Put everything together."""
        import onnx
        from onnx import TensorProto, helper

        graph = self._model.graph
        nodes = [*self._before, *graph.node, *self._after]
        del graph.node[:], graph.input[:], graph.output[:]
        del graph.value_info[:]  # they may name sizes that are fixed now
        graph.node.extend(nodes)
        count: int | str = "batch" if batch is None else batch
        sides = size or ("height", "width")
        graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [count, *sides, 3]))
        for name, (kind, shape) in outputs.items():
            graph.output.append(helper.make_tensor_value_info(name, kind, [count, *shape]))
        onnx.checker.check_model(self._model)
        return self._model


def _ceded(name: str) -> str:
    """Return another name for what is called as our inputs and outputs are."""
    return f"network/{name}" if name in (PIXELS, LABELS, CONFIDENCE, LOGITS) else name


def to_bfloat16(model: ModelProto) -> ModelProto:
    """Return an fp16 graph with bfloat16 in place of every float16.

    ONNX knows convolutions of bfloat16 only from operator set 22 on, TensorRT in any: for TensorRT alone.
    """
    model = _copy(model)
    _walk_to_bfloat16(model.graph)
    return model


def _walk_to_bfloat16(graph: GraphProto) -> None:
    from onnx import AttributeProto, TensorProto

    for tensor in graph.initializer:
        _convert_to_bfloat16(tensor)
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _convert_to_bfloat16(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _walk_to_bfloat16(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16


def _convert_to_bfloat16(tensor: TensorProto) -> None:
    """Keep the upper half of the values' float32 bits, rounded to even."""
    from onnx import TensorProto, helper, numpy_helper

    if tensor.data_type != TensorProto.FLOAT16:
        return
    values = numpy_helper.to_array(tensor).astype(np.float32)
    bits = values.view(np.uint32)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    name = tensor.name
    tensor.CopyFrom(helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, halves.tobytes(), raw=True))


def _copy(model: ModelProto) -> ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy
