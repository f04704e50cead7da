"""ResNet-18 as a backbone.

K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016.

Departure: every stage gives the sum of its last block *before* the ReLU, which the next stage then applies;
this is where CSRNet takes its skip connections here. Parameters are named as in torchvision, so that its ImageNet
weights load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.networks.layers import fold_norm, initialise_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first halves the resolution where ``stride`` is 2."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) before its ReLU -> (N, channels, ceil(H / stride), ceil(W / stride)) before its ReLU."""
        x = F.relu(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))

    def fold_norms(self) -> None:
        """Fold both norms, and the shortcut's, into their convolutions."""
        if isinstance(self.bn1, nn.Identity):
            return
        self.conv1, self.bn1 = fold_norm(self.conv1, self.bn1), nn.Identity()
        self.conv2, self.bn2 = fold_norm(self.conv2, self.bn2), nn.Identity()
        if self.downsample is not None:
            conv, norm = self.downsample
            self.downsample = nn.Sequential(fold_norm(conv, norm))


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: maps of 64, 128, 256 and 512 channels at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512))
        initialise_convolutions(self, "fan_out", "relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> the four stages' block sums, before their ReLU."""
        x4 = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        x8 = self.layer2(x4)
        x16 = self.layer3(x8)
        return x4, x8, x16, self.layer4(x16)

    def fold_norms(self) -> None:
        """Fold the first norm; the blocks fold their own."""
        if not isinstance(self.bn1, nn.Identity):
            self.conv1, self.bn1 = fold_norm(self.conv1, self.bn1), nn.Identity()

    @staticmethod
    def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a torchvision ResNet-18 by this module's names; the ImageNet classifier is left out."""
        return {key: value for key, value in state.items() if not key.startswith("fc.")}
