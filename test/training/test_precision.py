"""The replacements for CPU kernels compute what PyTorch's own compute."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rt_seg_ros.networks import create_network
from rt_seg_ros.training.optimiser import create_optimiser
from rt_seg_ros.training.precision import prepare_for_cpu
from rt_seg_ros.training.recipe_files import load_recipe


def gradients(net: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = net(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def test_prepared_network_has_the_same_output_and_gradients() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.PReLU()
    )
    prepared = copy.deepcopy(plain)
    prepare_for_cpu(prepared)
    x = torch.randn(2, 3, 9, 11).contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(gradients(prepared, x, torch.float32), gradients(plain, x, torch.float32), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert list(prepared.state_dict()) == list(plain.state_dict())


def test_bfloat16_gradients_are_finite_and_near() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=4, dilation=4, groups=32), nn.PReLU(32))
    prepare_for_cpu(net)
    x = torch.randn(4, 3, 45, 60).contiguous(memory_format=torch.channels_last)
    exact = gradients(net, x, torch.float32)
    for _ in range(5):
        for mine, theirs in zip(gradients(net, x, torch.bfloat16), exact, strict=True):
            assert mine.isfinite().all()
            assert (mine.float() - theirs).norm() < 0.03 * theirs.norm() + 1e-3


def test_a_first_step_that_overflows_leaves_momentum_at_nothing() -> None:
    """As with fp16, whose scale begins too high: a fused step that is told of it writes nothing."""
    recipe = load_recipe("crosscbam_m_camvid_paper")
    network = create_network("cgnet", 11, m=2, n=2)
    optimiser = create_optimiser(recipe, network)
    assert isinstance(optimiser, torch.optim.SGD)
    before = copy.deepcopy(network.state_dict())
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    optimiser.found_inf = torch.ones(())
    optimiser.step()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.found_inf = torch.zeros(())
    for group in optimiser.param_groups:
        group["weight_decay"] = 0.0
    optimiser.step()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def _groups(recipe_name: str, *overrides: str) -> dict[str, tuple[float, float]]:
    """Rate and decay of a recipe's parameters by the name of what they belong to."""
    recipe = load_recipe(recipe_name, overrides)
    network = create_network(recipe.network.name, 11)
    named = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = create_optimiser(recipe, network).param_groups
    return {named[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_a_backbone_learns_more_slowly_only_where_it_has_learnt_before() -> None:
    new, trained = (
        _groups("csrnet_light_camvid", f"network.backbone_weights={file}") for file in ("null", "resnet18.pth")
    )
    kernel = "backbone.conv1.weight"
    assert new[kernel] == new["classifier.weight"] == trained["classifier.weight"] == (1e-3, 1e-4)
    assert trained[kernel] == (1e-3 / 4, 1e-4 / 4)


def test_norms_and_biases_decay_only_where_a_recipe_says_so() -> None:
    assert _groups("csrnet_light_camvid")["classifier.bias"][1] == 0
    paper = _groups("csrnet_medium_camvid_paper", "network.backbone_weights=resnet18.pth")
    assert {decay for _, decay in paper.values()} == {1e-4, 1e-4 / 4} and paper["classifier.bias"][1] == 1e-4
