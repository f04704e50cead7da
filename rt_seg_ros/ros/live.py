"""A live run on this machine: the node and a player as processes of their own, what the node publishes recorded.

The three talk over DDS as they would on a robot, in a domain of their own, so that nothing else on the network takes
part or is disturbed.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.bags.types import COMPRESSED_IMAGE
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.recording import Recorded
from rt_seg_ros.evaluation.usage import Meter, gpu_memory_mib, gpu_number
from rt_seg_ros.processes import Steps, running_process
from rt_seg_ros.resources import config_dir

if TYPE_CHECKING:
    from rclpy.node import Node

    from rt_seg_ros.ros.recorder import Recorder

NODE = "/segmentation"
_START_TIMEOUT = 120.0  # seconds until the node serves; importing PyTorch from a cold disk takes a while
_STOP_TIMEOUT = 15.0  # seconds for a process to follow SIGINT, and as many for SIGTERM
_KILL_TIMEOUT = 5.0  # and to be gone after SIGKILL
_QUIET = 3.0  # seconds at least without a message after which the node gives no more answers
_FIRST_ANSWER = 30.0  # seconds for its first one, which may be slow: runtimes prepare for a size when they first see it


# What starts a process: it leaves a watcher in the process's group and becomes the process itself, whose number is
# that of the group. The watcher sees the pipe close when whoever started it lets go of it, or dies, however it does;
# then the process is to end, and whatever is left of its group ends with it.
_LAUNCHER = """
import os, signal, sys, time
pipe, patience = int(sys.argv[1]), float(sys.argv[2])
asking = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, asking)
child = os.fork()
if child:
    os.waitpid(child, 0)
    os.close(pipe)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asking)
    os.execvp(sys.argv[3], sys.argv[3:])
if os.fork():
    os._exit(0)
os.read(pipe, 1)
os.killpg(0, signal.SIGTERM)
end = time.monotonic() + patience
while time.monotonic() < end:
    try:
        os.kill(os.getpgrp(), 0)
    except ProcessLookupError:
        break
    time.sleep(0.05)
