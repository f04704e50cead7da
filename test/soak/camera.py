"""A camera in a process of its own: one of a few pictures 30 times a second, which its frame_id names."""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Sizes (height, width) that cameras have.
SIZES = ((96, 128), (120, 90))
PICTURES = 6


@cache
def picture(size: int, number: int) -> NDArray[np.uint8]:
    """Return one of the pictures, BGR."""
    height, width = SIZES[size]
    coarse = np.random.default_rng([size, number]).integers(0, 255, (6, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("topic")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--reliable", action="store_true")
    parser.add_argument("--rate", type=float, default=30.0)
    options = parser.parse_args()

    import rclpy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from rt_seg_ros.ros import messages, qos

    rclpy.init()
    node = rclpy.create_node("camera")
    profile = qos.sensor_data(qos.RELIABLE if options.reliable else qos.BEST_EFFORT)
    publisher = node.create_publisher(Image, options.topic, profile)
    due, number = time.monotonic(), 0
    while rclpy.ok():
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id=f"{options.size}:{number % PICTURES}")
        publisher.publish(messages.image(header, picture(options.size, number % PICTURES), "bgr8"))
        number += 1
        due = max(due + 1 / options.rate, time.monotonic() - 1.0)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
