import array
import struct
import zlib

import cv2
import numpy as np
import pytest

from rt_seg_ros import images
from rt_seg_ros.images import Frame, ImageRejected, as_frame, frame_from_compressed, frame_from_ros

RNG = np.random.default_rng(3)


def picture(height=6, width=8):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def as_message(pixels, padding=0):
    """Return (step, data) with padded rows, as a driver would send them."""
    rows = pixels.reshape(pixels.shape[0], -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return padded.shape[1], array.array("B", padded.tobytes())


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("bgr8", None),
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
        ("8UC3", None),
    ],
)
def test_colour_encodings_give_the_same_picture_without_a_copy(encoding, code, padding):
    bgr = picture()
    sent = bgr if code is None else cv2.cvtColor(bgr, code)
    step, data = as_message(sent, padding)
    frame = frame_from_ros(encoding, 6, 8, step, data)
    assert np.shares_memory(frame.pixels, np.frombuffer(data, np.uint8))
    assert np.array_equal(frame.bgr(), bgr)


def test_mono8_becomes_grey():
    grey = picture()[:, :, 0]
    frame = frame_from_ros("mono8", 6, 8, 8, grey.tobytes())
    assert frame.pixels.shape == (6, 8)
    assert np.array_equal(frame.bgr(), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("encoding", "channels"), [("mono16", 1), ("rgb16", 3), ("bgr16", 3), ("bgra16", 4)])
def test_16_bit_is_scaled_and_honours_endianness(encoding, channels, big):
    values = RNG.integers(0, 65536, (4, 6, channels)).astype(">u2" if big else "<u2")
    step, data = as_message(values, 2)
    frame = frame_from_ros(encoding, 4, 6, step, data, is_bigendian=big)
    expected = np.rint(values.astype(np.float64) * 255 / 65535)
    assert np.abs(frame.pixels.reshape(4, 6, channels) - expected).max() <= 1
    assert frame.bgr().shape == (4, 6, 3)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_recover_a_flat_colour(pattern, bits):
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([[colour[pattern[0]], colour[pattern[1]]], [colour[pattern[2]], colour[pattern[3]]]], np.uint16)
    mosaic = np.tile(tile, (4, 5))
    mosaic = mosaic.astype(np.uint8) if bits == 8 else (mosaic * 257).astype("<u2")
    step, data = as_message(mosaic)
    frame = frame_from_ros(f"bayer_{pattern}{bits}", 8, 10, step, data)
    assert np.abs(frame.bgr()[2:-2, 2:-2].astype(int) - [40, 120, 200]).max() <= 1


@pytest.mark.parametrize(("encoding", "luma_first"), [("yuv422", False), ("yuv422_yuy2", True), ("uyvy", False)])
def test_yuv422_recovers_grey_and_red(encoding, luma_first):
    # Y 81, U 90, V 240 is pure red in video range; U and V of 128 are grey.
    for y, u, v, bgr in ((81, 90, 240, (0, 0, 255)), (126, 128, 128, (128, 128, 128))):
        pair = [y, u, y, v] if luma_first else [u, y, v, y]
        data = np.tile(np.array(pair, np.uint8), (4, 3))
        frame = frame_from_ros(encoding, 4, 6, 12, data.tobytes())
        assert np.abs(frame.bgr().astype(int) - bgr).max() <= 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bgr8", 0, 8, 24, b""), "empty"),
        (("bgr8", 6, 8, 23, bytes(6 * 24)), "step"),
        (("bgr8", 6, 8, 24, bytes(6 * 24 - 1)), "short_data"),
        (("bgr8", 2**32 - 1, 2**32 - 1, 24, bytes(10)), "too_large"),
        (("bgr8", 6, 8, 2**32 - 1, bytes(6 * 24)), "short_data"),
        (("mono16", 6, 8, 17, bytes(6 * 17)), "step"),
        (("yuv422", 6, 7, 14, bytes(6 * 14)), "step"),
        (("bayer_rggb8", 1, 8, 8, bytes(8)), "empty"),
        (("32FC1_nonsense", 6, 8, 24, bytes(6 * 24)), "encoding"),
        (("", 6, 8, 24, bytes(6 * 24)), "encoding"),
    ],
)
def test_an_unusable_image_is_rejected_for_its_reason(arguments, reason):
    with pytest.raises(ImageRejected) as caught:
        frame_from_ros(*arguments)
    assert caught.value.reason == reason
    assert caught.value.reason in images.REASONS


