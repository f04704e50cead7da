"""The live view's way to a camera's topic, over DDS."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import cv2
from rclpy.clock import ClockType
from sensor_msgs.msg import CompressedImage, Image

from ros_harness import picture
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.ros import qos
from rt_seg_ros.ros.watch import status
from rt_seg_ros.ros.watch.camera_watch import CameraWatch
from rt_seg_ros.ros.watch.followed_images import FollowedImages

pytestmark = pytest.mark.ros


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
    images = FollowedImages(graph.node, "/far/image_raw", lambda *_: None)
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


def test_slow_images_of_a_camera_are_no_silence(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    looks, takes, told = [], [], []
    publisher = SimpleNamespace(topic_type="sensor_msgs/msg/Image", qos_profile=qos.sensor_data())
    node = SimpleNamespace(
        create_timer=lambda _, look, clock: looks.append((look, clock.clock_type)),
        create_subscription=lambda _kind, _topic, take, _profile: takes.append(take),
        get_publishers_info_by_topic=lambda topic: [publisher],
    )
    CameraWatch(SimpleNamespace(node=node), "/camera", lambda *_: None, lambda *of: told.append(of[0]), lambda: True)
    ((look, clock_type),) = looks
    assert clock_type == ClockType.STEADY_TIME  # it goes on when the wall clock is set back
    for _ in range(4):
        look()
        (take,) = takes
        take(Image())
        for _ in range(20):
            clock[0] += 0.25
            look()
    assert told == ["running", "waiting", "running"]
