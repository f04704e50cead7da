"""The ground of a frame, by looking down every pixel's ray: road, kerbs, pavement, verges, shadows."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.camera import Camera
from rt_seg_ros.data.synth.canvas import Canvas
from rt_seg_ros.data.synth.light import Light
from rt_seg_ros.data.synth.patterns import ground_grain
from rt_seg_ros.data.synth.street import Street
from rt_seg_ros.data.synth.things import BLOCK, PAVEMENT, ROAD, STEP, TREE

_ROAD, _KERB, _WALK, _VERGE, _YARD = range(5)
_LABELS = np.array([ROAD, PAVEMENT, PAVEMENT, TREE, PAVEMENT], np.uint8)
_KERB_WIDTH = 0.16
_SIZE, _PER_METRE = 512, 26.0
#: From which distance on, metres, which reduction of the grain is taken: along the street, and across it.
_BANDS = ((0.0, 1, 1), (9.0, 4, 1), (20.0, 16, 2), (45.0, 48, 6))


class Ground:
    """Paints the ground of any frame of a street."""

    def __init__(self, street: Street, rng: np.random.Generator, far: float) -> None:
        """Prepare the grain's reductions."""
        self.street = street
        self.far = far
        grain = ground_grain(rng, _SIZE, _PER_METRE)
        self._levels = [
            cv2.resize(grain, (_SIZE // across, _SIZE // along), interpolation=cv2.INTER_AREA)
            for _, along, across in _BANDS
        ]
        paving = street.paving
        colours = (street.asphalt, paving * 1.12, paving, street.grass, paving * 0.9)
        self._colours = np.stack(colours).astype(np.float32)
        across = np.linspace(-12, 12, 961)
        wear = np.zeros_like(across)
        for wheel in (-street.lane - 0.75, -street.lane + 0.75, street.lane - 0.75, street.lane + 0.75):
            wear += np.exp(-(((across - wheel) / 0.28) ** 2))
        self._wear = (1 + 0.05 * wear - 0.06 * np.exp(-(((np.abs(across) - street.lane) / 0.25) ** 2))).astype(
            np.float32
        )

    def paint(self, canvas: Canvas, camera: Camera, light: Light) -> None:
        """Paint everything below the horizon."""
        rays = _look_down(camera, self.far)
        if rays is None:
            return
        row0, ahead, aside, on_ground = rays
        base = np.floor((camera.position[2] - 4.0) / BLOCK) * BLOCK
        tables = self._tables(base, light)
        index = ((ahead + np.float32(camera.position[2] - base)) * np.float32(1 / STEP)).astype(np.int32)
        np.clip(index, 0, tables["middle"].size - 1, out=index)
        lateral = aside + np.float32(camera.position[0]) - tables["middle"][index]
        material = _material(lateral, index, tables)
        phase = np.float32(camera.position[2] % (_SIZE / _PER_METRE))
        gain = self._pattern(material, lateral, ahead + phase)
        if light.shadow_depth > 0.02:
            gain *= self._shade(lateral, tables["shadow"][index], light)
        picture = self._lit(material, gain, ahead, light)
        # Kerbs are seen at a slant: their steps are smoothed as the rest is by its coverage.
        edges = cv2.morphologyEx((material == _ROAD).view(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 3), np.uint8))
        cv2.copyTo(cv2.blur(picture, (3, 2)), edges, picture)
        labels = np.take(_LABELS, material)
        whole = int(np.argmax(on_ground.all(1))) if on_ground[-1].all() else len(on_ground)
        canvas.image[row0 + whole :] = picture[whole:]
        canvas.labels[row0 + whole :] = labels[whole:]
        if whole:  # rows in which ground and sky meet
            rows = slice(row0, row0 + whole)
            np.copyto(canvas.image[rows], picture[:whole], where=on_ground[:whole, :, None])
            np.copyto(canvas.labels[rows], labels[:whole], where=on_ground[:whole])

    def _lit(
        self, material: NDArray[np.uint8], gain: NDArray[np.float32], ahead: NDArray[np.float32], light: Light
    ) -> NDArray[np.uint8]:
        """Return the picture: materials' colours times the gains, lit, in haze."""
        haze = 1 - np.exp(ahead * np.float32(-1 / light.haze_range))
        gain = gain * (1 - haze)
        sunny = light.gains(np.array([[0.0, -1.0, 0.0]]))[0]
        planes = []
        for channel in range(3):
            plane = np.take(self._colours[:, channel] * np.float32(sunny[channel] / 128), material)
            plane *= gain
            plane += haze * np.float32(light.haze[channel])
            planes.append(np.minimum(plane, 255, out=plane).astype(np.uint8))
        return cv2.merge(planes)  # type: ignore[return-value]

    @staticmethod
    def _shade(lateral: NDArray[np.float32], edge: NDArray[np.float32], light: Light) -> NDArray[np.float32]:
        """Return what the houses' shadows leave of the light, per pixel."""
        sunny = light.gains(np.array([[0.0, -1.0, 0.0]]))[0]
        left = float((light.ambient * 0.92 / sunny).mean())
        dark = np.clip((lateral * np.float32(np.sign(light.shadow_reach)) - edge) * 3 + 0.5, 0, 1)
        return 1 - dark * np.float32(1 - left)

    def _tables(self, base: float, light: Light) -> dict[str, NDArray[Any]]:
        """Return the ground's tables along the street from ``base`` on, STEP apart."""
        blocks = [self.street.block(int(base // BLOCK) + i) for i in range(int(self.far // BLOCK) + 3)]
        s = base + STEP * (np.arange(len(blocks) * int(BLOCK / STEP)) + 0.5)
        sunward = 1 if light.shadow_reach > 0 else 0
        heights = np.concatenate([b.height[sunward] for b in blocks])
        front = self.street.half_road[sunward] + self.street.walk[sunward]
        yard = np.concatenate([b.paved_yard for b in blocks], 1)
        return {
            "middle": self.street.middle(s).astype(np.float32),
            "road": np.concatenate([b.road for b in blocks], 1),
            "pavement": np.concatenate([b.pavement for b in blocks], 1),
            "yard": np.where(yard, _YARD, _VERGE).astype(np.uint8),
            "shadow": (front - heights * abs(light.shadow_reach)).astype(np.float32),
        }

    def _pattern(
        self, material: NDArray[np.uint8], across: NDArray[np.float32], along: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the grain of every pixel, around 128, float32."""
        middle = along[:, along.shape[1] // 2] - along.min()
        grain = np.empty((*material.shape, 3), np.uint8)
        for i, (near, fine_along, fine_across) in enumerate(_BANDS):
            far = _BANDS[i + 1][0] if i + 1 < len(_BANDS) else np.inf
            rows = np.flatnonzero((middle >= near) & (middle < far))
            if rows.size == 0:
                continue
            band = slice(rows[0], rows[-1] + 1)
            x = across[band] * np.float32(_PER_METRE / fine_across)
            y = along[band] * np.float32(_PER_METRE / fine_along)
            grain[band] = cv2.remap(self._levels[i], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        asphalt, paving, grass = cv2.split(grain)
        worn = cv2.multiply(asphalt, self._wear_at(across), dtype=cv2.CV_32F)
        pattern = np.where(material == _ROAD, worn, paving)
        return np.where(material == _VERGE, grass, pattern)

    def _wear_at(self, across: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the gain that wheels have left on the asphalt, per pixel."""
        index = np.clip(across * 40 + 480, 0, self._wear.size - 1).astype(np.int16)
        return np.take(self._wear, index)


def _look_down(
    camera: Camera, far: float
) -> tuple[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]] | None:
    """Follow the rays of all pixels that may see the ground; None where none does.

    :return: the first row, and for all pixels from there: metres ahead of the camera, metres to its right, and
        whether the ray meets the ground nearer than ``far``
    """
    k = camera.intrinsics
    inverse = camera.rotation.T @ np.linalg.inv(k.matrix)
    height = -camera.position[1]
    limit = height / far
    # The row at which a ray meets the ground at the far limit, at either end of it.
    top = min((limit - inverse[1, 2] - inverse[1, 0] * u) / inverse[1, 1] for u in (0, k.width - 1))
    row0 = int(np.clip(np.floor(top), 0, k.height))
    if row0 >= k.height:
        return None
    v = np.arange(row0, k.height, dtype=np.float32)[:, None]
    u = np.arange(k.width, dtype=np.float32)[None, :]
    inv = inverse.astype(np.float32)
    down = inv[1, 0] * u + (inv[1, 1] * v + inv[1, 2])
    scale = np.float32(height) / np.maximum(down, np.float32(limit))
    ahead = (inv[2, 0] * u + (inv[2, 1] * v + inv[2, 2])) * scale
    aside = (inv[0, 0] * u + (inv[0, 1] * v + inv[0, 2])) * scale
    return row0, ahead, aside, down >= limit


def _material(
    lateral: NDArray[np.float32], index: NDArray[np.int32], tables: dict[str, NDArray[Any]]
) -> NDArray[np.uint8]:
    """Return what the ground is made of, by place across the street and step along it."""
    place = (lateral > 0).astype(np.int32) * np.int32(tables["middle"].size) + index
    reach = np.abs(lateral)
    beyond_road = reach - tables["road"].ravel()[place]
    material = np.zeros(reach.shape, np.uint8)
    material[beyond_road > 0] = _KERB
    material[beyond_road > _KERB_WIDTH] = _WALK
    outside = np.flatnonzero(reach > tables["pavement"].ravel()[place])
    material.ravel()[outside] = tables["yard"].ravel()[place.ravel()[outside]]
    return material
