"""What training on a CPU computes in a faster way equals the plain way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rt_seg_ros.data.augment import _halved
from rt_seg_ros.networks.layers import spatial_mean
from rt_seg_ros.training.ema import WeightAverage
from rt_seg_ros.training.optimiser import clip_gradients
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


def test_the_average_soon_forgets_the_start_and_takes_statistics_in():
    average = WeightAverage(network(0.0), 0.999)
    average.update(network(1.0))
    assert average.state["weight"].item() == pytest.approx(1 - 2 / 11)  # (1 + n) / (10 + n) after one step
    norm = nn.BatchNorm2d(1)
    average = WeightAverage(norm, 0.9)
    average.steps = 1000
    norm.running_mean += 1
    norm.running_var += 2
    norm.num_batches_tracked += 5
    average.update(norm)
    assert average.state["running_mean"].item() == pytest.approx(0.1)
    assert average.state["running_var"].item() == pytest.approx(1.2)
    assert average.state["num_batches_tracked"].item() == 5


def network(value: float) -> nn.Module:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1e3])  # of gradients far below the limit, and far above
def test_clipping(kind, in_step, size):
    """One way or the other, a step is that of gradients which clip_grad_norm_ has clipped."""
    torch.manual_seed(0)
    expected, got = nn.Linear(5, 4), nn.Linear(5, 4)
    got.load_state_dict(expected.state_dict())
    steps = []
    for module in (expected, got):
        optimiser = kind(module.parameters(), lr=0.1, fused=True)
        for scale in (size, 1.0, 7.0):  # what clipped the first step must not clip those after it
            torch.manual_seed(1)
            for parameter in module.parameters():
                parameter.grad = scale * torch.randn_like(parameter)
            if module is expected:
                nn.utils.clip_grad_norm_(module.parameters(), 2.0)
            else:
                clip_gradients(optimiser, 2.0, in_step)
            optimiser.step()
        steps.append([p.detach() for p in module.parameters()])
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(b, a)


def test_half_size_pictures_average_two_by_two():
    even, odd = torch.rand(1, 3, 6, 8), torch.rand(1, 3, 5, 7)
    torch.testing.assert_close(_halved(even), F.avg_pool2d(even, 2))
    expected = F.avg_pool2d(odd, 2, ceil_mode=True)  # divides by the pixels that there are
    torch.testing.assert_close(_halved(odd), expected)
