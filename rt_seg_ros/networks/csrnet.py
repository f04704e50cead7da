"""CSRNet, the cascaded selective resolution network.

J. Xiong, L.-M. Po, W.-Y. Yu, C. Zhou, P. Xian, W. Ou: CSRNet: Cascaded Selective Resolution Network for
Real-time Semantic Segmentation, arXiv:2106.04400 (Expert Systems with Applications 211, 2023).

Where the paper leaves gaps, CSRNet-heavy follows what the authors' own program does; light and medium, which
that lacks, follow the paper's text and were held against its run times:

- Skip connections are the backbone's block sums before their ReLU, as the program means them (its ReLU, in place,
  reaches them all the same); each has a 1x1 convolution of its own.
- Stage 1 refines the map at 1/16 that went in before stage 2 pyramid-fuses it.
- The classifier is BN-ReLU-1x1 as in the program (``head="norm"``); the paper draws a plain 1x1
  (``head="plain"``).
- The global descriptor of the selective resolution module keeps its batch norm, so training needs two images
  per batch and device.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.networks.layers import (
    ConvNormAct,
    GridMean,
    NormAct,
    PooledConvNormAct,
    SpatialMean,
    initialise_convolutions,
    map_size,
    resize,
)
from rt_seg_ros.networks.resnet import ResNet18

CHANNELS = 128
_GRIDS = (8, 4, 2)  # rows of the grids that SPFM pools over (section 3.3)


def columns_beside(rows: int, height: int, width: int) -> int:
    """``max(1, round(width / height * rows))``, in sums and whole divisions alone, which exporters can follow."""
    numerator, denominator = 2 * rows * width + height, 2 * height
    columns = numerator // denominator
    tie = 1 // (numerator % denominator + 1)
    columns = columns - tie * (columns % 2)  # halves go to the even neighbour
    return columns + 1 // (columns + 1)


class ShortedPyramidFusion(nn.Module):
    """SPFM (section 3.3): the map beside its means over grids of 8, 4 and 2 rows, joined.

    A grid has as many columns as make its cells about square.
    """

    def __init__(self, in_channels: int, momentum: float = 0.005) -> None:
        super().__init__()
        level = CHANNELS // len(_GRIDS)
        self.reduce = ConvNormAct(in_channels, CHANNELS, momentum=momentum)
        self.levels = nn.ModuleList(ConvNormAct(CHANNELS, level, momentum=momentum) for _ in _GRIDS)
        self.pool = GridMean()
        self.fuse_levels = ConvNormAct(CHANNELS + level * len(_GRIDS), CHANNELS, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, 128, H, W)."""
        x = self.reduce(x)
        height, width = map_size(x)
        maps = [x]
        for rows, level in zip(_GRIDS, self.levels, strict=True):
            columns = columns_beside(rows, height, width)
            maps.append(resize(level(self.pool(x, (rows, columns))), x.shape[-2:]))
        return self.fuse_levels(torch.cat(maps, 1))


