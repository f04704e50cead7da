"""Random views of pictures and labels, on whichever device holds them.

Each view is one affine map from the crop back into the picture (scale, place, mirror image), read bilinearly for the
picture and at the nearest pixel for the labels. Both use the same map of pixel centres, so that no edge
shifts. Where a view shrinks the picture, half-size copies are mixed in by the logarithm of the scale (trilinear
filtering), so that thin things do not flicker. What lies outside the picture is the mean colour,
recoloured with the rest, and void.

Views are cut one after the other, each from the part of its picture that it shows: that part fits a CPU's cache.

Every random number is a function of (seed, step): a run that is continued draws what an unbroken one draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.labels import UNLABELLED

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentOptions:
    """What is drawn at random. A jitter of j draws a factor from 1-j to 1+j.

    ``scale`` is a range, drawn by ``scale_law``: ``log`` has as many views halved as doubled, ``uniform`` is as papers
    usually mean it; ``scales``, where given, are drawn from in its place.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    scale_law: Literal["log", "uniform"] = "log"
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
    if options.scales:
        scale = rng.choice(np.asarray(options.scales), n)
    elif options.scale_law == "uniform":
        scale = rng.uniform(*options.scale, n)
    else:
        scale = np.exp(rng.uniform(math.log(options.scale[0]), math.log(options.scale[1]), n))
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
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(3, 1, 1)
        self._luma = torch.tensor(_LUMA, dtype=torch.float32, device=self.device).view(3, 1, 1)
        self._limits = [(-m / s, (255.0 - m) / s) for m, s in zip(mean, std, strict=True)]
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
        crop = self.options.crop
        ys, xs = self._places(views)
        colours = self._colours(views)
        pictures = torch.empty((len(images), 3, *crop), dtype=torch.float32, device=self.device)
        truths = torch.empty((len(images), *crop), dtype=torch.int64, device=self.device)
        for i, (height, width) in enumerate(sizes.tolist()):
            picture = self._read(images[i, :, :height, :width], ys[i], xs[i], views, i)
            if colours is None:
                torch.div(picture, self._std, out=pictures[i])
            else:
                each, middle, offset = (part[i] for part in colours)
                _recolour(picture, each, middle, offset, out=pictures[i])
                for plane, limits in zip(pictures[i], self._limits, strict=True):
                    plane.clamp_(*limits)
            truths[i] = _nearest(labels[i, :height, :width], ys[i], xs[i])
        return pictures, truths

    def _column(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True).view(-1, 1)

    def _places(self, views: Views) -> tuple[Tensor, Tensor]:
        """Where the crop's rows and columns lie in the stored picture, pixel i from i to i + 1: (B, h) and (B, w)."""
        height, width = self.options.crop
        # Pixel centres: crop pixel x is at x + 0.5, in the scaled picture at x + 0.5 + left, in the picture at
        # that over scale. A mirrored view reads its own columns from the right.
        xs = torch.arange(width, dtype=torch.float32, device=self.device)[None] + 0.5
        ys = torch.arange(height, dtype=torch.float32, device=self.device)[None] + 0.5
        scale, mirrored = self._column(views.scale), self._column(views.mirrored)
        xs = xs * (1.0 - 2.0 * mirrored) + width * mirrored
        return (ys + self._column(views.top)) / scale, (xs + self._column(views.left)) / scale

    def _read(self, image: Tensor, ys: Tensor, xs: Tensor, views: Views, i: int) -> Tensor:
        """Read a picture at these rows and columns, minus the mean, with the detail that the scale asks for."""
        detail = min(max(-math.log2(float(views.scale[i])), 0.0), float(self._levels))
        fine, share = int(detail), detail - int(detail)
        coarse = fine + 1 if share > 0.0 else fine
        (top, bottom), (left, right) = (
            _span(float(start[i] / views.scale[i]), crop / float(views.scale[i]), size, 1 << coarse)
            for start, crop, size in zip((views.top, views.left), self.options.crop, image.shape[1:], strict=True)
        )
        level = image[None, :, top:bottom, left:right].to(torch.float32).sub_(self._mean)
        read = None
        for k in range(coarse + 1):
            if k:
                level = _halved(level)
            if k >= fine:
                y = (ys - top) * (2.0 / (level.shape[2] << k)) - 1.0
                x = (xs - left) * (2.0 / (level.shape[3] << k)) - 1.0
                grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)
                sample = F.grid_sample(level, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]
                read = sample if read is None else read.lerp_(sample, share)
        assert read is not None
        return read

    def _colours(self, views: Views) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return what :func:`_recolour` wants for each view; None where nothing varies.

        Brightness, saturation (towards each pixel's grey), contrast (towards the view's mean grey) and normalisation
        are linear: a matrix (3, 3) for the colours, another for the mean colour, and what is added.
        """
        options = self.options
        if not (options.brightness or options.contrast or options.saturation):
            return None
        brightness, saturation, contrast = (
            self._column(factor)[:, :, None] for factor in (views.brightness, views.saturation, views.contrast)
        )
        mean, std, luma = self._mean.view(3, 1), self._std.view(3, 1), self._luma.view(1, 3).expand(3, 3)
        each = contrast * brightness * (saturation * torch.eye(3, device=self.device) + (1.0 - saturation) * luma)
        middle = (1.0 - contrast) * brightness * luma
        return each / std, middle / std, ((each + middle) @ mean - mean) / std


def _halved(level: Tensor) -> Tensor:
    """Average 2 x 2 pixels, float32 (1, 3, H, W) to (1, 3, ceil(H / 2), ceil(W / 2)); four times avg_pool2d's speed."""
    if level.shape[2] % 2 or level.shape[3] % 2:
        level = F.pad(level, (0, level.shape[3] % 2, 0, level.shape[2] % 2), mode="replicate")
    level = level[..., ::2, :] + level[..., 1::2, :]
    return (level[..., ::2] + level[..., 1::2]).mul_(0.25)


def _recolour(picture: Tensor, each: Tensor, middle: Tensor, offset: Tensor, out: Tensor) -> None:
    """Write each @ pixel + middle @ mean pixel + offset, float32 (3, h, w)."""
    flat = picture.view(3, -1)
    torch.addmm(offset + middle @ flat.mean(1, keepdim=True), each, flat, out=out.view(3, -1))


def _span(start: float, length: float, size: int, unit: int) -> tuple[int, int]:
    """Return which pixels of ``size`` are read from ``start`` on, with their neighbours, in whole units."""
    low = math.floor(start - unit) // unit * unit
    high = -(-math.ceil(start + length + unit) // unit) * unit
    low = min(max(low, 0), (size - 1) // unit * unit)
    return low, min(max(high, low + 1), size)


def _nearest(labels: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Read labels, uint8 (H, W), at these rows and columns; 255 outside: uint8 (h, w)."""
    (rows, row_inside), (columns, column_inside) = (
        (at.floor().clamp(0, size - 1).to(torch.int64), (at >= 0) & (at < size))
        for at, size in zip((ys, xs), labels.shape, strict=True)
    )
    read = labels.index_select(0, rows).index_select(1, columns)
    read.masked_fill_(~row_inside[:, None], UNLABELLED)
    return read.masked_fill_(~column_inside, UNLABELLED)
