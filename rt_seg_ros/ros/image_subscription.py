"""The subscription to a camera's images: of the reliability that its publishers offer, changed without a gap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

from rt_seg_ros.ros import qos
from rt_seg_ros.ros.names import Topic

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

#: So many of the former subscription's last images are remembered, by which those that both bring are told.
_BROUGHT = 5


class ImageSubscription:
    """What a camera hears its images by.

    It begins as best effort where no publisher is there yet, and is made anew as they come. The middleware may take a
    second to match a new reliable subscription with a publisher that sends already: until it brings its first image,
    the former one is kept and heard.

    :param camera: the camera's name, for the log
    :param kind: ``Image`` or ``CompressedImage``
    :param take: gets each image, once
    :param on_publishers: called as publishers come, or turn out not to match: :meth:`rematch` is due
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        topic: Topic,
        kind: type,
        take: Callable[[Any], None],
        on_publishers: Callable[[], None],
    ) -> None:
        self.reliability = qos.BEST_EFFORT
        self._node = node
        self._log = node.get_logger()
        self._camera = camera
        self._topic = topic
        self._kind = kind
        self._take = take
        self._on_publishers = on_publishers
        self._lock = threading.Lock()  # an executor may have several threads
        self._number = 0  # of the present subscription, counted up
        self._present: Subscription | None = None
        self._former: Subscription | None = None  # heard until the present one is
        self._brought: deque[tuple[int, int]] = deque(maxlen=_BROUGHT)  # stamps of the former one's images

    @property
    def profile(self) -> QoSProfile | None:
        """What is subscribed with; None while nothing is."""
        return None if self._present is None else self._present.qos_profile

    def open(self) -> None:
        """Subscribe as the publishers offer."""
        self._subscribe(*qos.match(self._topic.publishers()))

    def close(self) -> None:
        """Hear nothing any more."""
        with self._lock:
            self._number += 1  # what is on its way comes too late
            subscriptions = self._present, self._former
            self._present = self._former = None
            self._brought.clear()  # a recording that is played again has the same stamps
        for subscription in subscriptions:
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def publishers(self) -> list[Any]:
        """Return what the graph knows of the topic's publishers."""
        return self._topic.publishers()

    def rematch(self) -> None:
        """Subscribe anew where the publishers have come to offer another quality of service."""
        publishers = self._topic.publishers()
        if self._present is None or not publishers:
            return
        reliability, reason = qos.match(publishers)
        if reliability != self.reliability and not self._reliability_is_given():
            self._subscribe(reliability, reason)

    def _reliability_is_given(self) -> bool:
        return QoSPolicyKind.RELIABILITY in qos.overridden(self._node, self._topic.name, "subscription")

    def _subscribe(self, reliability: QoSReliabilityPolicy, reason: str) -> None:
        profile = qos.sensor_data(reliability)
        options = qos.overriding(self._node, self._topic.name, "subscription")
        number = self._number + 1
        made = self._create(number, profile, options)
        with self._lock:
            self._number = number
            unheard, self._present = self._present, made
            if self._former is None:
                unheard, self._former = None, unheard
        if unheard is not None:
            self._node.destroy_subscription(unheard)
        self.reliability = profile.reliability  # as overridden
        if self._reliability_is_given():
            reason = "by qos_overrides"
        self._log.info(
            f"camera '{self._camera}': subscribed to {self._topic.name}, {qos.word(self.reliability)} ({reason})"
        )

    def _create(self, number: int, profile: QoSProfile, options: QoSOverridingOptions) -> Subscription:
        """Subscribe, with as many of the middleware's events as this ROS 2 and this middleware have."""
        on_image = partial(self._on_image, number)
        incompatible: dict[str, Any] = {"incompatible_qos": partial(self._on_incompatible_qos, number)}
        for callbacks in ({**incompatible, "matched": self._on_matched}, incompatible):
            try:
                return self._node.create_subscription(
                    self._kind,
                    self._topic.given,
                    on_image,
                    profile,
                    event_callbacks=SubscriptionEventCallbacks(**callbacks),
                    qos_overriding_options=options,
                )
            except (TypeError, UnsupportedEventTypeError):  # Humble knows of no match; not every middleware of either
                continue
        return self._node.create_subscription(
            self._kind, self._topic.given, on_image, profile, qos_overriding_options=options
        )

    def _on_image(self, number: int, message: Any) -> None:
        if self._is_new(number, (message.header.stamp.sec, message.header.stamp.nanosec)):
            self._take(message)

    def _is_new(self, number: int, stamp: tuple[int, int]) -> bool:
        """Tell whether an image is to be taken; the first that the present subscription brings ends the former."""
        with self._lock:
            if number < self._number:
                if self._former is None:  # what one that is gone has left in its queue
                    return False
                self._brought.append(stamp)
                return True
            former, self._former = self._former, None
            known = stamp in self._brought
            if known:
                self._brought.remove(stamp)
            else:
                self._brought.clear()
        if former is not None:
            self._node.destroy_subscription(former)
        return not known

    def _on_matched(self, event: Any) -> None:
        if event.current_count_change > 0:
            self._on_publishers()

    def _on_incompatible_qos(self, number: int, event: Any) -> None:
        if number != self._number:
            return
        self._on_publishers()
        if number != self._number:  # subscribed anew, as that publisher offers
            return
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._log.warning(
            f"camera '{self._camera}': {self._topic.name}: a publisher's QoS ({policy}) does not match this "
            f"{qos.word(self.reliability)} subscription; nothing arrives from it"
        )
