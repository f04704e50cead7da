"""What training on a CPU computes in a faster way equals the plain way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rt_seg_ros.networks.layers import spatial_mean
from rt_seg_ros.training.ema import WeightAverage
from rt_seg_ros.training.precision import prepare_for_cpu


def with_gradients(function, x, *parameters):
    """Return what the function makes of x, and the gradients of a weighted sum of it."""
    x = x.clone().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *parameters])]


@pytest.mark.parametrize("dilation", [1, 2, 4, 12])
@pytest.mark.parametrize("size", [(30, 40), (23, 30), (1, 9)])
def test_channel_wise_convolutions(dilation, size):
    """Those that are computed on interleaved maps too, also where the dilation does not divide the size."""
    torch.manual_seed(dilation)
    plain = nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6, bias=False)
    fast = nn.Sequential(nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6, bias=False))
    fast[0].load_state_dict(plain.state_dict())
    prepare_for_cpu(fast)
    x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    expected, got = with_gradients(plain, x, plain.weight), with_gradients(fast, x, fast[0].weight)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    assert fast(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kernel, options", [(5, {"padding": 4, "dilation": 2}), (3, {"stride": 2, "padding": 1})])
def test_other_channel_wise_convolutions(kernel, options):
    plain = nn.Conv2d(4, 4, kernel, groups=4, **options)
    fast = nn.Sequential(nn.Conv2d(4, 4, kernel, groups=4, **options))
    fast[0].load_state_dict(plain.state_dict())
    prepare_for_cpu(fast)
    x = torch.randn(2, 4, 15, 17)
    for a, b in zip(with_gradients(plain, x), with_gradients(fast, x), strict=True):
        torch.testing.assert_close(b, a)


def test_the_mean_over_a_map():
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    expected, got = with_gradients(lambda t: t.mean((2, 3)), x), with_gradients(spatial_mean, x)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a)
    assert torch.autograd.gradcheck(spatial_mean, x.clone().requires_grad_())


def test_several_steps_of_the_average_at_once():
    """With weights that stand still, one update over four steps goes as far as four updates."""
    often, seldom = (WeightAverage(network(0.0), 0.9) for _ in range(2))
    often.steps = seldom.steps = 1000  # beyond the lower decay of the first steps
    for _ in range(4):
        often.update(network(1.0))
    seldom.update(network(1.0), 4)
    assert often.steps == seldom.steps == 1004
    torch.testing.assert_close(seldom.state["weight"], often.state["weight"])
    torch.testing.assert_close(seldom.state["weight"], torch.full((1, 1), 1 - 0.9**4))


def network(value: float) -> nn.Module:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_half_size_pictures_average_two_by_two():
    from rt_seg_ros.data.augment import _halved

    even, odd = torch.rand(1, 3, 6, 8), torch.rand(1, 3, 5, 7)
    torch.testing.assert_close(_halved(even), F.avg_pool2d(even, 2))
    expected = F.avg_pool2d(odd, 2, ceil_mode=True)  # divides by the pixels that there are
    torch.testing.assert_close(_halved(odd), expected)
