"""Nodes in a process of somebody else's: with any executor or none yet, several of them, remapped by arguments."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import itertools
import logging
import signal
import sys
import threading
import time

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs import store
from rt_seg_ros.ros import node as node_module
from rt_seg_ros.ros import qos
from rt_seg_ros.ros.node import FAILURE, SUCCESS, SegmentationNode
from rt_seg_ros.zoo import find_model

pytestmark = pytest.mark.ros

_NUMBERS = itertools.count()
_USUAL = {"device": "cpu", "backend": "torch", "allow_random_weights": True, "threads": 1}


def parameters(**values) -> list[Parameter]:
    return [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]


def configure(node, activate: bool = False) -> None:
    assert node.trigger_configure() == SUCCESS, node._error
    if activate:
        assert node.trigger_activate() == SUCCESS, node._error


@pytest.fixture
def compose(graph_domain):
    """Make nodes of this process, by names of their own."""
    made = []

    def make(*remappings: str, options=None, kind=SegmentationNode, **values) -> SegmentationNode:
        arguments = ["--ros-args", *(word for rule in remappings for word in ("-r", rule))]
        overrides = [*parameters(**{**_USUAL, **values}), *(options or {}).pop("overrides", ())]
        name = f"composed_{next(_NUMBERS)}"
        made.append(kind(name, parameter_overrides=overrides, cli_args=arguments, **(options or {})))
        return made[-1]

    yield make
    for node in made:
        node.destroy_node()


class Spinning:
    """An executor that spins in a thread, as a host would have it; ``ended`` is what ended it."""

    def __init__(self, executor, *nodes) -> None:
        self.executor, self.ended = executor, None
        for node in nodes:
            executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:
            self.ended = error

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.executor.shutdown()
        self._thread.join()


def test_a_node_whose_parameter_says_so_starts_when_it_is_spun(graph, compose):
    started, told = compose(autostart=True), compose(autostart=True)
    configure(told)
    with Spinning(SingleThreadedExecutor(), started, told) as spinning:
        graph.wait(lambda: started._state() == "active", "its start")
        assert told._state() == "inactive", "who is faster has it his way"
        assert spinning.ended is None


def test_overrides_that_the_node_declared_by_itself_are_parameters_like_others(compose):
    options = {"automatically_declare_parameters_from_overrides": True}
    node = compose(options=options, max_rate=5, lazy=3)
    assert node.trigger_configure() == FAILURE
    assert "lazy is 3; expected true or false" in node._error
    assert node.get_parameter("max_rate").value == 5.0
    assert node.describe_parameter("threads").description
    assert node.set_parameters(parameters(lazy=True))[0].successful
    configure(node)


def test_what_is_set_before_there_is_an_executor_takes_effect(graph, compose):
    node = compose()
    configure(node)
    changes = parameters(lazy=False, mask_classes=["road"], downsampling_ratio=0.5)
    assert node.set_parameters_atomically(changes).successful
    assert node.trigger_activate() == SUCCESS
    assert not node._serving.lazy
    assert f"/{node.get_name()}/mask/road" in node._cameras[0].outputs.topics()
    graph.wait(lambda: not node._preparation.busy, "what is prepared")
    assert node._serving.segmenter.config.downsampling_ratio == 0.0
    with Spinning(SingleThreadedExecutor(), node):
        graph.wait(lambda: node._serving.segmenter.config.downsampling_ratio == 0.5, "the other ratio")


@pytest.mark.parametrize("by", ["service", "host"])
def test_a_transition_waits_for_a_change_that_is_carried_out(graph, compose, by):
    node = compose()
    configure(node)
    config_of, calls = node._config_of, []
    reached, cleaned_up = threading.Event(), threading.Event()

    def slow(values):
        calls.append(values)
        if len(calls) == 2:  # after the check of the change
            reached.set()
            cleaned_up.wait(0.5)
        return config_of(values)

    node._config_of = slow
    with Spinning(MultiThreadedExecutor(4), node) as spinning:
        assert node.set_parameters(parameters(overlay_alpha=0.3))[0].successful
        assert reached.wait(20)
        if by == "host":
            assert node.trigger_cleanup() == SUCCESS
        else:
            request = ChangeState.Request(transition=Transition(label="cleanup"))
            assert graph.call(ChangeState, f"/{node.get_name()}/change_state", request).success
        cleaned_up.set()
        assert node._state() == "unconfigured" and node._segmenter is None
        configure(node)
        time.sleep(0.2)  # for what would end the executor
        assert spinning.ended is None


def test_an_executor_does_not_wait_for_a_thread_that_configures(graph, compose, monkeypatch):
    node, ticks, loading, go_on = compose(), [], threading.Event(), threading.Event()
    load = node_module.Segmenter

    def slowly(*args, **kwargs):
        loading.set()
        assert go_on.wait(60)
        return load(*args, **kwargs)

    monkeypatch.setattr(node_module, "Segmenter", slowly)
    other = rclpy.create_node("beside")
    other.create_timer(0.1, lambda: ticks.append(time.monotonic()))
    request = SetParameters.Request(parameters=[one.to_parameter_msg() for one in parameters(max_rate=5.0)])

    def set_max_rate():
        return graph.call(SetParameters, f"/{node.get_name()}/set_parameters", request).results[0]

    with Spinning(SingleThreadedExecutor(), node, other):
        host = threading.Thread(target=configure, args=(node,))
        host.start()
        assert loading.wait(60)
        begin = time.monotonic()
        refused = set_max_rate()
        time.sleep(2.5)  # the node reports once a second
        node.declare_parameter("qos_overrides./somewhere.subscription.depth", 3)  # as rclpy does for a subscription
        meanwhile = [tick for tick in ticks if tick > begin]
        go_on.set()
        host.join(60)
        assert set_max_rate().successful
        graph.wait(lambda: node._applied["max_rate"] == 5.0, "what was set at last")
    other.destroy_node()
    assert not refused.successful and "try again" in refused.reason and "configuring" in refused.reason
    assert len(meanwhile) > 10 and max(b - a for a, b in itertools.pairwise([begin, *meanwhile])) < 2


def test_a_change_waits_for_what_is_done_shortly_and_the_nodes_own_for_nothing(compose):
    node = compose()
    configure(node)
    held = threading.Event()

    def hold(seconds):
        with node._turn:
            held.set()
            time.sleep(seconds)

    for seconds, done in ((0.02, True), (1.0, False)):
        held.clear()
        other = threading.Thread(target=hold, args=(seconds,))
        other.start()
        assert held.wait(20)
        begin = time.monotonic()
        (result,) = node.set_parameters(parameters(overlay_alpha=seconds))
        waited = time.monotonic() - begin
        other.join(20)
        assert result.successful is done and (node.get_parameter("overlay_alpha").value == seconds) is done
        assert waited < 0.9
    with node._turn:
        assert node.set_parameters(parameters(overlay_alpha=0.25))[0].successful


def test_what_the_library_tells_is_in_the_log_of_the_node_that_it_is_about_and_once(graph, compose):
    said = graph.collect(Log, "/rosout", QoSProfile(depth=100, reliability=qos.RELIABLE))
    first, second = compose(), compose()
    graph.wait(lambda: said.matched() and graph.node.count_publishers("/rosout") > 2, "the logs")

    def told():
        return [message.name for message in said if message.msg.startswith("backend torch on cpu")]

    def configured(node):
        configure(node)
        graph.wait(lambda: any(m.name == node.get_name() and "serving model" in m.msg for m in said), "its last word")

    time.sleep(0.5)  # best known to both sides before the first word
    configured(second)
    configured(first)
    assert told() == [second.get_name(), first.get_name()]


def test_a_constructor_that_fails_leaves_no_log_behind(compose):
    class Failing(SegmentationNode):
        def create_timer(self, *_, **__):
            raise RuntimeError("no timer")

    handlers = list(logging.getLogger("rt_seg_ros").handlers)
    with pytest.raises(RuntimeError, match="no timer"):
        compose(kind=Failing)
    assert logging.getLogger("rt_seg_ros").handlers == handlers


def test_a_node_that_is_cleaned_up_leaves_what_another_prepares(graph, compose, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path))  # so that the graph must be made
    one, other = compose(), compose()
    configure(one)
    configure(other)
    monkeypatch.delitem(sys.modules, "torch")  # then another process makes it
    with Spinning(SingleThreadedExecutor(), one, other):
        assert one.set_parameters(parameters(backend="onnxruntime"))[0].successful
        (process,) = graph.wait(lambda: list(store._processes), "the process that makes a graph")
        assert other.trigger_cleanup() == SUCCESS
        time.sleep(0.2)
        assert process.poll() != -signal.SIGKILL
        assert one.trigger_cleanup() == SUCCESS
        assert process.returncode == -signal.SIGKILL


def test_a_graph_that_is_asked_for_after_nobody_waits_is_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    caught = []

    def make():
        store.abandon_graphs(threading.current_thread())
        try:
            store.load_graph(find_model("cgnet"))
        except UserError as error:
            caught.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(60)
    assert caught and f"exit status {-signal.SIGKILL}" in caught[0]


def subscription_of(graph, node, topic):
    """Return what the graph knows of the node's subscription to a topic."""

    def known():
        infos = graph.node.get_subscriptions_info_by_topic(topic)
        return [info for info in infos if info.node_name == node.get_name()]

    return graph.wait(known, f"a subscription to {topic}")[0]


