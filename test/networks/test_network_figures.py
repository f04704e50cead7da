"""Parameters and costs: the constants of our own, and what the papers print."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rt_seg_ros.networks import SegmentationNetwork, count_macs, count_parameters, create_network
from rt_seg_ros.networks.complexity import count_flops_mmcv
from rt_seg_ros.networks.csrnet import SelectiveResolution, ShortedPyramidFusion
from rt_seg_ros.networks.resnet import ResNet18
from rt_seg_ros.networks.stdc import STDC

PARAMETERS = [
    ("cgnet", {}, 494_258, 496_306),
    ("csrnet_light", {}, 12_124_863, 12_125_895),
    ("csrnet_light", {"head": "plain"}, 12_124_607, 12_125_639),
    ("csrnet_medium", {}, 12_355_519, 12_356_551),
    ("csrnet_medium", {"head": "plain"}, 12_355_263, 12_356_295),
    ("csrnet_heavy", {}, 12_816_831, 12_817_863),
    ("csrnet_heavy", {"head": "plain"}, 12_816_575, 12_817_607),
    ("crosscbam_m", {"paper_code": True}, 11_615_095, 11_616_127),
    ("crosscbam_m", {"aspp_norm": "all"}, 11_617_143, 11_618_175),
    # Norms instead of biases on the three spatial convolutions of SE-ASPP: 3 * 256 more than without.
    ("crosscbam_m", {}, 11_615_095 + 768, 11_616_127 + 768),
    ("crosscbam_l", {"paper_code": True}, 15_645_559, 15_646_591),
    ("crosscbam_l", {"aspp_norm": "all"}, 15_647_607, 15_648_639),
    ("crosscbam_l", {}, 15_645_559 + 768, 15_646_591 + 768),
    ("frfnet", {}, 3_958_799, 3_959_319),
    ("frfnet", {"aux": True}, 4_035_877, 4_038_461),
    ("frfnet_slim", {}, 3_356_911, 3_357_431),
    ("frfnet_slim", {"aux": True}, 3_433_989, 3_436_573),
]

SIZES = ((360, 480), (512, 1024), (720, 960), (1024, 2048), (768, 1536))
GMACS_11_CLASSES = [
    ("cgnet", (2.22, 6.75, 8.89, 26.98, None)),
    ("csrnet_light", (9.05, 27.07, 35.81, 108.3, None)),
    ("csrnet_medium", (9.54, 28.54, 37.76, 114.2, None)),
    ("csrnet_heavy", (13.43, 40.35, 53.33, 161.4, None)),
    ("crosscbam_m", (3.84, 11.27, 14.99, None, 25.35)),
    ("crosscbam_l", (6.06, 17.86, 23.72, None, 40.18)),
    ("frfnet", (5.31, 15.98, 21.10, 63.9, None)),
    ("frfnet_slim", (3.78, 11.37, 15.01, 45.5, None)),
]


def shapes_only(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """Build a network that has shapes but no values, which is quick at any size."""
    with torch.device("meta"):
        return create_network(name, num_classes, **options)


@pytest.mark.parametrize(("name", "options", "of_11", "of_19"), PARAMETERS)
def test_parameters(name: str, options: dict[str, Any], of_11: int, of_19: int) -> None:
    assert count_parameters(shapes_only(name, 11, **options)) == of_11
    assert count_parameters(shapes_only(name, 19, **options)) == of_19


def test_parameters_of_parts() -> None:
    with torch.device("meta"):
        assert count_parameters(ResNet18()) == 11_176_512
        assert count_parameters(STDC("stdc1")) == 5_318_304
        assert count_parameters(STDC("stdc2")) == 9_348_768
        assert count_parameters(ShortedPyramidFusion(512)) == 114_940
        assert count_parameters(ShortedPyramidFusion(128)) == 65_788
        assert [count_parameters(SelectiveResolution(s)) for s in (64, 128, 256)] == [222_464, 230_656, 247_040]


@pytest.mark.parametrize(("name", "expected"), GMACS_11_CLASSES)
def test_macs(name: str, expected: tuple[float | None, ...]) -> None:
    net = shapes_only(name, 11)
    for (height, width), gmacs in zip(SIZES, expected, strict=True):
        if gmacs is not None:
            assert count_macs(net, height, width) / 1e9 == pytest.approx(gmacs, rel=0.005), (height, width)


def test_macs_printed_in_the_papers() -> None:
    assert count_macs(shapes_only("frfnet", 19), 512, 1024) / 1e9 == pytest.approx(16.01, rel=0.001)
    assert count_macs(shapes_only("frfnet_slim", 19), 512, 1024) / 1e9 == pytest.approx(11.38, rel=0.001)
    # CGNet's table 9 counts a multiply-add as two operations.
    assert 2 * count_macs(shapes_only("cgnet", 19), 360, 640) / 1e9 == pytest.approx(6.0, rel=0.01)


def test_macs_are_the_same_of_a_real_network_and_leave_it_as_it_was() -> None:
    net = create_network("cgnet", 11)
    before = [p.clone() for p in net.parameters()]
    assert count_macs(net, 360, 480) == count_macs(shapes_only("cgnet", 11), 360, 480)
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("rates", "channels", "gflops", "megaparameters"),
    [
        ((1, 3), 256, 11.31, 12.21),  # table 5
        ((2, 4), 256, 12.39, 14.31),
        ((3, 5), 256, 12.39, 14.31),
        ((1, 3, 5), 256, 12.52, 14.57),
        ((2, 4, 6), 256, 13.60, 16.67),
        ((1, 3), 512, 14.77, 19.54),  # table 6
        ((1, 3), 128, 9.67, 8.92),
    ],
)
def test_crosscbam_tables_5_and_6(rates: tuple[int, ...], channels: int, gflops: float, megaparameters: float) -> None:
    net = shapes_only("crosscbam_m", 19, rates=rates, channels=channels, paper_code=True, aux=True)
    # The framework that printed the table gives every head a last 1x1 convolution, which this one did not use.
    unused = channels * 19 + 19
    assert round((count_parameters(net) + unused) / 1e6, 2) == megaparameters
    assert round(count_flops_mmcv(net, 512, 1024) / 1e9, 2) == gflops


def test_csrnet_ablations_cost_less() -> None:
    full = count_macs(shapes_only("csrnet_heavy", 19), 512, 1024)
    for option in ({"stages": 2}, {"spfm": False}, {"attention": False}, {"srm_pointwise": False}):
        assert count_macs(shapes_only("csrnet_heavy", 19, **option), 512, 1024) < full, option
    low_refined = count_macs(shapes_only("csrnet_heavy", 19, stages=1), 512, 1024)
    assert low_refined < count_macs(shapes_only("csrnet_heavy", 19, stages=2), 512, 1024)


def test_cgnet_without_surrounding_context_keeps_its_parameters() -> None:
    counts = {s: count_parameters(shapes_only("cgnet", 19, surrounding=s)) for s in ("full", "single", "none")}
    assert len(set(counts.values())) == 1, counts
