"""Cross-CBAM on STDC backbones.

Z. Zhang, Z. Xu, X. Gu, J. Xiong: Cross-CBAM: A Lightweight network for Scene Segmentation, arXiv:2306.02306.

The paper and the program that its authors published differ, and neither says everything; parameters and FLOPs
of all rows of the paper's tables 5 and 6 are met to the printed digits. What is built here by default:

- Batch norm on the three convolutions of SE-ASPP that see maps, which training from scratch needs; none on the
  two 1x1 convolutions of pooled features, so that a batch of one trains. (Paper: batch norm; program: none.)
- A sigmoid gate in squeeze and excitation, and nothing between the last convolution of each attention and its
  sigmoid. In the program the gate is a ReLU, and a ReLU comes before those sigmoids, so that attentions are
  never below one half. ``paper_code=True`` builds that literal form.
- With 128 channels both encoder maps are projected and the classifier follows directly; the program has no
  such form, and this one meets table 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.networks.layers import ConvNormAct, PooledConvNormAct, initialise_convolutions, resize
from rt_seg_ros.networks.stdc import BLOCKS, STDC

EPS = 1e-3
_REDUCTION = 16  # of the channels within channel attention, as in CBAM


class SqueezeExciteASPP(nn.Module):
    """SE-ASPP (section 3.3): parallel atrous convolutions, summed, beside the input gated channel by channel.

    :param norm: batch norm on ``spatial`` convolutions, on ``all`` (then also the pooled ones), or on ``none``
    :param relu_gate: gate by a ReLU rather than a sigmoid
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int] = (1, 3),
        norm: str = "spatial",
        relu_gate: bool = False,
    ) -> None:
        super().__init__()
        spatial, pooled = norm != "none", norm == "all"
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, channels, 1 if rate == 1 else 3, dilation=rate, norm=spatial, eps=EPS)
            for rate in rates
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = PooledConvNormAct(in_channels, channels, norm=pooled, eps=EPS)
        self.excite = PooledConvNormAct(channels, in_channels, norm=pooled, act=None, eps=EPS)
        self.gate = nn.ReLU() if relu_gate else nn.Sigmoid()
        self.join = ConvNormAct(in_channels + channels, channels, 3, norm=spatial, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, channels, H, W)."""
        first, *others = self.branches
        atrous = first(x)
        for branch in others:
            atrous = atrous + branch(x)
        gated = x * self.gate(self.excite(self.squeeze(self.pool(x))))
        return self.join(torch.cat([gated, atrous], 1))


class ChannelAttention(nn.Module):
    """A weight in (0, 1) for every channel, from its maximum and its mean (equation 3)."""

    def __init__(self, channels: int, paper_code: bool = False) -> None:
        super().__init__()
        self.max_pool = nn.AdaptiveMaxPool2d(1)
        self.mean_pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = ConvNormAct(channels, channels // _REDUCTION, norm=False)
        self.excite = ConvNormAct(channels // _REDUCTION, channels, norm=False, act="relu" if paper_code else None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        of_max = self.excite(self.squeeze(self.max_pool(x)))
        of_mean = self.excite(self.squeeze(self.mean_pool(x)))
        return (of_max + of_mean).sigmoid()


class SpatialAttention(nn.Module):
    """A weight in (0, 1) for every place, from the maximum and the mean over its channels (equation 4)."""

    def __init__(self, paper_code: bool = False) -> None:
        super().__init__()
        self.weigh = ConvNormAct(2, 1, norm=False, act="relu" if paper_code else None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)."""
        return self.weigh(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)).sigmoid()


