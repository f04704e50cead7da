"""Feeds a node in this process with malformed images, through all of its way but the network's wire."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from soak.malformed import MAX_PIXELS, Malformed, draw
from soak.measure import settled_resident
from std_msgs.msg import Header

from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import messages
from rt_seg_ros.ros.node import SegmentationNode

#: A frame that takes longer hangs (seconds); the longest that is good takes some hundredths.
PATIENCE = 20.0


@dataclass
class Fuzzed:
    """What came of it: messages by what was wrong with them, and by reason; resident memory in bytes."""

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str | None] = field(default_factory=Counter)
    slowest: float = 0.0
    memory_before: int = 0
    memory_after: int = 0
    problems: list[str] = field(default_factory=list)


def message_of(malformed: Malformed, compressed: bool) -> Any:
    """Return a message of ROS."""
    header = Header(frame_id="optical")
    header.stamp.sec = 1
    if compressed:
        packed = CompressedImage(header=header, format="jpeg")
        packed.data.frombytes(malformed.packed)
        return packed
    raw = malformed.raw
    image = Image(header=header, height=raw.height, width=raw.width, step=raw.step, is_bigendian=raw.is_bigendian)
    image.encoding = raw.encoding.encode("utf-8", "replace").decode()
    image.data.frombytes(raw.data)
    return image


@contextmanager
def active_node(compressed: bool) -> Iterator[SegmentationNode]:
    """Run the node in this process, without an executor: what arrives is put into its camera's hands."""
    values = {
        "model": "cgnet",
        "backend": "torch",
        "device": "cpu",
        "allow_random_weights": True,
        "threads": 1,
        "lazy": False,
        "max_image_pixels": MAX_PIXELS,
        "image_transport": "compressed" if compressed else "raw",
    }
    node = SegmentationNode("fuzzed", parameter_overrides=[Parameter(name, value=v) for name, v in values.items()])
    try:
        node.autostart()
        yield node
    finally:
        node.destroy_node()


def fuzz(count: int, seed: int, compressed: bool) -> Fuzzed:
    """Feed ``count`` malformed messages, and a good one after each hundred; all goes by the seed."""
    rng = random.Random(seed)
    result = Fuzzed(count)
    good = np.random.default_rng(seed).integers(0, 255, (96, 128, 3), np.uint8)
    config = SegmenterConfig(model="cgnet", backend="torch", device="cpu", allow_random_weights=True, threads=1)
    expected = Segmenter(config).segment(good).labels
    with active_node(compressed) as node:
        (camera,) = node._cameras
        published: list[np.ndarray] = []
        publish = camera.outputs.publish

        def listen(wanted: Any, header: Any, frame: Any, outcome: Any, *rest: Any) -> None:
            published[:] = [outcome.labels]
            publish(wanted, header, frame, outcome, *rest)

        camera.outputs.publish = listen  # type: ignore[method-assign]

        def feed(message: Any) -> tuple[str | None, float]:
            """Return why it was rejected, and the seconds that it took."""
            before = camera.mailbox.counts()
            begin = time.monotonic()
            camera._on_image(message)
            while (counts := camera.mailbox.counts()).waiting or counts.in_hand:
                if time.monotonic() - begin > PATIENCE:
                    raise TimeoutError(f"a message was not done with after {PATIENCE:g} s")
                time.sleep(1e-4)
            new = Counter(counts.rejected) - Counter(before.rejected)
            ended = counts.processed + counts.total_dropped + counts.total_rejected
            if counts.received != ended or counts.received != before.received + 1:
                result.problems.append(f"not accounted for: {counts}")
            return next(iter(new), None), time.monotonic() - begin

        picture = _good_message(good, compressed)
        side = int(MAX_PIXELS**0.5)
        for _ in range(3):  # what follows needs no more memory than the largest
            feed(_good_message(np.zeros((side, side, 3), np.uint8), compressed))
        for n in range(count):
            malformed = draw(rng, compressed)
            reason, seconds = feed(message_of(malformed, compressed))
            result.kinds[malformed.kind] += 1
            result.reasons[reason] += 1
            result.slowest = max(result.slowest, seconds)
            if reason not in malformed.reasons:
                result.problems.append(
                    f"message {n} of seed {seed}, {malformed.kind}: {reason}, not {malformed.reasons}"
                )
            if n % 100 == 99:
                published.clear()
                reason, _ = feed(picture)
                if reason or not published or not np.array_equal(published[0], expected):
                    result.problems.append(
                        f"the good frame after message {n} of seed {seed}: {reason or 'wrong labels'}"
                    )
            # Freed memory is kept by intention, and grows by a step when a larger frame finds no room in it: by a third
            # of the way those steps are taken, and what still grows is lost.
            if n == count // 3:
                result.memory_before = settled_resident()
        result.memory_after = settled_resident()
    return result


def _good_message(pixels: np.ndarray, compressed: bool) -> Any:
    header = Header(frame_id="optical")
    return messages.png(header, pixels) if compressed else messages.image(header, pixels, "bgr8")
