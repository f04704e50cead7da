"""Cut-out pictures that stand upright towards the camera: people, riders, trees. BGRA, seen at eye height."""

from __future__ import annotations

from math import cos, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.patterns import clip8, grain

_FINE = 3  # pixels drawn for each of per_metre; halved at the end
_SKIN = ((150, 180, 225), (120, 155, 205), (70, 100, 150), (45, 65, 100))
_HAIR = ((30, 34, 40), (40, 60, 90), (60, 110, 150), (120, 125, 130))

Point = tuple[float, float]


def pyramid(picture: NDArray[np.uint8], levels: int = 6) -> list[NDArray[np.uint8]]:
    """Return the picture and its reductions by two each; alpha-weighted, so that no dark seam appears."""
    result = [picture]
    for _ in range(levels - 1):
        above = result[-1].astype(np.float32)
        h, w = above.shape[0] // 2, above.shape[1] // 2
        if min(h, w) < 2:
            break
        alpha = above[:, :, 3:] / 255
        colour = cv2.resize(above[:, :, :3] * alpha, (w, h), interpolation=cv2.INTER_AREA)
        weight = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_AREA)
        colour = colour / np.maximum(weight, 1e-3)[:, :, None]
        result.append(clip8(np.dstack((colour, weight * 255))))
    return result


