"""FRFNet and FRFNet-slim, the feature reuse and fusion network.

S. Tan et al.: Feature Reuse and Fusion for Real-time Semantic segmentation, 2021.

The paper gives neither widths nor all of the wiring, and no program was published with it. The structure
follows the author's earlier and later published networks; what those leave open was chosen so that the cost at
512x1024 is the paper's (16.01 and 11.38 G multiply-adds) and the parameters nearly so (4.02 M with auxiliary
heads). It is a reconstruction, and not the only one with these totals.

- The stem is BiSeNetV2's, twice as wide; slim has 1x1 convolutions in places, and depth-wise ones in its
  aggregation modules.
- In the dense aggregation module the third convolution takes the sum of its input and the first one's features; in
  the author's earlier program it takes the second one's in place of the input. The costs are the same.
- The masks of the feature fusion module carry no gradient.
- The global feature keeps its batch norm, so training needs two images per batch and device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.networks.layers import (
    ConvNormAct,
    GridMean,
    PooledConvNormAct,
    SpatialMean,
    initialise_convolutions,
    resize,
)

#: Channels after each stage, and inside its aggregation module.
STAGES = ((64, 64, 112), (112, 80, 256), (256, 96, 384), (384, 112, 512))
WIDTH = 128
#: The 16 strongest frequencies (vertical, horizontal) of FcaNet (Qin et al., ICCV 2021) on a 7x7 grid.
FREQUENCIES = (
    (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0),
    (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2),
)  # fmt: skip
GRID = 7


class Stem(nn.Module):
    """To 1/4 by a convolution and a pooling side by side."""

    def __init__(self, slim: bool) -> None:
        super().__init__()
        self.first = ConvNormAct(3, 32, 3, 2)
        inner = 32 if slim else 16
        self.left = nn.Sequential(ConvNormAct(32, inner), ConvNormAct(inner, 32, 3, 2))
        self.right = nn.MaxPool2d(3, 2, 1)
        self.join = ConvNormAct(64, 64, 1 if slim else 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 64, ceil(H / 4), ceil(W / 4))."""
        x = self.first(x)
        return self.join(torch.cat([self.left(x), self.right(x)], 1))


class Transition(nn.Module):
    """Halve the resolution between stages; channels are kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv = ConvNormAct(channels // 2, channels // 2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        x = self.reduce(x)
        return torch.cat([self.pool(x), self.conv(x)], 1)


class EfficientChannelAttention(nn.Module):
    """ESA: weigh each channel by a sigmoid over the means of itself and its two neighbours.

    The kernel is the 3x3 of the author's networks, over a map of one row: its outer rows only ever see padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean = SpatialMean()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        gate = self.conv(self.mean(x)[:, None, None, :]).sigmoid()
        return x * gate.flatten(1)[:, :, None, None]


class DenseAggregation(nn.Module):
    """DAM: 3x3 convolutions, two of which take what the first gives once more, concatenated, joined, weighed."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, slim: bool) -> None:
        super().__init__()
        groups = inner if slim else 1
        self.first = ConvNormAct(in_channels, inner, 3)
        self.reuse1 = nn.Conv2d(inner, inner, 1)
        self.reuse2 = nn.Conv2d(inner, inner, 1)
        self.second = ConvNormAct(inner, inner, 3, groups=groups)
        self.third = ConvNormAct(inner, inner, 3, groups=groups)
        self.join = ConvNormAct(in_channels + 3 * inner, out_channels)
        self.attention = EfficientChannelAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        y0 = self.first(x)
        p = self.reuse1(y0)
        q = self.reuse2(p)
        y1 = self.second(y0 + p)
        y2 = self.third(p + q)
        return self.attention(self.join(torch.cat([x, y0, y1, y2], 1)))


def cosine_basis() -> Tensor:
    """Compute the fixed cosine transform of 32 channels, two for each frequency: (32, 7, 7)."""

    def wave(frequency: int) -> Tensor:
        at = torch.arange(GRID, dtype=torch.float64) + 0.5
        scale = math.sqrt((2 if frequency else 1) / GRID)
        return scale * torch.cos(math.pi * frequency * at / GRID)

    basis = torch.stack([wave(u)[:, None] * wave(v)[None, :] for u, v in FREQUENCIES])
    return basis.repeat_interleave(2, 0).float()


class MultiSpectralContext(nn.Module):
    """MSC: weigh channels by a gate computed from cosine spectra of three reductions of the map."""

    basis: Tensor

    def __init__(self, channels: int = WIDTH, inner: int = 32, reduction: int = 16) -> None:
        super().__init__()
        self.reduce1 = nn.Conv2d(channels, inner, 1, groups=16)
        self.reduce2 = nn.Conv2d(inner, inner, 1)
        self.reduce3 = nn.Conv2d(inner, inner, 1)
        self.pool = GridMean()
        self.squeeze = nn.Linear(3 * inner, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)
        self.register_buffer("basis", cosine_basis(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        spectra: list[Tensor] = []
        carried: Tensor | None = None
        y = x
        for reduce in (self.reduce1, self.reduce2, self.reduce3):
            y = reduce(y)
            pooled = self.pool(y, (GRID, GRID))
            carried = (pooled if carried is None else pooled + carried) * self.basis
            spectra.append(carried.sum((2, 3)))
        gate = self.excite(F.relu(self.squeeze(torch.cat(spectra, 1)))).sigmoid()
        return x * gate[:, :, None, None]


class DualAttention(nn.Module):
    """Attention over places and over channels, in place of MSC (table 2).

    J. Fu et al.: Dual Attention Network for Scene Segmentation, CVPR 2019. Memory grows with the square of the
    number of places.
    """

    def __init__(self, channels: int = WIDTH, reduction: int = 8) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.place_scale = nn.Parameter(torch.zeros(1))
        self.channel_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        flat = x.flatten(2)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        of_places = (query.transpose(1, 2) @ key).softmax(-1)
        places = (value @ of_places.transpose(1, 2)).view_as(x)
        affinity = flat @ flat.transpose(1, 2)
        of_channels = (affinity.amax(-1, keepdim=True) - affinity).softmax(-1)
        channels = (of_channels @ flat).view_as(x)
        return 2 * x + self.place_scale * places + self.channel_scale * channels


class FeatureFusion(nn.Module):
    """FFM: add two maps, doubling whichever is surer of itself than the other by a margin, place by place.

    :param gated: without it the maps are simply added (table 3)
    """

    def __init__(self, out_channels: int, gated: bool = True, margin: float = 0.4) -> None:
        super().__init__()
        self.gated = gated
        self.margin = margin
        self.refine = nn.Sequential(ConvNormAct(WIDTH, WIDTH, 3), ConvNormAct(WIDTH, out_channels))

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two maps (N, 128, H, W) -> (N, out, H, W)."""
        if self.gated:
            lead = (detail.sigmoid() - context.sigmoid()).detach()
            detail = detail * (1 + (lead > self.margin).to(detail.dtype))
            context = context * (1 + (lead < -self.margin).to(context.dtype))
        return self.refine(detail + context)


