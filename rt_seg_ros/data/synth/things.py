"""What stands on a street and lies on it, as data: places are (s, aside), see :mod:`street`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.facades import Facade
from rt_seg_ros.data.synth.patterns import Colour
from rt_seg_ros.data.synth.solids import FrozenSolid

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

#: Length of a block, metres; tables along the street have a step of STEP.
BLOCK = 24.0
STEP = 0.25

STEPS = int(BLOCK / STEP)

Levels = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # a texture, and the same at half the size


@dataclass(frozen=True)
class Building:
    """A house: its front from ``s0`` to ``s1`` at ``aside``, ``away`` (+1 or -1) pointing from the street."""

    s0: float
    s1: float
    aside: float
    away: int
    facade: Facade
    roof: float
    roof_colour: Colour
    depth: float
    chimney: float
    gable: Facade
    end_from: float  # a neighbour before it hides the end up to this height
    ends: NDArray[np.float64]  # of the front's foot, in the world, (2, 3)


@dataclass(frozen=True)
class Panel:
    """An upright flat textured thing along the street: fence or hedge."""

    s0: float
    s1: float
    aside: float
    height: float
    texture: Levels
    label: int
    ends: NDArray[np.float64]  # of its foot, in the world, (2, 3)
    texture_width: float = 8.0
    seen_from: float = 110.0

    @property
    def far_end(self) -> float:
        """Return s of its far end."""
        return self.s1


@dataclass(frozen=True)
class Sprite:
    """A cut-out picture that faces the camera; sizes in metres of the whole sheet."""

    s: float
    aside: float
    height: float
    levels: list[NDArray[np.uint8]]
    label: int
    seen_from: float = 75.0

    @property
    def far_end(self) -> float:
        """Return s."""
        return self.s


@dataclass(frozen=True)
class Body:
    """A solid at a place; ``heading`` +1 looks along the street, -1 against it; parts share the place."""

    s: float
    aside: float
    heading: int
    parts: tuple[tuple[FrozenSolid, int], ...]
    shadow: tuple[float, float] = (0.0, 0.0)  # half width and half length of the dark patch under it
    seen_from: float = 80.0

    @property
    def far_end(self) -> float:
        """Return s."""
        return self.s


@dataclass(frozen=True)
class Marking:
    """Paint on the road: a convex polygon of (s, aside), (N, 2)."""

    points: NDArray[np.float64]
    colour: Colour


@dataclass
class Block:
    """What stands on one block, and the tables of its ground, each per side (left, right) and step."""

    buildings: list[Building] = field(default_factory=list)
    things: list[Panel | Sprite | Body] = field(default_factory=list)
    markings: list[Marking] = field(default_factory=list)
    painted: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))  # markings' corners in the world
    road: NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, STEPS), np.float32))
    pavement: NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, STEPS), np.float32))
    paved_yard: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((2, STEPS), bool))
    screens: tuple[list[Panel], list[Panel]] = field(default_factory=lambda: ([], []))
    height: NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, STEPS), np.float32))
