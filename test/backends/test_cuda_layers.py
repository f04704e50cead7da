"""What replaces slow layers on a GPU: held on the CPU against the plain network; on a GPU, against it there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rt_seg_ros.backends.cuda_layers import accelerate, fast_logits
from rt_seg_ros.networks import create_network

NETWORKS = [
    "csrnet_light", "csrnet_medium", "csrnet_heavy", "crosscbam_m", "crosscbam_l", "frfnet", "frfnet_slim", "cgnet"
]  # fmt: skip


def network_of(name, seed=5):
    """Return a network with norms folded whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    network = create_network(name, num_classes=11)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.fuse()


@pytest.mark.parametrize("name", NETWORKS[:-1])
@torch.inference_mode()
def test_replaced_layers_give_the_same_scores(name):
    network = network_of(name)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 88, 120).contiguous(memory_format=torch.channels_last)
    expected = network.logits(x)
    assert accelerate(network, torch.float32, None)
    replaced = [module for module in network.modules() if "forward" in vars(module)]
    assert len(replaced) > 10
    got = network.logits(x)
    assert (got - expected).abs().max() <= 1e-4 * expected.std()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@torch.inference_mode()
def test_what_gives_other_scores_is_put_back(monkeypatch, caplog):
    from rt_seg_ros.backends import cuda_layers

    network = network_of("crosscbam_m").to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 88, 120).contiguous(memory_format=torch.channels_last)
    expected = network.logits(x)
    monkeypatch.setattr(cuda_layers, "_largest", lambda maps: maps.mean((2, 3), keepdim=True))
    assert not accelerate(network, torch.float32, None)
    assert torch.equal(network.logits(x), expected) and "off, where" in caplog.text

    def fails(maps):
        raise OSError("no compiler")

    monkeypatch.setattr(cuda_layers, "_largest", fails)
    assert not accelerate(network, torch.float32, None)
    assert torch.equal(network.logits(x), expected) and "OSError: no compiler" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_the_gpu_gives_the_same_scores_fast(name, dtype, caplog):
    from rt_seg_ros.backends.torch_cuda import _numerics

    device = torch.device("cuda")
    inputs = [torch.randn(n, 3, *size, device=device) for n, size in ((1, (360, 480)), (3, (184, 248)))]
    with _numerics():
        network = network_of(name).to(device)
        exact = [network.logits(x) for x in inputs]
        network.to(dtype, memory_format=torch.channels_last)
        inputs = [x.to(dtype, memory_format=torch.channels_last) for x in inputs]
        plain = [network.logits(x).float() for x in inputs]
        logits = fast_logits(network_of(name).to(device), dtype)
        fast = [logits(x).float() for x in inputs]
    assert not caplog.text
    for truth, one, other in zip(exact, plain, fast, strict=True):
        errors = [float((scores - truth).abs().mean() / truth.std()) for scores in (one, other)]
        assert errors[1] <= 2 * errors[0] + 1e-4
