"""Where a node's cameras have their images from, in a graph and with answers that are made up."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

from rcl_interfaces.msg import ParameterValue

from rt_seg_ros.errors import UserError
from rt_seg_ros.ros.watch import source_topics
from rt_seg_ros.ros.watch.source_topics import SourceTopics

pytestmark = pytest.mark.ros


class Asked:
    """A node that is asked: what it answers, and what it subscribes to."""

    def __init__(self, topics=(), given=(), subscribed=()):
        self.topics, self.given, self.subscribed = list(topics), list(given), list(subscribed)
        self.calls, self.fails = 0, False
        made_up = SimpleNamespace(
            get_subscriber_names_and_types_by_node=lambda *_: [(t, ["sensor_msgs/msg/Image"]) for t in self.subscribed]
        )
        self.services = SimpleNamespace(call=self.call, closed=False)
        self.sources = SourceTopics(made_up, "/segmentation", self.services)

    def call(self, kind, service, request):
        self.calls += 1
        if self.fails:
            raise UserError("no answer")
        return SimpleNamespace(values=[ParameterValue(type=9, string_array_value=v) for v in (self.topics, self.given)])

    def source(self, camera, cameras):
        """Look until the node was asked and has answered, where it is to be."""
        self.sources.find(camera, cameras)
        self.sources.join()
        topic, _ = self.sources.find(camera, cameras)
        return topic


def test_the_topic_of_a_camera_that_is_alone_is_what_the_node_subscribes_to():
    node = Asked(subscribed=["/front/image"])
    assert node.sources.find("", [""]) == ("/front/image", False)
    node.subscribed = ["/rear/image/compressed"]
    assert node.sources.find("", [""]) == ("/rear/image", True)
    node.subscribed = ["/front/image", "/rear/image"]  # of which it is not said here
    assert node.sources.find("", [""]) == ("", False)
    assert node.calls == 0


def test_cameras_topics_are_asked_for_again_once_they_may_be_others():
    both = ["left", "right"]
    node = Asked(["/cam_a/image", "/cam_b/image"], both, ["/cam_a/image", "/cam_b/image"])
    assert node.source("left", both) == "/cam_a/image"
    for _ in range(10):
        assert node.source("right", both) == "/cam_b/image"
    assert node.calls == 1
    node.topics[0] = "/other/image"
    node.subscribed = ["/cam_b/image", "/other/image"]  # deactivated, set, activated
    assert node.source("left", both) == "/other/image" and node.calls == 2
    node.topics.reverse()  # the same subscriptions
    node.sources.forget()
    assert node.source("left", both) == "/cam_b/image" and node.calls == 3


@pytest.mark.parametrize("given", [[], ["front", "rear"]])
def test_remapped_topics_are_told_by_what_the_node_subscribes_to(given):
    node = Asked(["/a/image", "/rear/image"], given, ["/front/image", "/rear/image"])
    assert node.source("front", ["front", "rear"]) == "/front/image"
    assert node.source("rear", ["front", "rear"]) == "/rear/image"


def test_a_node_that_does_not_tell_is_not_asked_at_every_look(monkeypatch):
    monkeypatch.setattr(source_topics, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(source_topics, "_LONGEST_PAUSE", 0.4)
    node = Asked(["/a/image", "/b/image"], ["one", "two"])
    begin = time.monotonic()
    while time.monotonic() - begin < 1.5:
        assert node.source("front", ["front", "rear"]) == ""
        time.sleep(0.01)
    assert 3 <= node.calls <= 5  # after 0, 0.2, 0.6, 1.0 and 1.4 s
    node.fails = True
    calls = node.calls
    time.sleep(0.4)
    node.source("front", ["front", "rear"])
    assert node.source("front", ["front", "rear"]) == "" and node.calls == calls + 1


def test_nothing_is_asked_once_the_services_are_closed():
    node = Asked(["/a/image", "/b/image"], ["left", "right"])
    node.services.closed = True
    assert node.source("left", ["left", "right"]) == "" and node.calls == 0
