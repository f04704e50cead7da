"""What is endlessly far: the sky, and the line of trees and roofs that closes the street."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.camera import Camera, Intrinsics
from rt_seg_ros.data.synth.canvas import Canvas
from rt_seg_ros.data.synth.light import Light
from rt_seg_ros.data.synth.patterns import grain, noise, sky
from rt_seg_ros.data.synth.things import SKY, TREE

_FOLIAGE = np.array([52.0, 82.0, 78.0])


class Horizon:
    """Sky and skyline of a drive, for one camera."""

    def __init__(self, rng: np.random.Generator, intrinsics: Intrinsics, cover: float, far: float) -> None:
        """Draw clouds and skyline; ``cover`` is the share of clouds."""
        h, w = intrinsics.height, intrinsics.width
        self._far = far
        zenith = np.array([230, 180, 134]) * (1 - cover) + np.array([226, 222, 217]) * cover
        small = (180, 480)  # twice the frame's width in angle, and enough of its height
        self._size = (int(h * 0.8) + 1, w * 2)
        day = sky(rng, *small, tuple(zenith), (252, 251, 247), 0.2 + 0.75 * cover)
        dusk = sky(rng, *small, (104, 88, 78), (158, 162, 180), 0.45)
        self._day, self._dusk = self._unrolled(day, w), self._unrolled(cv2.convertScaleAbs(dusk, alpha=0.95), w)
        self._heights = 6.5 + 1.6 * noise(rng, 1, 2048, 0.9)[0] + 0.5 * noise(rng, 1, 2048, 0.2)[0]
        self._leaves = grain(rng, 64, 512, 0.6)

    def _unrolled(self, picture: NDArray[np.uint8], extra: int) -> NDArray[np.uint8]:
        """Return the sky at full size, repeated by ``extra`` columns, so that every view of it is a slice."""
        full = cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_CUBIC)
        return np.hstack((full, full[:, :extra]))

    def paint(self, canvas: Canvas, camera: Camera, light: Light) -> None:
        """Fill the frame down to a little below the horizon; the ground comes over it."""
        k = camera.intrinsics
        rotation = camera.rotation
        yaw = float(np.arctan2(rotation[2, 0], rotation[2, 2]))
        horizon = k.cy + k.fy * (rotation[1, 2] / rotation[2, 2])
        canvas.labels.fill(SKY)
        below = int(np.clip(horizon + 3, 1, k.height))
        shift = int(yaw * k.fx) % self._size[1]
        first = self._size[0] - below
        rows = slice(max(0, first), self._size[0])
        columns = slice(shift, shift + k.width)
        view = canvas.image[max(0, -first) : below]
        view[:] = self._day[rows, columns]
        if light.dusk > 0.01:
            cv2.addWeighted(view, 1 - light.dusk, self._dusk[rows, columns], light.dusk, 0, dst=view)
        if first < 0:
            canvas.image[:-first] = canvas.image[-first]
        self._skyline(canvas, camera, light, yaw, horizon)

    def _skyline(self, canvas: Canvas, camera: Camera, light: Light, yaw: float, horizon: float) -> None:
        """Stand trees behind the last houses; their heights are fixed by direction in the world."""
        k = camera.intrinsics
        slope = float(camera.rotation[1, 0] / camera.rotation[1, 1])
        u = np.arange(k.width)
        azimuth = yaw + np.arctan((u - k.cx) / k.fx)
        direction = azimuth * 160
        index = np.floor(direction).astype(int)
        share = direction - index
        tall = self._heights[index % 2048] * (1 - share) + self._heights[(index + 1) % 2048] * share
        level = horizon - slope * (u - k.cx)
        top = level - k.fy * np.clip(tall, 2.0, 14.0) / (1.15 * self._far)
        bottom = level + k.fy * -camera.position[1] / self._far + 2
        row0, row1 = max(0, int(top.min())), min(k.height, int(bottom.max()) + 1)
        if row1 <= row0:
            return
        rows = np.arange(row0, row1)[:, None]
        coverage = np.clip(rows - top + 0.5, 0, 1)
        haze = light.haze_share(self._far)
        leaves = 1 + 0.28 * self._leaves[rows % 64, (index % 512)[None, :]]
        lit = _FOLIAGE * light.gains(np.array([[0, 0, -1.0]]))[0]
        colour = lit * np.clip(leaves, 0.3, 1.8)[:, :, None] * (1 - haze) + light.haze * haze
        view = canvas.image[row0:row1]
        view[:] = np.clip(view + (colour - view) * coverage[:, :, None], 0, 255)
        canvas.labels[row0:row1][coverage >= 0.5] = TREE
