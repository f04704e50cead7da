"""Things with faces: cars, vans, buses, boxes, cylinders. A solid is a list of flat convex faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.patterns import Colour

#: Paint of cars, BGR, roughly as often as they are met.
CAR_COLOURS: tuple[Colour, ...] = (
    (168, 170, 172), (150, 152, 154), (40, 40, 42), (58, 56, 54), (96, 96, 98), (205, 207, 208),
    (120, 62, 30), (90, 50, 32), (40, 38, 140), (34, 30, 92), (60, 76, 40), (70, 120, 150), (38, 70, 100),
)  # fmt: skip

Edge = Callable[[float], float]

_GLASS: Colour = (58, 52, 48)
_RUBBER: Colour = (30, 30, 32)
_RIM: Colour = (140, 140, 142)


@dataclass
class Solid:
    """Faces, polygons by their corners, in local axes x right, y up, z ahead, metres.

    Only faces that look at the camera are painted: those of the body (``detail`` 0) from far to near, then what lies on
    it (``detail`` 1), which is left out from afar.
    """

    faces: list[list[tuple[float, float, float]]] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    normals: list[tuple[float, float, float]] = field(default_factory=list)
    glow: list[float] = field(default_factory=list)
    detail: list[int] = field(default_factory=list)

    def face(
        self, points: list[tuple[float, float, float]], colour: Colour, glow: float = 0.0, detail: int = 0
    ) -> None:
        """Add a face; its corners run clockwise for who looks at it.

        :param glow: share of the colour that shines by itself, more at dusk
        :param detail: 0 for the body itself; 1 for what lies on it and is left out from afar
        """
        self.faces.append(points)
        a, b, c = (np.asarray(p, float) for p in points[:3])
        normal = np.cross(b - a, c - a)  # the local axes are left-handed
        length = float(np.linalg.norm(normal)) or 1.0
        self.normals.append(tuple((normal / length).tolist()))  # type: ignore[arg-type]
        self.colours.append(colour)
        self.glow.append(glow)
        self.detail.append(detail)

    def box(
        self, low: tuple[float, float, float], high: tuple[float, float, float], colour: Colour, detail: int = 0
    ) -> None:
        """Add a box between two corners, without its underside."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.face([(x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0)], colour, detail=detail)
        self.face([(x1, y1, z1), (x0, y1, z1), (x0, y0, z1), (x1, y0, z1)], colour, detail=detail)
        self.face([(x0, y1, z1), (x0, y1, z0), (x0, y0, z0), (x0, y0, z1)], colour, detail=detail)
        self.face([(x1, y1, z0), (x1, y1, z1), (x1, y0, z1), (x1, y0, z0)], colour, detail=detail)
        self.face([(x0, y1, z1), (x1, y1, z1), (x1, y1, z0), (x0, y1, z0)], colour, detail=detail)

    def freeze(self) -> FrozenSolid:
        """Return the same as arrays, ready to be painted many times."""
        return FrozenSolid.of(self, far=False)


@dataclass(frozen=True)
class FrozenSolid:
    """A solid as arrays, V corners and F faces; every face is a range of corners."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: list[tuple[int, int]]
    anchors: NDArray[np.int64]  # (F,) first corner of each face
    centres: NDArray[np.float64]  # (F, 3)
    colours: NDArray[np.float64]  # (F, 3) BGR
    normals: NDArray[np.float64]  # (F, 3) unit
    glow: NDArray[np.float64]  # (F, 1)
    detail: NDArray[np.int64]  # (F,)
    radius: float
    from_afar: FrozenSolid | None

    @staticmethod
    def of(solid: Solid, far: bool) -> FrozenSolid:
        """Make the arrays; ``far`` leaves out the details."""
        chosen = [i for i, d in enumerate(solid.detail) if not (far and d)]
        corners = [np.asarray(solid.faces[i], np.float64) for i in chosen]
        stops = np.cumsum([len(c) for c in corners])
        starts = stops - [len(c) for c in corners]
        vertices = np.concatenate(corners)
        return FrozenSolid(
            vertices=vertices,
            faces=list(zip(starts.tolist(), stops.tolist(), strict=True)),
            anchors=starts,
            centres=np.stack([c.mean(0) for c in corners]),
            colours=np.asarray(solid.colours, np.float64)[chosen],
            normals=np.asarray(solid.normals, np.float64)[chosen],
            glow=np.asarray(solid.glow, np.float64)[chosen][:, None],
            detail=np.asarray(solid.detail)[chosen],
            radius=float(np.linalg.norm(vertices, axis=1).max()),
            from_afar=None if far or not any(solid.detail) else FrozenSolid.of(solid, far=True),
        )


def _arch(z: float, radius: float, x: float, outward: int) -> list[tuple[float, float, float]]:
    """Return a wheel's rim as a polygon at side ``x``."""
    turns = [-outward * 2 * pi * i / 14 for i in range(14)]
    return [(x, radius + radius * sin(turn), z + radius * cos(turn)) for turn in turns]


