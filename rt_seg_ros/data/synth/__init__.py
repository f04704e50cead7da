"""Rendered drives: a street with exact labels, from a seed. See :class:`SyntheticDrive`."""

from rt_seg_ros.data.synth.camera import Intrinsics
from rt_seg_ros.data.synth.drive import SyntheticDrive

__all__ = ["Intrinsics", "SyntheticDrive"]
