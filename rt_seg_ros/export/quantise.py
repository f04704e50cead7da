"""int8 by post-training quantisation: scales from a few dozen frames, no training.

Only the network's own nodes are quantised; normalisation, resizing of the scores and arg max stay as they are. On a CPU
its first and last convolution do too.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rt_seg_ros.backends.telemetry import without_telemetry
from rt_seg_ros.errors import UserError
from rt_seg_ros.export.runners import Prepare, with_openvino
from rt_seg_ros.export.samples import Samples
from rt_seg_ros.graphs.options import NETWORK_SCOPE

#: Frames on which ways to quantise are compared.
_COMPARED = 8


class _Inputs(Iterable[NDArray[Any]]):
    """The frames to calibrate on as inputs, as often as they are asked for.

    :raises UserError: when iterated, not one frame
    """

    def __init__(self, samples: Samples, prepare: Prepare) -> None:
        self._samples, self._prepare = samples, prepare

    def __iter__(self) -> Iterator[NDArray[Any]]:
        none = True
        for image in self._samples.calibration():
            none = False
            yield self._prepare(image)
        if none:
            raise UserError(f"{self._samples.name}: not one frame to calibrate on")


def import_nncf() -> Any:
    """Return the module ``nncf``.

    :raises UserError: not installed
    """
    try:
        with without_telemetry():
            import nncf
    except ImportError as error:
        raise UserError("int8 for OpenVINO takes NNCF, which is not installed: pip install nncf") from error
    return nncf


def quantise_openvino(model: Any, samples: Samples, prepare: Prepare) -> Any:
    """Quantise an ``openvino.Model`` with NNCF.

    Which operations bear int8 depends on the network: FRFNet, CSRNet and Cross-CBAM only keep their labels where
    nothing but convolutions is quantised, CGNet only where all is that can be. So both are made, and the one is taken
    that agrees better with the model as it was, on frames that it was calibrated on.

    :param prepare: from an image to the model's input
    :raises UserError: NNCF is not installed, or there is not one frame
    """
    nncf = import_nncf()
    nncf.set_log_level(logging.ERROR)
    ops = [(op.friendly_name, op.get_type_name()) for op in model.get_ordered_ops()]
    inside = [(name, kind) for name, kind in ops if name.startswith(NETWORK_SCOPE)]
    always = [name for name, _ in ops if not name.startswith(NETWORK_SCOPE)]
    always += _ends([name for name, kind in inside if kind.endswith("Convolution")])
    others = [name for name, kind in inside if not kind.endswith("Convolution")]
    made = []
    for outside in (always, always + others):
        with contextlib.redirect_stdout(sys.stderr):  # its progress bars
            made.append(
                nncf.quantize(
                    model,
                    nncf.Dataset(_Inputs(samples, prepare)),
                    preset=nncf.QuantizationPreset.MIXED,  # activations of both signs (PReLU) take asymmetric scales
                    subset_size=max(1, samples.calibration_count),
                    ignored_scope=nncf.IgnoredScope(names=outside, validate=False),
                    # By default only the first layer's weights keep clear of the overflow that CPUs without VNNI have.
                    advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
                )
            )
    inputs = list(itertools.islice(_Inputs(samples, prepare), _COMPARED))
    expected = _best(model, inputs)
    return max(made, key=lambda one: sum((a == b).mean() for a, b in zip(_best(one, inputs), expected, strict=True)))


def _best(model: Any, inputs: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return each input's labels, or where the model gives logits their best classes."""
    compute = with_openvino(model)
    results = [compute(batch).copy() for batch in inputs]
    return [result.argmax(axis=1) if result.dtype.kind == "f" else result for result in results]


def quantise_onnx(graph: bytes, samples: Samples, prepare: Prepare, *, for_tensorrt: bool = False) -> bytes:
    """Quantise ONNX with ONNX Runtime: QuantizeLinear and DequantizeLinear around what is quantised.

    :param prepare: from an image to the graph's input
    :param for_tensorrt: symmetric scales and biases left alone, as TensorRT demands; by default as is fastest in ONNX
        Runtime on a CPU
    :raises UserError: ONNX Runtime is not installed, or there is not one frame
    """
    try:
        import onnx

        with without_telemetry():
            from onnxruntime import quantization
            from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UserError(f"int8 for ONNX takes '{error.name}', which is not installed: pip install it") from error
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantiser logs its advice there
    try:
        with tempfile.TemporaryDirectory(prefix="rt_seg_int8_") as folder:
            plain, ready, out = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
            plain.write_bytes(graph)
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            model = onnx.load(ready)
            name = model.graph.input[0].name
            types = quantization.QuantType
            outside = [node.name for node in model.graph.node if not node.name.startswith(NETWORK_SCOPE)]
            if for_tensorrt:  # which takes no quantised constant in a sum, as the one of FRFNet's FFM
                scalars = {tensor.name for tensor in model.graph.initializer if not tensor.dims}
                outside += [n.name for n in model.graph.node if n.op_type in ("Add", "Mul") and scalars & set(n.input)]
            else:
                ours = [node for node in model.graph.node if node.name.startswith(NETWORK_SCOPE)]
                outside += _ends([node.name for node in ours if node.op_type == "Conv"])
            quantization.quantize_static(
                ready,
                out,
                _reader(quantization.CalibrationDataReader, name, _Inputs(samples, prepare)),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=types.QInt8 if for_tensorrt else types.QUInt8,
                weight_type=types.QInt8,
                # On x86 without VNNI two products of uint8 and int8 overflow 16 bits; weights of 7 bits do not.
                reduce_range=not for_tensorrt,
                nodes_to_exclude=outside,
                extra_options=(
                    {"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True}
                    if for_tensorrt
                    else {}
                ),
            )
            return out.read_bytes()
    finally:
        root.setLevel(level)


def _ends(convolutions: list[str]) -> list[str]:
    """Return the first convolution and the last: the image and the scores bear coarse steps worst, and cost little."""
    return [*dict.fromkeys((convolutions[0], convolutions[-1]))] if convolutions else []


def _reader(base: type, name: str, inputs: _Inputs) -> Any:
    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._inputs, None)
            return None if batch is None else {name: batch}

    return Reader()
