import array

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
        ("8UC4", cv2.COLOR_BGR2BGRA),
    ],
)
def test_colour_encodings_give_the_same_picture_without_a_copy(encoding, code, padding):
    bgr = picture()
    sent = bgr if code is None else cv2.cvtColor(bgr, code)
    step, data = as_message(sent, padding)
    frame = frame_from_ros(encoding, 6, 8, step, data)
    assert np.shares_memory(frame.pixels, np.frombuffer(data, np.uint8))
    assert np.array_equal(frame.bgr(), bgr)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_one_channel_becomes_grey(encoding):
    grey = picture()[:, :, 0]
    frame = frame_from_ros(encoding, 6, 8, 8, grey.tobytes())
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


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [
        ("mono16", 1), ("16UC1", 1), ("bayer_grbg16", 1), ("rgb16", 3), ("bgr16", 3), ("16UC3", 3), ("rgba16", 4),
        ("bgra16", 4), ("16UC4", 4),
    ],
)  # fmt: skip
def test_16_bit_images_that_use_fewer_bits_are_as_bright_as_others(encoding, channels, bits, big):
    eight = RNG.integers(0, 256, (4, 6, channels), np.uint8)
    eight[1, 1] = 255
    values = np.rint(eight * ((2**bits - 1) / 255)).astype(">u2" if big else "<u2")
    step, data = as_message(values, 2)
    frame = frame_from_ros(encoding, 4, 6, step, data, big, sample_bits=bits)
    plain = encoding.replace("16UC", "8UC").replace("16", "8")
    expected = frame_from_ros(plain, 4, 6, 6 * channels, eight.tobytes())
    assert np.array_equal(frame.pixels, expected.pixels) and frame.order == expected.order
    assert frame.peak == values.max() == 2**bits - 1 and expected.peak is None
    if channels == 4:
        values[:, :, :3] //= 2
        values[:, :, 3] = 65535  # nothing is transparent, and that tells nothing of the camera
        assert frame_from_ros(encoding, 4, 6, *as_message(values), big).peak == (2**bits - 1) // 2


def test_samples_beyond_their_bits_are_as_bright_as_can_be():
    values = np.array([[0, 4095, 4096, 65535]], "<u2")
    frame = frame_from_ros("mono16", 1, 4, 8, values.tobytes(), sample_bits=12)
    assert frame.pixels.tolist() == [[0, 255, 255, 255]]
    packed = cv2.imencode(".png", values)[1]
    assert frame_from_compressed(packed, sample_bits=12).pixels[:, :, 0].tolist() == [[0, 255, 255, 255]]


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


def mosaic_of(bgr, pattern, scale=1):
    """Return what a sensor under such colour filters has of a picture."""
    mosaic = np.empty(bgr.shape[:2], np.uint8 if scale == 1 else np.uint16)
    for place, colour in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = bgr[rows, columns, "bgr".index(colour)].astype(mosaic.dtype) * scale
    return mosaic


@pytest.mark.parametrize("trailing", [" ", "", " bgr8"])
@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (12, 16), (16, 257)])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_as_png_is_the_same_picture_as_a_raw_one(pattern, bits, scale, trailing):
    bgr = cv2.resize(picture(), (40, 30), interpolation=cv2.INTER_CUBIC)
    mosaic = mosaic_of(bgr, pattern, scale)
    encoding = f"bayer_{pattern}{8 * mosaic.itemsize}"
    raw = frame_from_ros(encoding, 30, 40, 40 * mosaic.itemsize, mosaic.tobytes(), sample_bits=max(bits, 8))
    packed = cv2.imencode(".png", mosaic)[1]
    frame = frame_from_compressed(packed, message_format=f"{encoding}; png compressed{trailing}", sample_bits=bits)
    assert np.array_equal(frame.pixels, raw.pixels) and frame.order == "bgr" and frame.peak == raw.peak
    assert np.abs(frame.pixels.astype(int) - bgr).mean() < 12, "the colours"


