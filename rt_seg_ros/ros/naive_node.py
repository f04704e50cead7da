"""The naive node on the graph: what the benchmark compares this package's node with.

``python -m rt_seg_ros.ros.naive_node CASE.json TOPIC...`` subscribes to raw bgr8 images on the topics and publishes,
one callback after the other, for the n-th of them ``/naive/camera<n>/label`` and ``.../mask``, the mask of one class.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.naive import NaiveNode
from rt_seg_ros.benchmark.spec import MASK_CLASS

NAME = "naive"
_DEPTH = 10


class NaiveRosNode(Node):  # type: ignore[misc]
    """A subscription, a callback that does everything, a publisher."""

    def __init__(self, naive: NaiveNode, topics: list[str]) -> None:
        super().__init__(NAME)
        self._naive = naive
        for n, topic in enumerate(topics):
            label = self.create_publisher(Image, f"~/camera{n}/label", _DEPTH)
            mask = self.create_publisher(Image, f"~/camera{n}/mask", _DEPTH)
            self.create_subscription(Image, topic, partial(self._on_image, label, mask), _DEPTH)

    def _on_image(self, label: Any, mask: Any, message: Image) -> None:
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        labels = self._naive.labels(image)
        label.publish(_image(message, labels))
        mask.publish(_image(message, self._naive.mask(labels, MASK_CLASS)))


def _image(source: Image, pixels: NDArray[np.uint8]) -> Image:
    message = Image()
    message.header = source.header
    message.height, message.width = pixels.shape
    message.encoding = "mono8"
    message.step = message.width
    message.data = pixels.tobytes()
    return message


def main(arguments: list[str]) -> int:
    """Serve until told to stop."""
    case = Case.from_dict(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    naive = NaiveNode(case.card(), case.ratio, case.device, case.threads)
    rclpy.init(args=[])
    node = NaiveRosNode(naive, arguments[1:])
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
