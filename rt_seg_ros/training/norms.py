"""Batch norm over the images of several processes, on the CPU, for which PyTorch's SyncBatchNorm is not made."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_norms(network: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Replace a network's batch norms by such ones, in place; parameters, names and state stay as they are.

    :param group: the processes; none: all
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, SynchronisedNorm(child, group))
        else:
            synchronise_norms(child, group)


class SynchronisedNorm(_BatchNorm):
    """A batch norm whose mean and variance are those of all processes' images together.

    :param norm: the one whose parameters and statistics it takes over; the networks' all have both, and a momentum
    """

    def __init__(self, norm: nn.BatchNorm2d, group: dist.ProcessGroup | None) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self._group = group
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected (N, C, H, W), not {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        here = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype)
        sums = self._over_all(torch.cat([x.sum((0, 2, 3)), here]))
        count = sums[-1].detach()
        centred = x - (sums[:-1] / count).view(1, -1, 1, 1)
        variance = self._over_all(centred.square().sum((0, 2, 3))) / count
        self._follow(sums[:-1].detach() / count, variance.detach() * count / (count - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1)).to(input.dtype)

    def _over_all(self, values: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(values, self._group)
        return total

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics (the unbiased variance) towards this batch's."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of what all ask of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
