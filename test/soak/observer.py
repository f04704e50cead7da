"""What comes out of the node, kept small: digests of labels, latencies, and counts until each deactivation."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from soak.camera import picture

from ros_harness import Graph, stamp_of
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import qos

COUNTS = ("received", "processed", "dropped", "rejected")
_PENDING = 200  # labels that wait for their statistics, and the other way round


@dataclass(frozen=True)
class Origin:
    """What labels were made of: the picture, as its frame_id names it, and how."""

    frame_id: str
    working: tuple[int, int]
    backend: str


class Observer:
    """Listens to the labels and statistics of one camera.

    :param name: of the camera
    :param prefix: of its outputs
    """

    def __init__(self, graph: Graph, name: str, prefix: str) -> None:
        self.name = name
        self.labels: Counter[tuple[Origin, str]] = Counter()
        self.unmatched = 0
        self.twice = 0
        self.oldest: tuple[int, int] | None = None  # stamp of a label, since this was last set to None
        self.latencies: list[tuple[float, float]] = []  # total and wait, milliseconds
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._digests: dict[tuple[int, int], tuple[str, str]] = {}
        self._origins: dict[tuple[int, int], tuple[tuple[int, int], str]] = {}
        self._last: tuple[int, int] = (0, 0)
        self._subscriptions = [
            graph.node.create_subscription(Image, f"{prefix}/label", self._on_label, qos.sensor_data()),
            graph.node.create_subscription(SegmentationStats, f"{prefix}/stats", self._on_stats, qos.sensor_data()),
        ]

    def _on_label(self, message: Any) -> None:
        stamp = stamp_of(message)
        with self._lock:
            self.twice += stamp == self._last
            self._last = stamp
            self.oldest = min(self.oldest or stamp, stamp)
            digest = hashlib.sha256(message.data).hexdigest()
            self._digests[stamp] = message.header.frame_id, f"{message.height}x{message.width} {digest}"
            self._pair(stamp)

    def _on_stats(self, message: Any) -> None:
        stamp = stamp_of(message)
        with self._lock:
            self.latencies.append((message.total_ms, message.wait_ms))
            self._origins[stamp] = (message.working_height, message.working_width), message.backend
            self._pair(stamp)

    def _pair(self, stamp: tuple[int, int]) -> None:
        if stamp in self._digests and stamp in self._origins:
            (frame_id, digest), (working, backend) = self._digests.pop(stamp), self._origins.pop(stamp)
            self.labels[Origin(frame_id, working, backend), digest] += 1
        for waiting in (self._digests, self._origins):
            if len(waiting) > _PENDING:
                del waiting[next(iter(waiting))]
                self.unmatched += 1

    def wrong_labels(self) -> list[str]:
        """Compare all labels with those that the pipeline gives here for the same picture."""
        expected: dict[Origin, str] = {}
        wrong = []
        for (origin, digest), count in self.labels.items():
            if origin not in expected:
                expected[origin] = _digest_offline(origin)
            if digest != expected[origin]:
                wrong.append(f"{count} labels of {self.name} for {origin}")
        return wrong


def _digest_offline(origin: Origin) -> str:
    size, number = (int(part) for part in origin.frame_id.split(":"))
    config = SegmenterConfig(
        backend=origin.backend,
        device="cpu",
        threads=1,
        allow_random_weights=True,
        input_height=origin.working[0],
        input_width=origin.working[1],
    )
    labels = _segmenter(config).segment(picture(size, number)).labels
    return f"{labels.shape[0]}x{labels.shape[1]} {hashlib.sha256(np.ascontiguousarray(labels)).hexdigest()}"


_made: dict[SegmenterConfig, Segmenter] = {}


def _segmenter(config: SegmenterConfig) -> Segmenter:
    if config not in _made:
        _made.clear()
        _made[config] = Segmenter(config)
    return _made[config]
