"""Which ROS 2 this process has; nothing of it is imported."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

from rt_seg_ros.errors import UserError


def check_one_ros() -> None:
    """Make sure that an environment with a ROS 2 of its own is served by that one.

    A shell that has sourced another puts the other before it, and the two do not mix: what comes of it is a
    segmentation fault, or an error that names neither.

    :raises UserError: the two are mixed
    """
    own = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    found = importlib.util.find_spec("rclpy")
    if found is None or found.origin is None or not any((folder / "rclpy").is_dir() for folder in own):
        return
    if not own & set(Path(found.origin).resolve().parents):
        raise UserError(
            f"this environment ({next(iter(own))}) has a ROS 2 of its own, and the shell has sourced another, whose "
            f"rclpy comes first ({found.origin}): use a shell that has sourced none"
        )
