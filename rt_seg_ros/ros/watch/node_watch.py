"""Looking on a segmentation node, for the live view: what it publishes, subscribed to only while somebody watches.

So a node that computes on demand is not kept busy for nobody.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterEvent
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage

from rt_seg_ros.images import Frame, ImageRejected, Read
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import conversions, names, qos
from rt_seg_ros.ros.graph import GraphThread
from rt_seg_ros.ros.watch.followed_images import FollowedImages
from rt_seg_ros.ros.watch.model_change import ModelChange
from rt_seg_ros.ros.watch.node_services import NodeServices
from rt_seg_ros.ros.watch.source_topics import CAMERA_PARAMETERS, SourceTopics
from rt_seg_ros.ros.watch.status import LOOK_PERIOD, Pace, Teller
from rt_seg_ros.ros.watch.waiting_images import WaitingImages

if TYPE_CHECKING:
    from rclpy.subscription import Subscription

    from rt_seg_ros.web.relay import RelayFeed

_UNPAIRED = 8  # labels in a row without their image, after which they are shown without
_STATS_TYPE = "rt_seg_ros/msg/SegmentationStats"


class NodeWatch:
    """Follows a segmentation node: its labels, the images they are of, and its statistics; waits where it is not there.

    :param name: the node's full name
    :param camera: which of its cameras; empty: the first
    """

    def __init__(self, graph: GraphThread, name: str, camera: str = "") -> None:
        self._graph = graph
        self._node = graph.node
        self._name = "/" + name.strip("/")
        self._camera = camera
        self._relay: RelayFeed
        self._tell: Teller
        self._services = NodeServices(self._node, self._name)
        self._change = ModelChange(self._node, self._name, self._services)
        self._sources = SourceTopics(self._node, self._name, self._services)
        self._published: list[tuple[str, list[str]]] = []
        self._alone = ""  # name of the node's camera where it has but one, which only its statistics tell
        self._followed = "", ""  # prefix and topic of labels
        self._subscriptions: list[Subscription] = []
        self._pace = Pace()
        self._images: FollowedImages | None = None
        self._waiting = WaitingImages()
        self._unpaired = 0

    # --- on the caller's thread ---------------------------------------------------------------------------

    def start(self, relay: RelayFeed) -> None:
        """Begin to tell what is published."""
        self._relay = relay
        self._tell = Teller(relay.tell)
        self._node.create_subscription(ParameterEvent, "/parameter_events", self._on_parameters, 10)
        self._node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set_model(self, name: str, card: str) -> None:
        """Change the node over: see :meth:`ModelChange.ask`."""
        self._change.ask(name, card)

    def choose_camera(self, name: str) -> None:
        """Follow another camera of the node."""
        self._camera = name
        self._graph.call_soon(self._leave)

    def close(self) -> None:
        """Follow it no longer; the graph is left by whoever entered it."""
        self._services.close()
        self._sources.join()

    # --- on the graph's thread --------------------------------------------------------------------------------------

    def _look(self) -> None:
        relay = self._relay
        if not relay.wanted:
            self._leave()
            return
        cameras = self._cameras()
        if not cameras:
            self._miss()
            return
        if self._camera and self._camera not in cameras and "" not in cameras:
            self._leave()
            relay.tell_cameras(list(cameras), "")
            self._tell("waiting", f"{self._name} has no camera '{self._camera}'; it has: {', '.join(cameras)}")
            return
        camera = self._camera if self._camera in cameras else next(iter(cameras))
        relay.tell_cameras(list(cameras) if len(cameras) > 1 else [], camera)
        self._follow(cameras[camera])
        source, compressed = self._sources.find(camera, cameras)
        if source and (self._images is None or self._images.topic != source):
            if self._images is not None:
                self._images.leave()
            self._images = FollowedImages(self._node, source, self._on_image)
        # As the node: who has it take compressed images, for a weak link, does not want them raw here.
        has_images = self._images is not None and self._images.follow(compressed)
        if not self._pace.ceased:
            self._tell("running", "")
        elif source and not has_images:
            self._tell("waiting", f"{self._name} is there, but nobody publishes on its camera topic {source}.")
        else:
            self._tell("waiting", f"{self._name} is there, but publishes no labels: is it active?")

    def _miss(self) -> None:
        """Wait for a node that is not there: the next of its name may be another."""
        self._leave()
        self._alone = ""
        self._sources.forget()
        if self._change.end():  # what it was loading is gone with it
            self._relay.switched()
        others = [f"{prefix}/stats" for prefix in _prefixes(self._node.get_topic_names_and_types())]
        listing = "\n".join([" Nodes that segment publish:", *others]) if others else ""
        self._tell("waiting", f"There is no node {self._name} that is configured.{listing}")

    def _cameras(self) -> dict[str, str]:
        """Return the prefix of the outputs of each camera, as the node's topics of statistics tell them.

        A camera that is alone has the node's own prefix, and no name until its statistics have come.
        """
        namespace, name = names.split_name(self._name)
        try:
            self._published = self._node.get_publisher_names_and_types_by_node(name, namespace)
        except Exception:  # rclpy has an error of its own for a node that is not there, which Humble names otherwise
            return {}
        prefixes = _prefixes(self._published)
        if prefixes == [self._name]:
            return {self._alone: self._name}
        return {prefix.removeprefix(f"{self._name}/").strip("/"): prefix for prefix in prefixes}

    def _label_topic(self, prefix: str) -> str:
        """Return where a camera's labels are: where they are remapped and the camera is alone, that tells as well."""
        usual = f"{prefix}/label/compressed"
        compressed = [topic for topic, types in self._published if "sensor_msgs/msg/CompressedImage" in types]
        return compressed[0] if len(compressed) == 1 else usual

    def _follow(self, prefix: str) -> None:
        labels = self._label_topic(prefix)
        if (prefix, labels) == self._followed:
            return
        self._leave()
        self._followed = prefix, labels
        create, profile = self._node.create_subscription, qos.sensor_data()
        self._subscriptions = [
            create(CompressedImage, labels, self._on_labels, profile),
            create(SegmentationStats, f"{prefix}/stats", self._on_stats, profile),
        ]
        self._pace.begin()

    def _leave(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self._followed = "", ""
        self._waiting.clear()
        self._unpaired = 0
        if self._images is not None:
            self._images.leave()
            self._images = None

    def _on_image(self, message: Any, read: Read) -> None:
        self._waiting.put(conversions.stamp_nanoseconds(message.header), read, len(message.data))

    def _on_labels(self, message: CompressedImage) -> None:
        self._pace.came()
        if not self._is_wanted():
            return
        stamp = conversions.stamp_nanoseconds(message.header)
        frame: Frame | None = None
        read = self._waiting.take(stamp)
        if read is not None:
            self._unpaired = 0
            with suppress(ImageRejected):
                frame = read()
        else:
            self._unpaired += 1
            if self._unpaired < _UNPAIRED:
                return
        self._relay.show(frame, bytes(message.data), stamp)

    def _is_wanted(self) -> bool:
        """Return whether what comes is of the camera that was asked for: of one that is alone its statistics tell."""
        return self._followed[0] != self._name or self._camera in ("", self._alone)

    def _on_stats(self, message: SegmentationStats) -> None:
        if self._followed[0] == self._name:
            self._alone = message.camera
        if not self._is_wanted():
            return
        failure = self._change.heard_of_weights(message.model)
        if failure:
            self._tell("running", "")  # else the next look would, and unsay why
            self._relay.switched(failure)
        self._relay.report(
            model=message.model,
            label_space=message.label_space,
            details=f"{message.model}, {message.backend} {message.device} {message.precision}",
            image=(message.image_height, message.image_width),
            working=(message.working_height, message.working_width),
            total=message.total_ms,
            network=message.network_ms,
            wait=message.wait_ms,
            age=message.age_ms if math.isfinite(message.age_ms) else None,
            stamp_ns=conversions.stamp_nanoseconds(message.header),
            counts=(message.received, message.processed, message.dropped, message.rejected),
        )

    def _on_parameters(self, event: ParameterEvent) -> None:
        """Notice other cameras, and a return to the former model."""
        if event.node != self._name:
            return
        for parameter in event.changed_parameters:
            if parameter.name in CAMERA_PARAMETERS:
                self._sources.forget()
                self._alone = ""
            elif parameter.name == "model":
                failure = self._change.heard_of_model(parameter.value.string_value)
                if failure:
                    self._relay.switched(failure)


def _prefixes(topics: list[tuple[str, list[str]]]) -> list[str]:
    """Return what stands before ``/stats`` in topics of this package's statistics."""
    return sorted(topic.rpartition("/")[0] for topic, types in topics if _STATS_TYPE in types)
