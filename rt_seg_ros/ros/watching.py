"""Looking on: a camera's topic, or what a segmentation node publishes, for the live view.

Both subscribe only while somebody watches, so a node that computes on demand is not kept busy for nobody, and both
wait for what is not there yet.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterEvent
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.log import get_logger
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import conversions, names, qos
from rt_seg_ros.ros.graph import GraphThread

if TYPE_CHECKING:
    from rclpy.subscription import Subscription

    from rt_seg_ros.web.relay import RelayFeed

_log = get_logger(__name__)

_LOOK_PERIOD = 0.25  # s between two looks at the graph
_SILENCE = 2.0  # s without a message after which it is said that none comes, where they come faster than that
_LONGEST_SILENCE = 60.0  # the same, however slowly they come
_KEPT = 256 * 2**20  # bytes of images that wait for their labels
_LEAST = 4096  # bytes that an image takes at least
_UNPAIRED = 8  # labels in a row without their image, after which they are shown without
_ANSWER = 10.0  # s that a service may take
_PATIENCE = 0.2  # s after which a wait for a service looks whether it is still wanted
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # s until a node is asked again that did not tell a camera's topic
_IMAGE_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_STATS_TYPE = "rt_seg_ros/msg/SegmentationStats"

Status = Callable[[str, str], None]
Read = Callable[[], Frame]


class _Pace:
    """How messages come, and whether they have ceased to."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Wait for the first."""
        self._last, self._interval, self._came = time.monotonic(), 0.0, False

    def came(self) -> None:
        """Take note that one came."""
        now = time.monotonic()
        self._interval = now - self._last if self._came else 0.0
        self._last, self._came = now, True

    @property
    def ceased(self) -> bool:
        """Whether none has come for longer than they take from one to the next."""
        return time.monotonic() - self._last > max(_SILENCE, min(3.0 * self._interval, _LONGEST_SILENCE))


