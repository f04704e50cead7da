"""Names on the graph: of nodes, of cameras, made from their topics, and of classes' topics, made from class names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rt_seg_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.node import Node

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Last parts of a topic that say nothing of which camera it is.
_IMAGE_WORDS = frozenset(
    {"image", "image_raw", "image_rect", "image_rect_color", "image_color", "image_mono", "compressed", "rgb", "color"}
)


def full_name(namespace: str, name: str) -> str:
    """Return the full name of what is in a namespace, of which ``/`` is the outermost."""
    return f"{namespace.rstrip('/')}/{name}"


def split_name(full: str) -> tuple[str, str]:
    """Return the namespace and the name in it of a full name; the reverse of :func:`full_name`."""
    namespace, _, name = full.rpartition("/")
    return namespace or "/", name


def expanded(topic: str, node: str) -> str:
    """Return the full name of a topic that was given to the node of this full name, before any remapping."""
    if topic.startswith("~"):
        return node + topic[1:]
    return topic if topic.startswith("/") else full_name(split_name(node)[0], topic)


def twin(node: Node) -> str:
    """Say that another node has this one's name, and so its topics and services; "" where none has."""
    name, namespace = node.get_name(), node.get_namespace()
    if node.get_node_names_and_namespaces().count((name, namespace)) < 2:
        return ""
    full = full_name(namespace, name)
    return f"another node is named {full}, too (or was, and was killed less than half a minute ago)"


class Topic:
    """A topic that is subscribed to.

    rclpy remaps whatever name it is given: given one that is remapped already, it may do so twice. Only where it counts
    publishers it does not.

    :param given: what rclpy is given, a full name; ``name`` is what becomes of it
    """

    def __init__(self, node: Node, given: str) -> None:
        self._node = node
        self.given = given
        self.name: str = node.resolve_topic_name(given)

    @classmethod
    def beside(cls, node: Node, own: str, follower: str) -> Topic:
        """Return a topic that goes by another's name: remapped itself where it is, else following the other."""
        return cls(node, follower if node.resolve_topic_name(own) == own else own)

    def publishers(self) -> list[Any]:
        """Return what the graph knows of its publishers."""
        return list(self._node.get_publishers_info_by_topic(self.given))


def resolve_topics(node: Node, camera_topics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the full names of a node's camera topics, as given and remapped.

    :raises UserError: for none, for what is no name of a topic, and for one that is there twice
    """
    from rclpy.validate_topic_name import validate_topic_name

    if not camera_topics:
        raise UserError("camera_topics is empty: name one image topic at least")
    given, topics = [], []
    for topic in camera_topics:
        try:
            validate_topic_name(topic)
            given.append(node.resolve_topic_name(topic, only_expand=True))
            topics.append(node.resolve_topic_name(topic))
        except Exception as error:
            raise UserError(f"camera_topics has '{topic}', which is no name of a topic: {error}") from error
        if topics[-1] in topics[:-1]:
            raise UserError(f"camera_topics has '{topics[-1]}' twice")
    return given, topics


def topic_token(text: str) -> str:
    """Return ``text`` as one part of a topic's name: what ROS does not allow there becomes ``_``."""
    token = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_]", "_", text.strip())).strip("_").lower()
    if not token:
        return "unnamed"
    return f"_{token}" if token[0].isdigit() else token


def class_tokens(names: Sequence[str]) -> dict[str, str]:
    """Return class names with their parts of a topic's name; those that would coincide get their place appended."""
    return dict(zip(names, _told_apart([topic_token(name) for name in names]), strict=True))


def _told_apart(tokens: Sequence[str]) -> list[str]:
    """Return names of which no two are equal: those that were have their place appended."""
    counts = Counter(tokens)
    taken = {token for token, count in counts.items() if count == 1}
    names = []
    for place, token in enumerate(tokens):
        name = token
        while counts[token] > 1 and (name == token or name in taken):
            name = f"{name}_{place}"
        taken.add(name)
        names.append(name)
    return names


def check_camera_names(given: Sequence[str]) -> None:
    """Check names that the user has for cameras, whatever the topics are.

    :raises UserError: for one that is no name, or is there twice
    """
    for name in given:
        if not _NAME.fullmatch(name):
            raise UserError(f"camera_names has '{name}'; use letters, digits and _, and no digit first")
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        raise UserError(f"camera_names has '{twice[0]}' twice; each camera needs a name of its own")


def camera_names(topics: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Return a name for each camera.

    A name comes from the topic's namespace: ``/front/image_raw`` is camera ``front``. Where that does not tell two
    cameras apart, more of the topic's name is taken: ``/left/camera/image_raw`` and ``/right/camera/image_raw`` are
    ``left_camera`` and ``right_camera``.

    :param topics: full names of the image topics
    :param given: names chosen by the user, one for each topic, or none
    :raises UserError: where ``given`` is not one valid name, used once, for each topic
    """
    if given:
        if len(given) != len(topics):
            raise UserError(
                f"camera_names has {len(given)} names ({', '.join(given)}) for {len(topics)} camera_topics; "
                "give one for each, or none"
            )
        check_camera_names(given)
        return list(given)

    parts = [[topic_token(part) for part in topic.split("/") if part] or ["camera"] for topic in topics]
    stems = [p[:-1] if len(p) > 1 and p[-1] in _IMAGE_WORDS else p for p in parts]
    # In a namespace, what stands before the last part is the camera's: /front/image_raw, /front/picture.
    stems = [s[:-1] if len(s) > 1 and s is p else s for s, p in zip(stems, parts, strict=True)]
    longest = max((len(s) for s in stems), default=1)
    for take in range(1, longest + 1):
        names = ["_".join(s[-take:]) for s in stems]
        if len(set(names)) == len(names):
            return names
    return _told_apart(["_".join(p) for p in parts])