class Head(nn.Module):
    """Average every four neighbouring channels (DAP), then two convolutions to class scores."""

    def __init__(self, in_channels: int, inner: int, num_classes: int) -> None:
        super().__init__()
        self.average: nn.Module | None = None
        self.conv = ConvNormAct(in_channels // 4, inner, 3)
        self.classifier = nn.Conv2d(inner, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, classes, H, W)."""
        averaged = x.unflatten(1, (-1, 4)).mean(2) if self.average is None else self.average(x)
        return self.classifier(self.conv(averaged))

    def fold_norms(self) -> None:
        """Average by a 1x1 convolution: unlike a mean over channels it leaves maps in the layout that they have."""
        weight = next(self.conv.parameters())
        self.average = nn.Conv2d(4 * weight.shape[1], weight.shape[1], 1, bias=False).to(weight)
        groups = torch.eye(weight.shape[1]).repeat_interleave(4, dim=1) / 4
        self.average.weight.copy_(groups[:, :, None, None])


class FRFNet(SegmentationNetwork):
    """FRFNet, with the variations of its tables 2 and 3 as options.

    :param slim: the slim form
    :param context: ``msc``, ``danet`` (table 2) or ``none`` (table 3) on the maps at 1/32 and 1/16
    :param ffm: gated fusion at 1/8; without it a sum (table 3)
    :param sfm: join the stage at 1/4 to the output; without it the output is only resized (table 3)
    :param aux: with auxiliary heads on the decoder's maps at 1/16 and 1/8
    """

    output_stride = 4

    def __init__(
        self,
        num_classes: int = 19,
        *,
        slim: bool = False,
        context: str = "msc",
        ffm: bool = True,
        sfm: bool = True,
        aux: bool = False,
    ) -> None:
        super().__init__(num_classes)
        contexts = {"msc": MultiSpectralContext, "danet": DualAttention, "none": nn.Identity}
        if context not in contexts:
            raise UserError(f"frfnet: context is '{context}'; it must be one of: {', '.join(contexts)}")
        fused = STAGES[0][2]
        self.stem = Stem(slim)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Transition(channels) if index else nn.Identity(), DenseAggregation(channels, inner, out, slim)
            )
            for index, (channels, inner, out) in enumerate(STAGES)
        )
        self.mean = SpatialMean()
        self.global_feature = PooledConvNormAct(STAGES[3][2], WIDTH)
        self.context32 = nn.Sequential(ConvNormAct(STAGES[3][2], WIDTH, 3), contexts[context]())
        self.context16 = nn.Sequential(ConvNormAct(STAGES[2][2], WIDTH), contexts[context]())
        self.refine16 = ConvNormAct(WIDTH, WIDTH, 3)
        self.refine8 = ConvNormAct(WIDTH, WIDTH, 3)
        self.detail8 = ConvNormAct(STAGES[1][2], WIDTH)
        self.fusion = FeatureFusion(fused, ffm)
        self.sfm = sfm
        self.head = Head(fused, 64, num_classes)
        self.auxiliary = nn.ModuleList(Head(WIDTH, WIDTH, num_classes) for _ in range(2)) if aux else None
        initialise_convolutions(self, nonlinearity="relu")

    def maps(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """See :meth:`SegmentationNetwork.maps`."""
        s1 = self.stages[0](self.stem(x))
        s2 = self.stages[1](s1)
        s3 = self.stages[2](s2)
        s4 = self.stages[3](s3)
        y = self.context32(s4) + self.global_feature(self.mean(s4)[:, :, None, None])
        y16 = self.refine16(resize(y, s3.shape[-2:]))
        y8 = self.refine8(resize(self.context16(s3) + y16, s2.shape[-2:]))
        z = resize(self.fusion(self.detail8(s2), y8), s1.shape[-2:])
        if self.sfm:
            z = z + F.silu(s1)  # sigmoid(s1) * s1
        scores = [self.head(z)]
        if auxiliary and self.auxiliary is not None:
            scores += [head(y) for head, y in zip(self.auxiliary, (y16, y8), strict=True)]
        return scores
