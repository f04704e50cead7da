"""Where the package's data files are: label spaces, recipes, weights.

They lie at the top of a checkout, and under ``share/rt_seg_ros`` of whatever prefix the package was
installed into (a colcon install space, a virtual environment, a user's site).
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from rt_seg_ros.errors import UserError

PACKAGE = "rt_seg_ros"


@lru_cache(maxsize=1)
def share_dir() -> Path:
    """Return the folder that holds ``config/`` and ``models/``.

    :raises UserError: where no candidate holds them, with the places that were tried.
    """
    here = Path(__file__).resolve().parent
    candidates = [here.parent]
    # <prefix>/lib/python3.x/site-packages/rt_seg_ros, and Debian's <prefix>/local/lib/python3.x/dist-packages.
    candidates += [parent / "share" / PACKAGE for parent in here.parents]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(prefix) / "share" / PACKAGE for prefix in [*prefixes, sys.prefix] if prefix]
    for candidate in candidates:
        if (candidate / "config" / "labels").is_dir() and (candidate / "package.xml").is_file():
            return candidate
    tried = ", ".join(str(c) for c in dict.fromkeys(candidates))
    raise UserError(f"the data files of {PACKAGE} (config/, models/) were not found in any of: {tried}; reinstall it")


def config_dir() -> Path:
    """Return the folder of label spaces, recipes and parameter files."""
    return share_dir() / "config"


def models_dir() -> Path:
    """Return the folder of weights and their cards."""
    return share_dir() / "models"