def car(rng: np.random.Generator) -> FrozenSolid:
    """Return a car, van or bus, its middle over the origin, nose to +z."""
    kind = str(rng.choice(["hatch", "saloon", "estate", "van", "bus"], p=[0.38, 0.26, 0.16, 0.13, 0.07]))
    paint = CAR_COLOURS[rng.integers(len(CAR_COLOURS))]
    if kind == "van":
        paint = ((214, 216, 216), (200, 202, 204), (150, 110, 60), (60, 60, 150))[rng.integers(4)]
    if kind == "bus":
        paint = ((44, 40, 168), (190, 130, 60), (210, 212, 212), (60, 150, 90))[rng.integers(4)]
    # Half width, length, heights: underside, waist, roof; cabin from the nose backwards: windscreen's foot and top,
    # rear window's top and foot, as shares of the length.
    w, length, under, waist, roof, cabin = {
        "hatch": (0.84, 3.9, 0.24, 0.92, 1.45, (0.25, 0.40, 0.90, 0.985)),
        "saloon": (0.87, 4.5, 0.24, 0.92, 1.42, (0.26, 0.40, 0.72, 0.86)),
        "estate": (0.88, 4.6, 0.26, 0.95, 1.50, (0.25, 0.38, 0.92, 0.985)),
        "van": (0.98, 5.2, 0.32, 1.20, 2.25, (0.12, 0.27, 0.985, 0.99)),
        "bus": (1.25, 10.5, 0.35, 1.25, 3.05 if rng.random() < 0.5 else 4.2, (0.0, 0.012, 0.99, 1.0)),
    }[kind]
    w *= rng.uniform(0.97, 1.05)
    roof *= rng.uniform(0.98, 1.04)
    top = w * (0.80 if roof < 2 else 0.93)
    front, back = length / 2, -length / 2
    z = [front - share * length for share in cabin]
    nose = waist - (0.14 if roof < 2 else 0.05)
    solid = Solid()
    dark: Colour = (0.45 * paint[0], 0.45 * paint[1], 0.45 * paint[2])
    # Lower body.
    for s in (-1, 1):
        outline = [(nose, front), (waist, z[0]), (waist, back + 0.05), (under, back), (under, front)]
        side = [(s * w, y, at) for y, at in outline]
        solid.face(side if s < 0 else side[::-1], paint)
    solid.face([(-w, waist, back), (w, waist, back), (w, under, back), (-w, under, back)], paint)
    solid.face([(w, nose, front), (-w, nose, front), (-w, under, front), (w, under, front)], paint)
    solid.face([(-w, nose, front), (w, nose, front), (w, waist, z[0]), (-w, waist, z[0])], paint)
    if z[3] > back + 0.2:
        solid.face([(-w, waist, z[3]), (w, waist, z[3]), (w, waist, back), (-w, waist, back)], paint)
    # Cabin.
    foot = w * 0.98
    body = paint if kind == "van" else _GLASS
    for s in (-1, 1):
        eaves = roof - 0.06
        side = [(s * foot, waist, z[0]), (s * top, eaves, z[1]), (s * top, eaves, z[2]), (s * foot, waist, z[3])]
        solid.face(side if s < 0 else side[::-1], body)
    solid.face([(-top, roof, z[2]), (top, roof, z[2]), (foot, waist, z[3]), (-foot, waist, z[3])], body)
    solid.face([(top, roof, z[1]), (-top, roof, z[1]), (-foot, waist, z[0]), (foot, waist, z[0])], _GLASS)
    solid.face([(-top, roof, z[1]), (top, roof, z[1]), (top, roof, z[2]), (-top, roof, z[2])], paint)
    _trim(solid, kind, paint, dark, (w, top, under, waist, nose, roof), (front, back), z)
    return solid.freeze()


