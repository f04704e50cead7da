"""Textures made of noise and rules: ground, walls, foliage, sky. All from a generator, so from a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]


def noise(rng: np.random.Generator, height: int, width: int, roughness: float = 1.0) -> NDArray[np.float32]:
    """Return noise that tiles, float32 (height, width), mean 0, deviation 1.

    :param roughness: exponent of the fall of amplitude with frequency: 0 is white, 1 pink, 2 cloudy
    """
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.rfftfreq(width)[None, :] * width
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum /= radius**roughness
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(height, width))
    return (field / field.std()).astype(np.float32)


@lru_cache(maxsize=16)
def _bank(tenths: int) -> NDArray[np.float32]:
    return noise(np.random.default_rng(tenths), 512, 512, tenths / 10)


def grain(rng: np.random.Generator, height: int, width: int, roughness: float = 1.0) -> NDArray[np.float32]:
    """Return noise like :func:`noise`, cut at random from one that is made once: quick, for small textures."""
    bank = _bank(round(10 * roughness))
    y, x = rng.integers(512, size=2)
    rows = (np.arange(height) + y) % 512
    columns = (np.arange(width) + x) % 512
    return bank[rows[:, None], columns]


def clip8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Round to uint8, clipped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def ground_grain(rng: np.random.Generator, size: int, per_metre: float) -> NDArray[np.uint8]:
    """Return the ground's grain, uint8 (size, size, 3), around 128: asphalt, paving slabs, grass."""
    asphalt = 128 + 7 * grain(rng, size, size, 0.2) + 7 * grain(rng, size, size, 1.1)
    cracks = np.abs(grain(rng, size, size, 1.6))
    asphalt -= 22 * np.exp(-((cracks / 0.012) ** 2))
    slab = round(0.6 * per_metre)
    rows, columns = np.arange(size)[:, None] // slab, np.arange(size)[None, :] // slab
    tint = rng.normal(0, 7, (size // slab + 1, size // slab + 1))
    paving = 128 + tint[rows, columns] + 5 * grain(rng, size, size, 0.4) + 4 * grain(rng, size, size, 1.3)
    joint = (np.arange(size) % slab) < max(1, slab // 14)
    paving[joint, :] -= 26
    paving[:, joint] -= 26
    grass = 128 + 22 * grain(rng, size, size, 0.5) + 14 * grain(rng, size, size, 1.2)
    return clip8(np.stack((asphalt, paving, grass), 2))


def sky(
    rng: np.random.Generator, height: int, width: int, zenith: Colour, horizon: Colour, cover: float
) -> NDArray[np.uint8]:
    """Return a sky, BGR uint8 (height, width, 3), the horizon at the bottom.

    :param cover: share of clouds, 0 to 1
    """
    up = np.linspace(1.0, 0.0, height)[:, None, None] ** 0.8
    base = np.asarray(zenith) * up + np.asarray(horizon) * (1 - up)
    clouds = noise(rng, height, width, 1.7)
    # Clouds flatten towards the horizon.
    rows = (np.linspace(0, 1, height) ** 1.6 * (height - 1)).astype(int)
    clouds = clouds[rows]
    threshold = np.quantile(clouds, 1 - np.clip(cover, 0.02, 0.98))
    density = np.clip((clouds - threshold) * 0.9, 0, 1)[:, :, None] ** 0.7
    shade = 236 + 14 * noise(rng, height, width, 1.8)[rows][:, :, None] - 26 * density
    return clip8(base * (1 - density) + shade * np.array([1.0, 0.99, 0.975]) * density)


def bricks(
    rng: np.random.Generator, height: int, width: int, colour: Colour, mortar: Colour, course: int
) -> NDArray[np.float32]:
    """Return a brick wall, float32 BGR (height, width, 3); ``course`` is a brick's height in pixels."""
    y, x = np.mgrid[0:height, 0:width]
    row = y // course
    column = (x + (row % 2) * course) // (2 * course)
    tint = rng.normal(1.0, 0.09, (height // course + 1, width // course + 3)).astype(np.float32)
    wall = np.asarray(colour, np.float32) * tint[row, column][:, :, None]
    joint = ((y % course) == 0) | (((x + (row % 2) * course) % (2 * course)) == 0)
    wall[joint] = np.asarray(mortar, np.float32)
    return wall
