"""What is measured: the grid, what is refused before any work, and the floor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rt_seg_ros.backends.torch_backend import usual_threads
from rt_seg_ros.benchmark.cases import Case, Grid, plan
from rt_seg_ros.benchmark.floor import BYTES, Peak, floor_ms, measure
from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import count_macs, create_network, list_networks
from rt_seg_ros.networks.complexity import LayerCost, layer_costs


def grid(**changes):
    values = {"mode": "pipeline", "models": ["cgnet"], "sizes": [(96, 128)], "backends": ["torch"], "device": "cpu"}
    return Grid(**{**values, **changes})


def test_every_combination_is_a_case_and_each_naive_node_comes_once():
    cases = plan(grid(sizes=[(96, 128), (180, 240)], backends=["torch", "auto"], batches=[1, 2])).cases
    ours, naive = [c for c in cases if not c.naive], [c for c in cases if c.naive]
    assert len(ours) == len(set(ours)) == 8
    assert [c.size for c in naive] == [(96, 128), (180, 240)]
    assert {c.counterpart() for c in ours} == set(naive)
    assert not [c for c in plan(grid(naive=False)).cases if c.naive]


def test_a_naive_node_does_the_same_work():
    cases = plan(grid(ratios=[1.0, 0.75], threads=[1, 2], sizes=[(200, 256)])).cases
    for case in cases:
        other = case.counterpart()
        assert other in cases
        for name in ("mode", "model", "size", "ratio", "threads", "device", "input", "outputs"):
            assert getattr(other, name) == getattr(case, name)


def test_a_node_is_measured_beside_the_pipeline_alone():
    cases = plan(grid(mode="node", cameras=[1, 2])).cases
    assert [(c.mode, c.naive, c.cameras) for c in cases] == [
        ("node", False, 1), ("pipeline", False, 1), ("node", True, 1), ("node", False, 2), ("node", True, 2),
    ]  # fmt: skip
    assert {(c.input, c.outputs) for c in cases} == {("raw", "mask")}


def test_a_combination_that_is_not_to_be_had_is_left_out_with_its_reason():
    made = plan(grid(precisions=["fp32", "fp16"]))
    assert {c.precision for c in made.cases} == {"fp32"}
    assert len(made.left_out) == 1 and "fp16" in made.left_out[0]
    with pytest.raises(UserError, match="fp16"):
        plan(grid(precisions=["fp16"]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ["cgnett"]}, "did you mean 'cgnet'"),
        ({"models": []}, "list of models is empty"),
        ({"models": ["cgnet", "frfnet_slim"], "label_space": "cityscapes19"}, "no weights for label space"),
        ({"sizes": [(32, 480)]}, "size is 32x480"),
        ({"sizes": [(360, 480), (360, 9000)]}, "size is 360x9000"),
        ({"ratios": [-1.0]}, "downsampling_ratio is -1.0"),
        ({"ratios": [1.0, 1.5]}, "downsampling_ratio is 1.5"),
        ({"backends": ["tpu"]}, "no backend 'tpu'"),
        ({"precisions": ["fp8"]}, "no precision 'fp8'"),
        ({"device": "npu"}, "no device 'npu'"),
        ({"batches": [0]}, "batch is 0"),
        ({"batches": [1000]}, "batch is 1000"),
        ({"batches": [2], "mode": "node"}, "batch is 2"),
        ({"threads": [-1]}, "threads is -1"),
        ({"cameras": [2]}, "only the node has several"),
        ({"cameras": [0], "mode": "node"}, "cameras is 0"),
        ({"input": "png"}, "input is 'png'"),
        ({"outputs": "video"}, "outputs is 'video'"),
        ({"weights": "/nowhere/x.safetensors"}, "no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(changes, said):
    with pytest.raises(UserError, match=said):
        plan(grid(**changes))


def test_a_case_goes_to_another_process_and_back():
    case = Case("pipeline", "cgnet", (96, 128), ratio=0.75, naive=True)
    assert Case.from_dict(case.to_dict()) == case


@pytest.mark.parametrize("name", list_networks())
def test_the_layers_costs_add_up_to_the_network_s(name):
    with torch.device("meta"):
        network = create_network(name, num_classes=11)
    costs = layer_costs(network, 192, 256)
    assert sum(cost.macs for cost in costs) == count_macs(network, 192, 256)
    assert all(cost.activations > 0 and cost.weights > 0 for cost in costs)
    # A layer that is run twice moves its weights twice: Cross-CBAM's attention has some.
    assert sum(cost.weights for cost in costs) < 1.01 * sum(p.numel() for p in network.parameters())


def test_the_floor_is_the_slower_of_computing_and_moving_layer_by_layer():
    costs = [LayerCost(macs=1000, activations=10, weights=5), LayerCost(macs=10, activations=100, weights=50)]
    peak = Peak(macs=1e6, bytes=1e5)
    # 1 ms of computing against 0.6 of moving; 0.01 of computing against 6 of moving
    assert floor_ms(costs, 1, 4, peak) == pytest.approx(1.0 + 6.0)
    # Weights are moved once for a batch of two: (200 + 50) values
    assert floor_ms(costs, 2, 4, peak) == pytest.approx((2.0 + 10.0) / 2)
    assert floor_ms(costs, 1, 4, Peak(1e6, None)) == pytest.approx(1.01)
    assert floor_ms(costs, 1, 4, replace(peak, cache=1e9)) == pytest.approx(1.01)  # nothing leaves the cache


def test_this_machine_s_peak_is_measured(monkeypatch):
    monkeypatch.setattr("rt_seg_ros.benchmark.floor._SIDE", {"cpu": 128})
    threads = torch.get_num_threads()
    try:
        peak = measure("cpu", "fp32", 3)
        assert torch.get_num_threads() == 3
        measure("cpu", "fp32", 0)
        assert torch.get_num_threads() == usual_threads()
    finally:
        torch.set_num_threads(threads)
    assert np.isfinite(peak.macs) and peak.macs > 1e6 and peak.bytes is None
    assert set(BYTES) == {"fp32", "bf16", "fp16"}
