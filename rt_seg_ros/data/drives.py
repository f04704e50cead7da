"""Making drives: recordings of a camera with exact labels, rendered, or of a data set's frames.

A drive is a rosbag2 with the topics :data:`IMAGE_TOPIC` (bgr8), :data:`CAMERA_INFO_TOPIC` and :data:`LABEL_TOPIC`
(mono8 class ids, 255 = unlabelled), equal stamps on all three; :data:`LABEL_INFO_TOPIC` names the classes once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags.results import label_info
from rt_seg_ros.bags.writer import BagWriter, Storage
from rt_seg_ros.data.datasets import dataset_splits, open_dataset
from rt_seg_ros.data.synth import Intrinsics, SyntheticDrive
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace, load_label_space

IMAGE_TOPIC = "/camera/image_raw"
CAMERA_INFO_TOPIC = "/camera/camera_info"
LABEL_TOPIC = "/camera/label"
#: Below the labels and not beside them, where it would mark them as a node's: see :mod:`rt_seg_ros.evaluation.frames`.
LABEL_INFO_TOPIC = f"{LABEL_TOPIC}/info"
FRAME_ID = "camera_optical_frame"
DEFAULT_SPLIT = "val"

#: Stamp of a drive's first frame, seconds since 1970: always the same, so that equal drives are equal files.
START_SECONDS = 1_700_000_000

Watch = Callable[[Iterable[int], str, int], Iterable[int]]


@dataclass(frozen=True)
class Drive:
    """What was written: ``pixels`` counts each class id of ``space``, int64 (256,)."""

    path: Path
    frames: int
    height: int
    width: int
    rate: float
    bytes: int
    pixels: NDArray[np.int64]
    space: LabelSpace


def write_synthetic_drive(
    out: str | Path,
    frames: int = 200,
    size: tuple[int, int] = (360, 480),
    seed: int = 1,
    rate: float = 10.0,
    storage: Storage = "mcap",
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Drive:
    """Render a drive into a recording.

    :param size: height and width of the frames
    :param rate: frames per second, in the recording and in the rendered world
    :param watch: is handed (the frames' indices, what is done, their number) and passes them on, as a progress bar does
    :raises UserError: a number out of range, or a place that cannot be written to
    """
    if frames < 1:
        raise UserError(f"a drive of {frames} frames: at least 1 is needed")
    writer = BagWriter(out, storage, overwrite)
    drive = SyntheticDrive(seed, *size, rate=rate)
    space = load_label_space("camvid11")
    return _write(writer, range(frames), drive.render, drive.camera_info(), rate, watch, "render", space)


def write_camvid_drive(
    camvid: str | Path,
    out: str | Path,
    split: str | None = None,
    rate: float = 10.0,
    storage: Storage = "mcap",
    overwrite: bool = False,
    watch: Watch | None = None,
    label_space: LabelSpace | str | None = None,
) -> Drive:
    """Make a recording of a data set's split (CamVid's layout, or any that :func:`open_dataset` knows).

    Frames come in the order of their names, ``rate`` a second, whatever time lay between them. Their camera is not
    known: camera_info tells a pinhole of 55 degrees, which suits CamVid about.

    :param split: by default val, where there is one
    :param label_space: what the labels' ids mean; by default Cityscapes' for its layout, else camvid11
    :raises UserError: no such folder or split, frames of different sizes, ids outside the label space, a place that
        cannot be written to
    """
    if not 0.1 <= rate <= 1000:
        raise UserError(f"a rate of {rate} frames per second is out of range: give one from 0.1 to 1000")
    if split is None and DEFAULT_SPLIT in dataset_splits(camvid):
        split = DEFAULT_SPLIT
    dataset = open_dataset(camvid, split, label_space)
    writer = BagWriter(out, storage, overwrite)
    image, _ = dataset[0]
    height, width = image.shape[:2]
    focal = 0.96 * width
    camera = Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, height, width)

    def frame(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, labels = dataset[index]
        if image.shape[:2] != (height, width):
            name, _ = dataset.file_names(index)
            raise UserError(f"{name} is {image.shape[0]}x{image.shape[1]}, the frames before it {height}x{width}")
        return image, labels

    return _write(writer, range(len(dataset)), frame, camera, rate, watch, "copy", dataset.label_space)


def _write(
    writer: BagWriter,
    indices: range,
    frame: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    camera: Intrinsics,
    rate: float,
    watch: Watch | None,
    doing: str,
    space: LabelSpace,
) -> Drive:
    pixels = np.zeros(256, np.int64)
    with writer:
        for index in watch(indices, doing, len(indices)) if watch else indices:
            image, labels = frame(index)
            stamp = START_SECONDS * 10**9 + round(index * 1e9 / rate)
            if index == indices[0]:
                writer.write(LABEL_INFO_TOPIC, label_info(writer, space, stamp, FRAME_ID), stamp, latched=True)
            writer.add_image(IMAGE_TOPIC, stamp, FRAME_ID, image)
            writer.add_camera_info(CAMERA_INFO_TOPIC, stamp, FRAME_ID, camera)
            writer.add_label(LABEL_TOPIC, stamp, FRAME_ID, labels)
            pixels += np.bincount(labels.ravel(), minlength=256)
    files = [writer.path] if writer.path.is_file() else list(writer.path.iterdir())
    return Drive(
        path=writer.path,
        frames=len(indices),
        height=camera.height,
        width=camera.width,
        rate=rate,
        bytes=sum(file.stat().st_size for file in files),
        pixels=pixels,
        space=space,
    )
