"""The street of a drive: an endless one, built block by block from a seed.

Places along it are (s, aside): metres along, and to the right of its middle line. Every block is a pure function of the
seed and its number, so that any frame can be rendered without those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth import figures, furniture, solids
from rt_seg_ros.data.synth.facades import make_facade
from rt_seg_ros.data.synth.patterns import Colour
from rt_seg_ros.data.synth.solids import FrozenSolid
from rt_seg_ros.data.synth.things import (
    BICYCLIST,
    BLOCK,
    CAR,
    FENCE,
    PEDESTRIAN,
    POLE,
    SIGN,
    STEP,
    STEPS,
    TREE,
    Block,
    Body,
    Building,
    Levels,
    Marking,
    Panel,
    Sprite,
)

Along = NDArray[np.floating] | float


class Street:
    """The whole street: its character is drawn once, its blocks when asked for."""

    def __init__(self, seed: int) -> None:
        """Draw what is common to all blocks."""
        rng = np.random.default_rng((seed, 1))
        self.seed = seed
        self.drive_side = -1 if rng.random() < 0.7 else 1  # -1: traffic keeps left, as in CamVid
        self.lane = float(rng.uniform(1.45, 1.75))
        self.parking = (rng.random() < 0.35, rng.random() < 0.35)
        self.half_road = tuple(2.9 + (2.1 if p else rng.uniform(0.2, 0.8)) for p in self.parking)
        self.walk = (float(rng.uniform(2.2, 4.2)), float(rng.uniform(2.2, 4.2)))
        self.green = float(rng.uniform(0.2, 0.65))
        self.parked_density = float(rng.uniform(0.2, 0.65))
        self.traffic_gap = float(rng.uniform(24, 60))
        self.crowd_gap = float(rng.uniform(5, 16))
        waves = rng.uniform([1.5, 55, 0], [5.0, 90, 2 * pi], (2, 3))
        self._bend = waves * np.array([[1, 1, 1], [0.35, 0.45, 1]])
        self._bend_numbers = self._bend.tolist()
        self.facades = [make_facade(np.random.default_rng((seed, 2, i))) for i in range(9)]
        kinds = ("round", "round", "round", "cone", "bare", "bare", "bush", "bush")
        self.trees = [(k, figures.tree(np.random.default_rng((seed, 3, i)), k)) for i, k in enumerate(kinds)]
        self.cars = [solids.car(np.random.default_rng((seed, 4, i))) for i in range(16)]
        self.walkers = self._people(figures.pedestrian, 5, 8)
        self.riders = self._people(figures.cyclist, 6, 4)
        self.fences = furniture.fence_textures(rng)
        self.hedge = furniture.hedge_texture(rng)
        self.roof_colours: list[Colour] = [
            tuple(c)
            for c in np.array([(62, 60, 64), (52, 62, 104), (70, 76, 84), (60, 72, 120)]) * rng.uniform(0.8, 1.2)
        ]  # type: ignore[misc]
        self.metal: Colour = ((120, 124, 126), (70, 76, 72), (50, 50, 52), (150, 152, 150))[rng.integers(4)]
        height = float(rng.uniform(5.5, 8.5))
        self.lamps = (furniture.lamp(height, self.metal, 1), furniture.lamp(height, self.metal, -1))
        self.signs = [furniture.sign(np.random.default_rng((seed, 12, i)), self.metal) for i in range(12)]
        self.traffic_lights = [furniture.traffic_light(state, self.metal) for state in range(3)]
        self.bollard = solids.post(1.0, 0.16, (60, 60, 64))
        self.yellow_lines = bool(rng.random() < 0.5)
        self.dash = (float(rng.uniform(1.5, 3.5)), float(rng.uniform(4.5, 8.0)))
        self.asphalt = np.array([98, 95, 93]) * rng.uniform(0.82, 1.25) * rng.uniform(0.97, 1.03, 3)
        self.paving = np.array([126, 132, 138]) * rng.uniform(0.85, 1.2) * rng.uniform(0.96, 1.04, 3)
        self.grass = np.array([44, 98, 84]) * rng.uniform(0.8, 1.2)
        self.block = lru_cache(maxsize=64)(self._build)
        self._dice = lru_cache(maxsize=4096)(self._roll)

    def _people(
        self, draw: Callable[..., list[NDArray[np.uint8]]], tag: int, count: int
    ) -> dict[tuple[int, bool, int], list[NDArray[np.uint8]]]:
        """Draw ``count`` persons, each from two sides in four phases: key (person, side, phase)."""
        return {
            (person, side, phase): draw(
                np.random.default_rng((self.seed, tag, person, phase)),
                phase / 4,
                side,
                np.random.default_rng((self.seed, tag, person)),
            )
            for person in range(count)
            for side in (False, True)
            for phase in range(4)
        }

    def middle(self, s: Along) -> NDArray[np.float64]:
        """Return X of the street's middle line at s."""
        (a, p, f), (b, q, g) = self._bend
        return a * np.sin(np.asarray(s) / p + f) + b * np.sin(np.asarray(s) / q + g)

    def slope(self, s: float) -> float:
        """Return dX/ds of the middle line."""
        (a, p, f), (b, q, g) = self._bend_numbers
        return a / p * cos(s / p + f) + b / q * cos(s / q + g)

    def world(self, s: Along, aside: Along) -> NDArray[np.float64]:
        """Return world points (..., 3) of places on the ground of the street."""
        points = np.empty((*np.broadcast_shapes(np.shape(s), np.shape(aside)), 3))
        points[..., 0] = self.middle(s) + aside
        points[..., 1] = 0.0
        points[..., 2] = s
        return points

    def place(self, s: float, aside: float, up: float = 0.0) -> NDArray[np.float64]:
        """Return one world point (3,), as :meth:`world` does, ``up`` metres above the ground."""
        (a, p, f), (b, q, g) = self._bend_numbers
        return np.array([a * sin(s / p + f) + b * sin(s / q + g) + aside, -up, s])

    def order(self, thing: Panel | Sprite | Body) -> float:
        """Return the depth, as s, at which a thing is to be painted: before the fence or hedge it stands behind."""
        s = thing.far_end
        if isinstance(thing, Panel):
            return s
        for screen in self.block(int(s // BLOCK)).screens[int(thing.aside > 0)]:
            if screen.s0 <= s < screen.s1 and abs(thing.aside) > abs(screen.aside):
                s = max(s, screen.s1 + 0.01)
        return s

    # ---- blocks ------------------------------------------------------------------------------------

    def _build(self, number: int) -> Block:
        rng = np.random.default_rng((self.seed, 7, number % (1 << 32)))
        block = Block()
        start = number * BLOCK
        opening = int(rng.integers(2)) if rng.random() < 0.22 else -1
        for side in (0, 1):
            block.road[side] = self.half_road[side]
            block.pavement[side] = self.half_road[side] + self.walk[side]
            self._lots(rng, block, start, side, opening == side)
            self._furniture(rng, block, start, side, number, opening == side)
        self._paint(rng, block, start, opening)
        self._show_fence(rng, block, start, opening)
        for thing in block.things:
            if isinstance(thing, Panel):
                block.screens[int(thing.aside > 0)].append(thing)
        if block.markings:
            corners = np.concatenate([m.points for m in block.markings])
            block.painted = self.world(corners[:, 0], corners[:, 1])
        return block

    def _show_fence(self, rng: np.random.Generator, block: Block, start: float, opening: int) -> None:
        """See to it that every block has a fence that no parked car hides."""
        parked = {t.aside > 0 for t in block.things if isinstance(t, Body) and t.shadow[0] > 0}
        if any(isinstance(t, Panel) and t.label == FENCE and (t.aside > 0) not in parked for t in block.things):
            return
        side = 1 - opening if opening >= 0 else int(rng.integers(2))
        right = side == 1
        block.things = [
            t for t in block.things if not (isinstance(t, Body) and t.shadow[0] > 0 and (t.aside > 0) == right)
        ]
        self._fence(rng, block, start + 2, start + BLOCK - 2, side, self.half_road[side] + 0.25, railing=True)

    def _lots(self, rng: np.random.Generator, block: Block, start: float, side: int, opening: bool) -> None:
        """Fill a side with houses, gardens or a park; or open a side street."""
        away = 1 if side else -1
        front = self.half_road[side] + self.walk[side]
        if opening:
            a, b = start + 7.5, start + 16.5
            steps = slice(int(7.5 / STEP), int(16.5 / STEP))
            block.road[side, steps] = 45.0
            block.pavement[side, steps] = 45.0
            self._row(rng, block, start, a - 2.0, side, front)
            self._row(rng, block, b + 2.0, start + BLOCK, side, front)
            self._house(rng, block, start - 6, start + BLOCK + 6, front + 32, away)
            block.paved_yard[side] = True
        elif rng.random() < self.green:
            if rng.random() < 0.55:  # a park
                self._edge(rng, block, start, start + BLOCK, side, front)
                for _ in range(int(rng.integers(6, 11))):
                    self._tree(rng, block, start + rng.uniform(0, BLOCK), away * (front + rng.uniform(2.5, 18)))
                self._house(rng, block, start, start + BLOCK, front + 26, away)
            else:  # houses behind gardens
                setback = rng.uniform(4, 8)
                self._row(rng, block, start + 1.5, start + BLOCK - 1.5, side, front + setback)
                self._edge(rng, block, start, start + BLOCK, side, front)
                for _ in range(int(rng.integers(1, 4))):
                    aside = away * (front + rng.uniform(1.5, setback - 1))
                    self._tree(rng, block, start + rng.uniform(0, BLOCK), aside)
        else:
            block.paved_yard[side] = True
            self._row(rng, block, start, start + BLOCK, side, front)

    def _row(self, rng: np.random.Generator, block: Block, s0: float, s1: float, side: int, aside: float) -> None:
        """Set houses next to each other from s0 to s1."""
        away = 1 if side else -1
        at = s0
        while s1 - at > 3.0:
            end = min(at + rng.uniform(7, 14), s1)
            if s1 - end < 4.0:
                end = s1
            self._house(rng, block, at, end, aside + float(rng.choice([0.0, 0.0, rng.uniform(0, 1.0)])), away)
            at = end

    def _house(self, rng: np.random.Generator, block: Block, s0: float, s1: float, aside: float, away: int) -> None:
        facade = self.facades[rng.integers(len(self.facades))]
        roof = float(rng.uniform(1.6, 3.2)) if rng.random() < 0.7 else 0.0
        depth = float(rng.uniform(7, 10))
        before = block.buildings[-1] if block.buildings else None
        hidden = 0.0
        if (
            before is not None
            and before.away == away
            and abs(before.s1 - s0) < 0.3
            and abs(before.aside) <= aside + 0.2
        ):
            steeper = before.roof / before.depth >= roof / depth
            hidden = before.facade.height
            if hidden >= facade.height and steeper:
                hidden = facade.height + roof
        block.buildings.append(
            Building(
                s0, s1, away * aside, away, facade,
                roof=roof,
                roof_colour=self.roof_colours[rng.integers(len(self.roof_colours))],
                depth=depth,
                chimney=float(rng.uniform(0.15, 0.85)) if roof and rng.random() < 0.7 else 0.0,
                gable=self.facades[rng.integers(len(self.facades))],
                end_from=hidden,
                ends=self.world(np.array([s0, s1]), away * aside),
            )
        )  # fmt: skip
        first = int(np.clip((s0 % BLOCK) / STEP, 0, STEPS))
        steps = slice(first, first + int((s1 - s0) / STEP))
        row = block.height[1 if away > 0 else 0, steps]
        if aside < 20:
            np.maximum(row, facade.height - 0.6 * max(0.0, aside - 8), out=row)

    def _edge(self, rng: np.random.Generator, block: Block, s0: float, s1: float, side: int, aside: float) -> None:
        """Put a fence or a hedge along the back of the pavement."""
        if rng.random() < 0.68:
            self._fence(rng, block, s0, s1, side, aside + 0.1, railing=rng.random() < 0.3)
        else:
            self._panels(block, s0, s1, side, aside + 0.3, rng.uniform(0.9, 1.9), self.hedge, TREE)

    def _fence(
        self,
        rng: np.random.Generator,
        block: Block,
        s0: float,
        s1: float,
        side: int,
        aside: float,
        railing: bool,
    ) -> None:
        texture = self.fences[0 if railing else int(rng.integers(1, len(self.fences)))]
        height = 1.05 if railing else rng.uniform(1.0, 1.8)
        self._panels(block, s0, s1, side, aside, height, texture, FENCE)

    def _panels(
        self, block: Block, s0: float, s1: float, side: int, aside: float, height: float, texture: Levels, label: int
    ) -> None:
        """Put up panels of 8 m from s0 to s1, the last as long as is left."""
        aside = aside if side else -aside
        at = s0
        while at < s1 - 0.1:
            end = min(at + 8, s1)
            block.things.append(Panel(at, end, aside, height, texture, label, self.world(np.array([at, end]), aside)))
            at += 8

    def _tree(self, rng: np.random.Generator, block: Block, s: float, aside: float) -> None:
        kind, levels = self.trees[rng.integers(len(self.trees))]
        height = {"round": (5, 11), "cone": (6, 13), "bare": (6, 12), "bush": (1.5, 3)}[kind]
        block.things.append(Sprite(s, aside, float(rng.uniform(*height)), levels, TREE))

    def _furniture(
        self, rng: np.random.Generator, block: Block, start: float, side: int, number: int, opening: bool
    ) -> None:
        """Put lamps, signs, bollards, street trees, parked cars, standing people on a side."""
        away = 1 if side else -1
        kerb = self.half_road[side]
        near_kerb = away * (kerb + 0.45)
        blocked = (start + 4.5, start + 19.5) if opening else (0.0, -1.0)

        def free(s: float) -> bool:
            return not blocked[0] < s < blocked[1]

        if (number + side) % 2 == 0 and free(start + 3):
            block.things.append(Body(start + 3, near_kerb, 1, ((self.lamps[side], POLE),)))
        if opening or rng.random() < 0.12:
            s = start + (3.5 if opening else 12.0)
            pole, head = self.traffic_lights[rng.integers(3)]
            block.things.append(Body(s, near_kerb, 1, ((pole, POLE), (head, SIGN))))
        for _ in range(int(rng.integers(1, 3))):
            s = start + rng.uniform(0, BLOCK)
            if free(s):
                pole, plate = self.signs[rng.integers(len(self.signs))]
                block.things.append(Body(s, near_kerb, 1, ((pole, POLE), (plate, SIGN))))
        if rng.random() < 0.25:
            for i in range(int(rng.integers(3, 8))):
                s = start + 4 + 2.0 * i
                if free(s):
                    block.things.append(Body(s, away * (kerb + 0.3), 1, ((self.bollard, POLE),)))
        if rng.random() < 0.5 * self.green + 0.25:
            s = start + rng.uniform(4, 20)
            if free(s):
                self._tree(rng, block, s, away * (kerb + 0.9))
        if self.parking[side]:
            at = start + 1.0
            while at < start + BLOCK - 4.5:
                if rng.random() < self.parked_density and free(at) and free(at + 4.5):
                    car = self.cars[rng.integers(len(self.cars))]
                    half = float(car.vertices[:, 2].max())
                    if half < 3:
                        heading = 1 if away == self.drive_side or rng.random() < 0.3 else -1
                        block.things.append(
                            Body(at + half, away * (kerb - 1.05), heading, ((car, CAR),), (0.95, half + 0.1))
                        )
                at += 5.6
        for _ in range(int(rng.integers(0, 3))):
            s = start + rng.uniform(0, BLOCK)
            who = (int(rng.integers(8)), bool(rng.random() < 0.6), int(rng.integers(4)))
            aside = away * (kerb + rng.uniform(0.5, self.walk[side] - 0.3))
            block.things.append(Sprite(s, aside, 1.9, self.walkers[who], PEDESTRIAN))

    def _paint(self, rng: np.random.Generator, block: Block, start: float, opening: int) -> None:
        """Paint the road: middle dashes, kerb lines, crossings, give-way lines, arrows."""
        white: Colour = (205, 208, 208)

        def strip(s0: float, s1: float, l0: float, l1: float, colour: Colour = white) -> None:
            block.markings.append(Marking(np.array([(s0, l0), (s1, l0), (s1, l1), (s0, l1)], float), colour))

        zebra = rng.random() < 0.12 and opening < 0
        at = start
        while at < start + BLOCK - self.dash[0]:
            if not (zebra and start + 7 < at < start + 16):
                strip(at, at + self.dash[0], -0.06, 0.06)
            at += self.dash[1]
        for side in (0, 1):
            away = 1 if side else -1
            edge = self.half_road[side]
            if self.yellow_lines and not self.parking[side] and side != opening:
                for off in (0.22, 0.42):
                    for at in np.arange(start, start + BLOCK, 4.0):
                        strip(at, at + 4.0, away * (edge - off), away * (edge - off - 0.09), (70, 170, 200))
            if side == opening:
                for i in range(9):
                    strip(start + 7.8 + i, start + 8.4 + i, away * (edge - 0.1), away * (edge - 0.3))
        if zebra:
            for aside in np.arange(-self.half_road[0] + 0.4, self.half_road[1] - 0.5, 1.0):
                strip(start + 10, start + 13, aside, aside + 0.5)
        elif rng.random() < 0.2:
            s, aside = start + 8, self.drive_side * self.lane
            strip(s, s + 2.4, aside - 0.08, aside + 0.08)
            tip = np.array([(s + 2.3, aside - 0.4), (s + 3.6, aside), (s + 2.3, aside + 0.4)], float)
            block.markings.append(Marking(tip, white))

    # ---- what moves --------------------------------------------------------------------------------

    def _roll(self, tag: int, number: int) -> NDArray[np.float64]:
        return np.random.default_rng((self.seed, 8, tag, number % (1 << 32))).random(6)

    def _stream(
        self, tag: int, gap: float, speed: float, time: float, low: float, high: float
    ) -> Iterator[tuple[float, NDArray]]:
        """Yield (s, dice) of an endless file that moves at ``speed``, between two places."""
        shift = speed * time
        first, last = int(np.floor((low - shift) / gap)) - 1, int(np.ceil((high - shift) / gap)) + 1
        for number in range(first, last):
            dice = self._dice(tag, number)
            s = (number + 0.75 * dice[0]) * gap + shift
            if low < s < high:
                yield s, dice

    def traffic(self, time: float, ego: float, far: float) -> Iterator[Sprite | Body]:
        """Yield what moves and can be seen from ``ego`` at a time in seconds."""
        lane = self.drive_side * self.lane
        for s, dice in self._stream(1, self.traffic_gap, -8.5, time, ego - 3, ego + far):
            car = self.cars[int(dice[1] * len(self.cars))]
            yield self._vehicle(car, s, -lane + 0.3 * (dice[2] - 0.5), -1)
        lead = 23.0 + 8.0 * np.sin(time / 6.1 + self.seed) + 3 * np.sin(time / 2.9)
        if self._dice(2, 0)[0] < 0.8:
            yield self._vehicle(self.cars[int(self._dice(2, 0)[1] * len(self.cars))], ego + lead, lane, 1)
        for i, gap in ((1, 38.0), (2, 64.0)):
            dice = self._dice(2, i)
            if dice[0] < 0.6:
                car = self.cars[int(dice[1] * len(self.cars))]
                yield self._vehicle(car, ego + gap + 6 * np.sin(time / 7 + i), lane + 0.2 * (dice[2] - 0.5), 1)
        step = int(time * 5)
        # Riders: one ahead on the own side, whose distance swells and shrinks; others come along now and then.
        side = 1 if self.drive_side > 0 else 0
        edge = self.half_road[side] - (2.5 if self.parking[side] else 0.7)
        ahead = 15.0 + 6.0 * np.sin(time / 5.3 + 1.7 * self.seed)
        rider = self.riders[(self.seed % 4, False, step % 4)]
        yield Sprite(ego + ahead, self.drive_side * max(edge, 2.75), 1.9, rider, BICYCLIST)
        for tag, speed in ((3, -5.0), (4, 4.0)):
            for s, dice in self._stream(tag, 45.0, speed, time, ego + 2, ego + far):
                aside = (self.half_road[1 - side] - (2.5 if self.parking[1 - side] else 0.7)) * -self.drive_side
                if tag == 4:
                    aside = self.drive_side * max(edge, 2.75)
                yield Sprite(s, aside, 1.9, self.riders[(int(dice[1] * 4), False, step % 4)], BICYCLIST)
        for side in (0, 1):
            away = 1 if side else -1
            for tag, speed in ((5 + side, 1.3), (7 + side, -1.2)):
                for s, dice in self._stream(tag, 2 * self.crowd_gap, speed, time, ego + 2, ego + far * 0.7):
                    aside = away * (self.half_road[side] + 0.5 + (self.walk[side] - 0.9) * dice[1])
                    who = (int(dice[2] * 8), False, (step + int(dice[3] * 4)) % 4)
                    yield Sprite(s, aside, 1.9 * (0.9 + 0.15 * dice[4]), self.walkers[who], PEDESTRIAN)
        for s, dice in self._stream(9, 55.0, 0.0, time, ego + 9, ego + far * 0.6):  # crossing the street
            width = self.half_road[0] + self.half_road[1] + 2.0
            share = (time / 14 + dice[1]) % 2.0
            aside = -self.half_road[0] - 1.0 + width * (share if share < 1 else 2 - share)
            if dice[2] < 0.65:
                yield Sprite(s, aside, 1.9, self.walkers[(int(dice[3] * 8), True, step % 4)], PEDESTRIAN)
            else:
                yield Sprite(s, aside, 1.9, self.riders[(int(dice[3] * 4), True, step % 4)], BICYCLIST)

    @staticmethod
    def _vehicle(car: FrozenSolid, s: float, aside: float, heading: int) -> Body:
        half = float(car.vertices[:, 2].max())
        return Body(s, aside, heading, ((car, CAR),), (float(car.vertices[:, 0].max()) + 0.05, half + 0.1))
