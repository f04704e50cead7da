"""What befalls a node in its days on a vehicle: each a function that injects it and leaves things as they were."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time as TimeMsg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from soak.camera import PICTURES, SIZES, picture
from soak.fuzz import message_of
from soak.malformed import draw
from soak.observer import COUNTS, Observer
from std_msgs.msg import Header

from ros_harness import Graph, NodeProcess
from rt_seg_ros.ros import messages, qos

_HERE = Path(__file__).parent


class CameraProcess:
    """A camera that can be killed and started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.topic = f"/{name}/image_raw"
        self.size = 0
        self.reliable = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(_HERE / "camera.py"), self.topic, "--size", str(self.size)]
        self._process = subprocess.Popen([*command, "--reliable"] if self.reliable else command)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Bench:
    """The node under test and what is around it."""

    def __init__(self, graph: Graph, node: NodeProcess, names: list[str], rng: random.Random) -> None:
        self.graph = graph
        self.node = node
        self.rng = rng
        self.problems: list[str] = []
        self.cameras = [CameraProcess(name) for name in names]
        self.observers = [Observer(graph, n, f"{node.name}/{n}" if len(names) > 1 else node.name) for n in names]
        self._publishers: dict[str, Any] = {
            c.topic: graph.node.create_publisher(Image, c.topic, qos.sensor_data()) for c in self.cameras
        }
        overlays = [f"{node.name}/{n}/overlay" if len(names) > 1 else f"{node.name}/overlay" for n in names]
        self.listener = subprocess.Popen([sys.executable, str(_HERE / "listener.py"), *overlays])
        for camera in self.cameras:
            camera.start()

    def close(self) -> None:
        """End all processes but the node's."""
        for camera in self.cameras:
            camera.kill()
        self.listener.kill()
        self.listener.wait()

    def expect(self, condition: bool, what: str) -> None:
        """Note what does not hold."""
        if not condition:
            self.problems.append(what)

    def any_camera(self) -> CameraProcess:
        """Return one of the cameras."""
        return self.rng.choice(self.cameras)

    def publish(self, camera: CameraProcess, message: Any) -> None:
        """Publish on a camera's topic, beside it."""
        self._publishers[camera.topic].publish(message)

    def good(self, camera: CameraProcess) -> Any:
        """Return a picture as that camera would send it."""
        number = self.rng.randrange(PICTURES)
        header = Header(stamp=self.graph.node.get_clock().now().to_msg(), frame_id=f"{camera.size}:{number}")
        return messages.image(header, picture(camera.size, number), "bgr8")

    def collect_counts(self) -> None:
        """Add up what the node counted since it was activated; to be called while nothing more is counted."""
        for observer in self.observers:
            _, _, facts = self.node.wait_status(
                lambda level, text, facts: facts["waiting"] == facts["in hand"] == "0", f"camera {observer.name}"
            )
            counts = {name: int(facts[name]) for name in COUNTS}
            ended = counts["processed"] + counts["dropped"] + counts["rejected"]
            self.expect(counts["received"] == ended, f"frames of {observer.name} not accounted for: {facts}")
            observer.counts.update(counts)
            observer.counts.update({k: int(v) for k, v in facts.items() if k.startswith(("dropped: ", "rejected: "))})


def restart(bench: Bench) -> None:
    """Kill a camera and start it again."""
    camera = bench.any_camera()
    camera.kill()
    time.sleep(bench.rng.uniform(0, 1))
    camera.start()


def restart_with_other_qos(bench: Bench) -> None:
    """Kill a camera; the one that comes has another reliability."""
    camera = bench.any_camera()
    camera.kill()
    camera.reliable = not camera.reliable
    camera.start()


def restart_with_other_size(bench: Bench) -> None:
    """Kill a camera; the one that comes has another size."""
    camera = bench.any_camera()
    camera.kill()
    camera.size = (camera.size + 1) % len(SIZES)
    camera.start()


