"""Results to messages.

A sequence field of numbers is an ``array.array``. It is filled in place, by one copy of memory: set to an array of its
own type it would be copied once more, and set to a numpy array or a list element by element.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import KeyValue
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from rt_seg_ros import masks
from rt_seg_ros.label_images import LABEL_PNG_FORMAT, label_png
from rt_seg_ros.labels import UNLABELLED, LabelSpace
from rt_seg_ros.msg import ClassMask, ClassMasks

_CHANNELS = {"mono8": 1, "bgr8": 3, "rgb8": 3}


def _fill(field: array[Any], values: NDArray[Any]) -> None:
    """Append ``values``, row after row, to a message's field of the same type of numbers."""
    if values.dtype.itemsize != field.itemsize:
        raise TypeError(f"{values.dtype} does not fit a field of type '{field.typecode}'")
    if values.size:
        field.frombytes(np.ascontiguousarray(values).data.cast("B"))


def image(header: Header, pixels: NDArray[np.uint8], encoding: str) -> Image:
    """Return a sensor_msgs/Image without padding: step is width times channels.

    :param pixels: (H, W) for mono8, (H, W, 3) for bgr8 and rgb8
    :raises KeyError: another encoding than these
    """
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, step=width * _CHANNELS[encoding])
    _fill(message.data, pixels)
    return message


def canvas(header: Header, height: int, width: int) -> tuple[Image, NDArray[np.uint8]]:
    """Return a black bgr8 image and its pixels, (H, W, 3): what is drawn on them is in the message."""
    message = Image(header=header, height=height, width=width, encoding="bgr8", step=width * 3)
    field = message.data
    field.frombytes(bytes(width * 3))
    field *= height  # in place: nothing as large as the image is allocated but the image
    return message, np.frombuffer(message.data, np.uint8).reshape(height, width, 3)


def png(header: Header, labels: NDArray[np.uint8]) -> CompressedImage:
    """Return labels, (H, W), as image_transport's lossless compressed image."""
    message = CompressedImage(header=header, format=LABEL_PNG_FORMAT)
    _fill(message.data, label_png(labels))
    return message


def class_masks(header: Header, labels: NDArray[np.uint8], space: LabelSpace) -> ClassMasks:
    """Return the run-length coded masks of the classes in ``labels``, (H, W)."""
    height, width = labels.shape
    message = ClassMasks(header=header, height=height, width=width)
    for mask in masks.class_masks(labels, space):
        x, y, box_width, box_height = mask.box
        coded = ClassMask(
            id=mask.id,
            name=mask.name,
            pixel_count=mask.pixel_count,
            bounding_box=RegionOfInterest(x_offset=x, y_offset=y, width=box_width, height=box_height),
        )
        _fill(coded.runs, mask.runs)
        message.masks.append(coded)
    return message


def label_info_type() -> type | None:
    """Return vision_msgs/LabelInfo, or None where vision_msgs is not installed."""
    try:
        from vision_msgs.msg import LabelInfo
    except ImportError:
        return None
    return LabelInfo  # type: ignore[no-any-return]


def label_info(header: Header, space: LabelSpace, threshold: float) -> Any:
    """Return a vision_msgs/LabelInfo: ids, names, and 255 for what has no label."""
    from vision_msgs.msg import LabelInfo, VisionClass

    message = LabelInfo(header=header, threshold=float(threshold))
    message.class_map = [VisionClass(class_id=c.id, class_name=c.name) for c in space.classes]
    message.class_map.append(VisionClass(class_id=UNLABELLED, class_name="unlabelled"))
    return message


def scaled_camera_info(info: CameraInfo, header: Header, frame: tuple[int, int], height: int, width: int) -> CameraInfo:
    """Return the calibration of an image resized to (height, width), pixel centres at half-integers.

    Distortion coefficients are those of normalised coordinates and stay. Binning and region of interest, given
    for the sensor, are worked into the result.

    :param frame: height and width of the image, for drivers that do not fill in those of the calibration
    """
    roi = info.roi
    x = width / (roi.width or info.width or frame[1])
    y = height / (roi.height or info.height or frame[0])
    k, p = list(info.k), list(info.p)
    for matrix, second in ((k, 3), (p, 4)):
        if matrix[0]:  # an uncalibrated camera's are zero
            matrix[2] = (matrix[2] - roi.x_offset + 0.5) * x - 0.5
            matrix[second + 2] = (matrix[second + 2] - roi.y_offset + 0.5) * y - 0.5
        matrix[0] *= x
        matrix[1] *= x
        matrix[second + 1] *= y
    p[3] *= x
    p[7] *= y
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model=info.distortion_model,
        d=info.d,
        r=info.r,
        k=k,
        p=p,
    )


def key_values(pairs: Iterable[tuple[str, object]]) -> list[KeyValue]:
    """Return pairs as diagnostic_msgs/KeyValue."""
    return [KeyValue(key=key, value=str(value)) for key, value in pairs]