def _trim(
    solid: Solid,
    kind: str,
    paint: Colour,
    dark: Colour,
    sizes: tuple[float, float, float, float, float, float],
    ends: tuple[float, float],
    z: list[float],
) -> None:
    """Add pillars, wheels, lamps, plates, bumpers."""
    w, top, under, waist, nose, roof = sizes
    front, back = ends
    length, foot = front - back, w * 0.98
    e = 0.012
    for s in (-1, 1):

        def edge(y: float, s: int = s) -> float:
            """Return x of the flank at a height: it leans in above the waist."""
            share = min(1.0, max(0.0, (y - waist) / (roof - waist)))
            return s * (w * (1 - share) + top * share + e)

        def flank(y0: float, y1: float, za: float, zb: float, colour: Colour, s: int = s, edge: Edge = edge) -> None:
            points = [(edge(y1), y1, za), (edge(y1), y1, zb), (edge(y0), y0, zb), (edge(y0), y0, za)]
            solid.face(points if s < 0 else points[::-1], colour, detail=1)

        if kind in ("hatch", "saloon", "estate"):
            middle = (z[1] + z[2]) / 2 + 0.1
            flank(waist, roof - 0.06, middle + 0.05, middle - 0.05, paint)
            flank(roof - 0.1, roof - 0.02, z[1], z[2], paint)
            flank(waist - 0.02, waist + 0.03, z[0], z[3], paint)
        elif kind == "van":
            flank(waist + 0.1, roof - 0.5, z[1] + 0.15, z[1] - 0.75, _GLASS)
        else:
            flank(waist - 0.05, waist + 0.04, z[0], z[3], paint)
            for deck in ([roof - 0.35, roof], [waist + 1.15, waist + 1.55])[: 2 if roof > 3.5 else 1]:
                flank(deck[0], deck[1], z[0], z[3], paint)
            for i in range(1, 8):
                at = front - length * i / 8
                flank(waist, roof - 0.2, at + 0.06, at - 0.06, paint)
        flank(under - 0.02, under + 0.14, front - 0.1, back + 0.1, dark)
        radius = 0.31 if roof < 2 else 0.36 if kind == "van" else 0.48
        for at in (front - 0.19 * length, back + 0.2 * length):
            arch = radius * 1.16
            for r, colour, out in ((arch, dark, 0.006), (radius, _RUBBER, 0.014), (radius * 0.58, _RIM, 0.02)):
                # The arch, the tyre and the rim share their centre.
                wheel = [(px, max(0.0, py + radius - r), pz) for px, py, pz in _arch(at, r, s * (w + out), s)]
                solid.face(wheel, colour, detail=0 if r == radius else 1)
    for end, lamp, glow in ((back - e, (38, 34, 190), 0.35), (front + e, (225, 232, 235), 0.5)):
        rear = end < 0

        def plate(
            x0: float,
            x1: float,
            y0: float,
            y1: float,
            colour: Colour,
            g: float = 0.0,
            end: float = end,
            rear: bool = rear,
        ) -> None:
            points = [(x0, y1, end), (x1, y1, end), (x1, y0, end), (x0, y0, end)]
            solid.face(points if rear else points[::-1], colour, g, detail=1)

        high = waist if rear else nose
        plate(-w, w, under, under + 0.2, dark)
        plate(-0.26, 0.26, under + 0.22, under + 0.33, (60, 200, 215) if rear else (215, 215, 215))
        plate(-w + 0.04, -w + 0.3, high - 0.26, high - 0.06, lamp, glow)
        plate(w - 0.3, w - 0.04, high - 0.26, high - 0.06, lamp, glow)
        if rear and kind == "van":
            for left in (-w * 0.9, w * 0.06):
                plate(left, left + w * 0.84, waist + 0.25, roof - 0.3, _GLASS)
        if not rear:
            plate(-w * 0.55, w * 0.55, high - 0.24, high - 0.1, (44, 44, 46))
    if kind in ("hatch", "estate", "saloon"):  # a rim of paint around the rear window
        for s in (-1, 1):
            high, low = z[2] - e, z[3] - e
            rim = [
                (s * top, roof, high),
                (s * (top - 0.09), roof, high),
                (s * (foot - 0.1), waist, low),
                (s * foot, waist, low),
            ]
            solid.face(rim[::-1] if s > 0 else rim, paint, detail=1)


def post(height: float, thick: float, colour: Colour) -> FrozenSolid:
    """Return an upright square post over the origin."""
    solid = Solid()
    solid.box((-thick / 2, 0, -thick / 2), (thick / 2, height, thick / 2), colour)
    return solid.freeze()