class CrossCBAMBlock(nn.Module):
    """CCBAM (section 3.2): each map is weighed by attentions computed from the other."""

    def __init__(self, channels: int, paper_code: bool = False) -> None:
        super().__init__()
        self.channels_of_low = ChannelAttention(channels, paper_code)
        self.channels_of_high = ChannelAttention(channels, paper_code)
        self.places_of_low = SpatialAttention(paper_code)
        self.places_of_high = SpatialAttention(paper_code)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(N, C, H, W) of the encoder and of the decoder -> (N, C, H, W)."""
        from_low = high * self.channels_of_low(low)
        from_high = low * self.channels_of_high(high)
        return from_high * self.places_of_low(from_low) + from_low * self.places_of_high(from_high)


class CrossCBAM(SegmentationNetwork):
    """Cross-CBAM (section 3.4), with the variations of its tables 4 to 6 as options.

    :param backbone: ``stdc1`` (M) or ``stdc2`` (L)
    :param rates: of the atrous convolutions in SE-ASPP; rate 1 is a 1x1 convolution (table 5)
    :param channels: of SE-ASPP and the decoder: 128, 256 or 512 (table 6)
    :param aspp_norm: batch norm in SE-ASPP: ``spatial``, ``all`` or ``none``; by default ``spatial``
    :param paper_code: the literal form of the authors' program (see above); norms in SE-ASPP are ``none`` then
    :param se_aspp: without it a 3x3 convolution takes its place (table 4)
    :param ccbam: without it the classifier follows at 1/32 (table 4)
    :param aux: with the auxiliary head on the map at 1/16, which is trained by focal loss
    """

    output_stride = 8

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "stdc1",
        rates: Sequence[int] = (1, 3),
        channels: int = 256,
        aspp_norm: str | None = None,
        paper_code: bool = False,
        se_aspp: bool = True,
        ccbam: bool = True,
        aux: bool = False,
    ) -> None:
        super().__init__(num_classes)
        aspp_norm = aspp_norm or ("none" if paper_code else "spatial")
        if backbone not in BLOCKS:
            raise UserError(f"crosscbam: backbone is '{backbone}'; it must be one of: {', '.join(BLOCKS)}")
        if channels not in (128, 256, 512):
            raise UserError(f"crosscbam: channels is {channels}; it must be one of: 128, 256, 512")
        if not rates or any(rate < 1 for rate in rates):
            raise UserError(f"crosscbam: rates is {list(rates)}; it must be one or more numbers from 1")
        if aspp_norm not in ("spatial", "all", "none"):
            raise UserError(f"crosscbam: aspp_norm is '{aspp_norm}'; it must be one of: spatial, all, none")

        def pointwise(in_channels: int, out_channels: int) -> nn.Module:
            same = in_channels == out_channels
            return nn.Identity() if same else ConvNormAct(in_channels, out_channels, eps=EPS)

        narrow = min(channels, 256)
        self.backbone = STDC(backbone, EPS)
        self.bottom: nn.Module = (
            SqueezeExciteASPP(1024, channels, rates, aspp_norm, relu_gate=paper_code)
            if se_aspp
            else ConvNormAct(1024, channels, 3, eps=EPS)
        )
        self.decoder = nn.ModuleDict()
        if ccbam:
            self.decoder["project16"] = pointwise(512, channels)
            self.decoder["fuse16"] = CrossCBAMBlock(channels, paper_code)
            self.decoder["narrow"] = pointwise(channels, narrow)
            self.decoder["project8"] = pointwise(256, narrow)
            self.decoder["fuse8"] = CrossCBAMBlock(narrow, paper_code)
        else:
            self.output_stride = 32
        self.head = pointwise(narrow if ccbam else channels, 128)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(128, num_classes, 1)
        self.auxiliary = (
            nn.Sequential(ConvNormAct(512, 128, 3, eps=EPS), nn.Dropout2d(0.1), nn.Conv2d(128, num_classes, 1))
            if aux
            else None
        )
        for part in (self.bottom, self.decoder, self.head, self.classifier, self.auxiliary):
            if part is not None:
                initialise_convolutions(part, nonlinearity="relu")

    def maps(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """See :meth:`SegmentationNetwork.maps`."""
        f8, f16, f32 = self.backbone(x)
        d = self.bottom(f32)
        if self.decoder:
            d = resize(d, f16.shape[-2:])
            d = self.decoder["narrow"](self.decoder["fuse16"](self.decoder["project16"](f16), d))
            d = resize(d, f8.shape[-2:])
            d = self.decoder["fuse8"](self.decoder["project8"](f8), d)
        scores = [self.classifier(self.dropout(self.head(d)))]
        if auxiliary and self.auxiliary is not None:
            scores.append(self.auxiliary(f16))
        return scores
