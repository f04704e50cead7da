"""The node in this process: orders of events that one of its own cannot be brought to."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, blank_frame
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.pipeline import Segmentation
from rt_seg_ros.resampling import resize_pixels
from rt_seg_ros.ros import diagnostics, qos
from rt_seg_ros.ros.diagnostics import OK, WARN
from rt_seg_ros.ros.image_subscription import ImageSubscription
from rt_seg_ros.ros.mailbox import OTHER_LABELS
from rt_seg_ros.ros.node import SegmentationNode
from rt_seg_ros.ros.outputs import Drawing, Outputs, Wanted

pytestmark = pytest.mark.ros

SIZE = (48, 64)
_NUMBERS = itertools.count()


class Alone:
    """A node of this process, with its executor."""

    def __init__(self, **values) -> None:
        # By a name of its own: the tests' shared node is in the same graph.
        self.node = SegmentationNode(f"alone_{next(_NUMBERS)}")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        usual = {"device": "cpu", "backend": "torch", "allow_random_weights": True, "lazy": False}
        self.set(**usual, **values)

    def set(self, **values) -> bool:
        changes = [Parameter(name, value=value) for name, value in values.items()]
        return self.node.set_parameters_atomically(changes).successful

    def spin(self, condition, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.executor.spin_once(0.02)

    def close(self) -> None:
        self.node.destroy_node()
        self.executor.shutdown(0)


@pytest.fixture
def alone(graph_domain):
    """Start a node in this process."""
    started = []

    def start(**values) -> Alone:
        started.append(Alone(**values))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_labels_of_a_space_that_gave_way_are_not_published(graph):
    camvid, cityscapes = load_label_space("camvid11"), load_label_space("cityscapes19")
    outputs = Outputs(graph.node, "in_process")
    try:
        labels = graph.collect(Image, "/in_process/label")
        pngs = graph.collect(CompressedImage, "/in_process/label/compressed")
        graph.wait(lambda: labels.matched() and pngs.matched() and len(outputs.wanted().names) == 2, "subscribers")
        result = Segmentation(np.zeros(SIZE, np.uint8), None, SIZE, {})

        def publish(space, second):
            wanted = Wanted(frozenset({"label", "label/compressed"}))
            header = Header(frame_id="optical")
            header.stamp.sec = second
            return outputs.publish(wanted, header, blank_frame(*SIZE), result, space, Drawing())

        outputs.announce(camvid, 0.0, {})
        assert publish(camvid, 1)
        outputs.announce(cityscapes, 0.0, {})
        assert not publish(camvid, 2)
        assert publish(cityscapes, 3)
        graph.wait(lambda: len(labels) == len(pngs) == 2, "two labels")
        assert [message.header.stamp.sec for message in labels] == [1, 3]
    finally:
        outputs.close()


def test_a_mask_that_is_gone_when_its_frame_is_done_is_left_out(graph):
    outputs, space = Outputs(graph.node, "in_process"), load_label_space("camvid11")
    try:
        outputs.announce(space, 0.0, {3: "road"})
        wanted = Wanted(frozenset(), dict(outputs._masks))
        assert list(wanted.masks) == [3]
        outputs.announce(space, 0.0, {})
        result = Segmentation(np.zeros(SIZE, np.uint8), None, SIZE, {})
        assert outputs.publish(wanted, Header(), blank_frame(*SIZE), result, space, Drawing())
    finally:
        outputs.close()


def test_the_overlay_at_the_working_size_is_of_the_picture(graph):
    outputs = Outputs(graph.node, "in_process")
    try:
        pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        labels, space = np.zeros((24, 32), np.uint8), load_label_space("camvid11")
        message = outputs._overlay(Header(), Frame(pixels), labels, space, Drawing(alpha=0.0, legend=False))
        drawn = np.frombuffer(message.data, np.uint8).reshape(24, 32, 3)
        assert np.array_equal(drawn, resize_pixels(pixels, (24, 32)))
    finally:
        outputs.close()


def test_what_is_told_of_labels_and_labels_change_together(alone):
    one = alone(camera_topics=["/in_process/image"])
    assert one.node.trigger_configure() and one.node.trigger_activate()
    camera = one.node._cameras[0]
    told: list[tuple[str, str]] = []
    announce, publish = camera.outputs.announce, camera.outputs.publish

    def announced(space, *rest):
        told.append(("told", space.name))
        announce(space, *rest)

    def published(wanted, header, frame, result, space, *rest):
        done = publish(wanted, header, frame, result, space, *rest)
        if done:
            told.append(("labels", space.name))
        return done

    camera.outputs.announce, camera.outputs.publish = announced, published
    image = Image(height=48, width=64, encoding="bgr8", step=192, data=bytes(48 * 192))
    image.header.stamp.sec = 1
    stop = threading.Event()

    def feed():
        while not stop.wait(0.003):
            camera._on_image(image)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        for space in ("cityscapes19", "camvid11", "cityscapes19"):
            one.spin(lambda: told and told[-1][0] == "labels")
            assert one.set(label_space=space)
            one.spin(lambda space=space: ("told", space) == told[-1] or ("labels", space) == told[-1])
            one.spin(lambda space=space: ("labels", space) == told[-1])
    finally:
        stop.set()
        feeding.join()
    now = None
    for what, space in told:
        if what == "told":
            now = space
        assert now in (None, space)
    one.spin(lambda: not camera.mailbox.counts().in_hand and not camera.mailbox.counts().waiting)
    counts = camera.mailbox.counts()
    assert counts.received == counts.processed + counts.total_dropped and set(counts.dropped) <= {
        OTHER_LABELS,
        "newer_frame",
    }


def test_what_a_frame_waited_counts(alone, monkeypatch):
    one = alone(camera_topics=["/in_process/image"])
    assert one.node.trigger_configure()
    camera, serving, told = one.node._cameras[0], one.node._serving, []
    monkeypatch.setattr(camera.outputs, "wanted", lambda *_: Wanted(stats=True))
    monkeypatch.setattr(camera.outputs, "publish_stats", told.append)
    image = Image(height=48, width=64, encoding="bgr8", step=192, data=bytes(48 * 192))
    image.header.stamp.sec = 1
    camera.mailbox.open()
    camera.mailbox.put(image, time.monotonic() - 5.0)
    ready = camera.begin(camera.mailbox.take(), serving)
    camera.finish(ready, serving.segmenter.segment(ready.frame), serving)
    (stats,) = told
    assert stats.wait_ms >= 5000 and stats.total_ms >= stats.wait_ms + stats.network_ms


def test_limits_are_the_parameters_of_their_names(alone, monkeypatch):
    one = alone(camera_topics=["/in_process/image"], input_timeout=7.0, max_age=3.0)
    assert one.node.trigger_configure()
    seen, plain = [], diagnostics.camera_status
    monkeypatch.setattr("rt_seg_ros.ros.camera.camera_status", lambda *a, **k: seen.append(a[5]) or plain(*a, **k))
    one.node._on_timer()
    assert seen == [diagnostics.Limits(input_timeout=7.0, max_age=3.0)]


def test_calibration_is_listened_to_only_while_active(alone):
    one = alone(camera_topics=["/in_process/image"], output_resolution="network")
    assert one.node.trigger_configure()
    camera = one.node._cameras[0]
    for _ in range(2):
        assert one.node.trigger_activate() and camera._info_subscription is not None
        assert one.node.trigger_deactivate() and camera._info_subscription is None and camera._info is None


def test_images_that_seem_to_use_12_bits_are_told_until_the_parameter_says_so(alone, graph, capfd):
    one = alone(camera_topics=["/in_process/image"], max_age=0.0, threads=1)
    name = f"{one.node.get_name()}: camera in_process"
    assert one.node.trigger_configure() and one.node.trigger_activate()
    camera = one.node._cameras[0]
    frames, publish = [], camera.outputs.publish
    camera.outputs.publish = lambda wanted, header, frame, *rest: (
        frames.append(frame.pixels),
        publish(wanted, header, frame, *rest),
    )[1]
    eight = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    eight[0, 0] = 255

    def send(pixels, encoding, count=1):
        for _ in range(count):
            image = Image(height=48, width=64, encoding=encoding, step=pixels.nbytes // 48, data=pixels.tobytes())
            image.header.stamp.sec = 1
            done = camera.mailbox.counts().processed
            camera._on_image(image)
            one.spin(lambda done=done: camera.mailbox.counts().processed > done)

    def told(level, text=""):
        graph.diagnostics.clear()
        one.spin(lambda: (s := graph.status(name)) is not None and s[0] == level and text in s[1])

    dark = np.rint(eight * (4095 / 255)).astype("<u2")
    send(eight, "mono8", 30)
    send(dark, "mono16", 29)
    told(OK)
    send(dark, "mono16", 2)
    told(WARN, "set sample_bits to 12")
    assert capfd.readouterr().err.count("sample_bits") == 1 and frames[-1].max() == 16
    assert one.set(sample_bits=12)
    one.spin(lambda: one.node._serving.sample_bits == 12)
    send(dark, "mono16")
    assert np.array_equal(frames[-1], eight)
    told(OK)
    # Of a camera that has all 16, one image of many is enough; what came before an activation counts for nothing.
    assert one.set(sample_bits=16)
    assert one.node.trigger_deactivate() and one.node.trigger_activate()
    send(dark * 0, "mono16", 30)  # the cap on its lens
    told(OK)
    send(dark, "mono16")
    told(WARN, "4095")
    send(eight, "mono8")  # another camera
    told(OK)
    send(dark, "mono16", 30)
    told(WARN, "4095")
    send(dark + 1, "mono16")
    send(dark, "mono16")
    told(OK)


def test_outputs_that_cannot_all_be_had_leave_no_publisher(graph, monkeypatch):
    before = len(list(graph.node.publishers))
    create = Outputs._create

    def refuse(self, kind, name, *rest):
        if name == "overlay":
            raise ValueError("no such reliability")
        return create(self, kind, name, *rest)

    monkeypatch.setattr(Outputs, "_create", refuse)
    with pytest.raises(ValueError, match="no such reliability"):
        Outputs(graph.node, "in_process")
    assert len(list(graph.node.publishers)) == before


def test_a_camera_hears_on_where_subscribing_anew_fails(alone, graph, monkeypatch):
    one = alone(camera_topics=["/in_process/image"])
    assert one.node.trigger_configure() and one.node.trigger_activate()
    camera = one.node._cameras[0]
    publisher = graph.node.create_publisher(Image, "/in_process/image", qos.sensor_data(qos.RELIABLE))
    try:
        one.spin(lambda: camera.images.publishers())
        create = ImageSubscription._create
        failures = [RuntimeError("no memory")]

        def refuse(self, *rest):
            if failures:
                raise failures.pop()
            return create(self, *rest)

        monkeypatch.setattr(ImageSubscription, "_create", refuse)
        camera.images.reliability = None  # as if what it subscribed with were another than what is offered
        with pytest.raises(RuntimeError, match="no memory"):
            camera.rematch()

        def heard():
            publisher.publish(Image(height=48, width=64, encoding="bgr8", step=192, data=bytes(48 * 192)))
            return camera.mailbox.counts().received

        one.spin(heard)
        camera.rematch()
        assert camera.images.reliability == qos.RELIABLE
    finally:
        graph.node.destroy_publisher(publisher)


def stamped(second: int) -> Image:
    return Image(header=Header(stamp=Time(sec=second)))


def test_a_player_that_begins_at_once_is_heard_from_its_first_image_on(alone, graph):
    one = alone(camera_topics=["/in_process/player"])
    assert one.node.trigger_configure() and one.node.trigger_activate()
    images = one.node._cameras[0].images
    heard: list[int] = []
    images._take = lambda message: heard.append(message.header.stamp.sec)
    publisher = graph.node.create_publisher(Image, "/in_process/player", qos.sensor_data(qos.RELIABLE))
    try:
        sent = itertools.count(1)
        for second in sent:
            publisher.publish(stamped(second))
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                one.executor.spin_once(0.01)
            if images.reliability == qos.RELIABLE and images._former is None:
                break
            assert second < 200, f"heard {heard}"
        one.spin(lambda: heard and heard[-1] == second)
        # Each once and in order, though the subscription was made anew in between.
        assert heard == list(range(heard[0], second + 1)) and heard[0] < 10
    finally:
        graph.node.destroy_publisher(publisher)


def test_a_former_subscription_is_heard_until_the_present_one_is(alone):
    one = alone(camera_topics=["/in_process/image"])
    assert one.node.trigger_configure() and one.node.trigger_activate()
    images = one.node._cameras[0].images
    subscriptions = len(list(one.node.subscriptions))
    heard: list[int] = []
    images._take = lambda message: heard.append(message.header.stamp.sec)

    def bring(number, *seconds):
        for second in seconds:
            images._on_image(number, stamped(second))

    first = images._number
    bring(first, 1, 2)
    images._subscribe(qos.RELIABLE, "")
    bring(first, 3, 4)
    former = images._former
    images._subscribe(qos.BEST_EFFORT, "")  # before the second one was heard: it goes, the first stays
    assert images._former is former and len(list(one.node.subscriptions)) == subscriptions + 1
    bring(first, 5)
    bring(images._number, 4, 5, 6)
    assert images._former is None and len(list(one.node.subscriptions)) == subscriptions
    bring(first, 6, 7)  # still in its queue
    bring(images._number, 4, 5, 6)  # a recording that begins anew
    assert heard == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    images._subscribe(qos.RELIABLE, "")
    last = images._number
    bring(last - 1, 7)
    one.node._cameras[0].deactivate()
    bring(last, 8)
    assert heard[-1] == 7
    one.node._cameras[0].activate()
    bring(images._number, 7)  # played again
    assert heard[-2:] == [7, 7]


def test_an_event_of_a_camera_waits_for_nobody_and_subscribes_behind_nobodys_back(alone, graph):
    one = alone(camera_topics=["/in_process/event"])
    node = one.node
    assert node.trigger_configure() and node.trigger_activate()
    camera = node._cameras[0]
    publisher = graph.node.create_publisher(Image, "/in_process/event", qos.sensor_data(qos.RELIABLE))
    try:
        one.spin(lambda: camera.images.reliability == qos.RELIABLE)
        camera.images.reliability = None
        taken, let_go = threading.Event(), threading.Event()

        def hold():
            with node._turn:
                taken.set()
                let_go.wait(20)

        host = threading.Thread(target=hold)
        host.start()
        assert taken.wait(20)
        matched = SimpleNamespace(current_count_change=1)
        camera.images._on_matched(matched)
        assert camera.images.reliability is None
        let_go.set()
        host.join()
        camera.images._on_matched(matched)
        assert camera.images.reliability == qos.RELIABLE
    finally:
        graph.node.destroy_publisher(publisher)


def test_cameras_change_while_a_label_space_of_other_masks_is_prepared(alone):
    one = alone(camera_topics=["/in_process/one"], mask_classes=["road"])
    node = one.node
    assert node.trigger_configure()
    prepare, go = node._prepare, threading.Event()
    node._preparation._build = lambda config: go.wait(20) and prepare(config)
    assert one.set(label_space="cityscapes19", mask_classes=["terrain", "road"])
    one.spin(lambda: node._preparation.busy)
    assert one.set(camera_topics=["/in_process/other"])
    assert node.trigger_activate() and node._serving.segmenter.label_space.name == "camvid11"
    assert masks_of(node) == ["/road"]
    go.set()
    one.spin(lambda: node._serving.segmenter.label_space.name == "cityscapes19")
    assert masks_of(node) == ["/road", "/terrain"]


def test_a_mask_goes_with_its_class_and_not_with_the_id(alone):
    one = alone(camera_topics=["/in_process/one"], mask_classes=["sky"])
    node = one.node
    assert node.trigger_configure() and masks_of(node) == ["/sky"]
    assert one.set(label_space="cityscapes19", mask_classes=["road"])  # 0 as well, in that label space
    one.spin(lambda: node._serving.segmenter.label_space.name == "cityscapes19")
    assert masks_of(node) == ["/road"]


def masks_of(node):
    (camera,) = node._cameras
    return sorted(topic.rpartition("mask")[2] for topic in camera.outputs.topics() if "/mask/" in topic)


def test_a_pause_is_no_silence_of_the_camera(alone):
    one = alone(camera_topics=["/in_process/image"], input_timeout=0.2)
    node, reports = one.node, []
    assert node.trigger_configure() and node.trigger_activate()
    node._cameras[0]._on_image(Image(height=48, width=64, encoding="bgr8", step=192, data=bytes(48 * 192)))
    assert node.trigger_deactivate()
    time.sleep(0.4)
    assert node.trigger_activate()
    node._diagnostics = SimpleNamespace(publish=reports.append)
    node._on_timer()
    assert "waiting for an image" in [status.message for status in reports[-1].status]


def test_what_is_told_of_a_change_is_of_the_last(alone, graph):
    one = alone()
    node = one.node
    assert node.trigger_configure()
    reports = []
    node._diagnostics = SimpleNamespace(publish=reports.append)

    def told():
        node._on_timer()
        return reports[-1].status[0]

    go = threading.Event()

    def fail(config):
        go.wait(20)
        raise UserError("frfnet does not load here")

    node._preparation._build = fail
    served = node.get_parameter("model").value
    assert one.set(model="frfnet")
    one.spin(lambda: "preparing model 'frfnet'" in told().message)
    assert one.set(model=served)  # the building goes on, but nobody waits for it
    one.spin(lambda: node._target.model == served)
    assert node._preparation.busy and "preparing" not in told().message
    go.set()
    assert one.set(model="frfnet")
    one.spin(lambda: "does not load here" in told().message)
    assert one.set(overlay_alpha=0.25) and "does not load here" in told().message
    assert one.set(model=served)
    assert told().level == OK and "does not load here" not in told().message


def test_a_threshold_set_while_another_size_is_prepared_holds_for_it_too(alone):
    one = alone()
    node = one.node
    assert node.trigger_configure()
    prepare, go = node._prepare, threading.Event()
    node._preparation._build = lambda config: go.wait(20) and prepare(config)
    assert one.set(downsampling_ratio=0.5)
    one.spin(lambda: node._preparation.busy)
    assert one.set(confidence_threshold=0.4)
    one.spin(lambda: node._serving.segmenter.config.confidence_threshold == 0.4)
    go.set()
    one.spin(lambda: node._serving.segmenter.config.downsampling_ratio == 0.5)
    assert node._serving.segmenter.config.confidence_threshold == 0.4


def test_a_change_that_fails_does_not_undo_the_one_after_it(alone):
    one = alone()
    node = one.node
    assert node.trigger_configure()
    prepare = node._prepare
    go = threading.Event()

    def slow(config):
        if config.model == "frfnet":
            go.wait(20)
            raise UserError("frfnet does not load here")
        return prepare(config)

    node._preparation._build = slow
    assert one.set(model="frfnet")
    one.spin(lambda: node._preparation.busy)
    assert one.set(model="csrnet_light")
    go.set()
    time.sleep(0.3)  # the failure is handed over before the executor comes to what was asked for last
    one.spin(lambda: node._segmenter.card.network == "csrnet_light")
    assert node.get_parameter("model").value == "csrnet_light" and not node._failed_change
