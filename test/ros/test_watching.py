"""The live view's way into the graph: a camera's topic, and a real node in a process of its own, over DDS."""

import threading
import time
import zlib
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import cv2
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterValue
from sensor_msgs.msg import CompressedImage, Image

from ros_harness import HEIGHT, WIDTH, picture
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import qos, watching
from rt_seg_ros.ros.graph import GraphThread
from rt_seg_ros.ros.watching import CameraWatch, NodeWatch
from rt_seg_ros.web.board import Board, Seen, State
from rt_seg_ros.web.relay import RelayFeed

pytestmark = pytest.mark.ros

LABELS = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
MODELS = [
    {"name": "cgnet", "label": "cgnet", "card": "cgnet_camvid11"},
    {"name": "frfnet_slim", "label": "frfnet_slim", "card": "frfnet_slim_camvid11"},
]


@pytest.fixture
def looking(graph):
    """A node of the view's own."""
    thread = GraphThread("view_test")
    yield thread
    thread.close()


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


def follow_camera(looking, topic, wanted=lambda: True):
    taken, told = [], []
    CameraWatch(looking, topic, lambda *of: taken.append(of), lambda *status: told.append(status), wanted)
    looking.start()
    return taken, told


@pytest.mark.parametrize("reliability", [qos.BEST_EFFORT, qos.RELIABLE])
def test_a_cameras_images_are_handed_on(graph, looking, reliability):
    camera = graph.camera("/front/image_raw", reliability)
    taken, told = follow_camera(looking, "/front/image_raw")
    graph.feed(camera, lambda: len(taken) >= 3, "images")
    stamp, frame_id, read = taken[-1]
    assert frame_id == "optical"
    assert (stamp // 10**9, stamp % 10**9) in camera.sent
    assert (read().bgr() == picture()).all()
    graph.wait(lambda: told and told[-1] == ("running", ""), "the status")


def test_compressed_images_are_found_beside_the_base_topic(graph, looking):
    camera = graph.camera("/rear/image_raw/compressed", kind=CompressedImage)
    taken, _ = follow_camera(looking, "/rear/image_raw")
    data = cv2.imencode(".png", picture())[1].tobytes()

    def send():
        camera.send_message(CompressedImage(header=camera.header(), format="png", data=data))
        return len(taken) >= 2

    graph.wait(send, "images")
    assert (taken[-1][2]().bgr() == picture()).all()
    torn = CompressedImage(header=camera.header(), format="png", data=data[:50])
    stamp = torn.header.stamp.sec * 10**9 + torn.header.stamp.nanosec

    def send_torn():
        camera.send_message(torn)
        return next((read for taken_stamp, _, read in taken if taken_stamp == stamp), None)

    with pytest.raises(ImageRejected):
        graph.wait(send_torn, "the torn one")()


def test_who_takes_compressed_images_is_looked_on_with_compressed_ones(graph):
    raw, compressed = graph.camera("/far/image_raw"), graph.camera("/far/image_raw/compressed", kind=CompressedImage)
    images = watching._Images(SimpleNamespace(node=graph.node), "/far/image_raw", lambda *_: None)
    try:
        graph.wait(lambda: images.follow(compressed_first=True) and compressed.matched(), "the compressed one")
        assert not raw.matched()
        graph.wait(lambda: images.follow() and raw.matched(), "the raw one")
    finally:
        images.leave()


def test_what_is_missing_is_told_with_what_there_is(graph, looking):
    graph.camera("/front/image_raw")
    _, told = follow_camera(looking, "/frnt/image_raw")
    graph.wait(lambda: any("/front/image_raw" in text for _, text in told), "the topics there are")
    status, text = told[-1]
    assert status == "waiting" and "Nobody publishes images on /frnt/image_raw" in text


def test_nobody_subscribes_while_nobody_watches(graph, looking):
    camera = graph.camera("/front/image_raw")
    watching = threading.Event()
    follow_camera(looking, "/front/image_raw", watching.is_set)
    graph.wait(lambda: not camera.matched(), "the end of those who watched before")
    threading.Event().wait(1.0)
    assert not camera.matched()
    watching.set()
    graph.wait(camera.matched, "a subscription")
    watching.clear()
    graph.wait(lambda: not camera.matched(), "its end")


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
    monkeypatch.setattr(watching, "_ANSWER", 0.3)
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


class Remote:
    """A watch of a node that is not there: its graph and its answers are made up."""

    def __init__(self, topics=(), given=(), subscribed=()):
        self.topics, self.given, self.subscribed = list(topics), list(given), list(subscribed)
        self.calls, self.said, self.fails = 0, [], False
        made_up = SimpleNamespace(
            create_subscription=lambda *_: None,
            create_timer=lambda *_: None,
            get_publishers_info_by_topic=lambda _: [],
            get_subscriber_names_and_types_by_node=lambda *_: [(t, ["sensor_msgs/msg/Image"]) for t in self.subscribed],
        )
        self.watch = NodeWatch(SimpleNamespace(node=made_up), "/segmentation")
        self.watch._call = self.call
        self.watch.start(
            SimpleNamespace(
                tell=lambda *_: None, report=lambda **_: None, switched=lambda why="": self.said.append(why)
            )
        )

    def call(self, kind, service, request):
        self.calls += 1
        if self.fails:
            raise UserError("no answer")
        if service == "set_parameters_atomically":
            return SimpleNamespace(result=SimpleNamespace(successful=True, reason=""))
        return SimpleNamespace(values=[ParameterValue(type=9, string_array_value=v) for v in (self.topics, self.given)])

    def source(self, camera, cameras):
        """Look until the node was asked and has answered, where it is to be."""
        self.watch._source_topic(camera, cameras)
        if self.watch._asking is not None:
            self.watch._asking.join()
        return self.watch._source_topic(camera, cameras)

    def event(self, name, **value):
        changed = [Parameter(name=name, value=ParameterValue(**value))]
        self.watch._on_parameters(ParameterEvent(node="/segmentation", changed_parameters=changed))


def test_a_change_that_succeeded_or_was_refused_is_not_said_to_have_failed_later():
    remote = Remote()
    remote.watch.set_model("frfnet", "frfnet_camvid11")
    remote.event("model", type=4, string_value="frfnet")
    remote.watch._on_stats(SegmentationStats(model="cgnet_camvid11"))  # not yet
    remote.watch._on_stats(SegmentationStats(model="frfnet_camvid11"))
    remote.event("model", type=4, string_value="cgnet")  # by somebody else
    assert remote.said == []
    remote.fails = True
    with pytest.raises(UserError):
        remote.watch.set_model("bisenet", "bisenet_camvid11")
    remote.event("model", type=4, string_value="csrnet_light")
    assert remote.said == []
    remote.fails = False
    remote.watch.set_model("frfnet", "frfnet_camvid11")
    remote.event("model", type=4, string_value="cgnet")  # it went back
    assert len(remote.said) == 1 and "could not change over to 'frfnet'" in remote.said[0]


class MadeUp:
    """A watch of a node in a made-up graph, and the board that it fills."""

    def __init__(self, *prefixes, camera=""):
        self.prefixes = prefixes
        self.identities = [b"first"]
        self.subscriptions = []
        made_up = SimpleNamespace(
            create_subscription=self.subscribe,
            destroy_subscription=self.subscriptions.remove,
            create_timer=lambda *_: None,
            get_publishers_info_by_topic=lambda topic: [
                SimpleNamespace(node_name=name, node_namespace="/", endpoint_gid=gid, topic_type="")
                for name, gid in [*(("segmentation", gid) for gid in self.identities), ("other", b"other")]
            ],
            get_topic_names_and_types=lambda: [],
            get_subscriber_names_and_types_by_node=lambda *_: [],
            get_publisher_names_and_types_by_node=lambda *_: [
                (f"{prefix}/stats", ["rt_seg_ros/msg/SegmentationStats"]) for prefix in self.prefixes
            ],
        )
        graph = SimpleNamespace(node=made_up, call_soon=lambda action: action())
        self.board = Board(State(source="/segmentation"))
        self.watch = NodeWatch(graph, "/segmentation", camera)
        self.watch._ask_topics = lambda *_: None
        self.watch._call = lambda *_: SimpleNamespace(result=SimpleNamespace(successful=True, reason=""))
        self.feed = RelayFeed(self.board, self.watch, MODELS)
        self.feed.start()

    def subscribe(self, kind, topic, *_):
        if topic != "/parameter_events":
            self.subscriptions.append(topic)
        return topic

    def look(self, watched=True):
        """Look at the graph; return the state of the board."""
        self.board._asked = time.monotonic() if watched else float("-inf")
        self.watch._look()
        return self.board.state

    def stats(self, **values):
        self.watch._on_stats(SegmentationStats(**{"model": "cgnet_camvid11", **values}))
        return self.board.state

    def image(self, stamp, size=0):
        message = Image(data=bytes(size))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        self.watch._on_image(message, lambda: Frame(picture()))

    def labels(self, stamp):
        """Give labels; return whether they are shown, and over their image."""
        message = CompressedImage(data=LABELS)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        before = self.board.next(Seen(), 0).seen.picture
        self.watch._on_labels(message)
        update = self.board.next(Seen(), 0)
        shown = update.seen.picture > before
        return shown, shown and update.picture.frame is not None


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


def test_a_node_that_died_while_it_loaded_a_model_is_not_waited_for():
    one = MadeUp("/segmentation")
    one.look()
    one.stats()
    one.feed.choose_model("frfnet_slim")
    assert one.stats().switching == "frfnet_slim"
    assert one.look(watched=False).switching == "frfnet_slim"  # nor while nobody looks
    one.identities.append(b"another of that name")  # the graph may tell of the former for long
    assert one.look().switching == "frfnet_slim"
    one.watch._pace._last -= 10.0
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
            assert min(one.watch._frames) > i - latency  # what came before is let go
    assert len(shown) > 1 and set(shown) == {(True, True)}


def test_images_that_wait_for_labels_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(watching, "_KEPT", 100_000)
    one = MadeUp("/segmentation")
    one.look()
    for i in range(1, 1000):  # labels cease, or are of none of these
        one.image(i, 30_000)
        if i % 100 == 0:
            one.labels(10**9)
    assert list(one.watch._frames) == [997, 998, 999] and one.watch._held == 90_000
    one.image(999, 20_000)
    assert one.watch._held == 80_000
    one.image(1000, 500_000)  # larger than all that may be kept
    assert list(one.watch._frames) == [1000] and one.labels(1000) == (True, True)
    assert one.watch._held == 0
    for i in range(1, 1000):
        one.image(i)
    assert len(one.watch._frames) < 50  # also those without a byte
    one.look(watched=False)
    assert one.watch._held == 0 and not one.watch._frames


def test_slow_labels_are_no_silence(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    one = MadeUp("/segmentation")

    def status_after(seconds):
        clock[0] += seconds
        one.board.next(Seen(), 0)
        one.watch._look()
        return one.board.state.status

    one.board.next(Seen(), 0)
    one.watch._look()
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


def test_slow_images_of_a_camera_are_no_silence(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    told = []
    publisher = SimpleNamespace(topic_type="sensor_msgs/msg/Image", qos_profile=qos.sensor_data())
    node = SimpleNamespace(
        create_timer=lambda *_: None,
        create_subscription=lambda *_: object(),
        get_publishers_info_by_topic=lambda topic: [publisher],
    )
    watch = CameraWatch(
        SimpleNamespace(node=node), "/camera", lambda *_: None, lambda *of: told.append(of[0]), lambda: True
    )
    for _ in range(4):
        watch._look()
        watch._images._on_message("sensor_msgs/msg/Image", Image())
        for _ in range(20):
            clock[0] += 0.25
            watch._look()
    assert told == ["running", "waiting", "running"]


def test_cameras_topics_are_asked_for_again_once_they_may_be_others():
    both = ["left", "right"]
    remote = Remote(["/cam_a/image", "/cam_b/image"], both, ["/cam_a/image", "/cam_b/image"])
    assert remote.source("left", both) == "/cam_a/image"
    for _ in range(10):
        assert remote.source("right", both) == "/cam_b/image"
    assert remote.calls == 1
    remote.topics[0] = "/other/image"
    remote.subscribed = ["/cam_b/image", "/other/image"]  # deactivated, set, activated
    assert remote.source("left", both) == "/other/image" and remote.calls == 2
    remote.topics.reverse()  # the same subscriptions
    remote.event("camera_topics", type=9, string_array_value=remote.topics)
    assert remote.source("left", both) == "/cam_b/image" and remote.calls == 3


@pytest.mark.parametrize("given", [[], ["front", "rear"]])
def test_remapped_topics_are_told_by_what_the_node_subscribes_to(given):
    remote = Remote(["/a/image", "/rear/image"], given, ["/front/image", "/rear/image"])
    assert remote.source("front", ["front", "rear"]) == "/front/image"
    assert remote.source("rear", ["front", "rear"]) == "/rear/image"


def test_a_node_that_does_not_tell_is_not_asked_at_every_look(monkeypatch):
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(watching, "_LONGEST_PAUSE", 0.4)
    remote = Remote(["/a/image", "/b/image"], ["one", "two"])
    begin = time.monotonic()
    while time.monotonic() - begin < 1.5:
        assert remote.source("front", ["front", "rear"]) == ""
        time.sleep(0.01)
    assert 3 <= remote.calls <= 5  # after 0, 0.2, 0.6, 1.0 and 1.4 s
    remote.fails = True
    calls = remote.calls
    time.sleep(0.4)
    remote.source("front", ["front", "rear"])
    assert remote.source("front", ["front", "rear"]) == "" and remote.calls == calls + 1


@pytest.mark.parametrize("order", ["watch first", "graph alone"])
def test_leaving_while_the_node_is_asked_is_quiet(graph_domain, monkeypatch, order):
    failed = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.exc_value))
    thread = GraphThread("view_test")
    thread.start()
    watch = NodeWatch(thread, "/nobody")
    watch._source_topic("a", ["a", "b"])
    asking = watch._asking
    time.sleep(0.3)
    begin = time.monotonic()
    if order == "watch first":
        watch.close()
        assert not asking.is_alive() and time.monotonic() - begin < 3
    thread.close()
    asking.join(5)
    assert not asking.is_alive() and failed == []
