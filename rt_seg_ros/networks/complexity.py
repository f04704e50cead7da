"""How large and how costly a network is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rt_seg_ros.networks.base import SegmentationNetwork

_POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def count_parameters(net: nn.Module) -> int:
    """Count the trainable values."""
    return sum(p.numel() for p in net.parameters())


def count_macs(net: SegmentationNetwork, height: int, width: int) -> int:
    """Count the multiply-adds of one image's way to low-resolution logits: convolutions and linear layers.

    Norms, activations, pooling (also where it is written as a product of matrices) and resizing are not counted;
    neither are auxiliary heads. Only shapes are computed, so that large sizes cost nothing.
    """
    return _count(net, height, width, _macs)


def count_flops_mmcv(net: SegmentationNetwork, height: int, width: int) -> int:
    """Count operations as mmcv does, which the figures of Cross-CBAM's tables come from.

    A multiply-add counts one; biases, ReLU and pooling count one per value; batch norms are taken as folded.
    """
    return _count(net, height, width, _flops_mmcv)


@dataclass(frozen=True)
class LayerCost:
    """What one convolution or linear layer cannot do without.

    ``macs``: multiply-adds of one image; ``activations``: values of one image that it reads and writes; ``weights``:
    values of its own.
    """

    macs: int
    activations: int
    weights: int


def layer_costs(net: SegmentationNetwork, height: int, width: int) -> list[LayerCost]:
    """Return the cost of each convolution and linear layer on one image's way, in the order in which they are run.

    What lies between them is taken to be fused into them, so these are lower bounds.
    """
    costs: list[LayerCost] = []

    def note(module: nn.Module, x: Tensor, y: Tensor) -> int:
        macs = _macs(module, x, y)
        if macs:
            costs.append(LayerCost(macs, x.numel() + y.numel(), sum(p.numel() for p in module.parameters())))
        return macs

    _count(net, height, width, note)
    return costs


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return y.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    return 0


def _flops_mmcv(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return _macs(module, x, y) + (y.numel() if module.bias is not None else 0)
    if isinstance(module, nn.ReLU):
        return y.numel()
    if isinstance(module, _POOLS):
        return x.numel()
    return 0


def _count(net: SegmentationNetwork, height: int, width: int, cost: Callable[[nn.Module, Tensor, Tensor], int]) -> int:
    shapes_only = copy.deepcopy(net).to("meta").eval()
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        total += cost(module, inputs[0], output)

    for module in shapes_only.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    with torch.inference_mode():
        shapes_only.logits(torch.empty(1, 3, height, width, device="meta"))
    return total
