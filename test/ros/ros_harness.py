"""A ROS graph to test in: the node as a process of its own, and this process as its cameras and subscribers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from rt_seg_ros.ros import messages, qos
from rt_seg_ros.ros.parameters import PARAMETERS

HEIGHT, WIDTH = 96, 128
TIMEOUT = 60.0
#: What every node under test is started with: no weights are needed, and the network is small.
USUAL = {"autostart": True, "allow_random_weights": True, "threads": 1, "device": "cpu"}


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Return an image with something in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width])


def at_rate(camera: Camera, seconds: float, period: float = 0.05, image: np.ndarray | None = None) -> None:
    """Send images for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        camera.send(image)
        time.sleep(period)


class Collector(list):
    """Messages of one topic, as they come."""

    def __init__(self, graph: Graph, kind: type, topic: str, profile) -> None:
        super().__init__()
        self._graph = graph
        self.topic = topic
        self.arrivals: list[float] = []
        self._subscription = graph.node.create_subscription(kind, topic, self._take, profile)

    def _take(self, message) -> None:
        with self._graph.changed:
            self.append(message)
            self.arrivals.append(time.time())
            self._graph.changed.notify_all()

    def matched(self) -> bool:
        if not hasattr(self._subscription, "get_publisher_count"):  # Humble
            return self._graph.node.count_publishers(self.topic) > 0
        return self._subscription.get_publisher_count() > 0

    def close(self) -> None:
        self._graph.node.destroy_subscription(self._subscription)


class Graph:
    """This process's node in the graph, spinning in a thread."""

    def __init__(self) -> None:
        self.node = rclpy.create_node(f"test_{os.getpid()}_{random.randrange(10**6)}")
        self.changed = threading.Condition()
        self._clients: dict = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._passing: list[Collector | Camera] = []
        self.diagnostics = Collector(self, DiagnosticArray, "/diagnostics", 10)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def clear(self) -> None:
        """Take back all publishers and subscriptions that were asked for."""
        for one in self._passing:
            one.close()
        self._passing = []
        self.diagnostics.clear()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()

    def wait(self, condition, what: str, timeout: float = TIMEOUT):
        """Wait until ``condition()`` is true; return what it returned."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not (result := condition()):
                assert time.monotonic() < deadline, f"waited {timeout:g} s in vain for {what}"
                self.changed.wait(0.02)
        return result

    def feed(self, camera: Camera, condition, what: str, timeout: float = TIMEOUT, period: float = 0.05):
        """Send images until ``condition()`` is true; return what it returned."""

        def fed():
            camera.send()
            with contextlib.suppress(IndexError):
                return condition() or self._pause(period)

        return self.wait(fed, what, timeout)

    def _pause(self, seconds: float) -> None:
        self.changed.wait(seconds)

    def collect(self, kind: type, topic: str, profile=None) -> Collector:
        self._passing.append(Collector(self, kind, topic, profile or qos.sensor_data()))
        return self._passing[-1]

    def camera(self, topic: str = "/camera/image_raw", reliability=qos.BEST_EFFORT, kind: type = Image) -> Camera:
        self._passing.append(Camera(self, topic, reliability, kind))
        return self._passing[-1]

    def call(self, kind: type, service: str, request, timeout: float = TIMEOUT):
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, service)
        assert client.wait_for_service(timeout), f"there is no service {service}"
        future = client.call_async(request)
        future.add_done_callback(self._notify)
        self.wait(future.done, f"an answer from {service}", timeout)
        return future.result()

    def ask(self, kind: type, service: str, request, timeout: float = TIMEOUT):
        """Call a service that does no more when called twice; again where a machine lost question or answer."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.call(kind, service, request, min(10.0, timeout))
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def _notify(self, _future) -> None:
        with self.changed:
            self.changed.notify_all()

    def status(self, name: str):
        """Return the last diagnostic status of this name, with its values as a dict, or None."""
        for report in reversed(self.diagnostics):
            for status in report.status:
                if status.name == name:
                    return status.level, status.message, {v.key: v.value for v in status.values}
        return None


