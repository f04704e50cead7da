"""A drive down a rendered street: frame by frame, in any order, always the same for the same seed."""

from __future__ import annotations

from functools import lru_cache
from math import atan, pi, sin

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.synth.camera import Camera, Intrinsics, look
from rt_seg_ros.data.synth.canvas import Canvas
from rt_seg_ros.data.synth.ground import Ground
from rt_seg_ros.data.synth.horizon import Horizon
from rt_seg_ros.data.synth.light import Sensor, Weather
from rt_seg_ros.data.synth.painter import Painter
from rt_seg_ros.data.synth.street import Street
from rt_seg_ros.data.synth.things import BLOCK, Body, Panel, Sprite
from rt_seg_ros.errors import UserError

#: How far is drawn, metres.
FAR = 140.0

#: A street takes some thirty times as long to build as a frame to render, and changes with nothing but its seed.
_street = lru_cache(maxsize=2)(Street)


class SyntheticDrive:
    """An endless drive with exact labels (camvid11).

    ``render(i)`` gives frame ``i`` as (BGR uint8 (H, W, 3), labels uint8 (H, W)). Frames depend on seed, size, rate
    and index alone, whatever was rendered before. The scene is solid geometry under a pinhole camera
    (:meth:`camera_info`); railings and wheels count as whole, as in hand-labelled sets. Every pixel has a label.
    """

    def __init__(self, seed: int, height: int = 360, width: int = 480, rate: float = 10.0) -> None:
        """Build the street.

        :param rate: frames per second
        :raises UserError: for a size, a rate or a seed that cannot be
        """
        if not (32 <= height <= 4320 and 32 <= width <= 7680):
            raise UserError(
                f"frames of {height}x{width} cannot be rendered: height from 32 to 4320 and width from 32 to 7680 can"
            )
        if not 0.1 <= rate <= 1000:
            raise UserError(f"a rate of {rate} frames per second is out of range: give one from 0.1 to 1000")
        if seed < 0:
            raise UserError(f"seed {seed} is negative: give a whole number from 0 on")
        self.seed, self.height, self.width, self.rate = seed, height, width, rate
        rng = np.random.default_rng((seed, 0))
        self.street = _street(seed)
        self._weather = Weather(rng)
        self._speed = float(rng.uniform(5.5, 9.5))
        self._wobble = rng.uniform(0, 2 * pi, 8)
        self._start = float(rng.uniform(100, 900))
        self._eye = float(rng.uniform(1.25, 1.6))
        self._pitch = float(rng.uniform(-0.035, 0.03))
        zoom = float(rng.uniform(0.92, 1.12))
        self._intrinsics = Intrinsics(
            fx=zoom * width,
            fy=zoom * height * 4 / 3,
            cx=(width - 1) / 2,
            cy=(height - 1) / 2,
            height=height,
            width=width,
        )
        self._ground = Ground(self.street, rng, FAR)
        self._horizon = Horizon(np.random.default_rng((seed, 9)), self._intrinsics, self._weather.overcast, FAR)
        self._sensor = Sensor(np.random.default_rng((seed, 10)), height, width)

    def camera_info(self) -> Intrinsics:
        """Return the pinhole camera that every frame is rendered through."""
        return self._intrinsics

    def position(self, time: float) -> float:
        """Return how far along the street the camera is at a time, metres: it never goes backwards."""
        swing = 0.45 * self._speed * 4.0
        return self._start + self._speed * time + swing * (sin(time / 4.0 + self._wobble[0]) - sin(self._wobble[0]))

    def camera(self, index: int) -> Camera:
        """Return where the camera is in frame ``index``, and how it is turned."""
        time = index / self.rate
        s = self.position(time)
        wob = self._wobble
        aside = self.street.drive_side * self.street.lane + 0.18 * sin(time / 3.1 + wob[0])
        bump = 0.012 * sin(9.1 * time + wob[1]) + 0.008 * sin(14.3 * time + wob[2])
        yaw = atan(self.street.slope(s + 4)) + 0.022 * sin(time / 2.3 + wob[3])
        pitch = self._pitch + 0.006 * sin(5.7 * time + wob[4]) + 0.004 * sin(11.9 * time + wob[5])
        roll = 0.008 * sin(time / 1.7 + wob[6]) + 0.004 * sin(7.7 * time + wob[7])
        return Camera(self._intrinsics, self.street.place(s, aside, self._eye + bump), look(yaw, pitch, roll))

    def render(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Render frame ``index``: (BGR uint8 (H, W, 3), labels uint8 (H, W), camvid11 ids).

        :raises IndexError: for a negative index
        """
        if index < 0:
            raise IndexError(f"frames count from 0, got {index}")
        time = index / self.rate
        ego = self.position(time)
        canvas, camera, light = Canvas(self.height, self.width), self.camera(index), self._weather.at(time)
        painter = Painter(self.street, camera, light, canvas)
        blocks = [self.street.block(n) for n in range(int(ego // BLOCK) - 1, int((ego + FAR) // BLOCK) + 1)]

        self._horizon.paint(canvas, camera, light)
        self._ground.paint(canvas, camera, light)
        for block in blocks:
            painter.markings(block)
        things: list[Panel | Sprite | Body] = [t for b in blocks for t in b.things]
        things += self.street.traffic(time, ego, FAR)
        painter.shadows([t for t in things if isinstance(t, Body) and t.shadow[0] > 0])

        houses = [h for b in blocks for h in b.buildings if h.s1 > ego + 0.5 and h.s0 < ego + FAR]
        # Houses in the second row are behind all of the first; within a row the far ones are behind the near.
        for house in sorted(houses, key=lambda h: (-(abs(h.aside) // 12), -h.s0)):
            painter.building(house)
        ordered = [(self.street.order(t), t) for t in things if ego + 0.2 < t.far_end < ego + t.seen_from]
        for _, thing in sorted(ordered, key=lambda pair: -pair[0]):
            painter.thing(thing)
        picture = self._sensor.expose(canvas.image, light, np.random.default_rng((self.seed, 11, index)))
        return picture, canvas.labels
