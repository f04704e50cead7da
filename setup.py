"""The Python side of the package for pip; everything but the data files and the mode is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
SHARE = "share/rt_seg_ros"


def data_files():
    """Return (folder under the prefix, files): the same places as in a ROS 2 install space."""
    found = [(SHARE, ["package.xml"])]
    for top in ("config", "launch", "models", "msg", "rviz"):
        folders = [HERE / top, *(path for path in sorted((HERE / top).rglob("*")) if path.is_dir())]
        for folder in folders:
            files = [str(p.relative_to(HERE)) for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "."]
            if files:
                found.append((f"{SHARE}/{folder.relative_to(HERE)}", files))
    return found


setup(
    data_files=data_files(),
    # A plain path in site-packages: the messages, which CMake builds, are found beside the sources this way.
    options={"editable_wheel": {"mode": "compat"}},
)
