import struct
import zlib

import cv2
import numpy as np
import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.label_images import label_pixels, read_label_image

RNG = np.random.default_rng(3)


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
    assert np.array_equal(read_label_image(path), ids)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageRejected, match="cannot be read as an image"):
        read_label_image(path)


def bmp(bits, rows, table, old=False):
    """A BMP of few bits with a table of colours, uint8 (N, 3); ``old``: the header of OS/2."""
    height, width = rows.shape
    places = np.unpackbits(rows[::-1, :, None], axis=2)[:, :, 8 - bits :].reshape(height, width * bits)
    packed = b"".join((row := np.packbits(line).tobytes()) + bytes(-len(row) % 4) for line in places)
    colours = b"".join(bytes(c[::-1]) + (b"" if old else b"\0") for c in table.tolist())
    if old:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(packed), 0, 0, len(table), 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(packed), 0, 0, start) + header + colours + packed


IDENTITY = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_bmp_is_a_label_image_where_its_colours_are_its_ids(tmp_path, bits, old):
    ids = RNG.integers(0, min(2**bits, 11), (5, 13), np.uint8)
    path = tmp_path / "labels.bmp"
    path.write_bytes(bmp(bits, ids, IDENTITY[: 2**bits], old))
    assert np.array_equal(read_label_image(path), ids)
    for table in (IDENTITY[::-1][: 2**bits], IDENTITY[: 2**bits] * np.array([1, 1, 0], np.uint8), IDENTITY // 3 * 3):
        if np.array_equal(table[: 2**bits], IDENTITY[: 2**bits]):
            continue
        path.write_bytes(bmp(bits, ids, table[: 2**bits], old))
        with pytest.raises(UserError, match=r"labels.bmp is no label image: the colour table of a BMP .* take PNG"):
            read_label_image(path)
    path.write_bytes(bmp(bits, ids, IDENTITY[: 2**bits], old)[:40])
    with pytest.raises(ImageRejected, match="cannot be read as an image"):
        read_label_image(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "photometric"), [(8, 1), (8, 0), (1, 1), (1, 0), (4, 1)])
def test_a_tiff_is_a_label_image_where_it_is_seen_as_it_is_stored(tmp_path, order, bits, photometric):
    ids = RNG.integers(0, 2 if bits == 1 else 11, (5, 16), np.uint8)
    pixels = ids.tobytes()
    if bits < 8:
        pixels = np.packbits(np.unpackbits(ids[:, :, None], axis=2)[:, :, 8 - bits :].reshape(5, -1)).tobytes()
    tags = {256: 16, 257: 5, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 5, 279: len(pixels)}
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    path = tmp_path / "labels.tif"
    path.write_bytes(head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    if (bits, photometric) == (8, 1):
        assert np.array_equal(read_label_image(path), ids)
    else:
        with pytest.raises(UserError, match=r"labels.tif is no label image: a TIFF of less than 8 bits"):
            read_label_image(path)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_16_bits_and_of_three_equal_channels_are_ids_and_topics_are_not(tmp_path, ending, dtype, channels):
    ids = RNG.integers(0, 11, (5, 13), np.uint8)
    ids[0, 0] = 255
    path = tmp_path / f"labels{ending}"
    cv2.imwrite(str(path), ids.astype(dtype) if channels == 1 else np.repeat(ids.astype(dtype)[:, :, None], 3, 2))
    read = read_label_image(path)
    assert read.dtype == np.uint8 and np.array_equal(read, ids)
    if (dtype, channels) != (np.uint8, 1):
        with pytest.raises(UserError, match="one grey channel of up to 8 bits"):
            label_pixels(path.read_bytes())


def test_files_whose_values_are_no_ids_are_refused_by_what_they_have(tmp_path):
    path = tmp_path / "labels.png"
    refused = {
        "labels.png is no label image: it has 16 bits and values up to 256": np.full((5, 6), 256, np.uint16),
        r"labels.png is no label image: it has colours; .*docs/training\.md": RNG.integers(0, 9, (5, 6, 3), np.uint8),
        "one grey channel": np.zeros((5, 6, 4), np.uint8),
    }
    for said, pixels in refused.items():
        cv2.imwrite(str(path), pixels)
        with pytest.raises(UserError, match=said) as raised:
            read_label_image(path)
        assert "\n" not in str(raised.value)


def test_a_bmp_of_opencv_is_a_label_image_and_one_of_colours_is_none():
    ids = RNG.integers(0, 11, (5, 13), np.uint8)
    assert np.array_equal(label_pixels(cv2.imencode(".bmp", ids)[1].tobytes()), ids)
    short = bmp(8, ids, IDENTITY[:11])  # a table of as many as there are classes
    assert np.array_equal(label_pixels(short), ids)
    with pytest.raises(UserError, match="one grey channel"):
        label_pixels(cv2.imencode(".bmp", RNG.integers(0, 256, (6, 8, 3), np.uint8))[1].tobytes())