class _Figure:
    """A transparent sheet of so many metres, ``per_metre`` pixels each, origin at the feet's middle."""

    def __init__(self, metres_wide: float, metres_high: float, per_metre: int) -> None:
        self.scale = per_metre * _FINE
        self.sheet = np.zeros((int(metres_high * self.scale), int(metres_wide * self.scale), 4), np.uint8)

    def _at(self, point: Point) -> tuple[int, int]:
        return (
            int(self.sheet.shape[1] / 2 + point[0] * self.scale),
            int(self.sheet.shape[0] - point[1] * self.scale),
        )

    def limb(self, a: Point, b: Point, thick: float, colour: NDArray[np.float64]) -> None:
        cv2.line(self.sheet, self._at(a), self._at(b), (*colour.tolist(), 255), max(1, int(thick * self.scale)))

    def disc(self, centre: Point, rx: float, ry: float, colour: NDArray[np.float64]) -> None:
        axes = (max(1, int(rx * self.scale)), max(1, int(ry * self.scale)))
        cv2.ellipse(self.sheet, self._at(centre), axes, 0, 0, 360, (*colour.tolist(), 255), -1)

    def ring(self, centre: Point, radius: float, thick: float, colour: NDArray[np.float64]) -> None:
        width = max(1, int(thick * self.scale))
        cv2.circle(self.sheet, self._at(centre), int(radius * self.scale), (*colour.tolist(), 255), width)

    def patch(self, points: list[Point], colour: NDArray[np.float64]) -> None:
        cv2.fillPoly(self.sheet, [np.array([self._at(p) for p in points])], (*colour.tolist(), 255))

    def finish(self, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
        """Reduce it, light it from above, grain it."""
        sheet = pyramid(self.sheet, 2)[1]
        h, w = sheet.shape[:2]
        shade = 1.06 - 0.25 * np.linspace(0, 1, h, dtype=np.float32)[:, None] + 0.05 * grain(rng, h, w, 1.2)
        inside = cv2.distanceTransform(cv2.threshold(sheet[:, :, 3], 127, 255, cv2.THRESH_BINARY)[1], cv2.DIST_L2, 3)
        shade *= 0.72 + 0.28 * np.minimum(inside / (0.035 * self.scale), 1)
        sheet[:, :, :3] = clip8(sheet[:, :, :3] * shade[:, :, None])
        return pyramid(sheet)


def pedestrian(
    rng: np.random.Generator, phase: float, side: bool, look: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Return a walker of 1.75 m on a sheet of 1.0 m by 1.9 m, in one phase (0..1) of the step.

    :param side: seen from the side; else from before or behind
    :param look: decides on clothes: an equal generator gives the same person in another phase
    """
    figure = _Figure(1.0, 1.9, 80)
    coats = np.array(
        [
            (30, 28, 30),
            (36, 34, 36),
            (52, 44, 40),
            (44, 44, 100),
            (100, 66, 44),
            (58, 72, 60),
            (120, 125, 130),
            (50, 66, 110),
        ]
    )
    top = coats[look.integers(len(coats))] * look.uniform(0.7, 1.3)
    trousers = np.array([(60, 45, 38), (35, 34, 34), (90, 75, 60), (70, 85, 100)])
    legs = trousers[look.integers(4)] * look.uniform(0.8, 1.2)
    skin = np.array(_SKIN[look.integers(4)], float)
    hair = np.array(_HAIR[look.integers(4)], float)
    stout = look.uniform(0.85, 1.2)
    bag = look.random() < 0.35
    swing = sin(2 * pi * phase)
    stride = 0.28 * swing if side else 0.05 * swing
    lift = 0.0 if side else 0.06 * swing
    for sign in (-1, 1):
        hip = (0.08 * sign * (0.3 if side else 1.0) * stout, 0.88)
        foot = (hip[0] + stride * sign, 0.04 + max(0.0, lift * sign))
        knee = ((hip[0] + foot[0]) / 2 + (0.05 if side else 0.0), 0.48)
        figure.limb(hip, knee, 0.15 * stout, legs)
        figure.limb(knee, foot, 0.11 * stout, legs)
        figure.limb(foot, (foot[0] + (0.1 if side else 0.02 * sign), 0.04), 0.08, np.array([28.0, 28, 30]))
    wide = (0.15 if side else 0.22) * stout
    half = [(wide * 0.85, 0.78), (wide, 1.42), (wide * 0.5, 1.5)]
    figure.patch(half + [(-x, y) for x, y in reversed(half)], top)
    for sign in (-1, 1):
        shoulder = (0.0 if side else wide * sign, 1.4)
        hand = (shoulder[0] - 0.22 * swing * sign if side else shoulder[0] + 0.05 * sign, 0.82)
        figure.limb(shoulder, hand, 0.1, top * 0.88)
        figure.disc(hand, 0.045, 0.05, skin)
    if bag:
        figure.patch([(wide * 0.7, 0.7), (wide * 1.7, 0.7), (wide * 1.7, 1.0), (wide * 0.7, 1.0)], top * 0.4 + 30)
    figure.disc((0.0, 1.64), 0.095, 0.125, skin)
    figure.disc((-0.02 if side else 0.0, 1.69), 0.1, 0.095, hair)
    return figure.finish(rng)


def cyclist(rng: np.random.Generator, phase: float, side: bool, look: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Return a rider on a sheet of 2.0 m by 1.9 m (side) or 1.0 m by 1.9 m (from before or behind).

    Wheels count as whole discs, as labelled images have them.
    """
    figure = _Figure(2.0 if side else 1.0, 1.9, 80)
    jackets = np.array([(40, 40, 170), (60, 190, 210), (130, 70, 36), (46, 46, 48), (34, 34, 36), (64, 120, 60)])
    top = jackets[look.integers(6)] * look.uniform(0.7, 1.1)
    legs = np.array([(40, 36, 34), (80, 60, 45), (30, 30, 30)])[look.integers(3)].astype(float)
    skin = np.array(_SKIN[look.integers(4)], float)
    helmet = np.array([(60, 60, 60), (210, 210, 210), (50, 50, 180), (180, 120, 40)])[look.integers(4)].astype(float)
    metal = look.uniform(30, 150, 3)
    rubber = np.array([34.0, 34, 36])
    turn = 2 * pi * phase
    if side:
        for x in (-0.52, 0.52):
            figure.disc((x, 0.34), 0.34, 0.34, np.array([112.0, 112, 114]))
            figure.ring((x, 0.34), 0.32, 0.045, rubber)
        saddle, bars, crank = (-0.2, 0.95), (0.42, 1.0), (-0.05, 0.32)
        for a, b in ((saddle, crank), (crank, bars), (saddle, bars), (crank, (-0.52, 0.34)), (bars, (0.52, 0.34))):
            figure.limb(a, b, 0.045, metal)
        for half in (0.0, pi):
            foot = (crank[0] + 0.17 * cos(turn + half), crank[1] + 0.17 * sin(turn + half))
            knee = (0.5 * (saddle[0] + foot[0]) + 0.2, 0.72)
            figure.limb(saddle, knee, 0.15, legs)
            figure.limb(knee, foot, 0.11, legs)
        figure.limb((-0.2, 1.0), (0.16, 1.42), 0.27, top)
        figure.limb((0.16, 1.38), (0.42, 1.05), 0.09, top * 0.85)
        head = (0.26, 1.62)
    else:
        figure.patch([(-0.045, 0.0), (0.045, 0.0), (0.045, 0.7), (-0.045, 0.7)], rubber)
        figure.limb((-0.27, 1.02), (0.27, 1.02), 0.045, metal)
        figure.limb((0.0, 0.6), (0.0, 0.98), 0.08, metal)
        for sign in (-1, 1):
            foot = (0.13 * sign, 0.32 + 0.15 * sin(turn + (pi if sign > 0 else 0)))
            knee = (0.17 * sign, 0.5 * (foot[1] + 0.95) + 0.04)
            figure.limb((0.1 * sign, 0.95), knee, 0.15, legs)
            figure.limb(knee, foot, 0.11, legs)
            figure.limb((0.2 * sign, 1.4), (0.27 * sign, 1.03), 0.1, top * 0.85)
        figure.patch([(-0.18, 0.9), (0.18, 0.9), (0.23, 1.4), (0.1, 1.5), (-0.1, 1.5), (-0.23, 1.4)], top)
        head = (0.0, 1.63)
    figure.disc(head, 0.095, 0.125, skin)
    figure.disc((head[0], head[1] + 0.05), 0.115, 0.09, helmet)
    return figure.finish(rng)


def tree(rng: np.random.Generator, kind: str) -> list[NDArray[np.uint8]]:
    """Return a tree on a square sheet whose side is its height; ``kind`` is 'round', 'cone', 'bare' or 'bush'."""
    size = 320
    sheet = np.zeros((size, size, 4), np.uint8)
    bark = np.array([56, 64, 74]) * rng.uniform(0.7, 1.4)
    greens = np.array([(44, 92, 84), (38, 78, 62), (40, 100, 108), (34, 66, 50), (36, 84, 116)])
    green = greens[rng.integers(5)] * rng.uniform(0.95, 1.5)
    if kind == "bush":
        _crown(rng, sheet, green, 160, 200, 150, 115, 900)
        return pyramid(sheet)
    cv2.fillPoly(sheet, [np.array([(153, 150), (167, 150), (171, size), (149, size)])], (*bark.tolist(), 255))
    if kind == "bare":
        _branch(rng, sheet, bark, (160.0, 210.0), -pi / 2, 62.0, 9.0, 0)
        away = cv2.distanceTransform(255 - sheet[:, :, 3], cv2.DIST_L2, 3)
        away[232:] = 99.0
        twigs = (grain(rng, size, size, 0.5) > away / 7.0 - 0.9) & (sheet[:, :, 3] == 0)
        sheet[twigs] = (*clip8(bark * 1.3), 225)
        return pyramid(sheet)
    for _ in range(5):
        cv2.line(sheet, (160, int(rng.uniform(170, 220))), (int(rng.uniform(90, 230)), 130), (*bark.tolist(), 255), 5)
    if kind == "cone":
        for step in range(12):
            share = step / 11
            _crown(rng, sheet, green * 0.75, 160, 20 + 235 * share, 14 + 82 * share, 24, 80)
    else:
        for _ in range(7):
            angle, reach = rng.uniform(0, 2 * pi), rng.uniform(0, 1)
            x, y = 160 + 80 * reach * cos(angle), 118 + 55 * reach * sin(angle)
            _crown(rng, sheet, green * rng.uniform(0.85, 1.1), x, y, 72, 60, 300)
    return pyramid(sheet)


def _crown(
    rng: np.random.Generator,
    sheet: NDArray[np.uint8],
    green: NDArray[np.float64],
    x: float,
    y: float,
    rx: float,
    ry: float,
    leaves: int,
) -> None:
    """Heap clumps of leaves into an ellipse: dark ones within and below, light ones outside and above."""
    angle, reach = rng.uniform(0, 2 * pi, leaves), np.sqrt(rng.uniform(0, 1, leaves))
    across, down = reach * np.cos(angle), reach * np.sin(angle)
    light = 0.5 + 0.55 * np.linspace(0, 1, leaves) - 0.3 * down + rng.normal(0, 0.13, leaves)
    colours = clip8(green * np.clip(light, 0.3, 1.7)[:, None]).tolist()
    centres = np.stack((x + rx * across, y + ry * down), 1).astype(int).tolist()
    axes = rng.integers((2, 2), (9, 6), (leaves, 2)).tolist()
    for centre, size, turn, colour in zip(centres, axes, rng.uniform(0, 180, leaves), colours, strict=True):
        cv2.ellipse(sheet, centre, size, turn, 0, 360, (*colour, 255), -1)


def _branch(
    rng: np.random.Generator,
    sheet: NDArray[np.uint8],
    bark: NDArray[np.float64],
    start: Point,
    angle: float,
    length: float,
    thick: float,
    depth: int,
) -> None:
    end = (start[0] + length * cos(angle), start[1] + length * sin(angle))
    colour = clip8(bark * (1 + 0.05 * depth)).tolist()
    cv2.line(sheet, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), (*colour, 255), max(2, int(thick)))
    if depth < 5:
        for turn in (-1, 1):
            onwards, reach = angle + turn * rng.uniform(0.2, 0.65), length * rng.uniform(0.62, 0.85)
            _branch(rng, sheet, bark, end, onwards, reach, thick * 0.68, depth + 1)