class _Images:
    """A subscription to images, raw or compressed, that follows the topic's publishers in type and reliability."""

    def __init__(self, graph: GraphThread, topic: str, take: Callable[[Any, Read], None]) -> None:
        self._node = graph.node
        self._take = take
        self._subscription: Subscription | None = None
        self._subscribed: tuple[str, str, Any] | None = None
        self.topic = topic
        self.pace = _Pace()

    def follow(self, compressed_first: bool = False) -> bool:
        """Subscribe, or subscribe anew where the publishers have changed; return whether there are any."""
        topics = self.topic, f"{self.topic}/compressed"
        for topic in reversed(topics) if compressed_first else topics:
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
        self.pace.begin()

    def leave(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribed = None

    def _on_message(self, kind: str, message: Any) -> None:
        self.pace.came()
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
        elif self._images.pace.ceased:
            self._tell("waiting", f"{topic} has a publisher, but no image comes.")
        else:
            self._tell("running", "")


@dataclass(frozen=True)
class _Told:
    """What a node's parameters and subscriptions told of its cameras' topics.

    :param of: what was known of the node then: once that is another, it is asked again
    :param topics: by camera, as far as they could be told
    :param misses: how often in a row they could not
    :param again: when to ask again for what is missing, by ``time.monotonic()``
    """

    of: tuple[Any, ...]
    topics: dict[str, str]
    misses: int = 0
    again: float = 0.0


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
        self._followed = "", ""  # prefix and topic of labels
        self._relay: RelayFeed
        self._tell: Status
        self._asked: tuple[str, str] | None = None  # model and its weights, until the node has changed over
        self._asked_of: set[bytes] = set()  # who was asked, as soon as it has agreed
        self._images: _Images | None = None
        self._compressed: set[str] = set()  # base topics of which the node takes compressed images
        self._subscriptions: list[Subscription] = []
        self._frames: OrderedDict[int, tuple[Read, int]] = OrderedDict()  # and their bytes
        self._held = 0  # bytes of them all
        self._unpaired = 0
        self._pace = _Pace()
        self._alone = ""  # name of the node's camera where it has but one, which only its statistics tell
        self._published: list[tuple[str, list[str]]] = []
        self._appearance = 0  # counts what may have changed the cameras' topics
        self._told: _Told | None = None
        self._asking: threading.Thread | None = None
        self._closed = threading.Event()
        self._clients: dict[str, Any] = {}

    # --- on the caller's thread ---------------------------------------------------------------------------

    def start(self, relay: RelayFeed) -> None:
        """Begin to tell what is published."""
        self._relay = relay
        self._tell = _Teller(relay.tell)
        self._node.create_subscription(ParameterEvent, "/parameter_events", self._on_parameters, 10)
        self._node.create_timer(_LOOK_PERIOD, self._look)

    def set_model(self, name: str, card: str) -> None:
        """Set the node's parameter ``model``, with the package's own weights and their label space.

        :param card: name of those weights, by which the node's statistics call the model
        :raises UserError: where the node does not answer or refuses
        """
        values = {"model": name, "weights": "", "label_space": ""}
        request = SetParametersAtomically.Request(
            parameters=[Parameter(key, value=value).to_parameter_msg() for key, value in values.items()]
        )
        self._asked_of = set()
        self._asked = asked = name, card
        try:
            answer = self._call(SetParametersAtomically, "set_parameters_atomically", request)
            if not answer.result.successful:
                raise UserError(f"{self._name} refuses: {answer.result.reason}")
            self._asked_of = self._identities()
        except UserError:
            if self._asked is asked:  # no other was asked for meanwhile
                self._asked = None
            raise

    def choose_camera(self, name: str) -> None:
        """Follow another camera of the node."""
        self._camera = name
        self._graph.call_soon(self._leave)

    def close(self) -> None:
        """Follow it no longer; the graph is left by whoever entered it."""
        self._closed.set()
        asking = self._asking
        if asking is not None:
            asking.join()

    # --- on the graph's thread --------------------------------------------------------------------------------------

    def _look(self) -> None:
        relay = self._relay
        if not relay.wanted:
            self._leave()
            return
        cameras = self._cameras()
        if not cameras:
            self._leave()
            self._told = None
            self._alone = ""
            if self._asked is not None:  # what it was loading is gone with it
                self._asked = None
                relay.switched()
            self._appearance += 1
            others = [f"{prefix}/stats" for prefix in _prefixes(self._node.get_topic_names_and_types())]
            listing = "\n".join([" Nodes that segment publish:", *others]) if others else ""
            self._tell("waiting", f"There is no node {self._name} that is configured.{listing}")
            return
        if self._camera and self._camera not in cameras and "" not in cameras:
            self._leave()
            relay.tell_cameras(list(cameras), "")
            self._tell("waiting", f"{self._name} has no camera '{self._camera}'; it has: {', '.join(cameras)}")
            return
        camera = self._camera if self._camera in cameras else next(iter(cameras))
        relay.tell_cameras(list(cameras) if len(cameras) > 1 else [], camera)
        self._follow(cameras[camera])
        source = self._source_topic(camera, cameras)
        if source and (self._images is None or self._images.topic != source):
            if self._images is not None:
                self._images.leave()
            self._images = _Images(self._graph, source, self._on_image)
        # As the node: who has it take compressed images, for a weak link, does not want them raw here.
        has_images = self._images is not None and self._images.follow(source in self._compressed)
        if not self._pace.ceased:
            self._tell("running", "")
        elif source and not has_images:
            self._tell("waiting", f"{self._name} is there, but nobody publishes on its camera topic {source}.")
        else:
            self._tell("waiting", f"{self._name} is there, but publishes no labels: is it active?")

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

    def _source_topic(self, camera: str, cameras: Collection[str]) -> str:
        """Return the topic of a camera's images: the node's only subscription to images, or as its parameters say."""
        subscribed = self._subscribed()
        if len(cameras) == 1:
            return subscribed[0] if len(subscribed) == 1 else ""
        of = self._appearance, tuple(cameras), tuple(subscribed)
        told = self._told
        if told is None or told.of != of:
            told = _Told(of, {})
        is_asked = self._asking is not None and self._asking.is_alive()
        if camera not in told.topics and time.monotonic() >= told.again and not is_asked and not self._closed.is_set():
            self._asking = threading.Thread(
                target=self._ask_topics, args=(told, list(cameras), subscribed), name="parameters", daemon=True
            )
            self._asking.start()
        return told.topics.get(camera, "")

    def _subscribed(self) -> list[str]:
        """Return the base topics of the images that the node subscribes to, in order."""
        namespace, name = names.split_name(self._name)
        try:
            topics = self._node.get_subscriber_names_and_types_by_node(name, namespace)
        except Exception:  # as in _cameras
            return []
        found = [topic for topic, types in topics if set(types) & _IMAGE_TYPES.keys()]
        self._compressed = {topic.removesuffix("/compressed") for topic in found if topic.endswith("/compressed")}
        return sorted({topic.removesuffix("/compressed") for topic in found})

    def _identities(self) -> set[bytes]:
        """Return what tells the node from one of its name that is started later; of both, while the graph has both."""
        publishers = self._node.get_publishers_info_by_topic("/parameter_events")
        return {
            bytes(one.endpoint_gid)
            for one in publishers
            if names.full_name(one.node_namespace, one.node_name) == self._name
        }

    def _ask_topics(self, told: _Told, cameras: list[str], subscribed: list[str]) -> None:
        """Learn the cameras' topics from the node's parameters; on a thread of its own.

        :param told: what was known before
        """
        topics: dict[str, str] = {}
        try:
            request = GetParameters.Request(names=["camera_topics", "camera_names"])
            values = self._call(GetParameters, "get_parameters", request).values
            given_topics, given_names = (
                Parameter.from_parameter_msg(ParameterMsg(name="", value=value)).value or [] for value in values
            )
            topics = _matched(
                cameras,
                subscribed,
                [names.expanded(topic, self._name) for topic in given_topics],
                [name for name in given_names if name],
            )
        except Exception:  # it does not answer, is another kind of node, or this one is leaving
            _log.debug("%s does not tell its cameras' topics", self._name, exc_info=True)
        misses = 0 if topics.keys() >= set(cameras) else told.misses + 1
        pause = min(_FIRST_PAUSE * 2.0 ** min(misses - 1, 10), _LONGEST_PAUSE) if misses else 0.0
        self._told = _Told(told.of, topics, misses, time.monotonic() + pause)

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
        self._frames.clear()
        self._held = self._unpaired = 0
        if self._images is not None:
            self._images.leave()
            self._images = None

    def _on_image(self, message: Any, read: Read) -> None:
        stamp = conversions.stamp_nanoseconds(message.header)
        self._drop(stamp)
        size = max(len(message.data), _LEAST)
        self._frames[stamp] = read, size
        self._held += size
        while self._held > _KEPT and len(self._frames) > 1:
            self._drop(next(iter(self._frames)))

    def _drop(self, stamp: int) -> Read | None:
        """Let an image go; return what decodes it."""
        read, size = self._frames.pop(stamp, (None, 0))
        self._held -= size
        return read

    def _on_labels(self, message: CompressedImage) -> None:
        self._pace.came()
        if not self._is_wanted():
            return
        stamp = conversions.stamp_nanoseconds(message.header)
        frame: Frame | None = None
        if stamp in self._frames:
            while next(iter(self._frames)) != stamp:  # what came before it is of no use any more
                self._drop(next(iter(self._frames)))
        read = self._drop(stamp)
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
        asked = self._asked
        if asked is not None and message.model == asked[1]:
            self._asked = None
        elif asked is not None and self._asked_of and self._identities() - self._asked_of:
            self._asked = None
            self._tell("running", "")  # else the next look would, and unsay why
            self._relay.switched(f"{self._name} was started anew, without '{asked[0]}'")
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
        """Notice other cameras, and a return to the former model, because the one asked for could not be loaded."""
        if event.node != self._name:
            return
        for parameter in event.changed_parameters:
            asked = self._asked
            if parameter.name in ("camera_topics", "camera_names"):
                self._appearance += 1
                self._alone = ""
            elif parameter.name == "model" and asked is not None and parameter.value.string_value != asked[0]:
                self._asked = None
                self._relay.switched(
                    f"{self._name} could not change over to '{asked[0]}' and went back to "
                    f"'{parameter.value.string_value}'; its log says why"
                )

    # --- services ---------------------------------------------------------------------------------------------------

    def _call(self, kind: type, service: str, request: Any) -> Any:
        name = f"{self._name}/{service}"
        end = time.monotonic() + _ANSWER
        try:
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = self._node.create_client(kind, name)
            while not client.wait_for_service(_PATIENCE):
                if self._closed.is_set() or time.monotonic() >= end:
                    raise UserError(f"{self._name} does not answer: there is no service {name}")
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _: done.set())
            end = time.monotonic() + _ANSWER
            while not done.wait(_PATIENCE):
                if self._closed.is_set() or time.monotonic() >= end:
                    client.remove_pending_request(future)
                    raise UserError(f"{self._name} does not answer within {_ANSWER:.0f} s")
            return future.result()
        except UserError:
            raise
        except Exception as error:  # the graph is being left: what a handle of it then raises has many names
            raise UserError(f"{self._name} cannot be asked: {type(error).__name__}: {error}") from error


