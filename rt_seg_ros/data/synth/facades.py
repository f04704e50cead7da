"""House fronts: walls with windows, doors and shops, each a texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.patterns import Colour, bricks, clip8, grain

#: Texture pixels per metre of wall.
PER_METRE = 20

# BGR, in daylight.
_BRICKS: tuple[Colour, ...] = ((62, 78, 128), (70, 96, 150), (104, 140, 172), (120, 160, 182), (58, 66, 104))
_RENDERS: tuple[Colour, ...] = (
    (206, 214, 220), (168, 194, 206), (150, 170, 190), (186, 186, 184), (120, 140, 160), (178, 200, 188),
)  # fmt: skip
_STONES: tuple[Colour, ...] = ((128, 146, 156), (104, 116, 124), (150, 170, 180))
_SHOPS: tuple[Colour, ...] = ((40, 40, 150), (110, 60, 30), (50, 90, 40), (30, 30, 34), (150, 140, 60), (60, 130, 200))


@dataclass(frozen=True)
class Facade:
    """A front: ``levels`` of the same texture, each half the size of the one before; sizes in metres."""

    levels: tuple[NDArray[np.uint8], ...]
    lit: tuple[NDArray[np.uint8], ...]
    width: float
    height: float
    wall: Colour

    def level(self, pixels_per_metre: float, lit: bool) -> NDArray[np.uint8]:
        """Return the texture that suits a scale in the frame."""
        level = int(np.log2(max(1.0, PER_METRE / max(pixels_per_metre, 1e-3))))
        return (self.lit if lit else self.levels)[min(level, len(self.levels) - 1)]


def make_facade(rng: np.random.Generator) -> Facade:
    """Return a random front of 6 to 16 m by 2 to 5 storeys."""
    storeys = int(rng.choice([2, 3, 4, 5], p=[0.3, 0.36, 0.22, 0.12]))
    storey = float(rng.uniform(2.7, 3.3))
    bays = int(rng.integers(2, 6))
    bay = float(rng.uniform(2.2, 3.2))
    width, height = bays * bay, storeys * storey + 0.6
    w, h = int(width * PER_METRE), int(height * PER_METRE)
    wall_colour, wall = _wall(rng, h, w)
    lit = wall.copy()
    _weather(rng, wall, lit)
    shop = rng.random() < 0.45
    style = _WindowStyle.random(rng)
    for floor in range(storeys):
        bottom = h - int(floor * storey * PER_METRE)
        if floor == 0 and shop:
            _shop_front(rng, wall, lit, bottom, int(storey * PER_METRE))
            continue
        door = int(rng.integers(bays)) if floor == 0 else -1
        for b in range(bays):
            x = int((b + 0.5) * bay * PER_METRE)
            if b == door:
                _door(rng, wall, lit, x, bottom)
            else:
                style.draw(rng, wall, lit, x, bottom - int(0.9 * PER_METRE), int(storey * PER_METRE))
    cornice = clip8(np.asarray(wall_colour) * rng.uniform(0.75, 1.2))
    for texture in (wall, lit):
        texture[: int(0.25 * PER_METRE)] = cornice
    return Facade(_pyramid(wall), _pyramid(lit), width, height, wall_colour)


def _pyramid(texture: NDArray[np.float32]) -> tuple[NDArray[np.uint8], ...]:
    levels = [clip8(texture)]
    for _ in range(4):
        above = levels[-1]
        size = (max(2, above.shape[1] // 2), max(2, above.shape[0] // 2))
        levels.append(cv2.resize(above, size, interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
    return tuple(levels)


def _wall(rng: np.random.Generator, h: int, w: int) -> tuple[Colour, NDArray[np.float32]]:
    kind = rng.random()
    soot = rng.uniform(0.5, 1.12)
    if kind < 0.5:
        colour = _BRICKS[rng.integers(len(_BRICKS))]
        wall = bricks(rng, h, w, colour, tuple(0.5 * c + 75 for c in colour), 3)  # type: ignore[arg-type]
    elif kind < 0.8:
        colour = _RENDERS[rng.integers(len(_RENDERS))]
        wall = np.full((h, w, 3), colour, np.float32)
    else:
        colour = _STONES[rng.integers(len(_STONES))]
        wall = bricks(rng, h, w, colour, tuple(0.8 * c for c in colour), 8)  # type: ignore[arg-type]
    wall *= soot * (1 + 0.03 * grain(rng, h, w, 0.3)[:, :, None])
    return tuple(soot * c for c in colour), wall  # type: ignore[return-value]


def _weather(rng: np.random.Generator, *walls: NDArray[np.float32]) -> None:
    """Stains that run down, and dirt near the ground."""
    h, w = walls[0].shape[:2]
    stain = 1 + 0.05 * grain(rng, h, w, 1.2) - 0.1 * np.linspace(0, 1, h, dtype=np.float32)[:, None] ** 6
    for wall in walls:
        wall *= stain[:, :, None]


@dataclass(frozen=True)
class _WindowStyle:
    width: float
    height: float
    frame: Colour
    bars: int
    sill: bool

    @staticmethod
    def random(rng: np.random.Generator) -> _WindowStyle:
        frame = ((225, 228, 228), (70, 70, 70), (60, 84, 110))[rng.choice(3, p=[0.7, 0.15, 0.15])]
        return _WindowStyle(
            rng.uniform(0.9, 1.7), rng.uniform(1.2, 1.8), frame, int(rng.integers(1, 4)), rng.random() < 0.6
        )

    def draw(
        self,
        rng: np.random.Generator,
        wall: NDArray[np.float32],
        lit: NDArray[np.float32],
        x: int,
        bottom: int,
        storey: int,
    ) -> None:
        """Draw a window centred on column ``x`` with its sill at row ``bottom``."""
        half = int(self.width * PER_METRE / 2)
        tall = min(int(self.height * PER_METRE), int(storey * 0.66))
        top = bottom - tall
        is_lit = rng.random() < 0.45
        sky_glint = rng.uniform(0.0, 0.55)
        for texture, glow in ((wall, False), (lit, is_lit)):
            cv2.rectangle(texture, (x - half, top), (x + half, bottom), self.frame, -1)
            glass = texture[top + 2 : bottom - 1, x - half + 2 : x + half - 1]
            _glaze(glass, sky_glint, glow)
            for bar in range(1, self.bars):
                column = x - half + 2 * half * bar // self.bars
                cv2.line(texture, (column, top), (column, bottom), self.frame, 1)
            cv2.line(texture, (x - half, top + tall // 3), (x + half, top + tall // 3), self.frame, 1)
            if self.sill:
                cv2.rectangle(texture, (x - half - 2, bottom), (x + half + 2, bottom + 2), (170, 176, 178), -1)


def _glaze(glass: NDArray[np.float32], glint: float, glow: bool) -> None:
    """Fill with glass: dark, the sky in its upper part; or a lit room."""
    rows = np.linspace(0, 1, len(glass), dtype=np.float32)[:, None, None]
    if glow:
        glass[:] = np.array([120, 200, 245]) * (1.15 - 0.4 * rows)
    else:
        glass[:] = np.array([62, 52, 46]) + glint * np.array([150, 140, 128]) * (1 - rows) ** 1.5


def _door(rng: np.random.Generator, wall: NDArray[np.float32], lit: NDArray[np.float32], x: int, bottom: int) -> None:
    colour = rng.uniform(20, 130, 3)
    half, tall = int(0.5 * PER_METRE), int(2.1 * PER_METRE)
    for texture in (wall, lit):
        cv2.rectangle(texture, (x - half - 2, bottom - tall - 3), (x + half + 2, bottom), (200, 205, 208), -1)
        cv2.rectangle(texture, (x - half, bottom - tall), (x + half, bottom), colour.tolist(), -1)
        _glaze(texture[bottom - tall + 3 : bottom - tall + 12, x - half + 3 : x + half - 2], 0.3, texture is lit)


def _shop_front(
    rng: np.random.Generator, wall: NDArray[np.float32], lit: NDArray[np.float32], bottom: int, storey: int
) -> None:
    """Draw a shop over the whole ground floor: fascia, panes, mullions."""
    w = wall.shape[1]
    colour = np.asarray(_SHOPS[rng.integers(len(_SHOPS))]) * rng.uniform(0.7, 1.3)
    panes = int(rng.integers(2, 6))
    glint = rng.uniform(0.1, 0.6)
    lettering = rng.uniform(180, 240, 3)
    goods = [(rng.uniform(0, 1), rng.uniform(0.3, 0.9), rng.uniform(40, 220, 3)) for _ in range(14)]
    top = bottom - storey
    for texture in (wall, lit):
        texture[top:bottom] = colour * 0.8
        texture[top : top + storey // 5] = colour
        letters = np.random.default_rng(int(colour.sum()))
        x = int(w * 0.2)
        while x < w * 0.8:  # lettering that reads as such from afar
            step = int(letters.integers(3, 8))
            cv2.rectangle(texture, (x, top + storey // 14), (x + step - 2, top + storey // 7), lettering.tolist(), -1)
            x += step
        glass = texture[top + storey // 4 : bottom - storey // 9, 3 : w - 3]
        _glaze(glass, glint, texture is lit)
        for at, high, tint in goods:
            gx, gy = int(at * glass.shape[1]), int(high * glass.shape[0])
            cv2.rectangle(glass, (gx, gy), (gx + 5, glass.shape[0]), (tint * 0.55).tolist(), -1)
        for pane in range(1, panes):
            column = w * pane // panes
            texture[top + storey // 5 : bottom, column - 1 : column + 2] = colour * 0.9
