"""What a graph is built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rt_seg_ros.errors import UserError
from rt_seg_ros.working_size import MAX_SIDE, MIN_SIDE

Outputs = Literal["logits", "labels"]
GraphPrecision = Literal["fp32", "fp16"]

OUTPUTS: tuple[Outputs, ...] = ("logits", "labels")
GRAPH_PRECISIONS: tuple[GraphPrecision, ...] = ("fp32", "fp16")
#: Operator sets that the exporters of PyTorch write and the runtimes here read.
OPSETS = range(17, 21)
#: Name of normalised planes that go in.
IMAGE = "image"
#: What the names of a network's own nodes begin with; normalisation and arg max lie outside.
NETWORK_SCOPE = "/network/"


@dataclass(frozen=True)
class GraphOptions:
    """The form of a graph.

    :param size: (height, width) of the images; None: any, and any number of them
    :param batch: number of images, where ``size`` is given
    :param outputs: ``logits``: float32 (N, 3, H, W), RGB, normalised, to float32 (N, classes, h, w) at the network's
        own resolution. ``labels``: uint8 (N, H, W, 3), BGR, to uint8 (N, H, W): normalisation, the resizing of the
        scores and the arg max lie in the graph.
    :param precision: of the network's weights and arithmetic; inputs and outputs keep their types
    :param opset: version of ONNX's operators
    """

    size: tuple[int, int] | None = None
    batch: int = 1
    outputs: Outputs = "logits"
    precision: GraphPrecision = "fp32"
    opset: int = 17

    def check(self) -> None:
        """Check the values.

        :raises UserError: naming the one that cannot be had
        """
        if self.outputs not in OUTPUTS:
            raise UserError(f"outputs is '{self.outputs}'; there are: {', '.join(OUTPUTS)}")
        if self.precision not in GRAPH_PRECISIONS:
            raise UserError(f"a graph's precision is '{self.precision}'; there are: {', '.join(GRAPH_PRECISIONS)}")
        if self.opset not in OPSETS:
            raise UserError(f"opset is {self.opset}; there are {OPSETS[0]} to {OPSETS[-1]}")
        if self.size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in self.size):
            size = f"{self.size[0]}x{self.size[1]}"
            raise UserError(f"size is {size}; each side must be {MIN_SIDE} to {MAX_SIDE} pixels")
        if self.batch < 1 or (self.batch > 1 and self.size is None):
            raise UserError(f"batch is {self.batch}; use 1 or more with a fixed size, and 1 with sizes that vary")
