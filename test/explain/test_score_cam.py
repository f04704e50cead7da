"""Score-CAM: against another implementation, against what must come out, and over all networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rt_seg_ros.errors import UserError
from rt_seg_ros.explain.score_cam import activations, layer_shapes, region_of, score_cam
from rt_seg_ros.explain.stages import check_layers, default_layers
from rt_seg_ros.networks import create_network, list_networks
from rt_seg_ros.networks.base import SegmentationNetwork

SIZE = (64, 96)


class Small(SegmentationNetwork):
    """Two convolutions at the input's own size, the second in place."""

    output_stride = 1

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, num_classes, 1)

    def maps(self, x, auxiliary=False):
        return [self.second(self.act(self.first(x)))]


@pytest.fixture
def small():
    torch.manual_seed(4)
    return Small().eval()


@pytest.fixture
def x():
    torch.manual_seed(7)
    return torch.randn(1, 3, *SIZE)


def half():
    mask = np.zeros(SIZE, bool)
    mask[:, : SIZE[1] // 2] = True
    return mask


def test_it_agrees_with_another_implementation(small, x):
    methods = pytest.importorskip("torchcam.methods", reason="needs torchcam, from Python 3.11 on")
    small.act.inplace = False  # the other one keeps what is then overwritten
    mask, class_id = half(), 2
    region = torch.from_numpy(mask.astype(np.float32))
    for layer in ("first", "act"):
        ((name, ours),) = score_cam(small, x, class_id, mask, [layer], batch=4)
        assert name == layer
        with methods.ScoreCAM(small, layer, batch_size=3) as other:
            with torch.inference_mode():
                small(x)
            (theirs,) = other(targets=lambda out: (out[class_id] * region).sum() / region.sum())
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-4)


def test_what_makes_the_score_is_what_is_shown():
    """A class that is the red of its pixels is explained by where it is red."""
    network = Small(2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for channel in range(3):
            network.first.weight[channel, channel, 1, 1] = 1.0  # red, green, blue
        network.second.weight[1, 0] = 20.0  # class 1 is red
    x = torch.zeros(1, 3, *SIZE)
    x[0, 0, 10:30, 20:50] = 1.0
    x[0, 1, 40:60, 60:90] = 1.0
    region = region_of(network, x, 1)
    assert region.found and region.mask[10:30, 20:50].all() and region.mask.sum() == 20 * 30
    ((_, cam),) = score_cam(network, x, 1, region.mask, ["act"])
    assert cam.dtype == np.float32 and cam.shape == SIZE
    assert (cam[10:30, 20:50] > 0.99).all() and cam[40:60, 60:90].max() < 0.1 and cam[:10].max() == 0


def test_a_class_that_is_nowhere_is_asked_for_everywhere(small, x):
    with torch.no_grad():
        small.second.bias[3] = -1e3
    region = region_of(small, x, 3)
    assert not region.found and region.mask.all() and region.labels.max() <= 2


def test_the_batch_changes_nothing_but_memory(x):
    network = create_network("cgnet", num_classes=11).eval()
    mask = half()
    layers = ["stage2.2", "stage3.0"]
    whole = dict(score_cam(network, x, 3, mask, layers, batch=128))
    by_fives = dict(score_cam(network, x, 3, mask, layers, batch=5))
    assert list(whole) == layers
    for layer in layers:
        np.testing.assert_allclose(whole[layer], by_fives[layer], atol=1e-4)


def test_never_more_images_at_once_than_the_batch_says(small, x):
    seen = []
    small.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[0]))
    watched = []

    def watch(items, what, total):
        items = list(items)
        watched.append((len(items), what, total))
        return items

    list(score_cam(small, x, 0, half(), ["first"], batch=4, watch=watch))
    assert max(seen) == 4 and sum(seen[1:]) == 6
    assert watched == [(2, "first, 6 channels", 2)]


def test_what_later_layers_do_in_place_is_not_seen(small, x):
    kept = activations(small, x, ["first", "act", "second:in"])
    assert (kept["first"] < 0).any()
    assert torch.equal(kept["first"].relu(), kept["act"]) and torch.equal(kept["act"], kept["second:in"])


@pytest.mark.parametrize("name", list_networks())
def test_every_network_has_stages_to_show(name, x):
    network = create_network(name, num_classes=11).eval()
    shapes = layer_shapes(network, x)
    stages = default_layers(name, network)
    assert len(stages) >= 3
    check_layers(list(stages), shapes, name)
    maps = activations(network, x, list(stages))
    for layer, words in stages.items():
        stride = words.rpartition("1/")[2]
        if "1/" in words:
            assert maps[layer].shape[-1] == SIZE[1] // int(stride), layer
    if name.startswith("csrnet"):
        assert [words.rpartition(", ")[2] for words in stages.values()] == ["stage 1", "stage 2", "stage 3"]
        assert all("refined" in words for words in stages.values()) == (name == "csrnet_heavy")
        # As in section 3: each stage refines to a resolution at least as fine as the one before, the last to 1/4.
        widths = [maps[layer].shape[-1] for layer in stages]
        assert widths == sorted(widths) and widths[-1] == SIZE[1] // 4
    if name == "cgnet":
        assert list(stages)[-1] == "stage3.20"


def test_variations_of_a_network_lose_stages_and_not_the_rest(x):
    assert len(default_layers("csrnet_heavy", create_network("csrnet_heavy", stages=1))) == 1
    assert list(default_layers("crosscbam_m", create_network("crosscbam_m", ccbam=False))) == ["bottom"]


def test_a_layer_that_is_not_there_is_met_with_the_nearest(x):
    network = create_network("cgnet", num_classes=11).eval()
    shapes = layer_shapes(network, x)
    with pytest.raises(UserError, match=r"no layer 'stage2\.9'.*did you mean .*'stage2\.\d'"):
        check_layers(["stage2.9"], shapes, "cgnet")
    check_layers(["classifier:in"], shapes, "cgnet")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_maps(x):
    network = create_network("cgnet", num_classes=11).eval()
    ((_, there),) = score_cam(network, x, 3, half(), ["stage2.2"])
    ((_, here),) = score_cam(network.cuda(), x.cuda(), 3, half(), ["stage2.2"])
    np.testing.assert_allclose(here, there, atol=0.02)
