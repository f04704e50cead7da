"""A ROS domain of one's own on this machine, so that nothing else on the network takes part or is disturbed."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rt_seg_ros.errors import UserError
from rt_seg_ros.resources import config_dir


def take_domain() -> tuple[int, IO[str]]:
    """Return a domain that neither the user nor another run on this machine uses, and the open file that holds it.

    To let go, close that. Processes that were given the file hold the domain as well, as long as they live.

    :raises UserError: where none is free
    """
    taken = os.environ.get("ROS_DOMAIN_ID")  # by the user's own robot
    for domain in random.sample(range(1, 100), 99):
        if str(domain) == taken:
            continue
        path = Path(tempfile.gettempdir()) / f"rt_seg_ros_domain_{domain}"
        try:
            lock = path.open("r" if path.exists() else "a")  # another user's can be read, and that is enough
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise UserError(f"no ROS domain is free: 99 runs hold locks in {tempfile.gettempdir()}")


def graph_environment(domain: int) -> dict[str, str]:
    """Return the processes' environment: only this machine, and a domain of their own."""
    if os.environ.get("ROS_DISTRO") == "humble":
        local, name = {"ROS_LOCALHOST_ONLY": "1"}, "fastdds_localhost.xml"
    else:  # which still knows Humble's variable, but complains of it
        local, name = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "fastdds.xml"
    profile = str(config_dir() / "dds" / name)  # room for large images
    return {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        **os.environ,
        **local,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def environment_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process's environment until the end of the block."""
    former = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)
