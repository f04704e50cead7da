"""Segments frames in a process that does nothing else, and prints by how many bytes its memory grew: NAME."""

import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from rt_seg_ros.backends.base import HostBackend
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.drawing import Painter
from rt_seg_ros.images import frame_from_compressed
from rt_seg_ros.memory import keep_freed_memory
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.zoo import find_model

SIZES = ((240, 320), (180, 248))


class Colours(HostBackend):
    """A runtime whose logits are the picture's own colours, at an eighth of its size: areas, as a network gives."""

    name, device, precision = "colours", "cpu", "fp32"

    def logits(self, batch):
        n, _, h, w = batch.shape
        small = [cv2.resize(plane, (w // 8, h // 8), interpolation=cv2.INTER_AREA) for plane in batch.reshape(-1, h, w)]
        planes = np.stack(small).reshape(n, 3, h // 8, w // 8)
        return np.concatenate([planes, -planes, planes - 0.3, 0.3 - planes[:, :2]], axis=1)


def stream_of_two_sizes():
    """JPEG frames of two sizes in turn."""
    data = []
    for size in SIZES:
        street = SyntheticDrive(5, *size)
        data += [cv2.imencode(".jpg", street.render(10 * i)[0])[1].tobytes() for i in range(4)]
    return data


def segmenter_of_colours():
    segmenter = Segmenter(SegmenterConfig(device="cpu", backend="torch"))
    segmenter.backend = Colours(find_model("cgnet"))
    return segmenter


def work(segmenter, painter, stream, frames, confidence=False):
    for n in range(frames):
        frame = frame_from_compressed(stream[n % len(stream)])
        result = segmenter.segment(frame, confidence=confidence)
        painter.overlay(frame.bgr(), result.labels)


def resident():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def around_the_network():
    segmenter, stream = segmenter_of_colours(), stream_of_two_sizes()
    painter = Painter(segmenter.label_space)
    strict = segmenter.reconfigured(replace(segmenter.config, confidence_threshold=0.3))
    for one in (segmenter, strict):
        work(one, painter, stream, 60, confidence=True)
        work(one, painter, stream, 60)
    before = resident()
    for one in (segmenter, strict):
        work(one, painter, stream, 200, confidence=True)
        work(one, painter, stream, 400)
    return resident() - before


def with_a_network():
    segmenter = Segmenter(SegmenterConfig(device="cpu", backend="torch", downsampling_ratio=0.4))
    stream, painter = stream_of_two_sizes(), Painter(segmenter.label_space)
    work(segmenter, painter, stream, 40)
    before = resident()
    work(segmenter, painter, stream, 160)
    return resident() - before


if __name__ == "__main__":
    keep_freed_memory()
    print({"around_the_network": around_the_network, "with_a_network": with_a_network}[sys.argv[1]]())
