"""Light over a drive: sun, cloud, dusk, haze, and the camera that exposes for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin, tan

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.patterns import clip8

_LEVELS = np.arange(256, dtype=np.float32).reshape(1, 256, 1)


@dataclass(frozen=True)
class Light:
    """The light of one frame. Vectors are BGR gains of a surface's colour, or BGR levels for haze.

    ``sun_direction`` points to the sun, in the world's axes (Y down).
    """

    ambient: NDArray[np.float64]
    sun: NDArray[np.float64]
    sun_direction: NDArray[np.float64]
    haze: NDArray[np.float64]
    haze_range: float
    dusk: float
    exposure: float
    shadow_reach: float
    shadow_depth: float

    def gains(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the BGR gains (N, 3) of surfaces with unit normals (N, 3) in the world."""
        return self.ambient + np.maximum(0.0, normals @ self.sun_direction)[:, None] * self.sun

    def haze_share(self, distance: float) -> float:
        """Return how much of what is seen at a distance in metres is haze, 0 to 1."""
        return 1.0 - float(np.exp(-max(0.0, distance) / self.haze_range))

    def tone(self, gain: NDArray[np.float64], distance: float) -> NDArray[np.uint8]:
        """Return a look-up table, uint8 (1, 256, 3), that lights a texture at a distance."""
        share = self.haze_share(distance)
        table = _LEVELS * (gain * (1 - share)).astype(np.float32) + (self.haze * share + 0.5).astype(np.float32)
        return np.minimum(table, 255.0).astype(np.uint8)


class Weather:
    """How light goes through a drive: a seed's own hour and sky, changing slowly with time."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw the drive's character."""
        self.overcast = float(rng.choice([rng.uniform(0.75, 1.0), rng.uniform(0.0, 0.35)], p=[0.4, 0.6]))
        self.azimuth = rng.uniform(-pi, pi)
        self.elevation = rng.uniform(0.5, 1.1)
        self.warmth = rng.uniform(-0.03, 0.07)
        self.haze_range = rng.uniform(180, 700)
        self.dusk_phase = rng.uniform(0, 2 * pi)
        self.dusk_bias = float(rng.choice([-0.9, -0.35, 0.45], p=[0.6, 0.25, 0.15]))
        self.phases = rng.uniform(0, 2 * pi, 4)
        self.gain = rng.uniform(1.15, 1.5)

    def at(self, time: float) -> Light:
        """Return the light at a time in seconds."""
        wave = sin(2 * pi * time / 75 + self.dusk_phase) + self.dusk_bias
        dusk = float(np.clip(0.5 + 0.9 * wave, 0, 1)) ** 1.5
        cloud = np.clip(self.overcast + 0.25 * sin(2 * pi * time / 11 + self.phases[0]), 0, 1)
        strength = (1 - cloud) * (1 - dusk)
        azimuth = self.azimuth + 0.35 * sin(2 * pi * time / 60 + self.phases[1])
        elevation = self.elevation * (1 - 0.5 * dusk)
        direction = np.array([sin(azimuth) * cos(elevation), -sin(elevation), cos(azimuth) * cos(elevation)])
        warm = self.warmth
        day = np.array([1.0 + 0.5 * warm, 1.0, 1.0 - warm]) * (0.60 + 0.16 * cloud)
        evening = np.array([0.365, 0.335, 0.315])
        ambient = day * (1 - dusk) + evening * dusk
        sun = np.array([0.78 - 2 * warm, 0.92, 1.0 + warm]) * 0.7 * strength
        haze_day = np.array([222.0, 220.0, 214.0]) - 25 * cloud
        haze = haze_day * (1 - dusk) + np.array([104.0, 92.0, 92.0]) * dusk
        flicker = 0.07 * sin(2 * pi * time / 7.3 + self.phases[2]) + 0.05 * sin(2 * pi * time / 2.9 + self.phases[3])
        return Light(
            ambient=ambient,
            sun=sun,
            sun_direction=direction,
            haze=haze,
            haze_range=self.haze_range,
            dusk=dusk,
            exposure=self.gain * (1 + flicker) * (1 + 0.35 * dusk),
            shadow_reach=direction[0] / max(0.15, tan(elevation)),
            shadow_depth=strength,
        )


class Sensor:
    """What lens and sensor add: blur, vignette, tone curve, noise."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        """Prepare for one size."""
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        fall = 1 - rng.uniform(0.10, 0.26) * (0.6 * x**2 + 0.4 * y**2)
        self._vignette = cv2.merge([clip8(fall * 255)] * 3)
        self._sharpness = rng.uniform(0.35, 0.65) * min(height / 360, width / 480)
        self._contrast = rng.uniform(1.0, 1.3)
        self._noise_level = rng.uniform(1.2, 2.8)
        self._margin = 61
        grain = rng.standard_normal((height + self._margin, width + self._margin, 3)).astype(np.float32)
        grain = 0.75 * grain + 0.5 * grain.mean(2, keepdims=True) * 1.7
        self._grain = clip8(128 + 32 * grain)

    def expose(self, image: NDArray[np.uint8], light: Light, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture as the camera delivers it."""
        sigma = self._sharpness
        if sigma > 0.2:
            image = cv2.GaussianBlur(image, (3, 3) if sigma < 0.9 else (0, 0), sigma)  # type: ignore[assignment]
        image = cv2.multiply(image, self._vignette, scale=1 / 255)  # type: ignore[assignment]
        level = np.arange(256) / 255 * light.exposure
        curve = level + (self._contrast - 1) * np.sin(2 * pi * np.clip(level, 0, 1)) * -0.25
        image = cv2.LUT(image, clip8(255 * np.clip(curve, 0, 1)))  # type: ignore[assignment]
        dy, dx = rng.integers(self._margin, size=2)
        grain = self._grain[dy : dy + image.shape[0], dx : dx + image.shape[1]]
        share = self._noise_level * (1 + 0.8 * light.dusk) / 32
        return cv2.addWeighted(image, 1.0, grain, share, -128 * share)  # type: ignore[return-value]
