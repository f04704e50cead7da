"""Results as messages."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.masks import decode_runs
from rt_seg_ros.ros import conversions, messages

pytestmark = pytest.mark.ros

HEADER = Header(frame_id="optical")
HEADER.stamp.sec, HEADER.stamp.nanosec = 12, 34


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((7, 9), np.uint8)
    labels[2:5, 3:8] = 3
    labels[6, :] = 255
    return labels


def test_an_image_has_no_padding_and_the_sources_header(labels):
    message = messages.image(HEADER, labels[:, ::2], "mono8")
    assert (message.height, message.width, message.step, message.encoding) == (7, 5, 5, "mono8")
    assert message.header == HEADER and not message.is_bigendian
    assert np.array_equal(np.frombuffer(message.data, np.uint8).reshape(7, 5), labels[:, ::2])


def test_a_colour_image_comes_back_as_a_view():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    message = messages.image(HEADER, pixels, "bgr8")
    frame = conversions.frame_from_image(message)
    assert message.step == 9 and frame.order == "bgr"
    assert np.array_equal(frame.pixels, pixels)
    assert np.shares_memory(frame.pixels, np.frombuffer(message.data, np.uint8))


def test_a_message_s_byte_order_is_honoured():
    values = np.array([[0, 5957, 65535]], np.uint16)  # 5957 is 0x1745
    for big in (False, True):
        data = values.astype(">u2" if big else "<u2").tobytes()
        message = messages.Image(height=1, width=3, step=6, encoding="mono16", is_bigendian=big, data=data)
        assert conversions.frame_from_image(message).pixels.tolist() == [[0, 23, 255]]


def test_samples_of_fewer_bits_and_mosaics_come_through(labels):
    deep = messages.Image(height=1, width=2, step=4, encoding="mono16", data=np.array([0, 4095], "<u2").tobytes())
    assert conversions.frame_from_image(deep, sample_bits=12).pixels.tolist() == [[0, 255]]
    packed = cv2.imencode(".png", np.array([[0, 4095]], np.uint16))[1].tobytes()
    png = messages.CompressedImage(format="mono16; png compressed ", data=packed)
    assert conversions.frame_from_compressed_image(png, sample_bits=12).pixels.tolist() == [[[0] * 3, [255] * 3]]
    raw = messages.image(HEADER, labels, "mono8")
    raw.encoding = "bayer_bggr8"
    png = messages.png(HEADER, labels)
    png.format = "bayer_bggr8; png compressed "
    expected = conversions.frame_from_image(raw).pixels
    assert np.array_equal(conversions.frame_from_compressed_image(png).pixels, expected)


def test_what_is_drawn_on_a_canvas_is_in_its_message():
    message, canvas = messages.canvas(HEADER, 2, 3)
    assert not canvas.any()
    canvas[1, 2] = (1, 2, 3)
    assert message.encoding == "bgr8" and message.step == 9 and list(message.data)[-3:] == [1, 2, 3]


def test_labels_survive_compression(labels):
    message = messages.png(HEADER, labels)
    assert message.format == "mono8; png compressed " and message.header == HEADER
    assert np.array_equal(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED), labels)


def test_masks_of_classes_can_be_decoded(labels):
    space = load_label_space("camvid11")
    message = messages.class_masks(HEADER, labels, space)
    assert (message.height, message.width) == (7, 9) and message.header == HEADER
    assert [m.id for m in message.masks] == [0, 3]
    mask = message.masks[1]
    assert mask.name == space.names[3] and mask.pixel_count == 15
    box = mask.bounding_box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (3, 2, 5, 3)
    assert np.array_equal(decode_runs(mask.runs, 7, 9) == 255, labels == 3)


def test_a_calibration_is_scaled_about_pixel_centres():
    info = CameraInfo(height=480, width=640, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
    info.p = [500.0, 0.0, 319.5, -50.0, 0.0, 510.0, 239.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    scaled = messages.scaled_camera_info(info, HEADER, (480, 640), 240, 160)
    assert (scaled.height, scaled.width, scaled.header) == (240, 160, HEADER)
    # The centre of the image stays its centre.
    assert list(scaled.k) == [125.0, 0.0, 79.5, 0.0, 255.0, 119.5, 0.0, 0.0, 1.0]
    assert list(scaled.p) == [125.0, 0.0, 79.5, -12.5, 0.0, 255.0, 119.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert list(scaled.d) == list(info.d)


def test_a_stereo_cameras_calibration_keeps_its_rotation_and_both_baselines():
    info = CameraInfo(height=480, width=640, distortion_model="rational_polynomial", d=[0.1] * 8)
    info.r = [0.6, 0.8, 0.0, -0.8, 0.6, 0.0, 0.0, 0.0, 1.0]
    info.k = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
    info.p = [500.0, 0.0, 319.5, -50.0, 0.0, 510.0, 239.5, -30.0, 0.0, 0.0, 1.0, 0.0]
    scaled = messages.scaled_camera_info(info, HEADER, (480, 640), 240, 160)
    assert list(scaled.r) == list(info.r) and scaled.distortion_model == "rational_polynomial"
    assert (scaled.p[3], scaled.p[7]) == (-12.5, -15.0)


def test_a_region_of_interest_is_worked_into_the_calibration():
    info = CameraInfo(height=480, width=640, k=[500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 320, 240
    scaled = messages.scaled_camera_info(info, HEADER, (480, 640), 240, 320)
    assert list(scaled.k)[:6] == [500.0, 0.0, 219.5, 0.0, 500.0, 199.5]


def test_a_calibration_without_a_size_is_that_of_the_image():
    info = CameraInfo(k=[500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0])
    scaled = messages.scaled_camera_info(info, HEADER, (480, 640), 240, 160)
    assert list(scaled.k)[:6] == [125.0, 0.0, 79.5, 0.0, 255.0, 119.5]


def test_an_uncalibrated_camera_stays_so():
    scaled = messages.scaled_camera_info(CameraInfo(height=4, width=4), HEADER, (4, 4), 2, 2)
    assert not any(scaled.k) and not any(scaled.p)


def test_a_message_with_too_little_data_is_rejected(labels):
    message = messages.image(HEADER, labels, "mono8")
    message.height = 2**32 - 1
    with pytest.raises(ImageRejected):
        conversions.frame_from_image(message)
    with pytest.raises(ImageRejected):
        conversions.frame_from_compressed_image(messages.CompressedImage())


def test_the_limit_holds_for_compressed_images_too(labels):
    message = messages.png(HEADER, labels)
    assert conversions.frame_from_compressed_image(message, 63).width == 9
    with pytest.raises(ImageRejected, match="the limit is 62 pixels"):
        conversions.frame_from_compressed_image(message, 62)


def test_label_info_names_the_classes_and_255():
    pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs, which is not among the wheels")
    space = load_label_space("camvid11")
    message = messages.label_info(HEADER, space, 0.25)
    assert message.threshold == 0.25
    assert [(c.class_id, c.class_name) for c in message.class_map][-1] == (255, "unlabelled")
    assert [c.class_name for c in message.class_map][:-1] == list(space.names)
