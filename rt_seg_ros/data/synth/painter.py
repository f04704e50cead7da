"""How each kind of thing of the street comes onto the canvas: one frame's street, camera and light, put together."""

from __future__ import annotations

from math import atan, cos, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.camera import Camera, clip_near
from rt_seg_ros.data.synth.canvas import Canvas
from rt_seg_ros.data.synth.facades import Facade
from rt_seg_ros.data.synth.light import Light
from rt_seg_ros.data.synth.solids import FrozenSolid
from rt_seg_ros.data.synth.street import Street
from rt_seg_ros.data.synth.things import BUILDING, Block, Body, Building, Panel, Sprite

Vector = NDArray[np.float64]

_UP: Vector = np.array([0.0, -1.0, 0.0])
_SAFE = 0.4  # metres before the camera; whatever is nearer is cut face by face
_HAZE_STEP = 10.0  # metres between two steps of haze
_MARKINGS_FAR = 65.0
_SHADOWS_FAR = 60.0
_CHIMNEY = (66.0, 82.0, 118.0)
#: From here on, metres, solids lose their details.
_DETAILS_FAR = 42.0


class Painter:
    """Paints one frame. Things are to be given from far to near."""

    def __init__(self, street: Street, camera: Camera, light: Light, canvas: Canvas) -> None:
        """Take what makes a frame."""
        self.street, self.camera, self.light, self.canvas = street, camera, light, canvas
        self._eye = float(camera.position[2])
        self._tones: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._paints: dict[tuple[tuple[float, float, float], int], list[float]] = {}
        facing = {"left": (-1.0, 0.0, 0.0), "right": (1.0, 0.0, 0.0), "back": (0.0, 0.0, -1.0), "up": (0.0, -1.0, 0.0)}
        self._gains = {name: light.gains(np.array([normal]))[0] for name, normal in facing.items()}
        self._gains["round"] = light.ambient + 0.45 * light.sun
        half = 0.5 * camera.intrinsics.width / camera.intrinsics.fx
        self._spread, self._slant = half * 1.1 + 0.02, float(np.hypot(1.0, half))

    def _tone(self, facing: str, distance: float) -> NDArray[np.uint8]:
        """Return the look-up table of textures that face a way, at a distance."""
        step = int(distance / _HAZE_STEP)
        tone = self._tones.get((facing, step))
        if tone is None:
            tone = self._tones[facing, step] = self.light.tone(self._gains[facing], (step + 0.5) * _HAZE_STEP)
        return tone

    def _lit(self, colour: tuple[float, float, float], gain: Vector, distance: float) -> list[float]:
        share = self.light.haze_share(distance)
        return (np.minimum(255.0, np.asarray(colour) * gain) * (1 - share) + self.light.haze * share).tolist()

    # ---- on the ground -----------------------------------------------------------------------------

    def markings(self, block: Block) -> None:
        """Paint a block's road markings."""
        if not block.markings:
            return
        in_camera = self.camera.to_camera(block.painted)
        depths = in_camera[:, 2].tolist()
        start = 0
        for marking in block.markings:
            first, start = start, start + len(marking.points)
            farthest = max(depths[first:start])
            if not 0.5 < farthest < _MARKINGS_FAR:
                continue
            corners = in_camera[first:start]
            if min(depths[first:start]) < _SAFE:
                corners = clip_near(corners)
                if len(corners) < 3:
                    continue
            self.canvas.mark(self.camera.pixels(corners), self._painted(marking.colour, farthest))

    def _painted(self, colour: tuple[float, float, float], distance: float) -> list[float]:
        """Return the colour of paint on the road, at a distance rounded so that most have been asked for before."""
        key = (colour, int(distance / _HAZE_STEP))
        if key not in self._paints:
            self._paints[key] = self._lit(colour, self._gains["up"], (key[1] + 0.5) * _HAZE_STEP)
        return self._paints[key]

    def shadows(self, bodies: list[Body]) -> None:
        """Darken the ground under and beside what stands on it."""
        canvas, light = self.canvas, self.light
        mask = np.zeros((canvas.height, canvas.width), np.uint8)
        lean = float(np.clip(-light.shadow_reach, -1.2, 1.2)) * min(1.0, 1.5 * light.shadow_depth)
        top, bottom = canvas.height, 0
        for body in bodies:
            if not -4 < body.s - self._eye < _SHADOWS_FAR:
                continue
            w, h = body.shadow
            s = np.array([-h, h, h, -h]) + body.s
            across = np.array([-w, -w, w, w])
            across = body.aside + across + np.where(across * lean > 0, lean, 0.0)
            outline = self.camera.outline(self.street.world(s, across))
            if outline is not None:
                corners = np.rint(np.clip(outline, -30000, 30000)).astype(np.int32)
                cv2.fillConvexPoly(mask, corners, 150, cv2.LINE_AA)
                top, bottom = min(top, int(corners[:, 1].min())), max(bottom, int(corners[:, 1].max()))
        top, bottom = max(0, top - 3), min(canvas.height, bottom + 4)
        if bottom > top:
            keep = cv2.cvtColor(cv2.bitwise_not(cv2.blur(mask[top:bottom], (5, 3))), cv2.COLOR_GRAY2BGR)
            below = canvas.image[top:bottom]
            cv2.multiply(below, keep, dst=below, scale=1 / 255)

    # ---- upright -----------------------------------------------------------------------------------

    def thing(self, thing: Panel | Sprite | Body) -> None:
        """Paint what stands on the street."""
        if isinstance(thing, Sprite):
            self._sprite(thing)
        elif isinstance(thing, Body):
            self._body(thing)
        else:
            self._panel(thing)

    def _sprite(self, sprite: Sprite) -> None:
        foot = self.camera.rotation @ (self.street.place(sprite.s, sprite.aside) - self.camera.position)
        x, y, depth = foot.tolist()
        if depth < 1.5:
            return
        k = self.camera.intrinsics
        picture = sprite.levels[0]
        half = 0.5 * sprite.height * picture.shape[1] / picture.shape[0]
        if abs(x) - half > depth * self._spread:
            return
        x, y = k.cx + k.fx * x / depth, k.cy + k.fy * y / depth
        half, tall = half * k.fx / depth, sprite.height * k.fy / depth
        level = int(np.log2(max(1.0, picture.shape[0] / tall)))
        picture = sprite.levels[min(level, len(sprite.levels) - 1)]
        self.canvas.sprite(picture, (x - half, y - tall), (x + half, y), sprite.label, self._tone("round", depth))

    def _body(self, body: Body) -> None:
        base = self.camera.rotation @ (self.street.place(body.s, body.aside) - self.camera.position)
        angle = atan(self.street.slope(body.s))
        ahead = np.array([sin(angle), 0.0, cos(angle)]) * body.heading
        axes = np.array((np.array([ahead[2], 0.0, -ahead[0]]), _UP, ahead))
        for solid, label in body.parts:
            self._solid(solid, base, axes, label)

    def _solid(self, solid: FrozenSolid, base: Vector, axes: Vector, label: int) -> None:
        """Paint a solid whose origin lies at ``base`` in camera axes."""
        distance, reach = float(base[2]), solid.radius
        if distance < -reach or abs(base[0]) - reach * self._slant > max(distance, 0.0) * self._spread:
            return
        if distance > _DETAILS_FAR and solid.from_afar is not None:
            solid = solid.from_afar
        turn = axes @ self.camera.rotation.T
        corners = solid.vertices @ turn + base
        facing = np.einsum("ij,ij->i", solid.normals @ turn, corners[solid.anchors]) < 0
        chosen = np.flatnonzero(facing)
        if chosen.size == 0:
            return
        # The body from far to near, then what lies on it.
        rank = solid.detail[chosen] * 1e6 - (solid.detail[chosen] == 0) * (solid.centres[chosen] @ turn[:, 2])
        chosen = chosen[np.argsort(rank, kind="stable")]
        gains = self.light.gains(solid.normals[chosen] @ axes) + solid.glow[chosen] * (0.3 + self.light.dusk)
        share = self.light.haze_share(distance)
        colours = (np.minimum(255.0, solid.colours[chosen] * gains) * (1 - share) + self.light.haze * share).tolist()
        faces = [solid.faces[i] for i in chosen.tolist()]
        if corners[:, 2].min() > _SAFE:
            self.canvas.facets(self.camera.pixels(corners), faces, colours, label)
            return
        pieces: list[Vector] = []
        kept: list[tuple[int, int]] = []
        shown: list[list[float]] = []
        start = 0
        for (first, last), colour in zip(faces, colours, strict=True):
            piece = clip_near(corners[first:last])
            if len(piece) >= 3:
                pieces.append(self.camera.pixels(piece))
                kept.append((start, start + len(piece)))
                shown.append(colour)
                start += len(piece)
        if pieces:
            self.canvas.facets(np.concatenate(pieces), kept, shown, label)

    def _panel(self, panel: Panel) -> None:
        visible = max(panel.s0, self._eye + 0.3)
        if panel.s1 - visible < 0.05:
            return
        ends = panel.ends
        along = (ends[1] - ends[0]) / (panel.s1 - panel.s0)
        near = ends[0] + along * (visible - panel.s0)
        top = _UP * panel.height
        outline = self.camera.outline(np.array((near, ends[1], ends[1] + top, near + top)))
        if outline is None:
            return
        texture = panel.texture[1] if panel.s0 - self._eye > 25 else panel.texture[0]
        per_metre = texture.shape[1] / panel.texture_width
        homography = self.camera.plane(ends[0] + top, along / per_metre, -top / texture.shape[0])
        tone = self._tone("left" if panel.aside > 0 else "right", max(0.0, panel.s0 - self._eye))
        self.canvas.textured(texture, homography, outline, panel.label, tone)

    # ---- houses ------------------------------------------------------------------------------------

    def building(self, house: Building) -> None:
        """Paint roof, chimney, the end that faces the camera, and the front."""
        distance = max(1.0, house.s0 - self._eye)
        ends = house.ends
        front = ends[1] - ends[0]
        away = np.array([float(house.away) * house.depth, 0.0, 0.0])
        top = _UP * house.facade.height
        facing = "left" if house.away > 0 else "right"
        shows_end = house.s0 > self._eye + 0.5 and house.end_from < house.facade.height + house.roof
        if house.roof > 0:
            self._roof(house, ends + top, front, away, shows_end, distance)
        corner, near = ends[0], ends[0] + front * max(0.0, (self._eye + 0.35 - house.s0) / (house.s1 - house.s0))
        if shows_end and house.end_from < house.facade.height:
            low, back = corner + _UP * house.end_from, corner + away
            corners = np.array((low, back + _UP * house.end_from, back + top, corner + top))
            self._wall(house.gable, corner, away, top, corners, "back", distance)
        corners = np.array((near, ends[1], ends[1] + top, near + top))
        self._wall(house.facade, corner, front, top, corners, facing, distance)

    def _roof(
        self, house: Building, eaves: Vector, front: Vector, away: Vector, shows_end: bool, distance: float
    ) -> None:
        """Paint the slope over the street, the gable, the chimney; ``eaves`` are the front's upper corners."""
        ridge = away / 2 + _UP * house.roof
        faces = [np.array((eaves[0], eaves[1], eaves[1] + ridge, eaves[0] + ridge))]
        slope = self.light.gains(np.array([[-0.6 * house.away, -0.8, 0.0]]))[0]
        colours = [self._lit(house.roof_colour, slope, distance)]
        if shows_end:
            faces.append(np.array((eaves[0], eaves[0] + away, eaves[0] + ridge)))
            colours.append(self._lit(house.gable.wall, self._gains["back"], distance))
        if house.chimney > 0 and distance < 90:
            right, ahead, up = np.array([0.35, 0, 0]), np.array([0, 0, 0.5]), _UP * 1.9
            low = eaves[0] + front * house.chimney + ridge - _UP * 0.8
            edge = low - right * house.away
            back = low - ahead
            faces.append(np.array((back - right, back + right, back + right + up, back - right + up)))
            faces.append(np.array((edge - ahead, edge + ahead, edge + ahead + up, edge - ahead + up)))
            side = "left" if house.away > 0 else "right"
            colours += [self._lit(_CHIMNEY, self._gains[name], distance) for name in ("back", side)]
        self._flat(faces, colours)

    def _wall(
        self, facade: Facade, origin: Vector, length: Vector, up: Vector, corners: Vector, facing: str, distance: float
    ) -> None:
        """Paint the part within ``corners`` of a wall that goes from ``origin`` along ``length`` and ``up``."""
        outline = self.camera.outline(corners)
        if outline is None:
            return
        texture = facade.level(self.camera.intrinsics.fx / distance, self.light.dusk > 0.55)
        # The texture is fitted to the wall: whole windows, a little wider or narrower.
        homography = self.camera.plane(origin + up, length / texture.shape[1], -up / texture.shape[0])
        self.canvas.textured(texture, homography, outline, BUILDING, self._tone(facing, distance))

    def _flat(self, polygons: list[Vector], colours: list[list[float]]) -> None:
        outlines = [self.camera.outline(p) for p in polygons]
        seen = [(o, c) for o, c in zip(outlines, colours, strict=True) if o is not None]
        if seen:
            stops = np.cumsum([len(o) for o, _ in seen]).tolist()
            faces = list(zip([0, *stops[:-1]], stops, strict=True))
            self.canvas.facets(np.concatenate([o for o, _ in seen]), faces, [c for _, c in seen], BUILDING)
