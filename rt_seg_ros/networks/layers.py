"""Layers that several networks share.

A layer that holds a batch norm after a convolution has a method ``fold_norms``, which folds the one into the
other for inference, in place; :meth:`rt_seg_ros.networks.base.SegmentationNetwork.fuse` calls them all. FRFNet's head
turns its average over channels into a convolution there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from rt_seg_ros.errors import UserError


def make_activation(name: str | None, channels: int) -> nn.Module | None:
    """Make an activation by name: ``relu``, ``prelu`` (one slope per channel), or None."""
    if name is None:
        return None
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "prelu":
        return nn.PReLU(channels)
    raise UserError(f"no activation '{name}'; there are: prelu, relu")


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation; "same" padding, so that stride 2 gives ceil(size / 2).

    :param norm: without it the convolution has a bias
    :param act: ``relu``, ``prelu`` or None
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: str | None = "relu",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=not norm,
        )
        self.norm: nn.Module | None = nn.BatchNorm2d(out_channels, eps, momentum) if norm else None
        self.act = make_activation(act, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return x

    def fold_norms(self) -> None:
        """Fold the norm's running statistics into the convolution."""
        if self.norm is not None:
            self.conv = fold_norm(self.conv, self.norm)
            self.norm = None


class PooledConvNormAct(ConvNormAct):
    """1x1 convolution, batch norm and activation on a map that was pooled to one cell.

    In training, batch norm needs more than one value per channel, which here means more than one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, 1, 1) -> (N, out, 1, 1).

        :raises UserError: training with one image per batch on this device
        """
        # SyncBatchNorm, another class, counts the images of all devices and judges for itself.
        if isinstance(self.norm, nn.BatchNorm2d) and self.norm.training and x.shape[0] == 1:
            raise UserError(
                "this network normalises globally pooled features over the batch, so training needs at least "
                "2 images per batch on each device, also in the last batch; batch size is 1. Use a larger "
                "batch, drop the last incomplete one, or synchronise batch norm between devices"
            )
        return super().forward(x)


class NormAct(nn.Module):
    """Batch norm and activation, after something that norms cannot be folded into (a concatenation)."""

    def __init__(self, channels: int, act: str | None = "relu", eps: float = 1e-5) -> None:
        super().__init__()
        self.norm: nn.Module | None = nn.BatchNorm2d(channels, eps)
        self.act = make_activation(act, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return x


def fold_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """Fold a batch norm into the convolution before it; both must be in eval mode."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm)
    return fuse_conv_bn_eval(conv, norm)


def fold_split_norm(convs: list[nn.Conv2d], norm: nn.Module) -> None:
    """Fold a batch norm over the concatenated outputs of several convolutions into them, in place.

    The norm is then superfluous.
    """
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    begin = 0
    for conv in convs:
        part = slice(begin, begin + conv.out_channels)
        begin += conv.out_channels
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean[part], norm.running_var[part], norm.eps,
            norm.weight[part], norm.bias[part],
        )  # fmt: skip


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize maps bilinearly, half-pixel centres, to ``size`` = (height, width).

    Always to a size and never by a factor: at most input sizes the map at 1/32 is not an exact 32nd.
    """
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


_SIZES_VARY: ContextVar[bool] = ContextVar("sizes_vary", default=False)


@contextmanager
def sizes_vary() -> Iterator[None]:
    """Within this, what is traced or exported takes images of any size, not only of the example's."""
    before = _SIZES_VARY.set(True)
    try:
        yield
    finally:
        _SIZES_VARY.reset(before)


def map_size(x: Tensor) -> tuple[int, int]:
    """Height and width as plain numbers; within :func:`sizes_vary` as whatever the exporter follows."""
    height, width = x.shape[-2:]
    return (height, width) if _SIZES_VARY.get() else (int(height), int(width))


def _exporting() -> bool:
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # is_exporting: PyTorch 2.7
    return bool(torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or is_exporting())


def spatial_mean(x: Tensor) -> Tensor:
    """Average (N, C, H, W) over its cells: (N, C)."""
    if not x.requires_grad or _exporting():
        return x.mean((2, 3))
    mean: Tensor = _SpatialMean.apply(x)
    return mean


class SpatialMean(nn.Module):
    """:func:`spatial_mean` as a layer, which a runtime may replace."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return spatial_mean(x)


class _SpatialMean(torch.autograd.Function):
    """The mean, with a gradient that adds to others fast.

    PyTorch writes that of a mean out in NCHW; adding it to one in channels_last takes six times as long as it need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        return (gradients[0] / (height * width))[:, :, None, None].expand(ctx.shape)


def adaptive_avg_pool(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average (N, C, H, W) over a grid of (rows, columns) cells, as ``F.adaptive_avg_pool2d`` does.

    While exporting, a grid that does not divide the map becomes two products with matrices,
    ``Ph @ x @ Pw^T``: ONNX has no operator for overlapping cells of uneven size.
    """
    if not _exporting():
        return F.adaptive_avg_pool2d(x, grid)
    if not _SIZES_VARY.get():
        height, width = map_size(x)
        if height % grid[0] == 0 and width % grid[1] == 0:
            return F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return pool_by_matrices(x, grid)


class GridMean(nn.Module):
    """:func:`adaptive_avg_pool` as a layer, which a runtime may replace."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, C, H, W) -> (N, C, rows, columns)."""
        return adaptive_avg_pool(x, grid)


def pool_by_matrices(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """:func:`adaptive_avg_pool` as two matrix products."""
    height, width = map_size(x)
    return _pooling_matrix(height, grid[0], x) @ x @ _pooling_matrix(width, grid[1], x).t()


def _pooling_matrix(length: int, cells: int, like: Tensor) -> Tensor:
    """Rows that average the cells floor(i * length / cells) to ceil((i + 1) * length / cells): (cells, length)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    at = torch.arange(length, device=like.device)[None, :]
    # Multiplied out: what has no division is the same in every exporter.
    inside = (cell * length < (at + 1) * cells) & ((cell + 1) * length > at * cells)
    rows = inside.to(like.dtype)
    return rows / rows.sum(1, keepdim=True)


def initialise_convolutions(
    net: nn.Module,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: Literal["relu", "leaky_relu"] = "leaky_relu",
) -> None:
    """Kaiming-normal weights and zero biases for every convolution (He et al., ICCV 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity=nonlinearity)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
