"""Messages to frames: views of the message's own bytes wherever its encoding allows."""

from __future__ import annotations

from typing import Any

from rt_seg_ros.images import MAX_PIXELS, Frame, frame_from_compressed, frame_from_ros


def frame_from_image(message: Any, max_pixels: int = MAX_PIXELS, sample_bits: int = 16) -> Frame:
    """Return the frame of a sensor_msgs/Image; it may view the message's data, which must then be kept.

    :param max_pixels: larger images are rejected
    :param sample_bits: bits (8 to 16) that images of 16 use
    :raises ImageRejected: where it cannot be used, with the reason
    """
    return frame_from_ros(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        bool(message.is_bigendian),
        max_pixels,
        sample_bits,
    )


def frame_from_compressed_image(message: Any, max_pixels: int = MAX_PIXELS, sample_bits: int = 16) -> Frame:
    """Return the decoded frame of a sensor_msgs/CompressedImage.

    :param max_pixels: larger images are rejected before memory is taken for them
    :param sample_bits: bits (8 to 16) that images of 16 use
    :raises ImageRejected: where it cannot be used, with the reason
    """
    return frame_from_compressed(message.data, max_pixels, message.format, sample_bits)


def stamp_nanoseconds(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