def garbage(bench: Bench) -> None:
    """Send malformed images among a camera's good ones."""
    camera = bench.any_camera()
    sent = 0
    while sent < 60:
        malformed = draw(bench.rng, compressed=False)
        if None not in malformed.reasons:
            bench.publish(camera, message_of(malformed, compressed=False))
            sent += 1
            time.sleep(0.005)


def flood(bench: Bench) -> None:
    """Send two hundred images as fast as they go out."""
    camera = bench.any_camera()
    for _ in range(200):
        bench.publish(camera, bench.good(camera))


def stalled_subscriber(bench: Bench) -> None:
    """Stop a reliable subscriber for some seconds."""
    bench.listener.send_signal(signal.SIGSTOP)
    time.sleep(bench.rng.uniform(1, 3))
    bench.listener.send_signal(signal.SIGCONT)


def valid_changes(bench: Bench) -> None:
    """Change parameters to values that they can have."""
    for _ in range(20):
        values = bench.rng.choice(
            (
                {"overlay_alpha": bench.rng.random()},
                {"overlay_legend": bench.rng.random() < 0.5},
                {"mask_classes": bench.rng.sample(["road", "car", "sky", "tree"], 2)},
                {"max_rate": bench.rng.choice([0.0, 5.0, 15.0])},
                {"input_timeout": bench.rng.uniform(0.5, 5)},
                {"downsampling_ratio": bench.rng.choice([0.75, 1.0])},
            )
        )
        done, reason = bench.node.set(**values)
        bench.expect(done, f"{values} was refused: {reason}")
    done, reason = bench.node.set(max_rate=0.0, input_timeout=2.0, mask_classes=[], downsampling_ratio=1.0)
    bench.expect(done, f"the usual values were refused: {reason}")


def invalid_changes(bench: Bench) -> None:
    """Try to change parameters to values that they cannot have."""
    for _ in range(20):
        values = bench.rng.choice(
            (
                {"downsampling_ratio": bench.rng.choice([-0.1, -1.0, 1.5, float("nan"), "half"])},
                {"model": bench.rng.choice(["cgnet2", "", 3])},
                {"weights": "/nowhere/at_all.safetensors"},
                {"backend": "abacus"},
                {"input_height": 16, "input_width": 16},
                {"camera_topics": ["/other/image_raw"]},
                {"mask_classes": ["unicorn"]},
                {"overlay_alpha": 0.5, "max_rate": -1.0},
            )
        )
        done, reason = bench.node.set(**values)
        bench.expect(not done and bool(reason), f"{values} was accepted")


def deactivation(bench: Bench) -> None:
    """Deactivate for a while; frames counted until then are added up."""
    bench.expect(bench.node.transition("deactivate"), "deactivate failed")
    bench.collect_counts()
    bench.expect(not bench.node.transition("deactivate"), "deactivated twice")
    bench.expect(bench.node.transition("activate"), "activate failed")


def clock_jumps_back(bench: Bench) -> None:
    """Let the node go by a clock that jumps, and by its own again."""
    clock = bench.graph.node.create_publisher(Clock, "/clock", 1)
    done, reason = bench.node.set(use_sim_time=True)
    bench.expect(done, f"use_sim_time was refused: {reason}")
    for second in (5000, 5001, 100, 101, 1):
        for _ in range(4):
            clock.publish(Clock(clock=TimeMsg(sec=second)))
            time.sleep(0.05)
    done, reason = bench.node.set(use_sim_time=False)
    bench.expect(done, f"use_sim_time was refused: {reason}")
    bench.graph.node.destroy_publisher(clock)


FAULTS: dict[str, Callable[[Bench], None]] = {
    "camera killed": restart,
    "camera killed, other QoS": restart_with_other_qos,
    "camera killed, other size": restart_with_other_size,
    "garbage": garbage,
    "flood": flood,
    "stalled subscriber": stalled_subscriber,
    "valid parameters": valid_changes,
    "invalid parameters": invalid_changes,
    "deactivated": deactivation,
    "clock jumps back": clock_jumps_back,
}
