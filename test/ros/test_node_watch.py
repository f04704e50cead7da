"""The live view's way to a node: a real one in a process of its own, over DDS, and one in a graph that is made up."""

import threading
import time
import zlib
from array import array
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import cv2
import numpy as np
import rclpy
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterValue
from sensor_msgs.msg import CompressedImage, Image

from ros_harness import HEIGHT, WIDTH, picture
from rt_seg_ros.errors import UserError
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import qos
from rt_seg_ros.ros.graph import GraphThread
from rt_seg_ros.ros.watch import node_services, status, waiting_images
from rt_seg_ros.ros.watch.node_watch import NodeWatch
from rt_seg_ros.web.board import Board, Seen, State
from rt_seg_ros.web.relay import RelayFeed

pytestmark = pytest.mark.ros

IMAGE = "sensor_msgs/msg/Image"
LABELS = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
MODELS = [
    {"name": "cgnet", "label": "cgnet", "card": "cgnet_camvid11"},
    {"name": "frfnet_slim", "label": "frfnet_slim", "card": "frfnet_slim_camvid11"},
]


class Watched:
    """A board that somebody looks at."""

    def __init__(self):
        self.board = Board(State(source="test"))
        self.pictures, self.samples = [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self):
        seen = Seen()
        while not self._stop.is_set():
            update = self.board.next(seen, 0.1)
            seen = update.seen
            self.samples += update.samples
            if update.picture is not None:
                self.pictures.append(update.picture)

    def stop(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def watched():
    one = Watched()
    yield one
    one.stop()


@pytest.fixture
def relay(looking, watched):
    """Follow a node and show it on the board."""

    def follow(name="/segmentation", camera=""):
        feed = RelayFeed(watched.board, NodeWatch(looking, name, camera), MODELS)
        feed.start()
        looking.start()
        return feed

    return follow


def test_a_nodes_labels_are_shown_over_the_images_they_are_of(graph, node, relay, watched):
    relay()
    camera = graph.camera()

    def whole():
        """Pictures that have their image: a busy machine may lose one, and shows its labels alone."""
        return [shown for shown in list(watched.pictures) if shown.frame is not None]

    graph.feed(camera, lambda: len(whole()) >= 3 and len(watched.samples) >= 3, "pictures")
    shown = whole()[-1]
    assert (shown.stamp_ns // 10**9, shown.stamp_ns % 10**9) in camera.sent
    assert (shown.frame.bgr() == picture()).all()
    about, data = shown.packed()
    ids = np.frombuffer(zlib.decompress(data[about["image_bytes"] :]), np.uint8)
    assert ids.size == HEIGHT * WIDTH
    state = watched.board.state
    assert (state.status, state.model, state.space_name) == ("running", "cgnet", "camvid11")
    assert "cgnet_camvid11" in state.model_details and "cpu" in state.model_details
    assert state.size == "128x96"
    sample = watched.samples[-1]
    assert sample.total >= sample.network > 0 and sample.age > 0 and sample.received >= sample.processed >= 3


def test_the_page_changes_the_model_of_the_node_itself(graph, node, relay, watched):
    feed = relay()
    camera = graph.camera()
    graph.feed(camera, lambda: watched.samples, "figures")
    node.changed = True
    feed.choose_model("frfnet_slim")
    assert watched.board.state.switching == "frfnet_slim"
    graph.feed(camera, lambda: watched.board.state.model == "frfnet_slim", "the other model")
    assert watched.board.state.switching == "" and node.get("model") == "frfnet_slim"
    feed.board.update(models=[*MODELS, {"name": "nonsense", "label": "", "card": ""}])
    with pytest.raises(UserError, match=r"/segmentation refuses: .*no model 'nonsense'"):
        feed.choose_model("nonsense")
    assert watched.board.state.switching == ""


def test_a_node_that_is_not_there_is_waited_for(graph, node, relay, watched, monkeypatch):
    feed = relay("/nowhere")
    graph.wait(lambda: "/segmentation/stats" in watched.board.state.message, "what there is")
    assert watched.board.state.status == "waiting" and "no node /nowhere" in watched.board.state.message
    monkeypatch.setattr(node_services, "_ANSWER", 0.3)
    with pytest.raises(UserError, match="/nowhere does not answer"):
        feed.choose_model("cgnet")


def test_the_cameras_of_a_node_are_chosen_from(graph, start_node, relay, watched):
    node = start_node(name="two", camera_topics=["/left/image_raw", "/right/image_raw"])
    node.wait_state("active")
    feed = relay("/two")
    left, right = graph.camera("/left/image_raw"), graph.camera("/right/image_raw")
    dark = np.full((HEIGHT, WIDTH, 3), 9, np.uint8)

    def shown(value):
        left.send()
        right.send(dark)
        graph._pause(0.05)
        return (
            watched.pictures
            and watched.pictures[-1].frame is not None
            and (bool((watched.pictures[-1].frame.bgr() == 9).all()) == value)
        )

    graph.wait(lambda: shown(False), "the first camera")
    assert watched.board.state.cameras == ["left", "right"] and watched.board.state.camera == "left"
    feed.choose_camera("right")
    graph.wait(lambda: shown(True), "the second camera")
    assert watched.board.state.camera == "right"
    with pytest.raises(UserError, match="no camera 'rear'; there are: left, right"):
        feed.choose_camera("rear")


def test_a_name_that_is_not_the_one_cameras_is_told(graph, node, relay, watched):
    feed = relay(camera="fornt")
    camera = graph.camera()
    told = "/segmentation has no camera 'fornt'; it has: camera"
    graph.feed(camera, lambda: watched.board.state.message == told, "what there is")
    assert watched.board.state.cameras == ["camera"]
    assert watched.pictures == []
    feed.choose_camera("camera")
    graph.feed(camera, lambda: watched.pictures and watched.board.state.status == "running", "pictures")


def test_the_images_of_a_camera_that_was_remapped_are_found(graph, start_node, relay, watched):
    node = start_node(
        name="remapped",
        camera_topics=["/a/image_raw", "/rear/image_raw"],
        arguments=["-r", "/a/image_raw:=/front/image_raw"],
    )
    node.wait_state("active")
    relay("/remapped")
    front = graph.camera("/front/image_raw")
    graph.feed(front, lambda: any(shown.frame is not None for shown in list(watched.pictures)), "pictures")
    assert watched.board.state.cameras == ["front", "rear"] and watched.board.state.camera == "front"


def test_labels_that_were_remapped_are_found(graph, start_node, relay, watched):
    start_node(name="renamed", arguments=["-r", "~/label:=/front/segmentation"]).wait_state("active")
    relay("/renamed")
    camera = graph.camera()
    graph.feed(camera, lambda: any(shown.frame is not None for shown in list(watched.pictures)), "pictures")


class MadeUp:
    """A watch of a node in a made-up graph, and the board that it fills."""

    def __init__(self, *prefixes, camera="", topics=("/camera/image_raw",)):
        self.prefixes, self.topics = prefixes, list(topics)
        self.identities = [b"first"]
        self.answers = True
        self.heard = {}  # what is subscribed to, and who takes it
        made_up = SimpleNamespace(
            create_subscription=self.subscribe,
            destroy_subscription=self.heard.pop,
            create_timer=lambda _, look, clock: setattr(self, "timer", look),
            create_client=lambda *_: SimpleNamespace(wait_for_service=lambda _: True, call_async=self.call),
            get_publishers_info_by_topic=self.publishers,
            get_topic_names_and_types=lambda: [],
            get_subscriber_names_and_types_by_node=lambda *_: [(topic, [IMAGE]) for topic in sorted(self.topics)],
            get_publisher_names_and_types_by_node=lambda *_: [
                (f"{prefix}/stats", ["rt_seg_ros/msg/SegmentationStats"]) for prefix in self.prefixes
            ],
        )
        graph = SimpleNamespace(node=made_up, call_soon=lambda action: action())
        self.board = Board(State(source="/segmentation"))
        self.feed = RelayFeed(self.board, NodeWatch(graph, "/segmentation", camera), MODELS)
        self.feed.start()

    def subscribe(self, kind, topic, take, profile):
        self.heard[topic] = take
        return topic

    @property
    def subscriptions(self):
        return sorted(self.heard.keys() - {"/parameter_events"})

    def publishers(self, topic):
        if topic in self.topics:
            return [SimpleNamespace(topic_type=IMAGE, qos_profile=qos.sensor_data())]
        if topic != "/parameter_events":
            return []
        names = [*(("segmentation", gid) for gid in self.identities), ("other", b"other")]
        return [SimpleNamespace(node_name=name, node_namespace="/", endpoint_gid=gid) for name, gid in names]

    def call(self, request):
        """Agree to a model, and tell the cameras' topics: they are named as the outputs' prefixes are."""
        if not self.answers:
            raise RuntimeError("no answer")
        names = [prefix.rpartition("/")[2] for prefix in self.prefixes]
        values = [ParameterValue(type=9, string_array_value=value) for value in (self.topics, names)]
        answer = SimpleNamespace(result=SimpleNamespace(successful=True, reason=""), values=values)
        return SimpleNamespace(add_done_callback=lambda done: done(None), result=lambda: answer)

    def look(self, watched=True):
        """Look at the graph; return the state of the board."""
        self.board._asked = time.monotonic() if watched else float("-inf")
        self.timer()
        return self.board.state

    def stats(self, **values):
        self.heard["/segmentation/stats"](SegmentationStats(**{"model": "cgnet_camvid11", **values}))
        return self.board.state

    def parameter(self, name, **value):
        """Say that a parameter of the node was set."""
        changed = [Parameter(name=name, value=ParameterValue(**value))]
        self.heard["/parameter_events"](ParameterEvent(node="/segmentation", changed_parameters=changed))

    def image(self, stamp, size=1):
        message = Image(height=1, width=size, step=size, encoding="mono8", data=array("B", bytes(size)))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        self.heard["/camera/image_raw"](message)

    def labels(self, stamp):
        """Give labels; return whether they are shown, and over their image."""
        message = CompressedImage(data=LABELS)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        before = self.board.next(Seen(), 0).seen.picture
        self.heard["/segmentation/label/compressed"](message)
        update = self.board.next(Seen(), 0)
        shown = update.seen.picture > before
        return shown, shown and update.picture.frame is not None


@pytest.fixture
def clock(monkeypatch):
    """The time, in s, by which messages come or have ceased to: a list of one."""
    now = [100.0]
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_change_that_succeeded_or_was_refused_is_not_said_to_have_failed_later():
    one = MadeUp("/segmentation")
    state = one.look()
    one.feed.choose_model("frfnet_slim")
    one.parameter("model", type=4, string_value="frfnet_slim")
    assert one.stats(model="cgnet_camvid11").switching == "frfnet_slim"  # not yet
    assert one.stats(model="frfnet_slim_camvid11").switching == ""
    one.parameter("model", type=4, string_value="cgnet")  # by somebody else
    assert state.message == ""
    one.answers = False
    with pytest.raises(UserError, match="/segmentation cannot be asked: RuntimeError: no answer"):
        one.feed.choose_model("cgnet")
    one.parameter("model", type=4, string_value="csrnet_light")
    assert (state.switching, state.message) == ("", "")
    one.answers = True
    one.feed.choose_model("frfnet_slim")
    one.parameter("model", type=4, string_value="cgnet")  # it went back
    assert state.switching == "" and "could not change over to 'frfnet_slim'" in state.message


def test_a_camera_that_the_node_does_not_have_is_told_and_none_followed():
    one = MadeUp("/segmentation/front", "/segmentation/rear", camera="fornt")
    state = one.look()
    assert state.status == "waiting" and one.subscriptions == []
    assert state.message == "/segmentation has no camera 'fornt'; it has: front, rear"
    assert (state.cameras, state.camera) == (["front", "rear"], "")
    one.feed.choose_camera("rear")
    assert one.look().camera == "rear" and "/segmentation/rear/stats" in one.subscriptions
    for name, followed in (("", "front"), ("rear", "rear")):
        assert MadeUp("/segmentation/front", "/segmentation/rear", camera=name).look().camera == followed


def test_the_camera_of_a_node_that_has_but_one_is_known_by_its_statistics():
    one = MadeUp("/segmentation", camera="fornt")
    one.look()
    assert "/segmentation/stats" in one.subscriptions
    assert one.labels(1) == (False, False)  # of which camera is not known yet
    one.image(2)
    one.stats(camera="camera")
    assert one.labels(2) == (False, False)
    state = one.look()
    assert state.status == "waiting" and one.subscriptions == []
    assert state.message == "/segmentation has no camera 'fornt'; it has: camera"
    assert (state.cameras, state.camera) == (["camera"], "")
    one.feed.choose_camera("camera")
    assert one.look().camera == "camera" and state.cameras == [] and one.subscriptions
    one.image(3)
    assert one.labels(3) == (True, True)
    one.prefixes = ()
    one.look()
    one.prefixes = ("/segmentation",)
    one.look()
    one.image(4)
    assert one.labels(4) == (False, False)  # another node, for all that is known
    one.stats(camera="camera")
    one.image(5)
    assert one.labels(5) == (True, True)


def test_a_cameras_images_are_followed_to_where_its_topic_was_set():
    one = MadeUp("/segmentation/left", "/segmentation/right", topics=["/a/image", "/b/image"])

    def followed():
        """Look until the node has answered."""
        end = time.monotonic() + 10
        while not (found := {"/a/image", "/b/image"} & set(one.subscriptions)) and time.monotonic() < end:
            one.look()
            time.sleep(0.01)
        return found

    assert followed() == {"/a/image"}
    one.topics.reverse()
    one.parameter("camera_topics", type=9, string_array_value=one.topics)
    one.look(watched=False)
    assert followed() == {"/b/image"}


def test_a_node_that_died_while_it_loaded_a_model_is_not_waited_for(clock):
    one = MadeUp("/segmentation")
    one.look()
    one.stats()
    one.feed.choose_model("frfnet_slim")
    assert one.stats().switching == "frfnet_slim"
    assert one.look(watched=False).switching == "frfnet_slim"  # nor while nobody looks
    one.identities.append(b"another of that name")  # the graph may tell of the former for long
    assert one.look().switching == "frfnet_slim"
    clock[0] += 10.0
    assert one.look().status == "waiting"  # for as long as it takes to start one
    one.labels(1)
    one.stats()
    state = one.look()
    assert (state.status, state.switching, state.model) == ("running", "", "cgnet")
    assert state.message == "/segmentation was started anew, without 'frfnet_slim'"
    one.feed.choose_model("frfnet_slim")
    assert one.stats().switching == "frfnet_slim"
    assert one.stats(model="frfnet_slim_camvid11").model == "frfnet_slim" and state.switching == ""
    one.identities.append(b"a third")
    assert one.stats().message == ""  # it was not loading anything

    one.feed.choose_model("frfnet_slim")
    one.prefixes = ()
    state = one.look()
    assert (state.switching, state.status) == ("", "waiting") and "no node /segmentation" in state.message


@pytest.mark.parametrize("latency", [6, 36, 90])
def test_labels_are_shown_over_their_images_however_late_they_come(latency):
    one = MadeUp("/segmentation")
    one.look()
    shown = []
    for i in range(1, 300):
        one.image(i)
        if i > latency and i % latency == 0:
            shown.append(one.labels(i - latency))
            assert one.labels(i - latency - 1) == (False, False)  # what came before is let go
    assert len(shown) > 1 and set(shown) == {(True, True)}


def test_images_that_wait_for_labels_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(waiting_images, "_KEPT", 100_000)
    one = MadeUp("/segmentation")
    one.look()
    for i in range(1, 1000):  # labels cease, or are of none of these
        one.image(i, 30_000)
        if i % 100 == 0:
            shown = one.labels(10**9)
    assert shown == (True, False)  # alone, after so many
    assert [one.labels(i)[1] for i in range(990, 1000)] == [False] * 7 + [True] * 3
    one.image(1000, 500_000)  # larger than all that may be kept
    assert one.labels(1000) == (True, True)
    one.image(1001)
    one.look(watched=False)
    one.look()
    assert one.labels(1001) == (False, False)


def test_slow_labels_are_no_silence(clock):
    one = MadeUp("/segmentation")

    def status_after(seconds):
        clock[0] += seconds
        return one.look().status

    one.look()
    assert status_after(2.5) == "waiting"
    one.labels(1)
    assert status_after(1.9) == "running" and status_after(3.1) == "waiting"
    one.labels(2)  # 5 s later: they are slow
    assert status_after(14) == "running" and status_after(2) == "waiting"
    clock[0] += 600
    one.labels(3)
    assert status_after(59) == "running" and status_after(2) == "waiting"
    one.labels(4)
    clock[0] += 0.1
    one.labels(5)
    assert status_after(1.9) == "running" and status_after(0.2) == "waiting"


@pytest.mark.parametrize("order", ["watch first", "graph alone"])
def test_leaving_while_the_node_is_asked_is_quiet(graph, monkeypatch, order):
    failed = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.exc_value))

    def asking():
        """The thread that waits for what the node does not answer."""
        return next((thread for thread in threading.enumerate() if thread.name == "parameters"), None)

    mute = rclpy.create_node("mute", start_parameter_services=False)
    outputs = [mute.create_publisher(SegmentationStats, f"/mute/{camera}/stats", 1) for camera in "ab"]
    thread = GraphThread("view_test")
    try:
        watch = NodeWatch(thread, "/mute")
        watch.start(SimpleNamespace(wanted=True, tell=lambda *_: None, tell_cameras=lambda *_: None))
        thread.start()
        graph.wait(asking, "the question")
        asked = asking()
        time.sleep(0.3)
        begin = time.monotonic()
        if order == "watch first":
            watch.close()
            assert not asked.is_alive() and time.monotonic() - begin < 3
    finally:
        thread.close()
        for output in outputs:
            mute.destroy_publisher(output)
        mute.destroy_node()
    asked.join(5)
    assert not asked.is_alive() and failed == []
