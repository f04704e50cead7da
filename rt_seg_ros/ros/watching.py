"""Looking on: a camera's topic, or what a segmentation node publishes, for the live view.

Both subscribe only while somebody watches, so a node that computes on demand is not kept busy for nobody, and both
wait for what is not there yet.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterEvent
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import conversions, names, qos
from rt_seg_ros.ros.graph import GraphThread

if TYPE_CHECKING:
    from rclpy.subscription import Subscription

_LOOK_PERIOD = 0.25  # s between two looks at the graph
_SILENCE = 2.0  # s without a message after which it is said that none comes
_KEPT_IMAGES = 24  # that wait for their labels
_UNPAIRED = 8  # labels in a row without their image, after which they are shown without
_ANSWER = 10.0  # s that a service may take
_IMAGE_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_STATS_TYPE = "rt_seg_ros/msg/SegmentationStats"

Status = Callable[[str, str], None]
Read = Callable[[], Frame]


class _Images:
    """A subscription to images, raw or compressed, that follows the topic's publishers in type and reliability."""

    def __init__(self, graph: GraphThread, topic: str, take: Callable[[Any, Read], None]) -> None:
        self._node = graph.node
        self._take = take
        self._subscription: Subscription | None = None
        self._subscribed: tuple[str, str, Any] | None = None
        self.topic = topic
        self.last = 0.0

    def follow(self) -> bool:
        """Subscribe, or subscribe anew where the publishers have changed; return whether there are any."""
        for topic in (self.topic, f"{self.topic}/compressed"):
            publishers = [p for p in self._node.get_publishers_info_by_topic(topic) if p.topic_type in _IMAGE_TYPES]
            if publishers:
                reliability, _ = qos.match(publishers)
                self._subscribe(topic, publishers[0].topic_type, reliability)
                return True
        return False

    def _subscribe(self, topic: str, kind: str, reliability: Any) -> None:
        wanted = (topic, kind, reliability)
        if self._subscribed == wanted:
            return
        self.leave()
        callback = partial(self._on_message, kind)
        profile = qos.sensor_data(reliability)
        self._subscription = self._node.create_subscription(_IMAGE_TYPES[kind], topic, callback, profile)
        self._subscribed = wanted
        self.last = time.monotonic()

    def leave(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribed = None

    def _on_message(self, kind: str, message: Any) -> None:
        self.last = time.monotonic()
        raw = _IMAGE_TYPES[kind] is Image
        convert = conversions.frame_from_image if raw else conversions.frame_from_compressed_image
        self._take(message, partial(convert, message))


class _Teller:
    """Says a status once, and not again at every look."""

    def __init__(self, tell: Status) -> None:
        self._tell = tell
        self._said: tuple[str, str] | None = None

    def __call__(self, status: str, message: str = "") -> None:
        if self._said != (status, message):
            self._said = (status, message)
            self._tell(status, message)


class CameraWatch:
    """Follows a camera's topic.

    :param topic: of Image or CompressedImage; where there is none of this name, ``TOPIC/compressed``
    :param take: is handed each image's stamp (ns), its frame_id, and what decodes it
    :param tell: is told ``running`` or ``waiting``, and why
    :param wanted: whether anybody watches
    """

    def __init__(
        self,
        graph: GraphThread,
        topic: str,
        take: Callable[[int, str, Read], None],
        tell: Status,
        wanted: Callable[[], bool],
    ) -> None:
        self._graph = graph
        self._hand_on = take
        self._tell = _Teller(tell)
        self._wanted = wanted
        self._images = _Images(graph, topic, self._on_image)
        graph.node.create_timer(_LOOK_PERIOD, self._look)

    def _on_image(self, message: Any, read: Read) -> None:
        self._hand_on(conversions.stamp_nanoseconds(message.header), message.header.frame_id, read)

    def _look(self) -> None:
        if not self._wanted():
            self._images.leave()
            return
        topic = self._images.topic
        if not self._images.follow():
            self._images.leave()
            others = image_topics(self._graph.node)
            listing = "\n".join(["Image topics there are:", *others]) if others else "There is no image topic at all."
            self._tell("waiting", f"Nobody publishes images on {topic} yet. {listing}")
        elif time.monotonic() - self._images.last > _SILENCE:
            self._tell("waiting", f"{topic} has a publisher, but no image comes.")
        else:
            self._tell("running", "")


class Onlooker(Protocol):
    """What is told of a node: see :class:`rt_seg_ros.web.relay.RelayFeed`."""

    @property
    def wanted(self) -> bool:
        """Whether anybody watches."""
        ...

    def tell(self, status: str, message: str = "") -> None:
        """Hear how it stands: ``running`` or ``waiting``, and why."""
        ...

    def tell_cameras(self, cameras: list[str], camera: str) -> None:
        """Hear of the node's cameras, and which is followed."""
        ...

    def switched(self, failure: str = "") -> None:
        """Hear that a change of the model has failed."""
        ...

    def show(self, frame: Frame | None, labels: bytes, stamp_ns: int) -> None:
        """Take labels, a PNG of class ids, and the image that they are of."""
        ...

    def report(
        self,
        *,
        model: str,
        label_space: str,
        details: str,
        image: tuple[int, int],
        working: tuple[int, int],
        total: float,
        network: float,
        wait: float,
        counts: tuple[int, int, int, int],
        age: float | None,
    ) -> None:
        """Take what a frame cost, in milliseconds, and the counts: received, processed, dropped, rejected."""
        ...


class NodeWatch:
    """Follows a segmentation node: its labels, the images they are of, and its statistics.

    :param name: the node's full name
    :param camera: which of its cameras; empty: the first
    """

    def __init__(self, graph: GraphThread, name: str, camera: str = "") -> None:
        self._graph = graph
        self._node = graph.node
        self._name = "/" + name.strip("/")
        self._camera = camera
        self._prefix = ""
        self._onlooker: Onlooker
        self._tell: Status
        self._asked = ""
        self._images: _Images | None = None
        self._subscriptions: list[Subscription] = []
        self._frames: OrderedDict[int, Read] = OrderedDict()
        self._unpaired = 0
        self._last = 0.0
        self._source_topics: dict[str, str] = {}
        self._asking = False
        self._clients: dict[str, Any] = {}

    # --- on the caller's thread ---------------------------------------------------------------------------

    def start(self, onlooker: Onlooker) -> None:
        """Begin to tell what is published."""
        self._onlooker = onlooker
        self._tell = _Teller(onlooker.tell)
        self._node.create_subscription(ParameterEvent, "/parameter_events", self._on_parameters, 10)
        self._node.create_timer(_LOOK_PERIOD, self._look)

    def set_model(self, name: str) -> None:
        """Set the node's parameter ``model``, with the package's own weights and their label space.

        :raises UserError: where the node does not answer or refuses
        """
        values = {"model": name, "weights": "", "label_space": ""}
        request = SetParametersAtomically.Request(
            parameters=[Parameter(key, value=value).to_parameter_msg() for key, value in values.items()]
        )
        self._asked = name
        answer = self._call(SetParametersAtomically, "set_parameters_atomically", request)
        if not answer.result.successful:
            raise UserError(f"{self._name} refuses: {answer.result.reason}")

    def choose_camera(self, name: str) -> None:
        """Follow another camera of the node."""
        self._camera = name
        self._graph.call_soon(self._leave)

    def close(self) -> None:
        """Follow it no longer; the graph is left by whoever entered it."""

    # --- on the graph's thread --------------------------------------------------------------------------------------

    def _look(self) -> None:
        onlooker = self._onlooker
        if not onlooker.wanted:
            self._leave()
            return
        cameras = self._cameras()
        if not cameras:
            self._leave()
            others = [f"{prefix}/stats" for prefix in _prefixes(self._node.get_topic_names_and_types())]
            listing = "\n".join([" Nodes that segment publish:", *others]) if others else ""
            self._tell("waiting", f"There is no node {self._name} that is configured.{listing}")
            return
        camera = self._camera if self._camera in cameras else next(iter(cameras))
        onlooker.tell_cameras(list(cameras) if len(cameras) > 1 else [], camera)
        self._follow(cameras[camera])
        source = self._source_topic(camera, len(cameras))
        if source and (self._images is None or self._images.topic != source):
            if self._images is not None:
                self._images.leave()
            self._images = _Images(self._graph, source, self._on_image)
        has_images = self._images is not None and self._images.follow()
        if time.monotonic() - self._last <= _SILENCE:
            self._tell("running", "")
        elif not has_images:
            self._tell("waiting", f"{self._name} is there, but nobody publishes on its camera topic {source}.")
        else:
            self._tell("waiting", f"{self._name} is there, but publishes no labels: is it active?")

    def _cameras(self) -> dict[str, str]:
        """Return the prefix of the outputs of each camera, as the node's topics of statistics tell them."""
        namespace, _, name = self._name.rpartition("/")
        try:
            topics = self._node.get_publisher_names_and_types_by_node(name, namespace or "/")
        except Exception:  # rclpy has an error of its own for a node that is not there, which Humble names otherwise
            return {}
        return {prefix.removeprefix(f"{self._name}/").strip("/") or "camera": prefix for prefix in _prefixes(topics)}

    def _source_topic(self, camera: str, cameras: int) -> str:
        """Return the topic of a camera's images: the node's only subscription to images, or as its parameters say."""
        if cameras == 1:
            namespace, _, name = self._name.rpartition("/")
            topics = self._node.get_subscriber_names_and_types_by_node(name, namespace or "/")
            found = [topic for topic, types in topics if set(types) & _IMAGE_TYPES.keys()]
            return found[0].removesuffix("/compressed") if len(found) == 1 else ""
        if camera not in self._source_topics and not self._asking:
            self._asking = True
            threading.Thread(target=self._ask_topics, name="parameters", daemon=True).start()
        return self._source_topics.get(camera, "")

    def _ask_topics(self) -> None:
        """Learn the cameras' topics from the node's parameters; on a thread of its own."""
        try:
            request = GetParameters.Request(names=["camera_topics", "camera_names"])
            values = self._call(GetParameters, "get_parameters", request).values
            topics, given = (
                Parameter.from_parameter_msg(ParameterMsg(name="", value=value)).value or [] for value in values
            )
            namespace = self._name.rpartition("/")[0]
            topics = [topic if topic.startswith("/") else f"{namespace}/{topic}" for topic in topics]
            self._source_topics = dict(
                zip(names.camera_names(topics, [one for one in given if one]), topics, strict=True)
            )
        except (UserError, ValueError):
            time.sleep(1.0)  # asked again at one of the next looks
        finally:
            self._asking = False

    def _follow(self, prefix: str) -> None:
        if prefix == self._prefix and self._subscriptions:
            return
        self._leave()
        self._prefix = prefix
        create, profile = self._node.create_subscription, qos.sensor_data()
        self._subscriptions = [
            create(CompressedImage, f"{prefix}/label/compressed", self._on_labels, profile),
            create(SegmentationStats, f"{prefix}/stats", self._on_stats, profile),
        ]
        self._last = time.monotonic()

    def _leave(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self._prefix = ""
        self._frames.clear()
        self._unpaired = 0
        if self._images is not None:
            self._images.leave()
            self._images = None

    def _on_image(self, message: Any, read: Read) -> None:
        self._frames[conversions.stamp_nanoseconds(message.header)] = read
        while len(self._frames) > _KEPT_IMAGES:
            self._frames.popitem(last=False)

    def _on_labels(self, message: CompressedImage) -> None:
        self._last = time.monotonic()
        stamp = conversions.stamp_nanoseconds(message.header)
        frame: Frame | None = None
        read = self._frames.pop(stamp, None)
        if read is not None:
            self._unpaired = 0
            try:
                frame = read()
            except ImageRejected:
                frame = None
        else:
            self._unpaired += 1
            if self._unpaired < _UNPAIRED:
                return
        self._onlooker.show(frame, bytes(message.data), stamp)

    def _on_stats(self, message: SegmentationStats) -> None:
        self._onlooker.report(
            model=message.model,
            label_space=message.label_space,
            details=f"{message.model}, {message.backend} {message.device} {message.precision}",
            image=(message.image_height, message.image_width),
            working=(message.working_height, message.working_width),
            total=message.total_ms,
            network=message.network_ms,
            wait=message.wait_ms,
            age=message.age_ms if math.isfinite(message.age_ms) else None,
            counts=(message.received, message.processed, message.dropped, message.rejected),
        )

    def _on_parameters(self, event: ParameterEvent) -> None:
        """Notice that the node went back to its former model, because it could not load the one asked for."""
        if event.node != self._name or not self._asked:
            return
        for parameter in event.changed_parameters:
            if parameter.name == "model" and parameter.value.string_value != self._asked:
                self._onlooker.switched(
                    f"{self._name} could not change over to '{self._asked}' and went back to "
                    f"'{parameter.value.string_value}'; its log says why"
                )
                self._asked = ""

    # --- services, on the caller's thread ---------------------------------------------------------------------------

    def _call(self, kind: type, service: str, request: Any) -> Any:
        name = f"{self._name}/{service}"
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._node.create_client(kind, name)
        if not client.wait_for_service(_ANSWER):
            raise UserError(f"{self._name} does not answer: there is no service {name}")
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(_ANSWER):
            raise UserError(f"{self._name} does not answer within {_ANSWER:.0f} s")
        return future.result()


def image_topics(node: Any) -> list[str]:
    """Return the names of all topics of images that the graph has."""
    return sorted(topic for topic, types in node.get_topic_names_and_types() if set(types) & _IMAGE_TYPES.keys())


def _prefixes(topics: list[tuple[str, list[str]]]) -> list[str]:
    """Return what stands before ``/stats`` in topics of this package's statistics."""
    return sorted(topic.rpartition("/")[0] for topic, types in topics if _STATS_TYPE in types)
