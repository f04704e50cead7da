"""CGNet, the context guided network.

T. Wu, S. Tang, R. Zhang, Y. Zhang: CGNet: A Light-weight Context Guided Network for Semantic Segmentation,
arXiv:1811.08201 (IEEE TIP 2021).

Where the paper leaves gaps, this follows what the authors' own program does:

- M and N count the down-sampling block of their stage.
- Only the surrounding extractor is dilated; neither it nor the local one has a norm of its own.
- A 1x1 convolution reduces the channels before the two extractors. The one that table 8 finds harmful comes
  after them (``extra_conv``).
- Down-sampling blocks have no residual; stage outputs are the concatenation of the first and last block.
- Batch norms have eps 1e-3; the dropout before the classifier is off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.networks.layers import ConvNormAct, NormAct, fold_split_norm, initialise_convolutions, spatial_mean

EPS = 1e-3


class GlobalContext(nn.Module):
    """Weigh channels by a sigmoid gate computed from their means (f_glo, section 3.1)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        gate = self.excite(F.relu(self.squeeze(spatial_mean(x)))).sigmoid()
        return x * gate[:, :, None, None]


class ContextGuidedBlock(nn.Module):
    """CG block (section 3.1): local feature and surrounding context, joined, weighed by the global context.

    :param down: halve the resolution; then the channels double on the way and a 1x1 convolution brings them
        back, and there is no residual
    :param dilation: of the surrounding extractor; 1 makes of it a second local one
    :param residual: ``global`` adds the input after the global context, ``local`` before it, ``none`` not at all
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilation: int,
        reduction: int,
        *,
        down: bool = False,
        act: str = "prelu",
        global_context: bool = True,
        residual: str = "global",
        extra_conv: bool = False,
    ) -> None:
        super().__init__()
        each = channels if down else channels // 2
        kernel, stride = (3, 2) if down else (1, 1)
        self.reduce = ConvNormAct(in_channels, each, kernel, stride, act=act, eps=EPS)
        self.local = nn.Conv2d(each, each, 3, padding=1, groups=each, bias=False)
        self.surround = nn.Conv2d(each, each, 3, padding=dilation, dilation=dilation, groups=each, bias=False)
        self.local_mix = nn.Conv2d(each, each, 1, bias=False) if extra_conv else None
        self.surround_mix = nn.Conv2d(each, each, 1, bias=False) if extra_conv else None
        self.joint = NormAct(2 * each, act, EPS)
        self.mix = nn.Conv2d(2 * each, channels, 1, bias=False) if down else None
        self.context = GlobalContext(channels, reduction) if global_context else None
        self.residual = "none" if down else residual

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, channels, H, W), or half of H and W, rounded up, where ``down``."""
        reduced = self.reduce(x)
        local, surround = self.local(reduced), self.surround(reduced)
        if self.local_mix is not None and self.surround_mix is not None:
            local, surround = self.local_mix(local), self.surround_mix(surround)
        joint = self.joint(torch.cat([local, surround], 1))
        if self.mix is not None:
            joint = self.mix(joint)
        if self.residual == "local":
            joint = joint + x
        if self.context is not None:
            joint = self.context(joint)
        return joint + x if self.residual == "global" else joint

    def fold_norms(self) -> None:
        """Fold the joint norm into the two extractors (or the 1x1 convolutions after them)."""
        if self.joint.norm is None:
            return
        if self.local_mix is not None and self.surround_mix is not None:
            fold_split_norm([self.local_mix, self.surround_mix], self.joint.norm)
        else:
            fold_split_norm([self.local, self.surround], self.joint.norm)
        self.joint.norm = None


