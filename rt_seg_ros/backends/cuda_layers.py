"""What PyTorch's CUDA kernels take long for in inference, replaced in a network by what computes the same.

In channels_last a convolution, its bias and its ReLU are three kernels, and pooling takes several times as long as in
NCHW. Both are most of the time where a layer itself takes a few microseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.log import get_logger
from rt_seg_ros.networks import SegmentationNetwork
from rt_seg_ros.networks.layers import ConvNormAct, GridMean, SpatialMean
from rt_seg_ros.networks.resnet import BasicBlock

_log = get_logger(__name__)

_TRIAL = (2, 3, 72, 104)  # a shape at which every layer of every network has some map left
#: What replaced layers may add to the mean error of scores: rounding in another order, as a share of what the dtype
#: costs anyway, and of the scores' spread.
_OF_ERROR, _OF_SPREAD = 2.0, 1e-4


def fast_logits(network: SegmentationNetwork, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return what computes a network's logits fastest on the present GPU: of what gives the same, or the plain way.

    :param network: with norms folded, on the device, in float32; is brought to ``dtype`` and channels_last
    :return: (N, 3, H, W) of ``dtype`` -> (N, classes, h, w)
    """
    kernels, of_cgnet = _import("nhwc_kernels"), _import("cgnet_kernels")
    if of_cgnet is not None and of_cgnet.fits(network):
        network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if of_cgnet.works(network, dtype, next(network.parameters()).device):
            logits: Callable[[Tensor], Tensor] = of_cgnet.accelerate(network)
            return logits
        network.float()
    accelerate(network, dtype, kernels)
    return network.logits


def _import(name: str) -> ModuleType | None:
    """Return a module of kernels; None where Triton is not installed, or does not fit this PyTorch or driver."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.import_module(f"rt_seg_ros.backends.{name}")
    except Exception as error:
        _log.info("without the kernels of %s: %s: %s", name, type(error).__name__, error)
        return None


def accelerate(network: SegmentationNetwork, dtype: torch.dtype, kernels: ModuleType | None) -> bool:
    """Bring a network to a dtype and channels_last, and replace its slow layers in place, if scores stay what they are.

    Parameters, their names and the state dict stay as they are.

    :param network: with norms folded, on the device, in float32
    :param kernels: :mod:`rt_seg_ros.backends.nhwc_kernels`, where Triton works
    :return: whether anything was replaced
    """
    x = torch.randn(_TRIAL, generator=torch.Generator().manual_seed(0)).to(next(network.parameters()))
    exact = network.logits(x)
    network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.to(dtype, memory_format=torch.channels_last)

    def error() -> float:
        return float((network.logits(x).float() - exact).abs().mean() / exact.std())

    allowed = _OF_ERROR * error() + _OF_SPREAD
    replaced = list(_replacements(network, kernels))
    for module, forward in replaced:
        module.forward = forward  # type: ignore[method-assign]
    try:
        if x.is_cuda:
            # PyTorch hands cuDNN its uninitialised output as a summand of weight 0. What is computed now lies where
            # NaN was: an engine that reads it is found out.
            for values in (1 << 17, 1 << 20):  # of PyTorch's two pools of memory
                stale = [torch.full((values,), math.nan, dtype=dtype, device=x.device) for _ in range(16)]
                del stale
        found = error()
        trouble = "" if found <= allowed else f"scores are {found:.2g} off, where {allowed:.2g} would do"
    except Exception as reason:  # a compiler that does not fit this PyTorch or driver raises what it likes
        trouble = f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"
    if trouble:
        for module, _ in replaced:
            del module.forward  # type: ignore[method-assign]
        _log.warning("layers are left as PyTorch has them: %s", trouble)
    return bool(replaced) and not trouble


def _replacements(network: nn.Module, kernels: ModuleType | None) -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    for module in network.modules():
        if isinstance(module, ConvNormAct):
            conv = module.conv
            if module.norm is None and isinstance(module.act, nn.ReLU) and conv.bias is not None and conv.groups == 1:
                yield module, _ConvRelu(module.conv)
        elif isinstance(module, BasicBlock):
            yield module, _Block(module)
        elif isinstance(module, nn.AdaptiveMaxPool2d):
            if module.output_size == 1:
                yield module, _largest
        elif kernels is not None:
            if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
                if (module.kernel_size, module.stride, module.padding) == (3, 2, 1):
                    pool = partial(kernels.window_pool, maximum=isinstance(module, nn.MaxPool2d))
                    yield module, _where_in_layout(module, pool, kernels)
            elif isinstance(module, SpatialMean):
                yield module, _where_in_layout(module, kernels.map_mean, kernels)
            elif isinstance(module, nn.AdaptiveAvgPool2d):
                if module.output_size == 1:
                    yield module, _where_in_layout(module, lambda x: kernels.map_mean(x)[:, :, None, None], kernels)
            elif isinstance(module, GridMean):
                yield module, _where_in_layout(module, kernels.cell_means, kernels)


def _largest(x: Tensor) -> Tensor:
    return x.amax((2, 3), keepdim=True)


def _where_in_layout(module: nn.Module, fast: Callable[..., Tensor], kernels: ModuleType) -> Callable[..., Tensor]:
    """Return what computes a layer: ``fast`` for maps in channels_last, and for others what it has now."""
    plain = module.forward

    def forward(x: Tensor, *others: Any) -> Tensor:
        return fast(x, *others) if kernels.in_layout(x) else plain(x, *others)  # type: ignore[no-any-return]

    return forward


class _ConvRelu:
    """Convolution, bias and ReLU in one kernel of cuDNN, where that has one for the layer."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self._conv = conv
        self._fused: Callable[..., Tensor] | None = getattr(torch, "cudnn_convolution_relu", None)

    def __call__(self, x: Tensor) -> Tensor:
        conv = self._conv
        if self._fused is not None:
            try:
                return self._fused(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:  # cuDNN has no such engine
                _log.debug("convolution without a fused ReLU: %s", error)
                self._fused = None
        return F.relu_(conv(x))


class _Block:
    """A basic block whose first convolution comes with its ReLU, and whose biases are added at once."""

    def __init__(self, block: BasicBlock) -> None:
        self._first = _ConvRelu(block.conv1)
        self._second = block.conv2
        self._shortcut = None if block.downsample is None else block.downsample[0]
        bias = block.conv2.bias
        assert bias is not None
        with torch.no_grad():
            if isinstance(self._shortcut, nn.Conv2d) and self._shortcut.bias is not None:
                bias = bias + self._shortcut.bias
            self._bias = bias.view(1, -1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        y = _without_bias(self._second, self._first(x))
        y += x if self._shortcut is None else _without_bias(self._shortcut, x)
        return y.add_(self._bias)


def _without_bias(conv: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
