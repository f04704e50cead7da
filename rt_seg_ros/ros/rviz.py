"""RViz's window for the cameras that there are: made from ``rviz/segment_cameras.rviz``, which has four.

RViz keeps where its panels stand in Qt's own form, as hexadecimal digits; panels are in it by name, so they keep their
places when they are renamed there too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class CameraTopics:
    """A camera's name, its image topic, what its outputs' names begin with, and the class of the mask to show."""

    name: str
    image: str
    prefix: str
    mask: str = "road"


def for_cameras(template: str, cameras: Sequence[CameraTopics]) -> str:
    """Return a configuration of RViz that shows these cameras.

    :param template: text of ``rviz/segment_cameras.rviz``; it has a group of displays for each camera
    :return: the same with as many groups as there are cameras, named and subscribed as they are
    """
    document: dict[str, Any] = yaml.safe_load(template)
    manager, geometry = document["Visualization Manager"], document["Window Geometry"]
    groups = manager["Displays"]
    shown = []
    renamed: list[tuple[str, str]] = []
    for place, camera in enumerate(cameras):
        group = copy.deepcopy(groups[min(place, len(groups) - 1)])
        for display in group["Displays"]:
            kind = display["Name"].rpartition(" ")[2]
            name = f"{camera.name} {kind}"
            if place < len(groups):
                renamed.append((display["Name"], name))
            display["Name"] = name
            display["Topic"]["Value"] = _topic(kind, camera)
        group["Name"] = camera.name
        shown.append(group)
    manager["Displays"] = shown
    geometry["QMainWindow State"] = _renamed(str(geometry["QMainWindow State"]), renamed)
    for panel in document["Panels"]:
        if "SyncSource" in panel:
            panel["SyncSource"] = f"{cameras[0].name} overlay"
        if "Property Tree Widget" in panel:
            panel["Property Tree Widget"]["Expanded"] = ["/Global Options1", f"/{cameras[0].name}1"]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000)


def _topic(kind: str, camera: CameraTopics) -> str:
    if kind == "image":
        return camera.image
    return f"{camera.prefix}/{kind}/{camera.mask}" if kind == "mask" else f"{camera.prefix}/{kind}"


def _renamed(state: str, names: Sequence[tuple[str, str]]) -> str:
    """Return Qt's form of a window with panels renamed, also where a new name is another's old one."""
    for place, (old, _) in enumerate(names):
        state = state.replace(_qt_string(old), f"<{place}>")
    for place, (_, new) in enumerate(names):
        state = state.replace(f"<{place}>", _qt_string(new))
    return state


def _qt_string(text: str) -> str:
    """Return a string as QDataStream writes it: length in bytes, then UTF-16, both big-endian; as hexadecimal."""
    data = text.encode("utf-16-be")
    return (len(data).to_bytes(4, "big") + data).hex()
