"""Quality of service: matched to a camera's publishers, with the user's ``qos_overrides`` above all.

A best-effort subscription receives from any publisher, a reliable one from reliable publishers alone; in return
nothing is lost on the way. So a subscription is reliable where every publisher is, and best effort otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from rt_seg_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.node import Node

BEST_EFFORT = QoSReliabilityPolicy.BEST_EFFORT
RELIABLE = QoSReliabilityPolicy.RELIABLE
VOLATILE = QoSDurabilityPolicy.VOLATILE
TRANSIENT_LOCAL = QoSDurabilityPolicy.TRANSIENT_LOCAL

_DEPTH = 5
_KINDS = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)


def keep_last(
    depth: int, reliability: QoSReliabilityPolicy = RELIABLE, durability: QoSDurabilityPolicy = VOLATILE
) -> QoSProfile:
    """Return a profile that keeps the last ``depth`` messages, reliable and volatile unless said otherwise."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
    )


def sensor_data(
    reliability: QoSReliabilityPolicy = BEST_EFFORT, durability: QoSDurabilityPolicy = VOLATILE
) -> QoSProfile:
    """Return sensor data's profile: keep last 5, best effort and volatile unless said otherwise."""
    return keep_last(_DEPTH, reliability, durability)


def latched() -> QoSProfile:
    """Return the profile of what is published once and kept for those who come later."""
    return keep_last(1, durability=TRANSIENT_LOCAL)


def overridden(node: Node, topic: str, entity: str) -> list[QoSPolicyKind]:
    """Return the policies that the user gave for a topic in ``qos_overrides``.

    :param topic: its full name
    :param entity: ``subscription`` or ``publisher``
    """
    given = node._parameter_overrides
    return [kind for kind in _KINDS if f"qos_overrides.{topic}.{entity}.{kind.name.lower()}" in given]


def overriding(node: Node, topic: str, entity: str) -> QoSOverridingOptions:
    """Return options by which what the user gave wins, for ``create_subscription`` and ``create_publisher``.

    A policy that was not given is no parameter: rclpy would hold a subscription that is made anew, for a publisher
    of another reliability, to what the parameter was declared with.
    """
    return QoSOverridingOptions(overridden(node, topic, entity))


def check_overrides(node: Node, topics: Sequence[str]) -> list[str]:
    """Check the user's ``qos_overrides``.

    :param topics: the full names of all topics of the node
    :return: overrides of other topics than these, or of other policies: they have no effect
    :raises UserError: for a value that a policy does not have
    """
    known = {
        f"qos_overrides.{topic}.{entity}.{kind.name.lower()}"
        for topic in topics
        for entity in ("subscription", "publisher")
        for kind in _KINDS
    }
    without_effect = []
    for name, parameter in node._parameter_overrides.items():
        if not name.startswith("qos_overrides."):
            continue
        if name not in known:
            without_effect.append(name)
        # Topics of masks come and go: a bad value is told now, not when one comes.
        kind = next((k for k in _KINDS if name.endswith(f".{k.name.lower()}")), None)
        if kind is not None:
            _check_value(name, kind, parameter.value)
    return without_effect


def _check_value(name: str, kind: QoSPolicyKind, value: Any) -> None:
    if kind == QoSPolicyKind.DEPTH:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000:
            raise UserError(f"{name} is {value!r}; expected a whole number from 1 to 10000")
        return
    choices = {
        QoSPolicyKind.RELIABILITY: ("reliable", "best_effort"),
        QoSPolicyKind.DURABILITY: ("volatile", "transient_local"),
        QoSPolicyKind.HISTORY: ("keep_last", "keep_all"),
    }[kind]
    if value not in choices:
        raise UserError(f"{name} is {value!r}; expected {' or '.join(choices)}")


def match(publishers: Sequence[Any]) -> tuple[QoSReliabilityPolicy, str]:
    """Choose the reliability of a subscription.

    :param publishers: what ``get_publishers_info_by_topic`` gave
    :return: the reliability, and why in words
    """
    if not publishers:
        return BEST_EFFORT, "no publisher yet"
    reliable = sum(info.qos_profile.reliability == RELIABLE for info in publishers)
    count = f"{len(publishers)} publisher{'s' if len(publishers) > 1 else ''}"
    if reliable == len(publishers):
        return RELIABLE, f"as {count}"
    return BEST_EFFORT, f"as {len(publishers) - reliable} of {count}"


def match_durability(publishers: Sequence[Any]) -> QoSDurabilityPolicy:
    """Choose the durability of a subscription that is to get what was published before it came, where that is kept.

    A best-effort subscription gets none of it, and a transient local one nothing at all of a volatile publisher.
    """
    kept = [p.qos_profile.durability == TRANSIENT_LOCAL and p.qos_profile.reliability == RELIABLE for p in publishers]
    return TRANSIENT_LOCAL if kept and all(kept) else VOLATILE


def mismatch(offered: QoSProfile, wanted: QoSProfile) -> str:
    """Return in words why a publisher's messages do not reach a subscription, or ''."""
    _, reasons = qos_check_compatible(offered, wanted)
    errors = (reason.partition("ERROR: ") for reason in reasons.split(";"))
    return ", ".join(words.lower() for _, error, words in errors if error)


def word(reliability: QoSReliabilityPolicy) -> str:
    """Return a reliability in words."""
    return "reliable" if reliability == RELIABLE else "best effort"
