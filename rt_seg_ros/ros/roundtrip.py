"""One turn of the benchmark with a node: ``python -m rt_seg_ros.ros.roundtrip ORDER.json``.

Starts the node as a process of its own, in a domain of its own, publishes an image for each camera, waits for all of
their labels, and publishes the next ones: the node is never ahead of its work nor behind it, and no frame is dropped.
Label and mask of one class are subscribed to.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from rt_seg_ros.bags.results import DEFAULT_NAMESPACE as NODE
from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.naive import naive_device
from rt_seg_ros.benchmark.spec import MASK_CLASS, Answer, Order, peak_memory_mib
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.usage import Meter
from rt_seg_ros.images import frame_from_compressed
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.process_groups import running_group
from rt_seg_ros.ros import conversions, messages, qos
from rt_seg_ros.ros.domains import graph_environment, take_domain
from rt_seg_ros.ros.names import class_tokens

_START_TIMEOUT = 180.0
_ANSWER_TIMEOUT = 60.0  # seconds; an answer that is later than that is lost
_RESEND = 2.0  # the first image may go out before somebody hears it
_QUIET = 0.5
_ATTEMPTS = 3
_LINES = 6  # of the node's log


@dataclass
class _Topics:
    """Topics of one camera: where its images go to, and where the answers come from."""

    image: str
    label: str
    mask: str
    stats: str | None = None


@dataclass
class _Heard:
    """What came back: the last label's stamp by camera, and what the node says of its own time."""

    labels: dict[int, int] = field(default_factory=dict)
    stats: list[Any] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Do the turn that an order file describes, and write the answer."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the node is to end with this process
        signal.signal(number, _interrupt)
    order = Order.read(Path(arguments[0]))
    domain, lock = take_domain()
    os.environ.update(graph_environment(domain))  # of this process and of the node, which inherits it
    with lock, tempfile.TemporaryDirectory(prefix="rt_seg_roundtrip_") as folder:
        try:
            answer = _take_turn(order, Path(folder), lock)
        except UserError as error:
            answer = Answer(error=str(error))
        except KeyboardInterrupt:
            return 130
    answer.write(Path(order.answer))
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _take_turn(order: Order, folder: Path, lock: IO[str]) -> Answer:
    command, topics = _command(order.case, folder)
    spawned = time.monotonic()
    with running_group(command, os.environ, folder / "node.log", lock) as process:
        client = _Client(order, topics, process, folder / "node.log")
        try:
            return client.measure(spawned)
        finally:
            client.close()


def _command(case: Case, folder: Path) -> tuple[list[str], list[_Topics]]:
    """Return the node's command, and the topics of each camera."""
    images = [f"/camera{n}/image_raw" for n in range(case.cameras)]
    if case.naive:
        path = folder / "case.json"
        path.write_text(json.dumps(case.to_dict()), encoding="utf-8")
        topics = [_Topics(t, f"/naive/camera{n}/label", f"/naive/camera{n}/mask") for n, t in enumerate(images)]
        return [sys.executable, "-m", "rt_seg_ros.ros.naive_node", str(path), *images], topics
    names = case.card().load_label_space().names
    parameters = {
        "model": case.model,
        "weights": case.weights,
        "label_space": case.label_space,
        "backend": case.backend,
        "device": case.device,
        "precision": case.precision,
        "threads": case.threads,
        "downsampling_ratio": float(case.ratio),
        "allow_random_weights": case.allow_random_weights,
        "camera_topics": images,
        "mask_classes": [names[MASK_CLASS]],
        "autostart": True,
    }
    path = folder / "parameters.yaml"
    path.write_text(json.dumps({"/**": {"ros__parameters": parameters}}), encoding="utf-8")  # JSON is YAML
    token = class_tokens(names)[names[MASK_CLASS]]
    bases = [NODE if case.cameras == 1 else f"{NODE}/camera{n}" for n in range(case.cameras)]
    topics = [
        _Topics(image, f"{base}/label", f"{base}/mask/{token}", f"{base}/stats")
        for image, base in zip(images, bases, strict=True)
    ]
    command = [sys.executable, "-m", "rt_seg_ros.ros.node", "--ros-args", "--params-file", str(path)]
    return command, topics


