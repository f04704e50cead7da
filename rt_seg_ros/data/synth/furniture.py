"""Street furniture: lamps, road signs, traffic lights as solids; fences and hedges as textures."""

from __future__ import annotations

from math import pi

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.patterns import Colour, bricks, clip8, grain
from rt_seg_ros.data.synth.solids import FrozenSolid, Solid
from rt_seg_ros.data.synth.things import Levels


def lamp(height: float, metal: Colour, towards: int) -> FrozenSolid:
    """Return a street lamp whose arm reaches over the road: ``towards`` is +1 or -1."""
    solid = Solid()
    solid.box((-0.09, 0, -0.09), (0.09, height * 0.3, 0.09), metal)
    solid.box((-0.06, height * 0.3, -0.06), (0.06, height, 0.06), metal)
    low, high = sorted((0.0, towards * 1.5))
    solid.box((low, height - 0.05, -0.04), (high, height + 0.05, 0.04), metal)
    low, high = sorted((towards * 1.2, towards * 1.9))
    solid.box((low, height - 0.08, -0.14), (high, height + 0.09, 0.14), (150, 152, 152))
    return solid.freeze()


def sign(rng: np.random.Generator, metal: Colour) -> tuple[FrozenSolid, FrozenSolid]:
    """Return (pole, plate): a round, triangular or square road sign, or a large board."""
    kind = rng.choice(["round", "triangle", "blue", "board"], p=[0.35, 0.25, 0.25, 0.15])
    low = float(rng.uniform(2.0, 2.5))
    pole, plate = Solid(), Solid()
    e = 0.06
    red, white, black, blue = (40, 36, 190), (225, 228, 228), (40, 40, 40), (165, 80, 25)

    def face(points: list[tuple[float, float]], colour: Colour, z: float) -> None:
        plate.face([(x, y, z) for x, y in points], colour, glow=0.1)
        plate.face([(x, y, e) for x, y in reversed(points)], (110, 112, 112))

    def disc(radius: float) -> list[tuple[float, float]]:
        turns = np.linspace(0, 2 * pi, 16, endpoint=False)
        return [(radius * float(np.sin(a)), low + 0.38 + radius * float(np.cos(a))) for a in turns]

    if kind == "round":
        r = 0.36
        face(disc(r), red, -e)
        face(disc(r * 0.76), white, -e - 0.01)
        plate.box((-0.14, low + 0.3, -e - 0.02), (0.14, low + 0.45, -e - 0.02), black, detail=1)
    elif kind == "triangle":
        face([(0, low + 0.85), (0.48, low), (-0.48, low)], red, -e)
        face([(0, low + 0.64), (0.31, low + 0.11), (-0.31, low + 0.11)], white, -e - 0.01)
    elif kind == "blue":
        face([(-0.36, low + 0.85), (0.36, low + 0.85), (0.36, low), (-0.36, low)], blue, -e)
        face([(-0.2, low + 0.62), (0.2, low + 0.62), (0.2, low + 0.2), (-0.2, low + 0.2)], white, -e - 0.01)
    else:
        w, h = float(rng.uniform(0.7, 1.3)), float(rng.uniform(0.8, 1.4))
        tint: Colour = ((165, 80, 25), (70, 110, 40), (225, 228, 228), (60, 190, 225))[rng.integers(4)]
        face([(-w, low + h), (w, low + h), (w, low), (-w, low)], tint, -e)
        ink = black if sum(tint) > 450 else white
        for i in range(3):
            y = low + h * (0.2 + 0.27 * i)
            face(
                [(-w * 0.8, y + 0.1), (w * 0.7 - 0.2 * i, y + 0.1), (w * 0.7 - 0.2 * i, y), (-w * 0.8, y)],
                ink,
                -e - 0.01,
            )
    pole.box((-0.045, 0, -0.045), (0.045, low + 0.7, 0.045), metal)
    return pole.freeze(), plate.freeze()


def traffic_light(state: int, metal: Colour) -> tuple[FrozenSolid, FrozenSolid]:
    """Return (pole, head) of a traffic light; ``state`` 0 is red, 1 amber, 2 green."""
    pole, head = Solid(), Solid()
    pole.box((-0.06, 0, -0.06), (0.06, 2.4, 0.06), metal)
    head.box((-0.27, 2.15, -0.12), (0.27, 3.45, 0.12), (34, 34, 36))
    colours: tuple[Colour, ...] = ((60, 50, 235), (60, 180, 240), (110, 225, 90))
    turns = np.linspace(0, 2 * pi, 10, endpoint=False)
    for i, colour in enumerate(colours):
        y = 3.2 - 0.4 * i
        on = i == state
        tint: Colour = colour if on else tuple(0.25 * c for c in colour)  # type: ignore[assignment]
        head.face(
            [(0.13 * float(np.sin(a)), y + 0.13 * float(np.cos(a)), -0.13) for a in turns], tint, 1.0 if on else 0.0, 1
        )
    return pole.freeze(), head.freeze()


def fence_textures(rng: np.random.Generator) -> list[Levels]:
    """Return the fences: railing first, then planks, white pickets, a low wall with bars."""
    h, w = 80, 160
    metal = np.array([(52, 56, 52), (150, 154, 154), (40, 40, 42)][rng.integers(3)], float)
    behind = np.full((h, w, 3), (96, 104, 104), np.float32) * (1 + 0.1 * grain(rng, h, w, 1.2)[:, :, None])
    rail = behind.copy()
    rail[:, (np.arange(w) % 6) < 2] = metal
    rail[(np.arange(h) % 40) < 4] = metal * 1.1
    rail[-44:-38] = metal * 1.1
    wood = np.array([62, 92, 124]) * rng.uniform(0.6, 1.1)
    plank = np.arange(w) // 6
    tint = rng.normal(1, 0.1, plank.max() + 1)[plank]
    planks = np.full((h, w, 3), wood, np.float32) * tint[None, :, None] * (1 + 0.06 * grain(rng, h, w, 0.8)[:, :, None])
    planks[:, (np.arange(w) % 6) == 0] *= 0.6
    white = np.full((h, w, 3), (186, 192, 194), np.float32)
    white[:, (np.arange(w) % 8) < 3] = (92, 104, 96)
    white[(np.arange(h) % 30) < 5] = (190, 196, 198)
    low_wall = bricks(rng, h, w, (70, 88, 130), (120, 128, 140), 4)
    low_wall[:42, :] = behind[:42]
    low_wall[:42, (np.arange(w) % 7) < 2] = (48, 48, 50)
    low_wall[:4] = (48, 48, 50)
    return [_with_half(t) for t in (rail, planks, white, low_wall)]


def _with_half(texture: NDArray[np.floating]) -> Levels:
    """Return a texture of 4 m, repeated to 8 m, and the same at half the size."""
    twice = np.hstack([clip8(texture)] * 2)
    return twice, cv2.resize(twice, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def hedge_texture(rng: np.random.Generator) -> Levels:
    """Return a hedge's leaves, darker below."""
    h, w = 80, 160
    green = np.array([40, 84, 74]) * rng.uniform(0.8, 1.2)
    light = 1 + 0.30 * grain(rng, h, w, 0.5) - 0.35 * np.linspace(0, 1, h)[:, None] ** 2
    return _with_half(green * np.clip(light, 0.3, 1.8)[:, :, None])
