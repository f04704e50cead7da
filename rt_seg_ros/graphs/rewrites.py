"""The same graph in the form that runtimes compute fastest.

PyTorch's exporters write what the network says, operator by operator. Some operators have a twin that computes the
same and lets a runtime keep its maps in one memory layout. OpenVINO on a CPU gains by it, most with CGNet
(docs/performance.md); ONNX Runtime neither gains nor loses.

Left out: PReLU before a concatenation rather than after it, where OpenVINO joins it with the convolutions. It would
save a little more, but in fp16 OpenVINO 2026.4 then computes dilated channel-wise convolutions wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Fewer channels than this do not fill a vector register, and pooling them channel by channel stands in the way.
_FEW_CHANNELS = 8
#: What the names of averages begin with that became convolutions; they are no part of what int8 is for.
_SHRINK_SCOPE = "/shrink/"


def rewrite(model: ModelProto) -> None:
    """Rewrite a graph in place; its results stay the same but for the last bits.

    - PReLU's slopes get the rank of what they apply to: with fewer dimensions OpenVINO changes the memory layout before
      each PReLU and back after it.
    - Averages over an image of few channels become channel-wise convolutions, whose layout is that of the convolutions
      beside them.
    """
    graph = _Graph(model)
    for node in list(model.graph.node):
        if node.op_type == "PRelu":
            graph.give_slopes_full_rank(node)
        elif node.op_type == "AveragePool":
            graph.average_by_convolution(node)
    graph.drop_unused_constants()


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper, shape_inference

        self._graph = model.graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        known = shape_inference.infer_shapes(model).graph
        self._types = {value.name: value.type.tensor_type for value in [*known.value_info, *known.input]}

    def give_slopes_full_rank(self, node: NodeProto) -> None:
        """(C, 1, 1) to (1, C, 1, 1); where slopes are shared, for all that share them."""
        slopes = self._constants.get(node.input[1])
        rank = len(self._types[node.input[0]].shape.dim) if node.input[0] in self._types else 0
        if slopes is not None and slopes.ndim < rank:
            full = slopes.reshape((1,) * (rank - slopes.ndim) + slopes.shape)
            node.input[1] = self._constant(f"{node.input[1]}.full_rank", full)

    def average_by_convolution(self, node: NodeProto) -> None:
        """Make of an average over a fixed window, its border counted as zeros, a channel-wise convolution."""
        from onnx import helper

        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        tensor = self._types.get(node.input[0])
        channels = tensor.shape.dim[1].dim_value if tensor is not None and len(tensor.shape.dim) == 4 else 0
        padded = any(values.get("pads", [])) and not values.get("count_include_pad", 0)
        automatic = values.get("auto_pad", b"NOTSET") != b"NOTSET" or values.get("ceil_mode", 0)
        if not 0 < channels < _FEW_CHANNELS or padded or automatic or any(d != 1 for d in values.get("dilations", [])):
            return
        assert tensor is not None
        kernel = list(values["kernel_shape"])
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        weights = np.full((channels, 1, *kernel), 1 / np.prod(kernel), dtype)
        form = {key: values[key] for key in ("strides", "pads") if key in values}
        name = f"{_SHRINK_SCOPE}{node.output[0].strip('/')}"
        inputs = [node.input[0], self._constant(f"{name}.weight", weights)]
        conv = helper.make_node("Conv", inputs, node.output, name=name, kernel_shape=kernel, group=channels, **form)
        node.CopyFrom(conv)

    def drop_unused_constants(self) -> None:
        """Remove the constants that nothing reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in read]:
            self._graph.initializer.remove(tensor)

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants[name] = np.ascontiguousarray(value)
            self._graph.initializer.append(numpy_helper.from_array(self._constants[name], name))
        return name
