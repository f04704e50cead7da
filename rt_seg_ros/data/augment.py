"""Random views of pictures and labels, a whole batch at a time, on whichever device holds them.

Each view is one affine map from the crop back into the picture (scale, place, mirror image), read bilinearly for the
picture and at the nearest pixel for the labels. Both use the same map of pixel centres, so that no edge
shifts. Where a view shrinks the picture, a half-size copy is mixed in by the logarithm of the scale (trilinear
filtering), so that thin things do not flicker. What lies outside the picture is the mean colour, and void.

Every random number is a function of (seed, step): a run that is continued draws what an unbroken one draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentOptions:
    """What is drawn at random. ``scale`` is log-uniform; a jitter of j draws a factor from 1-j to 1+j.

    ``scales``, where given, are drawn from in place of the range ``scale``.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    scales: Sequence[float] = ()
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


@dataclass(frozen=True)
class Views:
    """The random numbers of one batch, each float32 (B,)."""

    scale: NDArray[np.float32]
    top: NDArray[np.float32]
    left: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    saturation: NDArray[np.float32]


def generator(seed: int, *counters: int) -> np.random.Generator:
    """Return the generator that belongs to these numbers, whatever was drawn before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *counters])))


def draw_views(options: AugmentOptions, sizes: NDArray[np.int64], rng: np.random.Generator) -> Views:
    """Draw a view of each picture.

    The crop lies within the scaled picture where that is the larger, else the picture lies within the crop; along
    each axis by itself. ``top`` and ``left`` are the crop's corner in the scaled picture's pixels.

    :param sizes: int64 (B, 2), height and width of each picture
    """
    n = len(sizes)
    low, high = math.log(options.scale[0]), math.log(options.scale[1])
    scale = rng.choice(np.asarray(options.scales), n) if options.scales else np.exp(rng.uniform(low, high, n))
    room = sizes * scale[:, None] - np.asarray(options.crop)
    corner = rng.random((n, 2)) * room
    mirrored = rng.random(n) < options.flip

    def factors(jitter: float) -> NDArray[np.float32]:
        return rng.uniform(1.0 - jitter, 1.0 + jitter, n).astype(np.float32)

    return Views(
        scale=scale.astype(np.float32),
        top=corner[:, 0].astype(np.float32),
        left=corner[:, 1].astype(np.float32),
        mirrored=mirrored.astype(np.float32),
        brightness=factors(options.brightness),
        contrast=factors(options.contrast),
        saturation=factors(options.saturation),
    )


class Augmenter:
    """Turns stored pictures into a network's training batch.

    :param options: what varies
    :param mean: RGB, 0 to 255
    :param std: RGB, 0 to 255
    """

    def __init__(
        self,
        options: AugmentOptions,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device | str = "cpu",
    ) -> None:
        self.options = options
        self.device = torch.device(device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._luma = torch.tensor(_LUMA, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        smallest = min(options.scales, default=options.scale[0])
        self._levels = max(0, math.ceil(-math.log2(smallest) - 1e-6))

    def __call__(self, images: Tensor, labels: Tensor, sizes: NDArray[np.int64], views: Views) -> tuple[Tensor, Tensor]:
        """Cut the views out.

        :param images: uint8 (B, 3, H, W), RGB
        :param labels: uint8 (B, H, W)
        :param sizes: int64 (B, 2), the part of H and W that is picture (from the top left corner)
        :param views: from ``draw_views``
        :return: normalised float32 (B, 3, h, w), and int64 (B, h, w) with 255 for void
        """
        grid = self._grid(images.shape[-2:], views)
        picture = self._sample(images, grid, views)
        picture = self._jitter(picture, views)
        # One more than the id, so that the zeros from outside become -1, which wraps round to 255.
        raised = labels.unsqueeze(1).to(torch.float32).add_(1.0)
        truth = F.grid_sample(raised, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        truth = truth.squeeze(1).to(torch.int64).sub_(1).bitwise_and_(0xFF)
        return picture, truth

    def _column(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True).view(-1, 1, 1, 1)

    def _grid(self, size: torch.Size, views: Views) -> Tensor:
        """Where each pixel of the crop lies in the stored picture, in grid_sample's units, (B, h, w, 2)."""
        height, width = size
        crop_height, crop_width = self.options.crop
        # Pixel centres: crop pixel x is at x + 0.5, in the scaled picture at x + 0.5 + left, in the picture at
        # that over scale; 0..width becomes -1..1. A mirrored view reads its own columns from the right.
        xs = torch.arange(crop_width, dtype=torch.float32, device=self.device) + 0.5
        ys = torch.arange(crop_height, dtype=torch.float32, device=self.device) + 0.5
        scale = self._column(views.scale).view(-1, 1)
        mirrored = self._column(views.mirrored).view(-1, 1)
        xs = xs[None] * (1.0 - 2.0 * mirrored) + crop_width * mirrored
        x = (xs + self._column(views.left).view(-1, 1)) / scale * (2.0 / width) - 1.0
        y = (ys[None] + self._column(views.top).view(-1, 1)) / scale * (2.0 / height) - 1.0
        shape = (len(views.scale), crop_height, crop_width)
        return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)

    def _sample(self, images: Tensor, grid: Tensor, views: Views) -> Tensor:
        """Read the picture at the grid, minus the mean, with the level of detail that the scale asks for."""
        level = images.to(torch.float32).sub_(self._mean)
        picture = F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        detail = np.clip(-np.log2(views.scale), 0.0, self._levels)
        for k in range(1, self._levels + 1):
            level = F.interpolate(level, (max(level.shape[-2] // 2, 1), max(level.shape[-1] // 2, 1)), mode="area")
            share = np.clip(detail - (k - 1), 0.0, 1.0).astype(np.float32)
            chosen = np.flatnonzero(share > 0.0)
            if chosen.size == 0:
                continue
            index = torch.from_numpy(chosen).to(self.device)
            coarse = F.grid_sample(
                level[index], grid[index], mode="bilinear", padding_mode="zeros", align_corners=False
            )
            picture[index] = torch.lerp(picture[index], coarse, self._column(share[chosen]))
        return picture

    def _jitter(self, picture: Tensor, views: Views) -> Tensor:
        """Change light and colour, in 0..255, then normalise; the picture comes with its mean taken off."""
        options = self.options
        if options.brightness or options.contrast or options.saturation:
            picture = picture.add_(self._mean).mul_(self._column(views.brightness))
            grey = (picture * self._luma).sum(1, keepdim=True)
            saturation = self._column(views.saturation)
            picture = picture.mul_(saturation).add_(grey * (1.0 - saturation))
            contrast = self._column(views.contrast)
            middle = grey.mean((2, 3), keepdim=True)
            picture = picture.mul_(contrast).add_(middle * (1.0 - contrast)).clamp_(0.0, 255.0).sub_(self._mean)
        return picture.div_(self._std)
