"""STDC1 and STDC2, the short-term dense concatenation networks, as backbones.

M. Fan, S. Lai, J. Huang, X. Wei, Z. Chai, J. Luo, X. Wei: Rethinking BiSeNet For Real-time Semantic
Segmentation, CVPR 2021 (arXiv:2104.13188).

Module structure as in the authors' program, whose checkpoints :meth:`STDC.translate` reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rt_seg_ros.networks.layers import ConvNormAct, initialise_convolutions

#: Blocks at 1/8, 1/16 and 1/32.
BLOCKS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}
#: Parts of the checkpoints that only the ImageNet classifier uses, and second names of features.
_NOT_OURS = ("conv_last.", "fc.", "bn.", "linear.", "x2.", "x4.", "x8.", "x16.", "x32.")


class ShortTermDenseConcat(nn.Module):
    """STDC module (section 3.1): four convolutions in a row, each half as wide, all of them concatenated."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.convs = nn.ModuleList(
            [
                ConvNormAct(in_channels, half, 1, eps=eps),
                ConvNormAct(half, quarter, 3, eps=eps),
                ConvNormAct(quarter, eighth, 3, eps=eps),
                ConvNormAct(eighth, eighth, 3, eps=eps),
            ]
        )
        strided = stride == 2
        self.down = ConvNormAct(half, half, 3, 2, groups=half, act=None, eps=eps) if strided else None
        self.shrink = nn.AvgPool2d(3, 2, 1) if strided else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        first, *others = self.convs
        x = first(x)
        maps = [x if self.shrink is None else self.shrink(x)]
        if self.down is not None:
            x = self.down(x)
        for conv in others:
            x = conv(x)
            maps.append(x)
        return torch.cat(maps, 1)


class STDC(nn.Module):
    """STDC without its classifier: maps of 256, 512 and 1024 channels at 1/8, 1/16 and 1/32."""

    channels = (256, 512, 1024)

    def __init__(self, name: str = "stdc1", eps: float = 1e-5) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNormAct(3, 32, 3, 2, eps=eps), ConvNormAct(32, 64, 3, 2, eps=eps)]
        ends, at = [], 64
        for channels, blocks in zip(self.channels, BLOCKS[name], strict=True):
            for block in range(blocks):
                layers.append(ShortTermDenseConcat(at, channels, 1 if block else 2, eps))
                at = channels
            ends.append(len(layers) - 1)
        self.features = nn.ModuleList(layers)
        self.ends = tuple(ends)
        initialise_convolutions(self, "fan_out", "relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> maps at 1/8, 1/16 and 1/32."""
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.ends:
                maps.append(x)
        return maps[0], maps[1], maps[2]

    @staticmethod
    def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the authors' checkpoints (ImageNet or segmentation) by this module's names."""
        if any(key.startswith("cp.backbone.") for key in state):
            state = {
                key.removeprefix("cp.backbone."): value
                for key, value in state.items()
                if key.startswith("cp.backbone.")
            }
        translated = {}
        for key, value in state.items():
            if key.startswith(_NOT_OURS):
                continue
            key = key.replace(".conv_list.", ".convs.").replace(".bn.", ".norm.")
            key = re.sub(r"\.avd_layer\.0\.", ".down.conv.", key)
            key = re.sub(r"\.avd_layer\.1\.", ".down.norm.", key)
            translated[key] = value
        return translated
