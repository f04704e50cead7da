"""What the package tells through logging."""

import subprocess
import sys


def test_words_arrive_where_somebody_s_loggers_keep_theirs_to_themselves():
    """As ROS 2's launch has it, once it was loaded: also pytest loads it, on a robot."""
    code = """
import logging

class Keeping(logging.Logger):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.propagate = False

logging.setLoggerClass(Keeping)
import rt_seg_ros.backends, rt_seg_ros.cache, rt_seg_ros.pipeline
from rt_seg_ros.ros import logs

class Node:
    info = warning = error = debug = staticmethod(print)

logs.add(Node)
for name in ("backends", "cache", "pipeline"):
    logging.getLogger(f"rt_seg_ros.{name}").info("heard %s", name)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split("\n")[:3] == ["heard backends", "heard cache", "heard pipeline"], ran.stderr
