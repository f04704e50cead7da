"""Running an exported model as its user will, to see what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends.telemetry import without_telemetry
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import LabelUpsampler, Normaliser, resize_labels, resize_pixels
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

#: What a model is given, to what it returns, both with the batch in front.
Compute = Callable[[NDArray[Any]], NDArray[Any]]
#: From an image, uint8 (H, W, 3) BGR, to what the model is given.
Prepare = Callable[[NDArray[np.uint8]], NDArray[Any]]
#: From an image, uint8 (H, W, 3) BGR, to its labels, uint8.
Labeller = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class Runner:
    """From images to labels through an exported model.

    :param compute: the model itself
    """

    def __init__(self, compute: Compute, card: ModelCard, options: GraphOptions) -> None:
        self._compute = compute
        self._options = options
        self._prepare = Preparer(card, options)
        self._upsample = LabelUpsampler()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return labels, uint8 (H, W), for an image of the model's size, uint8 (H, W, 3) BGR."""
        result = self._compute(self._prepare(image))[0]
        if self._options.outputs == "labels":
            return np.asarray(result, np.uint8)
        logits = np.ascontiguousarray(result, np.float32)
        return self._upsample(logits, (image.shape[0], image.shape[1]))[0]


class Preparer:
    """From an image to what a model of this form is given."""

    def __init__(self, card: ModelCard, options: GraphOptions) -> None:
        self._options = options
        self._normaliser = Normaliser(card.mean, card.std)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the input: the image as often as the model's batch has places for it."""
        if self._options.outputs == "labels":
            return np.repeat(image[None], self._options.batch, 0)
        planes = np.empty((self._options.batch, 3, *image.shape[:2]), np.float32)
        for i in range(self._options.batch):
            self._normaliser.write(Frame(image), planes[i])
        return planes


def size_for(image: NDArray[np.uint8], card: ModelCard, size: Size | None) -> Size:
    """Return the (height, width) at which a model sees an image: ``size``, or where it takes any, as the pipeline's."""
    return size or card.working_size((image.shape[0], image.shape[1]))


def fit(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return an image, or labels, at another size; labels keep their ids."""
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    return resize_pixels(image, size) if image.ndim == 3 else resize_labels(image, size)


def preparing(card: ModelCard, options: GraphOptions, size: Size | None) -> Prepare:
    """Return the way from an image of any size to what a model of this form is given.

    :param size: as :func:`size_for` takes it
    """
    prepare = Preparer(card, options)
    return lambda image: prepare(fit(image, size_for(image, card, size)))


def with_onnxruntime(graph: bytes) -> Compute:
    """Load ONNX into ONNX Runtime.

    :raises UserError: not installed, or a graph that it does not take
    """
    try:
        with without_telemetry():
            import onnxruntime
    except ImportError as error:
        raise UserError("ONNX is checked by ONNX Runtime, which is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise UserError(f"ONNX Runtime does not take the graph: {error}") from error
    name = session.get_inputs()[0].name

    def compute(batch: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = session.run(None, {name: batch})[0]
        return result

    return compute


def import_openvino() -> Any:
    """Return the module ``openvino``.

    :raises UserError: not installed
    """
    try:
        with without_telemetry():
            import openvino
    except ImportError as error:
        raise UserError("OpenVINO is not installed: pip install openvino") from error
    return openvino


def with_openvino(model: Any) -> Compute:
    """Compile an ``openvino.Model`` for the CPU, in float32 where it is not quantised."""
    openvino = import_openvino()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def compute(batch: NDArray[Any]) -> NDArray[Any]:
        request.infer([openvino.Tensor(np.ascontiguousarray(batch))])
        result: NDArray[Any] = request.get_output_tensor().data
        return result

    return compute