class Camera:
    """A publisher of images."""

    def __init__(self, graph: Graph, topic: str, reliability, kind: type) -> None:
        self._graph = graph
        self._publisher = graph.node.create_publisher(kind, topic, qos.sensor_data(reliability))
        self.sent: list[tuple[int, int]] = []

    def matched(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def header(self) -> Header:
        return Header(stamp=self._graph.node.get_clock().now().to_msg(), frame_id="optical")

    def send(self, image: np.ndarray | None = None, encoding: str = "bgr8") -> tuple[int, int]:
        return self.send_message(messages.image(self.header(), picture() if image is None else image, encoding))

    def send_message(self, message) -> tuple[int, int]:
        self._publisher.publish(message)
        stamp = stamp_of(message)
        self.sent.append(stamp)
        return stamp

    def close(self) -> None:
        self._graph.node.destroy_publisher(self._publisher)


def stamp_of(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


class NodeProcess:
    """The segmentation node in a process of its own."""

    program: tuple[str, ...] = ("-m", "rt_seg_ros.ros.node")

    def __init__(self, graph: Graph, name: str = "segmentation", namespace: str = "", arguments=(), **values) -> None:
        self.graph = graph
        self.name = f"{namespace}/{name}"
        command = [sys.executable, *self.program, "--ros-args", "-r", f"__node:={name}"]
        if namespace:
            command += ["-r", f"__ns:={namespace}"]
        for key, value in {**USUAL, **values}.items():
            text = str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"')
            command += ["-p", f"{key}:={text}"]
        self.changed = False
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RCUTILS_LOGGING_BUFFERED_STREAM": "0",
                "PYTHONFAULTHANDLER": "1",
            },
        )

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def wait_log(self, text: str, timeout: float = TIMEOUT) -> None:
        self.graph.wait(lambda: text in self.log() or self._ended(), f"'{text}' in the log", timeout)
        assert text in self.log(), f"no '{text}' in:\n{self.log()}"

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def wait_state(self, state: str, timeout: float = TIMEOUT) -> None:
        self.graph.wait(lambda: self.state() == state, f"state {state}; log:\n{self.log()}", timeout)

    def state(self) -> str:
        assert not self._ended(), f"the node ended:\n{self.log()}"
        return self.graph.ask(GetState, f"{self.name}/get_state", GetState.Request()).current_state.label

    def wait_answer(self, timeout: float = TIMEOUT) -> None:
        """Wait until this process answers: where one of its name was killed, the first questions may go to that one."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.graph.call(GetState, f"{self.name}/get_state", GetState.Request(), timeout=3.0)
                return
            except AssertionError:
                assert time.monotonic() < deadline and not self._ended(), f"no answer; log:\n{self.log()}"

    def transition(self, label: str) -> bool:
        request = ChangeState.Request(transition=Transition(label=label))
        return self.graph.call(ChangeState, f"{self.name}/change_state", request).success

    def set(self, **values) -> tuple[bool, str]:
        """Set parameters, all or none; return whether it was done, and the reason."""
        parameters = []
        for key, value in values.items():
            if value == []:
                parameters.append(Parameter(key, Parameter.Type.STRING_ARRAY, []).to_parameter_msg())
            else:
                parameters.append(
                    value if isinstance(value, ParameterMsg) else Parameter(key, value=value).to_parameter_msg()
                )
        request = SetParametersAtomically.Request(parameters=parameters)
        result = self.graph.ask(SetParametersAtomically, f"{self.name}/set_parameters_atomically", request).result
        self.changed |= result.successful
        return result.successful, result.reason

    def get(self, name: str):
        request = GetParameters.Request(names=[name])
        values = self.graph.ask(GetParameters, f"{self.name}/get_parameters", request).values
        return Parameter.from_parameter_msg(ParameterMsg(name=name, value=values[0])).value

    def status(self, what: str = "model"):
        return self.graph.status(f"{self.name.lstrip('/')}: {what}")

    def wait_status(self, condition, what: str = "model", timeout: float = TIMEOUT):
        """Wait for a report that comes from now on and fulfils ``condition(level, message, facts)``."""
        self.graph.diagnostics.clear()
        return self.graph.wait(
            lambda: (s := self.status(what)) is not None and condition(*s) and s,
            f"a status of {what}; the last: {self.status(what)}",
            timeout,
        )

    def reset(self) -> None:
        """Make the node active, with its parameters as they were at its start and its counts at zero."""
        if self.state() == "active":
            assert self.transition("deactivate")
        changed = self.changed
        initial = {p.name: USUAL.get(p.name, p.default) for p in PARAMETERS if p.change != "start"}
        done, reason = self.set(**initial)
        assert done, reason
        if self.state() == "unconfigured":
            assert self.transition("configure"), self.log()
        if changed:
            self.wait_status(lambda level, text, facts: facts["preparing"] == "")
        self.changed = False
        assert self.transition("activate"), self.log()

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def ask_to_end(self) -> None:
        if not self._ended():
            self.process.send_signal(signal.SIGINT)

    def kill(self, patience: float = 0.0) -> None:
        """End the process by force, where it still runs after ``patience`` seconds."""
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        if not self._ended():
            self.process.kill()
            self.process.wait()

    def stop(self, how: int = signal.SIGINT) -> int:
        if not self._ended():
            self.process.send_signal(how)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # by which Python tells where its threads are
            self.process.wait()
            raise AssertionError(f"the node did not end:\n{self.log()}") from None
        finally:
            self.last_log = self.log()
            self._log.close()


class BreakableNode(NodeProcess):
    """The node, whose serving backend can be broken behind its back."""

    program = (str(Path(__file__).with_name("breakable_node.py")),)

    def break_backend(self, name: str) -> None:
        said = f"broken: {name}"
        before = self.log().count(said)
        self.process.send_signal(signal.SIGUSR1)
        self.graph.wait(lambda: self.log().count(said) > before or self._ended(), f"'{said}' in the log")


class StandingNode(NodeProcess):
    """A node that is slow to configure, and stands still for good on SIGUSR1."""

    program = (str(Path(__file__).with_name("standing_node.py")),)


class HangingNode(NodeProcess):
    """The node, whose network never returns once SIGUSR1 has come."""

    program = (str(Path(__file__).with_name("hanging_node.py")),)
