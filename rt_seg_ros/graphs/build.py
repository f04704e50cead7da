"""A card's network as an ONNX graph: batch norms folded, checked by ONNX's own rules, with metadata inside."""

from __future__ import annotations

import inspect
import io
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rt_seg_ros import __version__
from rt_seg_ros.errors import NoGraph
from rt_seg_ros.graphs.metadata import metadata
from rt_seg_ros.graphs.options import IMAGE, NETWORK_SCOPE, GraphOptions
from rt_seg_ros.graphs.pixels import LOGITS, pixels_to_labels
from rt_seg_ros.graphs.rewrites import rewrite
from rt_seg_ros.log import get_logger
from rt_seg_ros.networks.layers import sizes_vary
from rt_seg_ros.zoo import ModelCard, build_network

if TYPE_CHECKING:
    from onnx import ModelProto

    from rt_seg_ros.networks import SegmentationNetwork

_log = get_logger(__name__)

#: No network's grids and strides divide these evenly, so nothing of the example can pass for a general rule.
_EXAMPLE = (2, 136, 104)
_EXPORTERS = ("tracing", "torch.export")


class _Scores(nn.Module):
    """What a graph computes: float32 (N, 3, H, W), RGB, normalised, to float32 (N, classes, h, w)."""

    def __init__(self, network: SegmentationNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        return self.network.logits(image.to(self.dtype)).float()


def build_graph(card: ModelCard, options: GraphOptions | None = None, exporter: str = "") -> ModelProto:
    """Build the graph of a card's network.

    :param exporter: ``tracing`` or ``torch.export``, PyTorch's two; by default the first that works. The former takes
        a second rather than half a minute; PyTorch has announced its end.
    :raises UserError: weights that cannot be loaded
    :raises NoGraph: a network that neither exporter can write
    """
    import onnx

    options = options or GraphOptions()
    options.check()
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    module = _Scores(build_network(card).fuse(), dtype).eval()
    failures: list[str] = []
    for name in (exporter,) if exporter else _EXPORTERS:
        try:
            model = _export(module, options, name)
        except Exception as error:  # an exporter raises whatever it meets
            first_line = (str(error).splitlines() or [""])[0]
            failures.append(f"{name}: {type(error).__name__}: {first_line}")
            _log.debug("export by %s failed", name, exc_info=True)
        else:
            break
    else:
        raise NoGraph(
            f"PyTorch {torch.__version__} cannot write network '{card.network}' as ONNX ({'; '.join(failures)}); "
            "this package is tested with the version in requirements/base.txt"
        )
    for node in model.graph.node:
        node.name = f"{NETWORK_SCOPE}{node.name.removeprefix('/')}"
    rewrite(model)
    if options.outputs == "labels":
        batch = None if options.size is None else options.batch
        model = pixels_to_labels(model, card.mean, card.std, size=options.size, batch=batch)
    model.producer_name, model.producer_version = "rt_seg_ros", __version__
    onnx.helper.set_model_props(model, metadata(card, options))
    onnx.checker.check_model(model, full_check=True)
    return model


def _export(module: nn.Module, options: GraphOptions, exporter: str) -> ModelProto:
    import onnx

    count, height, width = (options.batch, *options.size) if options.size else _EXAMPLE
    example = torch.zeros(count, 3, height, width)
    sides = {2: "height", 3: "width"}
    vary = options.size is None
    chosen: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.no_grad(), sizes_vary() if vary else nullcontext():
        warnings.simplefilter("ignore")  # they speak of the exporters themselves
        if exporter == "tracing":
            axes = {IMAGE: {0: "batch", **sides}, LOGITS: {0: "batch", 2: "rows", 3: "columns"}}
            buffer = io.BytesIO()
            torch.onnx.export(
                module,
                (example,),
                buffer,  # type: ignore[arg-type]
                opset_version=options.opset,
                input_names=[IMAGE],
                output_names=[LOGITS],
                dynamic_axes=axes if vary else None,
                **chosen,
            )
            return onnx.load_from_string(buffer.getvalue())
        free = torch.export.Dim.DYNAMIC
        program = torch.onnx.export(
            module,
            (example,),
            opset_version=max(options.opset, 18),
            input_names=[IMAGE],
            output_names=[LOGITS],
            dynamic_shapes=({0: free, **dict.fromkeys(sides, free)},) if vary else None,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model: ModelProto = program.model_proto
        return model