def test_missing_padding_of_the_last_row_is_no_fault():
    step, data = as_message(picture(), 5)
    assert frame_from_ros("bgr8", 6, 8, step, data[:-5]).height == 6


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_compressed(ending):
    bgr = cv2.resize(picture(), (64, 48), interpolation=cv2.INTER_CUBIC)
    data = array.array("B", cv2.imencode(ending, bgr)[1].tobytes())
    frame = frame_from_compressed(data)
    assert frame.order == "bgr"
    assert np.abs(frame.pixels.astype(int) - bgr).mean() < 12
    for length in range(0, len(data), 97):  # cut anywhere: rejected, or what could be read of it
        try:
            assert frame_from_compressed(data[:length]).pixels.shape == (48, 64, 3)
        except ImageRejected as rejected:
            assert rejected.reason in ("empty", "corrupt")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_compressed_image_that_promises_too_much_is_not_decoded(ending):
    data = cv2.imencode(ending, np.zeros((100, 200, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageRejected) as caught:
        frame_from_compressed(data, max_pixels=19_999)
    assert caught.value.reason == "too_large"
    assert frame_from_compressed(data, max_pixels=20_000).width == 200


def test_another_format_is_refused_unless_it_is_a_file_of_ones_own():
    data = cv2.imencode(".bmp", picture())[1].tobytes()
    with pytest.raises(ImageRejected, match="neither JPEG nor PNG"):
        frame_from_compressed(data)
    assert frame_from_compressed(data, max_pixels=None).width == 8


def test_damage_before_the_size_does_not_hide_a_bomb(monkeypatch):
    bomb = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"  # 65500x65500
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for _ in range(500):
        damaged = bytearray(bomb)
        for _ in range(3):
            damaged[RNG.integers(2, at)] = RNG.integers(256)
        with pytest.raises(ImageRejected):
            frame_from_compressed(bytes(damaged))


def test_a_topics_pixels_stay_as_the_sensor_has_them_whatever_exif_says():
    data = cv2.imencode(".jpg", np.zeros((40, 80, 3), np.uint8))[1].tobytes()
    turned = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00" + bytes(4)
    data = data[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + data[2:]
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (80, 40)  # it says so
    assert frame_from_compressed(data).pixels.shape[:2] == (40, 80)
    assert frame_from_compressed(data, max_pixels=None).pixels.shape[:2] == (80, 40)  # a photo of one's own


def test_a_png_chunk_that_claims_gigabytes_is_not_decoded(monkeypatch):
    data = bytearray(cv2.imencode(".png", picture())[1].tobytes())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageRejected, match="breaks off"):
        frame_from_compressed(bytes(data))


def test_arrays_are_taken_as_opencv_has_them():
    assert as_frame(picture()).order == "bgr"
    assert as_frame(picture()[:, :, 0]).order == "mono"
    assert as_frame(np.zeros((4, 4, 4), np.uint8)).order == "bgra"
    frame = Frame(picture(), "rgb")
    assert as_frame(frame) is frame
    with pytest.raises(ImageRejected, match="float32"):
        as_frame(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        None,
        [[0, 0], [0, 0]],
        Frame(np.zeros((0, 5, 3), np.uint8)),
        Frame(np.zeros((4, 5, 2), np.uint8)),
        Frame(np.zeros((4, 5), np.uint8)),
        Frame(np.zeros((4, 5, 3), np.uint8), "mono"),
        Frame(np.zeros((4, 5, 3), np.uint8), "rgba"),
        Frame(np.zeros((4, 5, 3), np.uint8), "xyz"),  # type: ignore[arg-type]
        Frame(np.zeros((4, 5, 3), np.float32)),  # type: ignore[arg-type]
        Frame(np.zeros(5, np.uint8), "mono"),
    ],
)
def test_what_is_no_image_is_rejected_before_any_runtime_sees_it(image):
    with pytest.raises(ImageRejected):
        as_frame(image)


def test_agrees_with_cv_bridge_where_it_is_installed():
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed (it comes with a full ROS 2)")
    from cv_bridge import CvBridge
    from sensor_msgs.msg import Image

    bridge = CvBridge()
    for encoding in images.known_encodings():
        if encoding in ("uyvy", "yuyv") or encoding.startswith(("8U", "16U")):
            continue  # names of drivers, and plain types that cv_bridge does not colour
        channels = {"m": 1, "b": 3, "r": 3, "y": 2}[encoding[0]]
        channels = (
            1 if encoding.startswith("bayer") else 4 if "a" in encoding[:4] and "bay" not in encoding else channels
        )
        dtype = np.uint16 if encoding.endswith("16") else np.uint8
        small = RNG.integers(0, np.iinfo(dtype).max, (4, 4, channels)).astype(np.float32)
        pixels = cv2.resize(small, (32, 24)).reshape(24, 32, channels).astype(dtype)
        message = Image(height=24, width=32, encoding=encoding, step=32 * channels * pixels.itemsize)
        message.data = pixels.tobytes()
        theirs = bridge.imgmsg_to_cv2(message, "bgr8")
        ours = frame_from_ros(encoding, 24, 32, message.step, message.data).bgr()
        assert np.abs(ours.astype(int) - theirs).max() <= 1, encoding


def png(bits, kind, rows, palette=b""):
    """A PNG of samples of fewer bits than OpenCV writes; kind 0: grey, 3: palette."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = rows.shape
    places = np.unpackbits(rows[:, :, None], axis=2)[:, :, 8 - bits :].reshape(height, width * bits)
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in places)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    colours = chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + header + colours + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_label_images_are_ids_however_few_bits_they_take(tmp_path, kind, bits):
    ids = RNG.integers(0, min(2**bits, 11), (5, 13), np.uint8)
    palette = bytes(3 * [0]) + bytes([128, 0, 0]) + RNG.bytes(3 * (2**bits - 2)) if kind == "palette" else b""
    path = tmp_path / "labels.png"
    path.write_bytes(png(bits, 3 if palette else 0, ids, palette))
    assert np.array_equal(images.read_label_image(path), ids)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageRejected, match="cannot be read as an image"):
        images.read_label_image(path)


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_16_bit_files_of_12_bit_cameras_are_as_bright_as_others(kind):
    bgr = cv2.GaussianBlur(picture(48, 64), (0, 0), 3)
    bgr[:2] = 255
    eight = bgr if kind == "colour" else cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    expected = frame_from_compressed(cv2.imencode(".png", eight)[1]).pixels
    for scale in (16, 256):  # 12 bits, 16 bits
        data = cv2.imencode(".png", eight.astype(np.uint16) * scale + scale // 2)[1].tobytes()
        pixels = frame_from_compressed(data, None).pixels
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)
        # In a stream the brightest pixel of a frame decides nothing: it would flicker.
        streamed = frame_from_compressed(data).pixels
        assert np.array_equal(streamed, expected if scale == 256 else expected >> 4)


def test_8_bit_images_are_decoded_once(monkeypatch):
    calls, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: calls.append(a) or decode(*a))
    for ending in (".png", ".jpg"):
        frame_from_compressed(cv2.imencode(ending, picture())[1])
    assert len(calls) == 2
