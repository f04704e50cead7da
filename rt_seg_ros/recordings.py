"""What a recording looks like on the disk: a rosbag2 is known by its files' names, without opening any."""

from __future__ import annotations

from pathlib import Path

STORAGE_SUFFIXES = (".mcap", ".db3")
PACKED_SUFFIX = ".zstd"  # ros2 bag adds it to files that it compressed


def is_storage_file(path: Path) -> bool:
    """Return whether a file is one of a recording by its name."""
    return (path.suffix if path.suffix != PACKED_SUFFIX else path.with_suffix("").suffix) in STORAGE_SUFFIXES


def is_recording(path: Path) -> bool:
    """Return whether a path looks like a rosbag2: its folder, or a storage file of one."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(is_storage_file(file) for file in path.iterdir())
    return is_storage_file(path)