def test_a_mosaic_as_jpeg_is_demosaiced():
    bgr = np.full((48, 64, 3), (40, 120, 200), np.uint8)
    packed = cv2.imencode(".jpg", mosaic_of(bgr, "rggb"), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    frame = frame_from_compressed(packed, message_format="bayer_rggb8; jpeg compressed ")
    assert np.abs(frame.pixels[2:-2, 2:-2].astype(int) - bgr[2:-2, 2:-2]).max() <= 3


@pytest.mark.parametrize(
    "message_format",
    ["", "jpeg", "mono8; png compressed ", "bayer_rggb; png compressed ", "bayer_rggb12", "; bayer_rggb8"],
)
def test_what_no_format_calls_a_mosaic_is_grey(message_format):
    grey = picture()[:, :, 0]
    frame = frame_from_compressed(cv2.imencode(".png", grey)[1], message_format=message_format)
    assert np.array_equal(frame.pixels, np.repeat(grey[:, :, None], 3, 2))


def test_a_format_does_not_make_a_mosaic_of_colours_or_of_one_pixel():
    bgr = picture()
    told = {"message_format": "bayer_rggb8; png compressed "}
    assert np.array_equal(frame_from_compressed(cv2.imencode(".png", bgr)[1], **told).pixels, bgr)
    alpha = np.dstack((bgr, np.full((6, 8), 9, np.uint8)))
    assert np.array_equal(frame_from_compressed(cv2.imencode(".png", alpha)[1], **told).pixels, bgr)
    with pytest.raises(ImageRejected, match="at least 2x2") as caught:
        frame_from_compressed(cv2.imencode(".png", bgr[:1, :, 0])[1], **told)
    assert caught.value.reason == "empty"


def bt601(luma, u, v):
    """Return the colours of video samples, uint8 (H, W), as BGR."""
    y, u, v = np.maximum(luma.astype(float) - 16, 0), u.astype(float) - 128, v.astype(float) - 128
    red, green, blue = 1.596 * v, -0.813 * v - 0.391 * u, 2.018 * u
    return np.rint(np.clip(1.164 * y[..., None] + np.dstack((blue, green, red)), 0, 255))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("size", [(6, 8), (2, 2), (480, 640)])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_a_plane_of_luma_and_one_of_chroma(encoding, size, padding):
    height, width = size
    share = 1 if encoding == "nv24" else 2
    luma = RNG.integers(0, 256, (height, width), np.uint8)
    chroma = RNG.integers(0, 256, (height // share, width // share, 2), np.uint8)
    step = width + padding
    # Rows of chroma have as many bytes as two rows of luma where each pixel has its own, padding included.
    data = b"".join(
        np.pad(rows.reshape(len(rows), -1), ((0, 0), (0, times * padding)), constant_values=77).tobytes()
        for rows, times in ((luma, 1), (chroma, 2 // share))
    )
    first, second = (np.repeat(np.repeat(chroma[:, :, n], share, 0), share, 1) for n in (0, 1))
    expected = bt601(luma, *((second, first) if encoding == "nv21" else (first, second)))
    for sent in (array.array("B", data), data + b"more", data[: len(data) - 2 // share * padding]):
        frame = frame_from_ros(encoding, height, width, step, sent)
        assert frame.order == "bgr" and frame.pixels.shape == (height, width, 3) and frame.pixels.flags.c_contiguous
        assert np.abs(frame.pixels - expected).max() <= 1


def test_chroma_of_each_pixel_is_reckoned_as_that_of_four():
    luma, chroma = RNG.integers(0, 256, (64, 96), np.uint8), RNG.integers(0, 256, (32, 48, 2), np.uint8)
    shared = frame_from_ros("nv12", 64, 96, 96, luma.tobytes() + chroma.tobytes())
    own = frame_from_ros("nv24", 64, 96, 96, luma.tobytes() + chroma.repeat(2, 0).repeat(2, 1).tobytes())
    assert np.array_equal(own.pixels, shared.pixels)
    odd = frame_from_ros("nv24", 3, 5, 5, luma.tobytes()[:15] + chroma.tobytes()[:30])
    assert odd.pixels.shape == (3, 5, 3)


@pytest.mark.parametrize(
    ("encoding", "luma_first"), [("yuv422", False), ("yuv422_yuy2", True), ("uyvy", False), ("yuyv", True)]
)
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
        (("nv12", 6, 7, 8, bytes(100)), "step"),
        (("nv21", 5, 8, 8, bytes(100)), "step"),
        (("nv12", 6, 8, 7, bytes(100)), "step"),
        (("nv24", 6, 8, 7, bytes(200)), "step"),
        (("nv12", 6, 8, 8, bytes(6 * 8 * 3 // 2 - 1)), "short_data"),
        (("nv21", 6, 8, 8, bytes(6 * 8)), "short_data"),
        (("nv24", 6, 8, 8, bytes(6 * 8 * 3 - 1)), "short_data"),
        (("nv12", 9, 8, 8, bytes(9 * 8)), "step"),
        (("nv12", 12, 8, 8, bytes(12 * 8)), "short_data"),  # height told of both planes together
        (("nv21", 6, 8, 16, bytes(6 * 8 * 3 // 2)), "short_data"),  # step told of two bytes to a pixel
        (("nv24", 2**32 - 1, 2**32 - 1, 24, b""), "too_large"),
        (("nv24", 1, 1, 2**32 - 1, bytes(3)), "short_data"),
        (("nv12", 0, 8, 8, b""), "empty"),
        (("32FC1_nonsense", 6, 8, 24, bytes(6 * 24)), "encoding"),
        (("", 6, 8, 24, bytes(6 * 24)), "encoding"),
    ],
)
def test_an_unusable_image_is_rejected_for_its_reason(arguments, reason):
    with pytest.raises(ImageRejected) as caught:
        frame_from_ros(*arguments)
    assert caught.value.reason == reason
    assert caught.value.reason in images.REASONS


@pytest.mark.parametrize(
    "encoding", ["x" * 200_000, "foo\n[ERROR] [0] [segmentation]: forged\r\u2028\x1b[31m", "32FC1"]
)
def test_what_an_image_says_of_itself_is_one_short_line(encoding):
    with pytest.raises(ImageRejected) as caught:
        frame_from_ros(encoding, 1, 1, 4, bytes(4))
    said = str(caught.value)
    assert caught.value.reason == "encoding" and "nv12" in said and "cv_bridge" not in said
    assert len(said) < 500 and said.isprintable()


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


def test_samples_with_a_sign_are_refused_and_not_taken_for_black():
    for kind in (np.int16, np.float32):
        encoded = cv2.imencode(".tiff", np.full((8, 8, 3), 100, kind))[1].tobytes()
        with pytest.raises(ImageRejected, match=f"samples of {np.dtype(kind)}"):
            frame_from_compressed(encoded, max_pixels=None)


def test_damage_before_the_size_does_not_hide_a_bomb():
    bomb = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xdc\x03\xe8"  # 65500 rows of 1000, which OpenCV would decode
    for _ in range(500):  # one or another, of which no size is found, OpenCV refuses itself
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
        if encoding in ("uyvy", "yuyv") or encoding.startswith(("8U", "16U", "nv")):
            continue  # names of drivers, plain types that cv_bridge does not colour, and what it does not know
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
        streamed = frame_from_compressed(data)
        assert np.abs(streamed.pixels.astype(int) - (expected if scale == 256 else expected >> 4)).max() <= (
            scale < 256
        )
        assert streamed.peak == int(eight.max()) * scale + scale // 2
        told = frame_from_compressed(data, sample_bits=12 if scale == 16 else 16).pixels
        assert np.array_equal(told, expected)
        if kind == "grey":
            raw = frame_from_ros("mono16", 48, 64, 128, (eight.astype("<u2") * scale + scale // 2).tobytes())
            assert np.array_equal(streamed.pixels, raw.bgr()), "as the raw topic has it"


def test_8_bit_images_are_decoded_once(monkeypatch):
    calls, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: calls.append(a) or decode(*a))
    for ending in (".png", ".jpg"):
        frame_from_compressed(cv2.imencode(ending, picture())[1])
    assert len(calls) == 2
