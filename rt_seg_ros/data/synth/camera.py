"""The pinhole camera of a rendered drive, and how points, planes and the ground come through it.

World axes: X right, Y down, Z along the street, metres; the road surface is Y = 0. Camera axes: x right, y down,
z forward (ROS's optical frame). Pixel (0, 0) is the centre of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

#: Nothing nearer than this is drawn, metres along the optical axis.
NEAR = 0.35


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels, without distortion: what a camera_info message says."""

    fx: float
    fy: float
    cx: float
    cy: float
    height: int
    width: int

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The camera matrix K, float64 (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at a place: ``position`` (3,) in the world, ``rotation`` (3, 3) from world to camera axes."""

    intrinsics: Intrinsics
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]

    def to_camera(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return world points (N, 3) in camera axes (N, 3)."""
        return (points - self.position) @ self.rotation.T

    def pixels(self, in_camera: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels (N, 2) of points in camera axes (N, 3), all in front of the camera."""
        k = self.intrinsics
        return in_camera[:, :2] / in_camera[:, 2:] * (k.fx, k.fy) + (k.cx, k.cy)

    def outline(self, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Project a polygon of world points (N, 3), cut at the near plane; None where nothing is left of it."""
        in_camera = self.to_camera(points)
        if in_camera[:, 2].min() < NEAR:
            in_camera = clip_near(in_camera)
            if len(in_camera) < 3:
                return None
        return self.pixels(in_camera)

    def plane(self, origin: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the homography (3, 3) from (a, b) on the plane ``origin + a u + b v`` to homogeneous pixels."""
        columns = np.stack((self.rotation @ u, self.rotation @ v, self.rotation @ (origin - self.position)), 1)
        return self.intrinsics.matrix @ columns


def clip_near(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut a polygon in camera axes (N, 3) at the near plane (Sutherland and Hodgman's way)."""
    kept: list[NDArray[np.float64]] = []
    for current, following in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside = current[2] >= NEAR
        if inside:
            kept.append(current)
        if inside != (following[2] >= NEAR):
            kept.append(current + (following - current) * ((NEAR - current[2]) / (following[2] - current[2])))
    return np.array(kept) if kept else np.empty((0, 3))


def look(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from world to camera axes; radians, yaw to the right, pitch down, roll clockwise."""
    cy, sy, cp, sp, cr, sr = cos(yaw), sin(yaw), cos(pitch), sin(pitch), cos(roll), sin(roll)
    by_yaw = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
    by_pitch = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    by_roll = np.array([[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return by_roll @ by_pitch @ by_yaw
