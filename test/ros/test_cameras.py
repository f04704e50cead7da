"""Several cameras, compressed images, QoS of every kind, calibration."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ros_harness import HEIGHT, WIDTH, at_rate, picture, stamp_of
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.ros import qos

pytestmark = pytest.mark.ros


def compressed(camera, image: np.ndarray, suffix: str = ".jpg") -> CompressedImage:
    message = CompressedImage(header=camera.header(), format=suffix[1:])
    message.data.frombytes(cv2.imencode(suffix, image)[1].tobytes())
    return message


def test_two_cameras_have_outputs_of_their_own_and_take_turns(graph, node):
    assert node.transition("deactivate")
    assert node.set(camera_topics=["/front/image_raw", "/rear/image_raw"])[0]
    assert node.transition("activate")
    front, rear = (graph.camera(f"/{name}/image_raw", qos.RELIABLE) for name in ("front", "rear"))
    labels = {name: graph.collect(Image, f"/segmentation/{name}/label") for name in ("front", "rear")}
    stats = {name: graph.collect(SegmentationStats, f"/segmentation/{name}/stats") for name in ("front", "rear")}
    matched = [front, rear, *labels.values(), *stats.values()]
    graph.wait(lambda: all(m.matched() for m in matched), "discovery")

    def both_seen():
        front.send(picture(80, 96))
        rear.send()
        return stats["front"] and stats["rear"] and labels["front"] and labels["rear"]

    graph.wait(both_seen, "labels of both")
    assert (labels["front"][-1].height, labels["front"][-1].width) == (80, 96)
    assert (labels["rear"][-1].height, labels["rear"][-1].width) == (HEIGHT, WIDTH)
    assert stats["front"][-1].camera == "front" and stats["rear"][-1].camera == "rear"
    assert stamp_of(labels["front"][-1]) in front.sent

    # A camera that floods does not starve the other.
    for collected in stats.values():
        collected.clear()
    for _ in range(40):
        for _ in range(5):
            front.send(picture(80, 96))
        rear.send()
        graph.wait(lambda: True, "nothing")
        at_rate(front, 0.03, 0.01, picture(80, 96))
    node.wait_status(lambda level, text, facts: facts["waiting"] == facts["in hand"] == "0", "camera front")
    assert len(stats["rear"]) > 10
    for name in ("front", "rear"):
        facts = node.wait_status(lambda *s: True, f"camera {name}")[2]
        counts = {k: int(facts[k]) for k in ("received", "processed", "dropped", "rejected")}
        assert counts["received"] == counts["processed"] + counts["dropped"] + counts["rejected"]
        assert counts["processed"] > 10


def test_compressed_images(graph, node):
    assert node.transition("deactivate")
    assert node.set(image_transport="compressed")[0]
    assert node.transition("activate")
    camera = graph.camera("/camera/image_raw/compressed", qos.RELIABLE, CompressedImage)
    label = graph.collect(Image, "/segmentation/label")
    stats = graph.collect(SegmentationStats, "/segmentation/stats")
    camera.send = lambda image=None: camera.send_message(compressed(camera, picture()))
    graph.feed(camera, lambda: label and stats, "labels of JPEG")
    assert (label[-1].height, label[-1].width) == (HEIGHT, WIDTH)
    assert stamp_of(label[-1]) in camera.sent and stats[-1].decode_ms > 0

    whole = compressed(camera, picture(), ".png")
    torn = CompressedImage(header=camera.header(), format="png")
    torn.data.frombytes(bytes(whole.data[:200]))
    camera.send_message(torn)
    camera.send_message(CompressedImage(header=camera.header(), format="jpeg"))
    node.wait_status(lambda level, text, facts: int(facts["rejected"]) >= 1, "camera camera")
    label.clear()
    camera.send = lambda image=None: camera.send_message(compressed(camera, picture(), ".png"))
    graph.feed(camera, lambda: label, "labels of PNG")


def test_the_wrong_transport_is_told(graph, node):
    assert node.set(input_timeout=0.5)[0]
    camera = graph.camera("/camera/image_raw/compressed", qos.RELIABLE, CompressedImage)
    node.wait_status(lambda level, text, facts: "set image_transport to compressed" in text, "camera camera")
    # Named by its full name, it is neither raw images nor a base to put /compressed behind.
    for transport in ("raw", "compressed"):
        assert node.transition("deactivate")
        assert node.set(camera_topics=["/camera/image_raw/compressed"], image_transport=transport)[0]
        assert node.transition("activate")
        node.wait_status(
            lambda level, text, facts: "/camera/image_raw/compressed is compressed: name /camera/image_raw" in text,
            "camera image_raw",
        )
    camera.close()


def test_the_subscription_follows_a_camera_that_comes_back_with_other_qos(graph, node):
    label = graph.collect(Image, "/segmentation/label")
    for reliability in (qos.BEST_EFFORT, qos.RELIABLE, qos.BEST_EFFORT):
        camera = graph.camera(reliability=reliability)
        word = qos.word(reliability)
        node.wait_status(
            lambda level, text, facts, word=word: (facts["reliability"], facts["publishers"]) == (word, "1"),
            "camera camera",
        )
        label.clear()
        graph.feed(camera, lambda: label, f"labels of a {word} camera")
        camera.close()
    assert "subscribed to /camera/image_raw, reliable (as 1 publisher)" in node.log()


def test_who_gets_nothing_of_an_output_for_its_qos_is_told_until_that_passes(graph, node):
    camera = graph.camera()
    label = graph.collect(Image, "/segmentation/label", qos.sensor_data(qos.RELIABLE))
    other = graph.collect(Image, "/segmentation/label")  # which gets them all
    told = (
        f"/{graph.node.get_name()} gets nothing of /segmentation/label, "
        "QoS does not match: best effort publisher and reliable subscription (see qos_overrides)"
    )

    def is_now(condition):
        return lambda: (s := node.status("camera camera")) is not None and condition(*s)

    graph.feed(camera, is_now(lambda level, text, facts: (level, text) == (b"\x01", told)), "a remark")
    assert not label
    graph.feed(camera, lambda: other, "a label")
    # Beside what is wrong with the images, and not in its place.
    late = camera.header()
    late.stamp.sec -= 9
    header, camera.header = camera.header, lambda: late
    graph.feed(camera, is_now(lambda level, text, facts: told in text and "s old" in text), "both")
    camera.header = header
    label.close()
    graph.diagnostics.clear()
    graph.feed(camera, is_now(lambda level, text, facts: (level, text) == (b"\x00", "segmenting")), "its end")


def test_calibration_that_is_published_once_is_got_and_where_there_is_none_it_is_told(graph, node):
    assert node.set(output_resolution="network")[0]
    camera = graph.camera()
    scaled = graph.collect(CameraInfo, "/segmentation/camera_info")

    def tells(condition):
        graph.diagnostics.clear()
        graph.feed(camera, lambda: (s := node.status("camera camera")) and condition(*s), "a report")

    tells(lambda level, text, facts: level == b"\x01" and "no calibration on /camera/camera_info" in text)
    infos = graph.node.create_publisher(CameraInfo, "/camera/camera_info", qos.latched())
    try:
        infos.publish(CameraInfo(height=HEIGHT, width=WIDTH))
        graph.feed(camera, lambda: scaled, "a calibration")
        tells(lambda level, text, facts: (level, text) == (b"\x00", "segmenting"))

        # Also by who comes later; and where labels are the image's size, nothing is published, nor segmented for it.
        assert node.set(output_resolution="input")[0]
        tells(lambda level, text, facts: (level, text) == (b"\x00", "nobody subscribes"))
        assert scaled.matched()
        scaled.clear()
        assert node.set(output_resolution="network")[0]
        graph.feed(camera, lambda: scaled, "the calibration of before")
    finally:
        graph.node.destroy_publisher(infos)


def test_calibration_is_scaled_with_the_labels(graph, node):
    assert node.set(output_resolution="network", downsampling_ratio=0.75)[0]
    camera = graph.camera()
    infos = graph.node.create_publisher(CameraInfo, "/camera/camera_info", qos.sensor_data())
    label = graph.collect(Image, "/segmentation/label")
    overlay = graph.collect(Image, "/segmentation/overlay")
    scaled = graph.collect(CameraInfo, "/segmentation/camera_info")
    source = CameraInfo(height=HEIGHT, width=WIDTH)
    source.k = [100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]

    def seen():
        infos.publish(source)
        return scaled and overlay[-1].height == label[-1].height == 72

    graph.feed(camera, seen, "a scaled calibration")
    assert (label[-1].height, label[-1].width, label[-1].step) == (72, 96, 96)
    assert (overlay[-1].height, overlay[-1].width) == (72, 96)
    assert (scaled[-1].height, scaled[-1].width) == (72, 96)
    assert list(scaled[-1].k) == [75.0, 0.0, 47.5, 0.0, 75.0, 35.5, 0.0, 0.0, 1.0]
    assert stamp_of(scaled[-1]) in camera.sent
    graph.node.destroy_publisher(infos)


def test_qos_overrides_win_and_are_checked(start_node, graph, tmp_path):
    file = tmp_path / "qos.yaml"
    file.write_text(
        """/**:
  ros__parameters:
    camera_topics: [/top/image_raw]
    qos_overrides:
      /top/image_raw: {subscription: {reliability: reliable, depth: 2}}
      /strict/label: {publisher: {reliability: reliable}}
      /strict/lable: {publisher: {reliability: reliable}}
"""
    )
    node = start_node("strict", arguments=("--params-file", str(file)))
    reliable = graph.collect(Image, "/strict/label", qos.sensor_data(qos.RELIABLE))
    camera = graph.camera("/top/image_raw", reliability=qos.BEST_EFFORT)
    node.wait_log("subscribed to /top/image_raw, reliable (by qos_overrides)")
    assert "qos_overrides./strict/lable.publisher.reliability' has no effect" in node.log()
    _, text, _ = node.wait_status(lambda level, text, facts: "does not match" in text, "camera top")
    assert "best effort publisher and reliable subscription" in text
    camera.close()
    camera = graph.camera("/top/image_raw", reliability=qos.RELIABLE)
    graph.feed(camera, lambda: reliable, "a label, reliably")
    graph.diagnostics.clear()
    graph.feed(
        camera,
        lambda: (s := node.status("camera top")) and s[:2] == (b"\x00", "segmenting"),
        "the end of the remark on a camera that is gone",
    )
    assert node.stop() == 0


def test_an_override_that_a_policy_does_not_have_is_told_with_its_topic(start_node, tmp_path):
    file = tmp_path / "qos.yaml"
    file.write_text(
        "/**: {ros__parameters: {qos_overrides: {/odd/label/compressed: {publisher: {reliability: relable}}}}}"
    )
    node = start_node("odd", arguments=("--params-file", str(file)))
    node.wait_log("label/compressed.publisher.reliability is 'relable'; expected reliable or best_effort")


def test_a_publisher_that_is_subscribed_to_anew_is_not_warned_of(start_node, graph):
    node = start_node("mended", camera_topics="['/back/image_raw']")
    labels = graph.collect(Image, "/mended/label")
    for reliability in (qos.RELIABLE, qos.BEST_EFFORT):
        labels.clear()
        camera = graph.camera("/back/image_raw", reliability=reliability)
        graph.feed(camera, lambda: labels, "a label")
        node.wait_log(f"subscribed to /back/image_raw, {qos.word(reliability)}")
        camera.close()
    assert "nothing arrives from it" not in node.log()
    assert node.stop() == 0
