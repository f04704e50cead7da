"""Recorded drives: rosbag2 in and out, without ROS."""

from rt_seg_ros.bags.reader import BagImage, BagReader, TopicInfo, open_bag
from rt_seg_ros.bags.writer import BagWriter

__all__ = ["BagImage", "BagReader", "BagWriter", "TopicInfo", "open_bag"]
