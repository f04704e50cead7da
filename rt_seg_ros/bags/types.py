"""Message types for reading and writing bags: ROS 2's own, this package's, and vision_msgs' label information.

ROS 2 Jazzy's definitions serve for Humble too: what is used here has not changed between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rt_seg_ros.errors import UserError
from rt_seg_ros.resources import PACKAGE, share_dir

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
CLASS_MASKS = f"{PACKAGE}/msg/ClassMasks"
STATS = f"{PACKAGE}/msg/SegmentationStats"

# vision_msgs is no part of what rosbags knows; these are its fields.
_VISION = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the types for writing, shared by all writers.

    :raises UserError: where the package's own message definitions are missing.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    _add(store, _own_definitions())
    _add(store, _VISION)
    return store


def typestore_for(definitions: Iterable[tuple[str, MessageDefinition]]) -> Typestore:
    """Return the types for reading a bag: those that it defines itself come before this package's.

    :param definitions: (type name, definition as the bag has it) of all topics
    """
    foreign = [(name, d) for name, d in definitions if d.data and name not in _builtin_names()]
    if not foreign:
        return typestore()
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in foreign:
        try:
            if definition.format is MessageDefinitionFormat.IDL:
                types = get_types_from_idl(definition.data)
            else:
                types = get_types_from_msg(definition.data, name)
            store.register({n: t for n, t in types.items() if n not in store.fielddefs})
        except TypesysError:
            continue  # its messages cannot be read; the bag's others can
    for own in (_own_definitions(), _VISION):
        _add(store, {n: text for n, text in own.items() if n not in store.fielddefs})
    return store


@lru_cache(maxsize=1)
def _builtin_names() -> frozenset[str]:
    return frozenset(get_typestore(Stores.ROS2_JAZZY).fielddefs)


@lru_cache(maxsize=1)
def _own_definitions() -> dict[str, str]:
    folder = share_dir() / "msg"
    found = {f"{PACKAGE}/msg/{p.stem}": p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.msg"))}
    if CLASS_MASKS not in found:
        raise UserError(f"the message definitions of {PACKAGE} were not found in {folder}; reinstall the package")
    return found


def _add(store: Typestore, definitions: dict[str, str]) -> None:
    types = {}
    for name, text in definitions.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