class SelectiveResolution(nn.Module):
    """SRM (section 3.4): per channel, weigh a coarse map against a fine one, add, and refine.

    :param attention: without it the two are simply added (table 3, "without attention")
    :param pointwise: the 1x1 convolution before the 3x3 (table 3, "without 1x1 Conv in SRM")
    """

    def __init__(self, skip_channels: int, attention: bool = True, pointwise: bool = True) -> None:
        super().__init__()
        self.skip = ConvNormAct(skip_channels, CHANNELS)
        self.mean = SpatialMean()
        self.squeeze = PooledConvNormAct(CHANNELS, CHANNELS) if attention else None
        self.weigh_coarse = nn.Linear(CHANNELS, CHANNELS) if attention else None
        self.weigh_fine = nn.Linear(CHANNELS, CHANNELS) if attention else None
        self.pointwise = ConvNormAct(CHANNELS, CHANNELS) if pointwise else None
        self.refine = ConvNormAct(CHANNELS, CHANNELS, 3)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(N, 128, h, w) and (N, skip, H, W) -> (N, 128, H, W)."""
        fine = self.skip(skip)
        coarse = resize(coarse, fine.shape[-2:])
        y = coarse + fine
        if self.squeeze is not None and self.weigh_coarse is not None and self.weigh_fine is not None:
            z = self.squeeze(self.mean(y)[:, :, None, None]).flatten(1)
            # A softmax over a pair is the sigmoid of its difference.
            share = (self.weigh_coarse(z) - self.weigh_fine(z)).sigmoid()[:, :, None, None]
            y = share * coarse + (1 - share) * fine
        if self.pointwise is not None:
            y = self.pointwise(y)
        return self.refine(y)


class CSRNet(SegmentationNetwork):
    """CSRNet (section 3), light, medium or heavy, with the variations of its table 3 as options.

    :param variant: ``light``, ``medium`` or ``heavy``
    :param head: ``norm`` (BN-ReLU-1x1) or ``plain`` (1x1)
    :param stages: 3; of the heavy one also 1 ("low-refined") and 2 ("mid-refined")
    :param spfm: the pyramid fusion; without it a 1x1 convolution takes its place
    :param attention: see :class:`SelectiveResolution`
    :param srm_pointwise: see :class:`SelectiveResolution`
    :param aux: accepted for uniformity; this network has no auxiliary head
    """

    output_stride = 4
    backbone_lr_scale = 0.25
    backbone_weight_decay_scale = 0.25

    def __init__(
        self,
        num_classes: int = 19,
        *,
        variant: str = "medium",
        head: str = "norm",
        stages: int = 3,
        spfm: bool = True,
        attention: bool = True,
        srm_pointwise: bool = True,
        aux: bool = False,
    ) -> None:
        super().__init__(num_classes)
        if variant not in ("light", "medium", "heavy"):
            raise UserError(f"csrnet: variant is '{variant}'; it must be one of: light, medium, heavy")
        if head not in ("norm", "plain"):
            raise UserError(f"csrnet: head is '{head}'; it must be one of: norm, plain")
        if stages not in (1, 2, 3) or (stages != 3 and variant != "heavy"):
            raise UserError(f"csrnet: stages is {stages}; it must be 3, or for the heavy variant 1, 2 or 3")

        def pyramid(in_channels: int) -> nn.Module:
            return ShortedPyramidFusion(in_channels) if spfm else ConvNormAct(in_channels, CHANNELS)

        def cascade(*skip_channels: int) -> nn.ModuleList:
            return nn.ModuleList(SelectiveResolution(s, attention, srm_pointwise) for s in skip_channels)

        # Of each stage, channels of the skips that it climbs. A skip is taken from the stage before where that
        # reached its resolution, and from the backbone where not.
        c = CHANNELS
        skips = {
            "light": ((256,), (128,), (64,)),
            "medium": ((256, 128), (c,), (64,)),
            "heavy": ((256, 128, 64), (c, c), (c,)),
        }[variant][:stages]
        self.backbone = ResNet18()
        self.pyramids = nn.ModuleList(pyramid(c if stage else 512) for stage in range(len(skips)))
        self.stages = nn.ModuleList(cascade(*channels) for channels in skips)
        self.head = NormAct(c) if head == "norm" else None
        self.classifier = nn.Conv2d(c, num_classes, 1)
        for part in (self.pyramids, self.stages):
            initialise_convolutions(part, "fan_out", "relu")

    def maps(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """See :meth:`SegmentationNetwork.maps`."""
        f4, f8, f16, y = self.backbone(x)
        finest_first = [f4, f8, f16]
        for pyramid, stage in zip(self.pyramids, self.stages, strict=True):
            y = pyramid(y)
            skips, refined = list(finest_first), []
            for module in cast(nn.ModuleList, stage):
                y = module(y, skips.pop())
                refined.append(y)
            # The next stage starts from the first map refined here, and climbs over the others.
            y = refined[0]
            finest_first = skips + refined[:0:-1]
        y = refined[-1]
        if self.head is not None:
            y = self.head(y)
        return [self.classifier(y)]
