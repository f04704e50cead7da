"""What PyTorch's CPU kernels need help with while training: exact gradients in bfloat16, and a fast PReLU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def prepare_for_cpu(network: nn.Module) -> None:
    """Replace what is wrong or slow on CPUs by what computes the same, in place.

    * Channel-wise convolutions compute in float32 whatever autocast says. oneDNN's bfloat16 gradient of the
      weights of dilated ones now and then holds NaN, from finite input (seen with PyTorch 2.13 and AVX-512). They
      are a few hundredths of a network's work. Those with a dilation of d are computed as undilated ones on the
      d x d interleaved maps that they connect: oneDNN's backward pass of a dilated one takes up to twelve times as
      long.
    * PReLU's own backward pass takes a third of CGNet's step; a few elementwise operations take a quarter of that.

    Parameters, their names and the state dict stay as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = _Exact(module)  # type: ignore[method-assign, assignment]
        elif isinstance(module, nn.PReLU):
            module.forward = _Fast(module)  # type: ignore[method-assign, assignment]


class _Exact:
    """A convolution's forward, in float32, given back in the type that came."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self._convolution = convolution
        d = convolution.dilation[0]
        self._interleaved = (
            d > 1
            and (convolution.kernel_size, convolution.stride) == ((3, 3), (1, 1))
            and convolution.dilation == convolution.padding == (d, d)
            and convolution.padding_mode == "zeros"
        )

    def __call__(self, x: Tensor) -> Tensor:
        convolution = self._convolution
        with torch.autocast(x.device.type, enabled=False):
            if not self._interleaved:
                return nn.Conv2d.forward(convolution, x.float()).to(x.dtype)
            maps = _deinterleave(x, convolution.dilation[0])
            maps = F.conv2d(maps, convolution.weight, convolution.bias, padding=1, groups=convolution.groups)
            return _interleave(maps, convolution.dilation[0], x)


def _deinterleave(x: Tensor, d: int) -> Tensor:
    """Take every d-th row and column: (N, C, H, W) to float32 (d * d * N, C, ceil(H / d), ceil(W / d)), channels_last.

    Where d does not divide H or W, zeros are appended, as the convolution itself would read them.
    """
    n, c, height, width = x.shape
    if height % d or width % d:
        x = F.pad(x, (0, -width % d, 0, -height % d))
    rows, columns = x.shape[2] // d, x.shape[3] // d
    phases = x.permute(0, 2, 3, 1).reshape(n, rows, d, columns, d, c).permute(2, 4, 0, 1, 3, 5)
    phases = phases.to(torch.float32, memory_format=torch.contiguous_format)
    return phases.reshape(d * d * n, rows, columns, c).permute(0, 3, 1, 2)


def _interleave(maps: Tensor, d: int, like: Tensor) -> Tensor:
    """Undo :func:`_deinterleave`; size and dtype are those of ``like``."""
    _, c, rows, columns = maps.shape
    n, _, height, width = like.shape
    phases = maps.permute(0, 2, 3, 1).reshape(d, d, n, rows, columns, c).permute(2, 3, 0, 4, 1, 5)
    phases = phases.to(like.dtype, memory_format=torch.contiguous_format)
    return phases.reshape(n, rows * d, columns * d, c).permute(0, 3, 1, 2)[:, :, :height, :width]


class _Fast:
    """A PReLU's forward by :class:`_PReLU`."""

    def __init__(self, activation: nn.PReLU) -> None:
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _PReLU.apply(x, self._activation.weight)
        return result


class _PReLU(torch.autograd.Function):
    """max(x, 0) + slope * min(x, 0), one slope per channel (He et al., ICCV 2015, section 2.1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, slope), gradient = ctx.saved_tensors, gradients[0]
        others = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        # threshold_backward, unlike torch.where, is vectorised on every CPU and in every type.
        above = torch.ops.aten.threshold_backward(gradient, x, 0)
        below = gradient - above
        to_slope = (below * x).sum(others, dtype=torch.float32).to(slope.dtype)
        to_x = torch.addcmul(above, below, slope.to(x.dtype).view(shape))
        return to_x, to_slope if slope.numel() > 1 else to_slope.sum().view(1)
