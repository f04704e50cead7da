"""A subscriber in a process of its own, which reads what the node draws; stopped, it stalls."""

from __future__ import annotations

import sys


def main() -> None:
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("listener")
    for topic in sys.argv[1:]:
        node.create_subscription(Image, topic, lambda _: None, 5)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
