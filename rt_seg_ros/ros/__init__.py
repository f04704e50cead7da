"""The ROS 2 side: the node, and what plays drives to it, records, times and watches it, here or in RViz.

Nothing below this folder knows rclpy.
"""