os.killpg(0, signal.SIGKILL)
"""


def run_live(
    bag: Path,
    out: Path,
    image_topic: str,
    parameters: Mapping[str, Any],
    rate: float = 1.0,
    watch: Callable[[int], object] | None = None,
    confidence: bool = False,
) -> Recorded:
    """Play a recording to the node and record what it answers.

    :param bag: a rosbag2 with ``image_topic``, raw or compressed
    :param out: a folder for the recording (``result.mcap``) and the processes' logs (``node.log``, ``player.log``)
    :param parameters: of the node, by name
    :param rate: of playing, 1: as it was recorded
    :param watch: called with the number of frames answered so far
    :param confidence: record the confidence too
    :raises UserError: the node does not start or ends before its time (with the last lines of its log), the player
        fails, or the disk does not take what is recorded
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from rt_seg_ros.ros.recorder import Recorder

    out.mkdir(parents=True, exist_ok=True)
    node_log, player_log, stamps = out / "node.log", out / "player.log", out / "stamps.csv"
    domain, lock = take_domain()
    environment = graph_environment(domain)
    # The middleware reads these when a context is made, in this process as in the others.
    with lock, _environment_variables(environment):
        context = rclpy.Context()  # of its own: the caller may have one, in another domain
        rclpy.init(args=[], context=context)
        recorder_node = rclpy.create_node("recorder", namespace="/rt_seg", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(recorder_node)
        spinning = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinning.start()
        try:
            begin = time.monotonic()
            gpu = gpu_number(str(parameters.get("device", ""))) or 0
            gpu_before = gpu_memory_mib(gpu)
            topics = _topics(confidence)
            node_command = _node_command(bag, image_topic, topics, parameters)
            with (
                running(node_command, environment, node_log, lock) as node,
                BagWriter(out / "result.mcap", overwrite=True) as writer,
                closing(Recorder(recorder_node, writer, topics)) as recorder,
            ):
                _wait_until_active(recorder_node, node, node_log)
                _wait(lambda: not recorder.unmatched(), node, node_log, "publish its topics")
                started = time.monotonic() - begin
                command = [sys.executable, "-m", "rt_seg_ros.cli", "play", str(bag), "--rate", str(rate)]
                command += ["--stamps", str(stamps), "--topics", image_topic]
                meter = Meter(node.pid, gpu_before, gpu=gpu)
                answers = _Pulse(lambda: sum(recorder.counts.values()))
                with meter, running(command, environment, player_log, lock) as player:
                    while player.poll() is None:
                        _check(node, node_log)
                        _check_recording(recorder, spinning)
                        answers.look()
                        if watch is not None:
                            watch(recorder.counts[f"{NODE}/label"])
                        time.sleep(0.05)
                if player.returncode:
                    raise UserError(f"the player failed: {_tail(player_log)}")
                published = _read_stamps(stamps)
                # Each frame gives one message of each topic, but for those that are dropped.
                while not answers.over() and any(recorder.counts[topic] < len(published) for topic in topics):
                    _check(node, node_log)
                    _check_recording(recorder, spinning)
                    time.sleep(0.05)
                _check_recording(recorder, spinning)
            if node.returncode not in (0, -signal.SIGINT):
                raise UserError(f"the node ended with status {node.returncode}: {_tail(node_log)}")
        finally:
            executor.shutdown()
            recorder_node.destroy_node()
            rclpy.try_shutdown(context=context)
            spinning.join(5.0)
    return Recorded(out / "result.mcap", published, rate, started, meter.usage)


def _node_command(bag: Path, image_topic: str, topics: Iterable[str], parameters: Mapping[str, Any]) -> list[str]:
    camera, remapping = _camera(bag, image_topic)
    arguments = [*camera, "autostart:=true", "lazy:=false"]
    # As JSON: a name of a file may be anything in YAML.
    arguments += [f"{name}:={json.dumps(value, ensure_ascii=False)}" for name, value in parameters.items()]
    # Large best-effort messages are lost on a busy machine; what is to be scored is not.
    arguments += [f"qos_overrides.{topic}.publisher.reliability:=reliable" for topic in topics]
    command = [sys.executable, "-m", "rt_seg_ros.ros.node", "--ros-args", *remapping]
    return command + [word for argument in arguments for word in ("-p", argument)]


def _read_stamps(table: Path) -> list[int]:
    return [int(line.rsplit(",", 1)[1]) for line in table.read_text(encoding="utf-8").splitlines()[1:]]


def _topics(confidence: bool) -> dict[str, type]:
    """Return what is recorded."""
    from sensor_msgs.msg import Image

    from rt_seg_ros.msg import ClassMasks, SegmentationStats

    topics = {
        f"{NODE}/label": Image,
        f"{NODE}/overlay": Image,
        f"{NODE}/class_masks": ClassMasks,
        f"{NODE}/stats": SegmentationStats,
    }
    return {**topics, f"{NODE}/confidence": Image} if confidence else topics


def _camera(bag: Path, topic: str) -> tuple[list[str], list[str]]:
    """Return the node's parameters and remappings for a topic of raw or of compressed images."""
    with open_bag(bag) as reader:
        compressed = reader.topics[topic].type == COMPRESSED_IMAGE
    if not compressed:
        return [f"camera_topics:=['{topic}']"], []
    transport = "image_transport:=compressed"
    if topic.endswith("/compressed"):
        return [f"camera_topics:=['{topic.removesuffix('/compressed')}']", transport], []
    # The node adds /compressed to a camera's name; a topic named otherwise is put in its place.
    return ["camera_topics:=['/rt_seg/camera']", transport], ["-r", f"/rt_seg/camera/compressed:={topic}"]


def take_domain() -> tuple[int, IO[str]]:
    """Return a domain that neither the user nor another run on this machine uses, and the open file that holds it.

    To let go, close that. Processes that were given the file hold the domain as well, as long as they live.

    :raises UserError: where none is free
    """
    taken = os.environ.get("ROS_DOMAIN_ID")  # by the user's own robot
    for domain in random.sample(range(1, 100), 99):
        if str(domain) == taken:
            continue
        path = Path(tempfile.gettempdir()) / f"rt_seg_ros_domain_{domain}"
        try:
            lock = path.open("r" if path.exists() else "a")  # another user's can be read, and that is enough
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise UserError(f"no ROS domain is free: 99 runs hold locks in {tempfile.gettempdir()}")


def graph_environment(domain: int) -> dict[str, str]:
    """Return the processes' environment: only this machine, and a domain of their own."""
    if os.environ.get("ROS_DISTRO") == "humble":
        local, name = {"ROS_LOCALHOST_ONLY": "1"}, "fastdds_localhost.xml"
    else:  # which still knows Humble's variable, but complains of it
        local, name = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "fastdds.xml"
    profile = str(config_dir() / "dds" / name)  # room for large images
    return {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        **os.environ,
        **local,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _environment_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    former = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, lock: IO[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; at the end ask it to stop as Ctrl-C would, and make sure that it is gone.

    It ends as well where this process dies, even by SIGKILL.

    :param lock: a domain's (:func:`take_domain`), which the process holds too
    """
    with log.open("wb") as output, _pipe() as (read, _):
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(read.fileno()), str(_STOP_TIMEOUT)]
        with running_process(
            [*launcher, *command],
            _ending,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            pass_fds=[file.fileno() for file in (read, lock) if file is not None],
        ) as process:
            yield process


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb") as writer:
        yield reader, writer


def _ending(process: subprocess.Popen[bytes]) -> Steps:
    """Ask a process and its group to end."""

    def ask(number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    steps = {signal.SIGINT: _STOP_TIMEOUT, signal.SIGTERM: _STOP_TIMEOUT, signal.SIGKILL: _KILL_TIMEOUT}
    return [(partial(ask, number), patience) for number, patience in steps.items()]


def _spin(executor: Any) -> None:
    from rclpy.executors import ExternalShutdownException

    with suppress(ExternalShutdownException):
        executor.spin()


def _wait_until_active(node: Node, process: subprocess.Popen[bytes], log: Path) -> None:
    from lifecycle_msgs.msg import State
    from lifecycle_msgs.srv import GetState

    client = node.create_client(GetState, f"{NODE}/get_state")
    try:
        _wait(client.service_is_ready, process, log, "start")

        def active() -> bool:
            future = client.call_async(GetState.Request())
            end = time.monotonic() + 2.0
            while not future.done() and time.monotonic() < end:
                time.sleep(0.01)
            state = future.result() if future.done() else None
            if state is not None and state.current_state.id == State.PRIMARY_STATE_UNCONFIGURED:
                text = log.read_text(errors="replace")
                if "cannot configure" in text or "cannot activate" in text:
                    raise UserError(f"the node does not start: {_tail(log)}")
            return state is not None and state.current_state.id == State.PRIMARY_STATE_ACTIVE

        _wait(active, process, log, "become active")
    finally:
        node.destroy_client(client)


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    end = time.monotonic() + _START_TIMEOUT
    while not condition():
        _check(process, log)
        if time.monotonic() > end:
            raise UserError(f"the node did not {what} within {_START_TIMEOUT:.0f} s: {_tail(log)}")
        time.sleep(0.05)


class _Pulse:
    """Tells when messages have ceased: after a silence of twice the longest there was between two of them."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last, self._since = count(), time.monotonic()
        self._longest = 0.0
        self._begun = False

    def look(self) -> float:
        """Return the seconds of silence so far."""
        now, count = time.monotonic(), self._count()
        if count != self._last:
            if self._begun:
                self._longest = max(self._longest, now - self._since)
            self._last, self._since, self._begun = count, now, True
        return now - self._since

    def over(self) -> bool:
        """Return whether nothing more is to be expected."""
        silence = self.look()
        return silence > (max(_QUIET, 2 * self._longest) if self._begun else _FIRST_ANSWER)


def _check(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise UserError(f"the node ended with status {process.returncode}: {_tail(log)}")


def _check_recording(recorder: Recorder, spinning: threading.Thread) -> None:
    if recorder.problem:
        raise UserError(f"what the node published could not be recorded: {recorder.problem}")
    if not spinning.is_alive():
        raise UserError("what the node published could not be recorded: the thread that received it has ended")


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace").strip() if log.is_file() else ""
    return "\n  ".join(["", *text.splitlines()[-8:]]) + f"\n(the whole log is {log})"
