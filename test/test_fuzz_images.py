"""Whatever bytes and sizes come: a frame of the promised size, or a rejection with its reason; nothing else."""

from __future__ import annotations

import random
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from soak.malformed import LARGEST, Raw, draw, lying_png, png_bomb, scan_bomb

from rt_seg_ros import images
from rt_seg_ros.images import Frame, ImageRejected, frame_from_compressed, frame_from_ros

LIMIT = 10_000
#: Beyond it something was made that the size does not ask for (bytes).
ROOM = 64 * LIMIT + (1 << 20)

edge = st.one_of(st.integers(0, 40), st.integers(0, LARGEST), st.sampled_from([2**16, 2**31 - 1, 2**31, LARGEST]))
encodings = st.one_of(
    st.sampled_from(images.known_encodings()), st.sampled_from(["32FC1", "64FC3", "8UC2", "nv42"]), st.text(max_size=60)
)
usual = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def outcome(make, *arguments) -> Frame | str:
    """Return the frame, or the reason of its rejection; any other exception fails the test."""
    tracemalloc.start()
    try:
        return make(*arguments)
    except ImageRejected as rejected:
        assert rejected.reason in images.REASONS
        assert len(str(rejected)) < 700 and "\n" not in str(rejected), "fit for one line of a log"
        return rejected.reason
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < ROOM, f"{peak} bytes were allocated"


@usual
@given(encodings, edge, edge, edge, st.binary(max_size=4000), st.booleans())
@example("bgr8", LARGEST, LARGEST, LARGEST, b"", False)
@example("mono16", 3, 3, 6, bytes(18), True)
@example("bgr8", 100, 100, 300, bytes(29_999), False)
@example("bayer_rggb8", 2, 2, 2, bytes(4), False)
@example("yuyv", 1, 2, 4, bytes(4), False)
@example("nv12", 2, 2, 2, bytes(6), False)
@example("nv24", 1, 1, 1, bytes(3), False)
@example("nv24", 100, 100, 2**31, bytes(30_000), False)
@example("x" * 200_000, 1, 1, 1, b"0", False)
@example("32FC1", 1, 1, 4, np.float32(np.nan).tobytes(), False)
def test_a_raw_image_is_a_frame_or_rejected(encoding, height, width, step, data, big):
    result = outcome(frame_from_ros, encoding, height, width, step, data, big, LIMIT)
    if isinstance(result, Frame):
        assert (result.height, result.width) == (height, width) and height * width <= LIMIT
        assert result.bgr().shape == (height, width, 3)
        int(result.pixels.sum())  # reads each pixel: none lies outside of the data
    elif min(height, width) == 0:
        assert result == "empty"
    elif height * width > LIMIT:
        assert result == "too_large"


@usual
@given(st.sampled_from(images.known_encodings()), st.integers(2, 12), st.integers(1, 6), st.integers(0, 9), st.data())
def test_any_image_with_enough_data_is_a_frame_and_one_with_less_is_not(encoding, height, half, padding, data):
    width = 2 * half
    if encoding.startswith("nv"):
        height = 2 * height
        row, step = width, width + padding
        needed = {"nv24": step * height + 2 * step * (height - 1) + 2 * row}.get(
            encoding, step * height + step * (height // 2 - 1) + row
        )
    else:
        sample, samples, _ = images._layout(encoding)
        row = width * samples * sample
        step = row + padding * sample
        needed = step * (height - 1) + row
    length = data.draw(st.integers(0, needed + 10))
    result = outcome(frame_from_ros, encoding, height, width, step, bytes(length), False, LIMIT)
    assert isinstance(result, Frame) if length >= needed else result == "short_data"
    assert outcome(frame_from_ros, encoding, height, width, row - 1, bytes(needed), False, LIMIT) == "step"


@usual
@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(max_size=300).map(lambda b: b"\xff\xd8" + b),
        st.binary(max_size=300).map(lambda b: b"\x89PNG\r\n\x1a\n" + b),
    ),
    st.one_of(st.just("bayer_rggb8; png compressed "), st.text(max_size=60)),
)
def test_bytes_are_an_image_or_rejected(data, message_format):
    result = outcome(frame_from_compressed, data, LIMIT, message_format)
    if isinstance(result, Frame):
        assert 0 < result.height * result.width <= LIMIT


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("progressive", [0, 1])
def test_an_image_cut_at_any_length_is_a_frame_or_rejected(ending, progressive):
    street = cv2.resize(np.random.default_rng(2).integers(0, 255, (5, 7, 3), np.uint8), (36, 28))
    data = cv2.imencode(ending, street, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    for length in range(len(data)):
        result = outcome(frame_from_compressed, data[:length], LIMIT)
        if isinstance(result, Frame):
            assert (result.height, result.width) == street.shape[:2]
        else:
            assert result in ("empty", "corrupt", "encoding")
    assert isinstance(outcome(frame_from_compressed, data, LIMIT), Frame)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_the_fuzzer_draws_ends_as_it_expects(compressed):
    rng = random.Random(7)
    for _ in range(600):
        drawn = draw(rng, compressed)
        raw: Raw = drawn.raw
        if drawn.kind == "narrow":
            continue  # of what the network makes of it, the camera knows
        if compressed:
            result = outcome(frame_from_compressed, drawn.packed, 250_000)
        else:
            fields = (raw.encoding, raw.height, raw.width, raw.step, raw.data, bool(raw.is_bigendian))
            result = outcome(frame_from_ros, *fields, 250_000)
        assert (None if isinstance(result, Frame) else result) in drawn.reasons, drawn.kind


def test_a_bomb_is_refused_before_it_goes_off(monkeypatch):
    assert isinstance(frame_from_compressed(png_bomb(100, 100), LIMIT), Frame), "it is a whole image otherwise"
    assert isinstance(frame_from_compressed(scan_bomb(3), LIMIT), Frame)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert outcome(frame_from_compressed, png_bomb(2000, 8000), LIMIT) == "too_large"
    assert outcome(frame_from_compressed, png_bomb(2**31 - 1, 2**31 - 1), LIMIT) == "too_large"
    # As much memory is taken as the chunk says that it holds, and 2 GB of it cost seconds.
    for chunk in (b"IHDR", b"IDAT", b"IEND"):
        assert outcome(frame_from_compressed, lying_png(chunk, 2**31 - 1), LIMIT) == "corrupt"
    # Each scan costs a pass over all pixels: of a few bytes each, thousands would take minutes.
    assert outcome(frame_from_compressed, scan_bomb(5000), LIMIT) == "corrupt"
    jpeg = scan_bomb(3)
    size = images._promised_size(jpeg)
    for whole, at, segment in (
        (jpeg, 2, b"\xff\xe0\x00\x02"),
        (png_bomb(100, 100), 33, b"\0\0\0\0tEXt\0\0\0\0"),
    ):
        assert images._promised_size(whole[:at] + 1000 * segment + whole[at:]) == images._promised_size(whole)
        with pytest.raises(ImageRejected, match="breaks off"):
            images._promised_size(whole[:at] + 200_000 * segment + whole[at:])
    # What is skipped before a marker costs nothing to speak of, so it may be long.
    assert images._promised_size(jpeg[:2] + 6_000_000 * b"\xff" + jpeg[2:]) == size


def test_nothing_is_kept_of_what_was_rejected():
    data = bytearray(1000)
    references = sys.getrefcount(data)
    for _ in range(100):
        with pytest.raises(ImageRejected):
            frame_from_ros("bgr8", 100, 100, 300, data)
    assert sys.getrefcount(data) == references