def first_and_last(blocks: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run blocks one after the other; return what the first gives, and the last."""
    down, *others = blocks
    first = last = down(x)
    for block in others:
        last = block(last)
    return first, last


class CGNet(SegmentationNetwork):
    """CGNet (section 3.2, table 1), with the variations of its tables 2 to 8 as options.

    :param m: blocks of stage 2 (1/4), the down-sampling one counted
    :param n: blocks of stage 3 (1/8), the down-sampling one counted
    :param surrounding: in which blocks the surrounding extractor is dilated: ``full`` (all), ``single`` (the
        last), ``none``. Elsewhere it is a second local extractor: as many parameters, twice the local channels
        (table 2).
    :param global_context: with f_glo (table 3)
    :param input_injection: feed the shrunk image to stages 2 and 3 (table 4)
    :param activation: ``prelu`` or ``relu`` (table 5)
    :param residual: ``global``, ``local`` or ``none`` (table 7)
    :param extra_conv: a 1x1 convolution after each channel-wise one (table 8)
    :param dropout: rate before the classifier
    :param aux: accepted for uniformity; this network has no auxiliary head
    """

    output_stride = 8

    def __init__(
        self,
        num_classes: int = 19,
        *,
        m: int = 3,
        n: int = 21,
        surrounding: str = "full",
        global_context: bool = True,
        input_injection: bool = True,
        activation: str = "prelu",
        residual: str = "global",
        extra_conv: bool = False,
        dropout: float = 0.0,
        aux: bool = False,
    ) -> None:
        super().__init__(num_classes)
        if m < 2 or n < 2:
            raise UserError(f"cgnet: m and n must be at least 2 (a down-sampling block and another); m={m}, n={n}")
        for option, value, allowed in (
            ("surrounding", surrounding, ("full", "single", "none")),
            ("residual", residual, ("global", "local", "none")),
            ("activation", activation, ("prelu", "relu")),
        ):
            if value not in allowed:
                raise UserError(f"cgnet: {option} is '{value}'; it must be one of: {', '.join(allowed)}")

        def stage(in_channels: int, channels: int, blocks: int, dilation: int, reduction: int) -> nn.ModuleList:
            def block(index: int) -> ContextGuidedBlock:
                is_last_of_all = channels == 128 and index == blocks - 1
                surrounds = surrounding == "full" or (surrounding == "single" and is_last_of_all)
                return ContextGuidedBlock(
                    channels if index else in_channels,
                    channels,
                    dilation if surrounds else 1,
                    reduction,
                    down=index == 0,
                    act=activation,
                    global_context=global_context,
                    residual=residual,
                    extra_conv=extra_conv,
                )

            return nn.ModuleList(block(index) for index in range(blocks))

        injected = 3 if input_injection else 0
        self.shrink = nn.AvgPool2d(3, 2, 1) if input_injection else None
        self.stem = nn.Sequential(
            ConvNormAct(3, 32, 3, 2, act=activation, eps=EPS),
            ConvNormAct(32, 32, 3, act=activation, eps=EPS),
            ConvNormAct(32, 32, 3, act=activation, eps=EPS),
        )
        self.stage2_in = NormAct(32 + injected, activation, EPS)
        self.stage2 = stage(32 + injected, 64, m, dilation=2, reduction=8)
        self.stage3_in = NormAct(128 + injected, activation, EPS)
        self.stage3 = stage(128 + injected, 128, n, dilation=4, reduction=16)
        self.head_in = NormAct(256, activation, EPS)
        self.dropout = nn.Dropout2d(dropout) if dropout else None
        self.classifier = nn.Conv2d(256, num_classes, 1, bias=False)
        initialise_convolutions(self)

    def maps(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """See :meth:`SegmentationNetwork.maps`."""
        half = [self.shrink(x)] if self.shrink is not None else []
        quarter = [self.shrink(half[0])] if self.shrink is not None else []

        first, last = first_and_last(self.stage2, self.stage2_in(torch.cat([self.stem(x), *half], 1)))
        first, last = first_and_last(self.stage3, self.stage3_in(torch.cat([last, first, *quarter], 1)))
        joined = self.head_in(torch.cat([first, last], 1))
        if self.dropout is not None:
            joined = self.dropout(joined)
        return [self.classifier(joined)]
