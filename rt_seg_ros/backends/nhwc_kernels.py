"""Pooling on a GPU for maps in channels_last, by Triton: in that layout PyTorch's kernels take several times as long.

Each computes what the PyTorch operation named beside it computes, summed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rt_seg_ros.working_size import Size

_BLOCK = 512
_COLUMNS = 32
_CHANNELS = 128


# Of what is the same for all sizes alone, kernels of their own are compiled where it is a multiple of 16.
@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "blocks"])
def _window_kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    height,
    width,
    channels,
    out_height,
    out_width,
    blocks,
    MAXIMUM: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    out_y = tl.program_id(0) // blocks  # in a dimension of its own, CUDA would allow 65535
    image = tl.program_id(1).to(tl.int64)
    inside = at < out_width * channels
    left = 2 * (at // channels) - 1
    channel = at % channels
    total = tl.full((BLOCK,), float("-inf") if MAXIMUM else 0.0, tl.float32)
    for dy in tl.static_range(3):
        y = 2 * out_y - 1 + dy
        row = source + (image * height + y) * width * channels + channel
        for dx in tl.static_range(3):
            x = left + dx
            there = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            value = tl.load(row + x * channels, mask=there, other=float("-inf") if MAXIMUM else 0.0).to(tl.float32)
            if MAXIMUM:
                total = tl.maximum(total, value, propagate_nan=tl.PropagateNan.ALL)
            else:
                total += value
    if not MAXIMUM:
        total = total / 9.0
    to = target + (image * out_height + out_y) * out_width * channels + at
    tl.store(to, total.to(target.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["height", "width"])
def _cells_kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    height,
    width,
    channels,
    rows,
    columns,
    COLUMNS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0) // columns
    column = tl.program_id(0) % columns
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    top = row * height // rows
    bottom = ((row + 1) * height + rows - 1) // rows
    left = column * width // columns
    right = ((column + 1) * width + columns - 1) // columns
    across = tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for y in range(top, bottom):
        line = source + (image * height + y) * width * channels
        for begin in range(left, right, COLUMNS):
            x = begin + across
            there = (x < right)[:, None] & (channel < channels)[None, :]
            total += tl.load(line + x[:, None] * channels + channel[None, :], mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / ((bottom - top) * (right - left))
    to = target + (image * rows * columns + tl.program_id(0)) * channels + channel
    tl.store(to, mean.to(target.dtype.element_ty), mask=channel < channels)


def in_layout(x: Tensor) -> bool:
    """Tell whether a map is what these kernels take: channels_last."""
    return x.dim() == 4 and x.numel() > 0 and x.is_contiguous(memory_format=torch.channels_last)


def window_pool(x: Tensor, maximum: bool) -> Tensor:
    """Pool windows of 3x3, stride 2, padding 1: ``F.max_pool2d`` or, padding counted, ``F.avg_pool2d``.

    :param x: (N, C, H, W) in channels_last
    :return: (N, C, ceil(H / 2), ceil(W / 2)) in channels_last, of the same dtype
    """
    n, channels, height, width = x.shape
    out_height, out_width = (height + 1) // 2, (width + 1) // 2
    out = new_maps(x, channels, (out_height, out_width))
    blocks = triton.cdiv(out_width * channels, _BLOCK)
    _window_kernel[(blocks * out_height, n)](
        x, out, height, width, channels, out_height, out_width, blocks, MAXIMUM=maximum, BLOCK=_BLOCK
    )
    return out


def cell_means(x: Tensor, grid: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Average over a grid of (rows, columns) cells: ``F.adaptive_avg_pool2d``.

    :param x: (N, C, H, W) in channels_last
    :param dtype: of the result; none: the map's own
    :return: (N, C, rows, columns) in channels_last
    """
    n, channels, height, width = x.shape
    rows, columns = grid
    out = new_maps(x, channels, grid, dtype)
    block = min(_CHANNELS, max(16, triton.next_power_of_2(channels)))
    programs = (rows * columns, triton.cdiv(channels, block), n)
    _cells_kernel[programs](x, out, height, width, channels, rows, columns, COLUMNS=_COLUMNS, CHANNELS=block)
    return out


def map_mean(x: Tensor) -> Tensor:
    """Average over all cells: ``x.mean((2, 3))``; by rows first, so that the whole device takes part.

    :param x: (N, C, H, W) in channels_last
    :return: (N, C)
    """
    return cell_means(x, (x.shape[2], 1), torch.float32).mean((2, 3)).to(x.dtype)


def new_maps(like: Tensor, channels: int, size: Size | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return room for maps in channels_last, by default of another's size and dtype."""
    out: Any = torch.empty(
        (len(like), channels, *(size or like.shape[2:])),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )
    return out  # type: ignore[no-any-return]