def test_a_camera_is_heard_where_its_topic_was_remapped_to(graph, compose):
    # Two names that are exchanged: remapped twice, they would be as before.
    node = compose("/a/image:=/b/image", "/b/image:=/a/image", camera_topics=["/a/image"])
    publisher = graph.node.create_publisher(Image, "/b/image", qos.sensor_data(qos.RELIABLE))
    try:
        graph.wait(lambda: node.count_publishers("/b/image"), "the camera")
        configure(node, activate=True)
        assert node._cameras[0].topic == "/b/image"
        assert subscription_of(graph, node, "/b/image").qos_profile.reliability == qos.RELIABLE
        assert len(node._cameras[0].images.publishers()) == 1
        assert not [i for i in graph.node.get_subscriptions_info_by_topic("/a/image") if i.node_name == node.get_name()]
    finally:
        graph.node.destroy_publisher(publisher)


def test_what_goes_with_a_remapped_camera_follows_it_or_goes_its_own_way(graph, compose):
    name = "qos_overrides.{}.subscription.{}"
    given = [
        Parameter(name.format("/x/jpeg", "reliability"), value="reliable"),
        Parameter(name.format("/calib/info", "depth"), value=7),
    ]
    values = {"image_transport": "compressed", "output_resolution": "network"}
    own = compose(
        "/cam/image:=/other/image",
        "~/label/compressed:=/x/png",
        "/cam/image/compressed:=/x/jpeg",
        "/cam/camera_info:=/calib/info",
        options={"overrides": given},
        camera_topics=["/cam/image"],
        **values,
    )
    following = compose("cam/image:=other/image", "~/label:=/x/label", camera_topics=["cam/image"], **values)
    label = graph.collect(Image, f"/{own.get_name()}/label")
    for node in (own, following):
        configure(node, activate=True)
    assert own._cameras[0].topic == "/x/jpeg" and own._cameras[0].name == "other"
    assert subscription_of(graph, own, "/x/jpeg").qos_profile.reliability == qos.RELIABLE
    assert subscription_of(graph, own, "/calib/info")
    assert own.get_parameter(name.format("/calib/info", "depth")).value == 7
    assert subscription_of(graph, following, "/other/image/compressed")
    assert subscription_of(graph, following, "/other/camera_info")
    assert "/x/png" in own._cameras[0].outputs.topics()
    assert {"/x/label", "/x/label/compressed"} <= set(following._cameras[0].outputs.topics())

    camera = graph.camera("/x/jpeg", qos.RELIABLE, CompressedImage)
    with Spinning(SingleThreadedExecutor(), own):
        from test_cameras import compressed

        from ros_harness import picture

        camera.send = lambda image=None: camera.send_message(compressed(camera, picture()))
        graph.feed(camera, lambda: label, "a label")


def test_a_value_that_rclpy_stores_late_takes_effect(graph, compose):
    """Whoever sets it on a thread of his own may be overtaken between the node's check and that."""
    node = compose()
    configure(node)
    with Spinning(SingleThreadedExecutor(), node):
        node._parameters["max_rate"] = Parameter("max_rate", value=7.0)  # as rclpy does, after an _apply
        graph.wait(lambda: node._applied["max_rate"] == 7.0, "the next report")
