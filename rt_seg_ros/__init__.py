"""Real-time semantic segmentation for ROS 2: a camera topic in, label images and masks out."""

from pkgutil import extend_path

__version__ = "0.1.0"

# The generated messages (rt_seg_ros.msg) are installed beside this package by CMake. In a development
# install they lie in another folder than the sources, so the package spans both.
__path__ = extend_path(__path__, __name__)
