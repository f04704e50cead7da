"""What every network does: sizes, gradients, training and inference, folding, memory format."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import SegmentationNetwork, create_network, list_networks, network_info
from rt_seg_ros.networks.cgnet import ContextGuidedBlock
from rt_seg_ros.networks.crosscbam import SpatialAttention
from rt_seg_ros.networks.csrnet import ShortedPyramidFusion
from rt_seg_ros.networks.frfnet import cosine_basis
from rt_seg_ros.networks.layers import ConvNormAct, fold_split_norm, pool_by_matrices

#: One small change of each kind, so that every option is run.
VARIATIONS = [
    ("cgnet", {"m": 2, "n": 3, "surrounding": "none", "global_context": False, "dropout": 0.1}),
    ("cgnet", {"m": 2, "n": 3, "surrounding": "single", "input_injection": False, "activation": "relu"}),
    ("cgnet", {"m": 2, "n": 3, "residual": "local", "extra_conv": True}),
    ("cgnet", {"m": 2, "n": 3, "residual": "none"}),
    ("csrnet_heavy", {"stages": 1, "head": "plain", "spfm": False}),
    ("csrnet_heavy", {"stages": 2, "attention": False}),
    ("csrnet_medium", {"srm_pointwise": False}),
    ("crosscbam_m", {"rates": (2, 4, 6), "channels": 128}),
    ("crosscbam_m", {"channels": 512, "aspp_norm": "all"}),
    ("crosscbam_m", {"se_aspp": False}),
    ("crosscbam_m", {"ccbam": False}),
    ("crosscbam_m", {"paper_code": True}),
    ("frfnet", {"context": "none", "ffm": False, "sfm": False}),
    ("frfnet_slim", {"context": "danet"}),
]
HEADS = {"cgnet": 1, "csrnet": 1, "crosscbam": 2, "frfnet": 3}


def lived_in(name: str, num_classes: int = 11, **options: Any) -> SegmentationNetwork:
    """Build a network in eval mode whose batch norms are as after training, not all 0 and 1."""
    torch.manual_seed(3)
    net = create_network(name, num_classes, **options)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = None  # running statistics become those of the batch
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 96, 128))
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            # Of two pooled images the variance may be next to nothing, and would magnify rounding.
            module.running_var.clamp_(min=0.05)
    return net.eval()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("size", [(360, 480), (375, 1242), (1080, 1920)])
@pytest.mark.parametrize("name", list_networks())
def test_output_size_is_input_size(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = create_network(name, 11, aux=True)
        outputs = net.forward_train(torch.empty(2, 3, *size))
        low = net.logits(torch.empty(2, 3, *size))
    assert [tuple(y.shape) for y in outputs] == [(2, 11, *size)] * HEADS[network_info(name).family]
    stride = net.output_stride
    assert tuple(low.shape) == (2, 11, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("name", list_networks())
def test_one_image_of_an_odd_size_is_segmented(name: str) -> None:
    net = lived_in(name)
    with torch.inference_mode():
        scores = net(torch.randn(1, 3, 93, 155))
    assert scores.shape == (1, 11, 93, 155)
    assert torch.isfinite(scores).all()


def test_a_real_frame_of_kitti_size() -> None:
    net = lived_in("cgnet")
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 375, 1242)).shape == (1, 11, 375, 1242)


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in list_networks()] + VARIATIONS, ids=lambda v: str(v)
)
def test_every_parameter_gets_a_gradient(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = create_network(name, 11, aux=True, **options)
    outputs = net.forward_train(torch.randn(2, 3, 96, 128))
    sum((y * torch.randn_like(y)).mean() for y in outputs).backward()
    # ReLU before a sigmoid may be off all over; the scales of DANet's attentions start at nought.
    may_be_nought = options.get("paper_code") or options.get("context") == "danet"
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert may_be_nought or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", list_networks())
def test_auxiliary_heads_cost_nothing_in_deployment(name: str) -> None:
    torch.manual_seed(0)
    with_heads = create_network(name, 11, aux=True).eval()
    without = create_network(name, 11).eval()
    left_over = without.load_state_dict(with_heads.state_dict(), strict=False)
    assert not left_over.missing_keys
    assert all(key.startswith("auxiliary.") for key in left_over.unexpected_keys)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(with_heads(x), without(x))
        assert len(without.forward_train(x)) == 1


@pytest.mark.parametrize("name", ["csrnet_light", "frfnet", "crosscbam_m", "cgnet"])
def test_training_with_one_image(name: str) -> None:
    net, x = create_network(name, 11), torch.randn(1, 3, 96, 128)
    if name in ("csrnet_light", "frfnet"):
        with pytest.raises(UserError, match="at least 2 images per batch"):
            net.forward_train(x)
    else:
        assert torch.isfinite(net.forward_train(x)[0]).all()


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in list_networks()] + VARIATIONS, ids=lambda v: str(v)
)
def test_folding_changes_nothing(name: str, options: dict[str, Any]) -> None:
    # In float64: FFM's masks (FRFNet) are steps, which float32's rounding may take or not.
    net = lived_in(name, **options).double()
    x = torch.randn(1, 3, 72, 104, dtype=torch.float64)
    with torch.inference_mode():
        expected = net(x)
        assert net.fuse() is net
        assert close(net(x), expected)
        assert close(net.fuse()(x), expected)  # folding twice is folding once
    left = sum(isinstance(module, _BatchNorm) for module in net.modules())
    # What is left follows a concatenation of activated maps, or an activation.
    assert left == {"cgnet": 3, "csrnet": int(options.get("head") != "plain")}.get(name.split("_")[0], 0)


@pytest.mark.parametrize("name", list_networks())
def test_channels_last_gives_the_same(name: str) -> None:
    net = lived_in(name).double()
    x = torch.randn(2, 3, 72, 104, dtype=torch.float64)
    with torch.inference_mode():
        expected = net(x)
        net = net.to(memory_format=torch.channels_last)
        assert close(net(x.to(memory_format=torch.channels_last)), expected)
        assert close(net.fuse()(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", list_networks())
def test_parameter_groups(name: str) -> None:
    net = create_network(name, 11, aux=True)
    groups = net.parameter_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    for group in groups:
        assert set(group) == {"params", "weight_decay_scale", "lr_scale", "name"}
        assert all((p.ndim == 1) == (group["weight_decay_scale"] == 0) for p in group["params"])
        quarter = name.startswith("csrnet") and group["name"].startswith("backbone")
        assert group["lr_scale"] == (0.25 if quarter else 1.0)
        if quarter and group["weight_decay_scale"]:
            assert group["weight_decay_scale"] == 0.25
    assert any("backbone" in group["name"] for group in groups) == name.startswith(("csrnet", "crosscbam"))


@pytest.mark.parametrize(
    ("size", "grid"), [((23, 30), (8, 10)), ((4, 6), (8, 12)), ((45, 60), (7, 7)), ((6, 8), (2, 4))]
)
def test_pooling_by_matrices(size: tuple[int, int], grid: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *size)
    assert close(pool_by_matrices(x, grid), F.adaptive_avg_pool2d(x, grid), 1e-6)


def test_a_norm_over_a_concatenation_folds_into_what_was_concatenated() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(4, 3, 3, bias=False), nn.Conv2d(4, 5, 3)]
    norm = nn.BatchNorm2d(8).eval()
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        expected = norm(torch.cat([conv(x) for conv in convs], 1))
        fold_split_norm(convs, norm)
        assert close(torch.cat([conv(x) for conv in convs], 1), expected, 1e-5)


def test_stride_two_rounds_up() -> None:
    assert ConvNormAct(3, 4, 3, 2).eval()(torch.randn(1, 3, 7, 10)).shape == (1, 4, 4, 5)


def test_cosine_basis() -> None:
    basis = cosine_basis()
    assert basis.shape == (32, 7, 7)
    flat = basis[::2].flatten(1)
    assert torch.allclose(flat @ flat.t(), torch.eye(16), atol=1e-5)  # orthonormal
    assert torch.equal(basis[::2], basis[1::2])
    assert torch.allclose(basis[0], torch.full((7, 7), 1 / 7))


def test_surer_map_counts_double() -> None:
    fusion = create_network("frfnet", 11).fusion
    fusion.refine = nn.Identity()
    sure, unsure, between = torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), -4.0), torch.zeros(1, 1, 1, 1)
    assert fusion(sure, unsure).item() == 2 * 4 - 4
    assert fusion(unsure, sure).item() == -4 + 2 * 4
    assert fusion(sure, between).item() == 2 * 4  # sigmoid(4) - sigmoid(0) = 0.48
    assert fusion(between, between + 1).item() == 1


def test_two_networks_from_one_seed_are_equal() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(11)
        nets.append(create_network("frfnet_slim", 11))
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in nets), strict=True))


def test_where_cgnets_residual_is_added():
    x = torch.randn(1, 16, 12, 12)
    for residual in ("local", "global"):
        block = ContextGuidedBlock(16, 16, dilation=2, reduction=8, residual=residual).eval()
        reduced = block.reduce(x)
        joint = block.joint(torch.cat([block.local(reduced), block.surround(reduced)], 1))
        expected = block.context(joint + x) if residual == "local" else block.context(joint) + x
        torch.testing.assert_close(block(x), expected)


def test_spfm_moves_its_statistics_as_the_paper_says():
    parts = create_network("csrnet_light", num_classes=11).modules()
    pyramids = [part for part in parts if isinstance(part, ShortedPyramidFusion)]
    assert pyramids
    for pyramid in pyramids:
        assert {part.momentum for part in pyramid.modules() if isinstance(part, nn.BatchNorm2d)} == {0.005}


def test_in_crosscbams_program_no_attention_to_a_place_is_below_one_half():
    x = torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        assert SpatialAttention(paper_code=True)(x).min() >= 0.5 > SpatialAttention()(10 * x).min()