def _matched(
    cameras: Collection[str], subscribed: Collection[str], topics: Sequence[str], given: Sequence[str]
) -> dict[str, str]:
    """Return the topic of each camera, as far as it can be told; a node may have been started with remapped topics.

    :param cameras: their names, as the node has them
    :param subscribed: topics of images that it subscribes to
    :param topics: as its parameters have them; ``given``: the names that they give, or none
    :raises UserError: where the parameters contradict each other
    """
    found = dict(zip(names.camera_names(topics, given), topics, strict=True))
    if subscribed:
        found = {name: topic for name, topic in found.items() if name in cameras and topic in subscribed}
        if not given and len(subscribed) == len(cameras):  # the node makes names of remapped topics
            found = {**dict(zip(names.camera_names(list(subscribed)), subscribed, strict=True)), **found}
    result = {name: topic for name, topic in found.items() if name in cameras}
    left = [name for name in cameras if name not in result], [one for one in subscribed if one not in result.values()]
    if len(left[0]) == len(left[1]) == 1:
        result[left[0][0]] = left[1][0]
    return result


def image_topics(node: Any) -> list[str]:
    """Return the names of all topics of images that the graph has."""
    return sorted(topic for topic, types in node.get_topic_names_and_types() if set(types) & _IMAGE_TYPES.keys())


def _prefixes(topics: list[tuple[str, list[str]]]) -> list[str]:
    """Return what stands before ``/stats`` in topics of this package's statistics."""
    return sorted(topic.rpartition("/")[0] for topic, types in topics if _STATS_TYPE in types)