class _Client:
    """The cameras, and whoever reads the labels."""

    def __init__(self, order: Order, topics: list[_Topics], process: subprocess.Popen[bytes], log: Path) -> None:
        self._order, self._process, self._log = order, process, log
        self._parent = os.getppid()
        rclpy.init(args=[])
        self._node = rclpy.create_node("benchmark", namespace="/rt_seg")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._heard = _Heard()
        self._cameras = [self._node.create_publisher(Image, t.image, qos.sensor_data(qos.RELIABLE)) for t in topics]
        for n, topic in enumerate(topics):
            self._node.create_subscription(Image, topic.label, partial(self._on_label, n), qos.sensor_data())
            self._node.create_subscription(Image, topic.mask, lambda _: None, qos.sensor_data())
            if topic.stats is not None:
                self._node.create_subscription(SegmentationStats, topic.stats, self._on_stats, qos.sensor_data())
        pictures = [frame_from_compressed(Path(file).read_bytes()).pixels for file in order.frames]
        self._images = [messages.image(Header(), picture, "bgr8") for picture in pictures]
        self._sent = 0
        self.lost = 0

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def measure(self, spawned: float) -> Answer:
        """Measure from the start of the node's process, at ``spawned`` by ``time.monotonic()``.

        :raises UserError: the node does not start, ends, or answers no more
        """
        order, case = self._order, self._order.case
        deadline = spawned + _START_TIMEOUT
        while not all(camera.get_subscription_count() for camera in self._cameras):
            self._spin(0.02)
            self._check(deadline, "subscribe to its cameras")
        first = self._first_label(deadline)

        end, rounds = time.perf_counter() + order.warm_up, 0
        while rounds < 3 or time.perf_counter() < end:
            self._round_trip()
            rounds += 1
        self._heard.stats.clear()
        answer = Answer(first=first - spawned)
        with Meter(self._process.pid) as meter:
            begin = time.perf_counter()
            while len(answer.total) < order.least or time.perf_counter() < begin + order.seconds:
                answer.total.append(self._round_trip() * 1e3 / case.cameras)
            self._spin(0.2)  # statistics come after the label
        usage = meter.usage
        if usage.cores is not None:
            answer.cpu = usage.cores * usage.seconds * 1e3 / (len(answer.total) * case.cameras)
        answer.lost = self.lost
        answer.memory = peak_memory_mib(self._process.pid)
        if self._heard.stats:
            self._add_stats(answer)
        else:
            height, width = case.size
            answer.backend, answer.precision = "torch", "fp32"
            answer.device = naive_device(case.device)
            answer.working = list(case.card().working_size((height, width), case.ratio))
        return answer

    def _add_stats(self, answer: Answer) -> None:
        """Add what the node says of itself; the mailbox's wait, behind another camera's frame, is not its work."""
        last = self._heard.stats[-1]
        answer.backend, answer.device, answer.precision = last.backend, last.device, last.precision
        answer.working = [last.working_height, last.working_width]
        answer.node = [float(s.total_ms - s.wait_ms) for s in self._heard.stats]
        answer.network = [float(s.network_ms) for s in self._heard.stats]

    def _first_label(self, deadline: float) -> float:
        """Send images until one is answered, then let the others be; return when that was, by ``time.monotonic()``."""
        send = 0.0
        while not self._heard.labels:
            if time.monotonic() >= send:
                self._send()
                send = time.monotonic() + _RESEND
            self._spin(0.02)
            self._check(deadline, "answer an image")
        first, last, since = time.monotonic(), dict(self._heard.labels), time.monotonic()
        while time.monotonic() < since + _QUIET:
            self._spin(0.05)
            if self._heard.labels != last:
                last, since = dict(self._heard.labels), time.monotonic()
        return first

    def _send(self) -> dict[int, int]:
        """Publish every camera's next image; return their stamps by camera."""
        stamps = {}
        for n, camera in enumerate(self._cameras):
            self._sent += 1
            message = self._images[self._sent % len(self._images)]
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._sent, 1_000_000_000)
            stamps[n] = self._sent
            camera.publish(message)
        return stamps

    def _round_trip(self) -> float:
        """Publish images and return the seconds until all of their labels were there.

        An image or a label that is lost on the way, as best effort may, is sent for anew.

        :raises UserError: the node answers no more
        """
        for _ in range(_ATTEMPTS):
            self._spin(0.0)
            begin = time.perf_counter()
            stamps = self._send()
            while (left := begin + _ANSWER_TIMEOUT - time.perf_counter()) > 0:
                self._executor.spin_once(timeout_sec=min(left, 1.0))
                if stamps.items() <= self._heard.labels.items():
                    return time.perf_counter() - begin
                self._check()
            self.lost += len(stamps)
        raise UserError(f"the node answers no more: {self._tail()}")

    def _spin(self, seconds: float) -> None:
        if os.getppid() != self._parent:
            raise UserError("whoever asked for this turn has ended")
        end = time.monotonic() + seconds
        self._executor.spin_once(timeout_sec=seconds)
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))

    def _check(self, deadline: float = math.inf, what: str = "") -> None:
        if self._process.poll() is not None:
            raise UserError(f"the node ended with status {self._process.returncode}: {self._tail()}")
        if time.monotonic() > deadline:
            raise UserError(f"the node did not {what} within {_START_TIMEOUT:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-_LINES:]) or "it said nothing"

    def _on_label(self, camera: int, message: Image) -> None:
        self._heard.labels[camera] = conversions.stamp_nanoseconds(message.header)

    def _on_stats(self, message: Any) -> None:
        self._heard.stats.append(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
