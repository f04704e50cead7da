"""One turn of a case that needs no ROS, in a process of its own: ``python -m rt_seg_ros.benchmark.turn ORDER.json``.

A process of its own each time, because only that tells start-up and peak memory, and because no case then works with
threads, caches or memory that another left behind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.spec import MASK_CLASS, Answer, Order, peak_memory_mib
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, frame_from_compressed, frame_from_ros
from rt_seg_ros.working_size import Size

if TYPE_CHECKING:
    from rt_seg_ros.pipeline import Segmenter

Labels = NDArray[np.uint8]


@dataclass
class Runner:
    """Something to be measured: ``step(n)`` does the n-th call's work and returns (labels, network's milliseconds).

    ``frames``: how many frames a call is for.
    """

    step: Callable[[int], tuple[Labels | None, float]]
    backend: str
    device: str
    precision: str
    working: Size
    frames: int = 1


@dataclass(frozen=True)
class Material:
    """The frames: JPEG data, and the same decoded as a sensor's raw messages bring them."""

    jpeg: list[bytes]
    raw: list[bytes]
    size: Size

    @classmethod
    def read(cls, files: list[str], case: Case) -> Material:
        """Read the files, and decode them where raw images are wanted."""
        data = [Path(file).read_bytes() for file in files]
        raw = [frame_from_compressed(d).pixels.tobytes() for d in data] if case.input == "raw" else []
        return cls(data, raw, case.size)

    def frame(self, n: int) -> Frame:
        """Take the n-th frame in, as the node does."""
        if self.raw:
            height, width = self.size
            return frame_from_ros("bgr8", height, width, 3 * width, self.raw[n % len(self.raw)])
        return frame_from_compressed(self.jpeg[n % len(self.jpeg)])


def main(arguments: list[str]) -> int:
    """Do the turn that an order file describes, and write the answer."""
    order = Order.read(Path(arguments[0]))
    try:
        answer = take_turn(order)
    except UserError as error:
        answer = Answer(error=str(error))
    answer.write(Path(order.answer))
    return 0


def take_turn(order: Order) -> Answer:
    """Measure one case.

    :raises UserError: a configuration that cannot be had
    """
    case = order.case
    material = Material.read(order.frames, case)
    runner = _naive(case, material) if case.naive else _ours(case, material)
    labels, _ = runner.step(0)
    first = time.monotonic() - order.spawned
    if order.labels is not None and labels is not None:
        np.save(order.labels, labels)
    answer = Answer(
        first=first, backend=runner.backend, device=runner.device, precision=runner.precision,
        working=list(runner.working),
    )  # fmt: skip

    n, end = 1, time.perf_counter() + order.warm_up
    while n < 3 or time.perf_counter() < end:
        runner.step(n)
        n += 1
    begin, cpu = time.perf_counter(), time.process_time()
    while len(answer.total) < order.least or time.perf_counter() < begin + order.seconds:
        started = time.perf_counter()
        _, network = runner.step(n)
        answer.total.append((time.perf_counter() - started) * 1e3 / runner.frames)
        answer.network.append(network)
        n += 1
    answer.cpu = (time.process_time() - cpu) * 1e3 / (len(answer.total) * runner.frames)
    answer.memory = peak_memory_mib()
    return answer


def _ours(case: Case, material: Material) -> Runner:
    from rt_seg_ros.drawing import Painter
    from rt_seg_ros.masks import binary_mask
    from rt_seg_ros.memory import keep_freed_memory
    from rt_seg_ros.pipeline import Segmenter

    keep_freed_memory()  # as the node and the command line do
    segmenter = Segmenter(case.config())
    segmenter.backend.live = False  # what is measured is to be who was asked for
    painter = Painter(segmenter.label_space)
    canvas = np.empty((*case.size, 3), np.uint8)
    mask = np.empty(case.size, np.uint8)

    def pipeline(n: int) -> tuple[Labels, float]:
        frames = [material.frame(n * case.batch + i) for i in range(case.batch)]
        results = segmenter.segment_batch(frames)
        for frame, result in zip(frames, results, strict=True):
            if case.outputs == "overlay":
                painter.overlay(frame.bgr(), result.labels, canvas)
            elif case.outputs == "mask":
                binary_mask(result.labels, MASK_CLASS, mask)
        return results[0].labels, results[0].timings["network"]

    working = segmenter.working_size(*case.size)
    step: Callable[[int], tuple[Labels | None, float]] = pipeline
    if case.mode == "network":
        step = _network_alone(case, segmenter, material)
    return Runner(step, segmenter.backend_name, segmenter.device, segmenter.precision, working, case.batch)


def _network_alone(case: Case, segmenter: Segmenter, material: Material) -> Callable[[int], tuple[None, float]]:
    from rt_seg_ros.backends.base import HostBackend

    backend = segmenter.backend
    frames = [material.frame(i) for i in range(case.batch)]
    if not isinstance(backend, HostBackend):
        raise UserError(
            f"backend '{backend.name}' on {backend.device} has no network apart from what is around it; leave out "
            "--network-only and see the network's own time, measured by events on the device"
        )
    batch = backend.prepared(frames, segmenter.working_size(*case.size))

    def step(n: int) -> tuple[None, float]:
        begin = time.perf_counter()
        backend.logits(batch)
        return None, (time.perf_counter() - begin) * 1e3 / case.batch

    return step


def _naive(case: Case, material: Material) -> Runner:
    from rt_seg_ros.benchmark.naive import NaiveNode

    node = NaiveNode(case.card(), case.ratio, case.device, case.threads)

    def decoded(n: int) -> NDArray[np.uint8]:
        if material.raw:
            data = np.frombuffer(material.raw[n % len(material.raw)], np.uint8)
            return data.reshape(*material.size, 3)
        return node.decode(material.jpeg[n % len(material.jpeg)])

    def pipeline(n: int) -> tuple[Labels, float]:
        image = decoded(n)
        labels = node.labels(image)
        if case.outputs == "overlay":
            node.overlay(image, labels)
        elif case.outputs == "mask":
            node.mask(labels, MASK_CLASS)
        return labels, node.network_ms

    step: Callable[[int], tuple[Labels | None, float]] = pipeline
    if case.mode == "network":
        prepared = node.prepare(decoded(0))

        def network(n: int) -> tuple[None, float]:
            node.infer(prepared)
            return None, node.network_ms

        step = network
    return Runner(step, "torch", node.device, "fp32", node.working_size(*case.size))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
