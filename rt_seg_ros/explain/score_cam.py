"""Score-CAM for segmentation networks.

H. Wang et al.: Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPR Workshops 2020,
arXiv:1910.01279, section 3.2 and algorithm 1. Each channel of a layer, resized to the input and scaled to 0..1, is laid
over the input as a mask; the score that the network still gives the class is, after a softmax over the channels, the
channel's weight in the map::

    L = ReLU(sum_k softmax_k(S_k) A_k),   S_k = score(X * s(up(A_k)))

A segmentation network has a score for every pixel. Its score for a class is here the mean over a region, as in
K. Vinogradova et al.: Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping, AAAI
2020: the pixels that the network takes for that class. The baseline of Score-CAM's equation 6, the score of a blank
image, is the same for all channels, and drops out of the softmax.

The libraries that do this need Python 3.11 (torchcam) or torchvision (grad-cam); the tests hold this against torchcam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.networks.layers import resize

#: Is handed (items, what is done, how many there are), and passes the items on, as a progress bar does.
Watch = Callable[[Iterable[int], str, int], Iterable[int]]

#: Ends a layer's name where what goes into it is meant, and not what comes out.
INPUT_MARK = ":in"


@dataclass(frozen=True)
class Region:
    """Where a network sees a class: ``mask``, bool (H, W), is all of the image where it sees it nowhere (``found``)."""

    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    found: bool


def region_of(network: SegmentationNetwork, x: Tensor, class_id: int) -> Region:
    """Segment an image, and return where the class is.

    :param x: (1, 3, H, W), normalised RGB
    """
    with torch.inference_mode():
        labels = network(x).argmax(1)[0].to(torch.uint8).cpu().numpy()
    mask = labels == class_id
    found = bool(mask.any())
    return Region(mask if found else np.ones_like(mask), labels, found)


def score_cam(
    network: SegmentationNetwork,
    x: Tensor,
    class_id: int,
    mask: NDArray[np.bool_],
    layers: Sequence[str],
    batch: int = 8,
    watch: Watch | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each layer's name and its Score-CAM map, float32 (H, W), 0 to 1.

    Memory holds the activations of one layer, and what the network needs for ``batch`` images.

    :param network: in eval mode
    :param x: (1, 3, H, W), normalised RGB
    :param mask: (H, W): the pixels whose scores for the class count
    :param layers: names as :func:`activations` takes them
    """
    region = torch.from_numpy(mask.astype(np.float32)).to(x.device)
    region = region / region.sum()
    for layer in layers:
        maps = activations(network, x, [layer])[layer]
        channels = maps.shape[1]
        scores = torch.empty(channels, device=x.device)
        starts: Iterable[int] = range(0, channels, batch)
        for start in watch(starts, f"{layer}, {channels} channels", -(-channels // batch)) if watch else starts:
            chosen = slice(start, start + batch)
            scores[chosen] = _scores(network, x, maps[:, chosen], class_id, region)
        yield layer, _combined(maps, scores, x.shape[-2:])


def _scores(network: SegmentationNetwork, x: Tensor, maps: Tensor, class_id: int, region: Tensor) -> Tensor:
    """Score the input under each channel as its mask: (1, C, h, w) -> (C,)."""
    with torch.inference_mode():
        masks = resize(maps, x.shape[-2:])[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        scores = network(masks[:, None] * x)[:, class_id]
        return (scores * region).sum((1, 2))


def _combined(maps: Tensor, scores: Tensor, size: torch.Size) -> NDArray[np.float32]:
    with torch.inference_mode():
        weights = scores.softmax(0)
        combined = F.relu((weights[:, None, None] * maps[0]).sum(0))
        combined = combined - combined.min()
        combined = combined / (combined.max() + 1e-8)
        result: NDArray[np.float32] = resize(combined[None, None], size)[0, 0].cpu().numpy()
        return result


def activations(network: nn.Module, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Run a network once, and return what comes out of layers: (1, C, h, w) each.

    :param layers: names of modules; with :data:`INPUT_MARK` at the end, what goes into one
    :raises KeyError: for a name that is not among :func:`layer_shapes`
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.ndim == 4:
            kept[name] = value.detach().clone()  # an activation further on may work in place

    with _hooked(network, layers, keep), torch.inference_mode():
        network(x)
    return {name: kept[name] for name in layers}


def layer_shapes(network: nn.Module, x: Tensor) -> dict[str, tuple[int, int, int]]:
    """Return (channels, height, width) of the maps of every layer that gives one, in the order of computation.

    Maps of a single cell or a single channel are left out: there is nothing to see in them.
    """
    shapes: dict[str, tuple[int, int, int]] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] > 1 and value.shape[2:].numel() > 1:
            shapes.setdefault(name, (value.shape[1], value.shape[2], value.shape[3]))

    names = [name for name, _ in network.named_modules() if name]
    with _hooked(network, names, keep), torch.inference_mode():
        network(x)
    return shapes


@contextmanager
def _hooked(network: nn.Module, layers: Sequence[str], keep: Callable[[str, object], None]) -> Iterator[None]:
    modules: Mapping[str, nn.Module] = dict(network.named_modules())
    handles = []
    try:
        for name in layers:
            module = modules[name.removesuffix(INPUT_MARK)]
            if name.endswith(INPUT_MARK):
                handles.append(module.register_forward_pre_hook(partial(_keep_input, keep, name)))
            else:
                handles.append(module.register_forward_hook(partial(_keep_output, keep, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(keep: Callable[[str, object], None], name: str, _: nn.Module, given: tuple[object, ...]) -> None:
    keep(name, given[0])


def _keep_output(keep: Callable[[str, object], None], name: str, _: nn.Module, __: object, output: object) -> None:
    keep(name, output)
