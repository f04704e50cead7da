"""A live run on this machine: the node and a player as processes of their own, what the node publishes recorded.

The three talk over DDS as they would on a robot, in a domain of their own, so that nothing else on the network takes
part or is disturbed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from sensor_msgs.msg import Image

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE as NODE
from rt_seg_ros.bags.types import COMPRESSED_IMAGE
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.recording import Recorded
from rt_seg_ros.evaluation.usage import Meter, gpu_memory_mib, gpu_number
from rt_seg_ros.msg import ClassMasks, SegmentationStats
from rt_seg_ros.process_groups import running_group
from rt_seg_ros.ros.domains import environment_variables, graph_environment, take_domain
from rt_seg_ros.ros.graph import GraphThread
from rt_seg_ros.ros.recorder import Recorder

if TYPE_CHECKING:
    from rclpy.node import Node

_START_TIMEOUT = 120.0  # seconds until the node serves; importing PyTorch from a cold disk takes a while
_QUIET = 3.0  # seconds at least without a message after which the node gives no more answers
_FIRST_ANSWER = 30.0  # seconds for its first one, which may be slow: runtimes prepare for a size when they first see it


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
    out.mkdir(parents=True, exist_ok=True)
    node_log, player_log, stamps = out / "node.log", out / "player.log", out / "stamps.csv"
    domain, lock = take_domain()
    environment = graph_environment(domain)
    topics = _topics(confidence)
    player_command = [sys.executable, "-m", "rt_seg_ros.cli", "play", str(bag), "--rate", str(rate)]
    player_command += ["--stamps", str(stamps), "--topics", image_topic]
    # The middleware reads the environment when a context is made, in this process as in the others.
    with lock, environment_variables(environment), closing(GraphThread("rt_seg_recorder")) as graph:
        graph.start()
        begin = time.monotonic()
        gpu = gpu_number(str(parameters.get("device", ""))) or 0
        gpu_before = gpu_memory_mib(gpu)
        with (
            running_group(_node_command(bag, image_topic, topics, parameters), environment, node_log, lock) as process,
            BagWriter(out / "result.mcap", overwrite=True) as writer,
            closing(Recorder(graph.node, writer, topics)) as recorder,
        ):
            node = _Process(process, node_log)
            _wait_until_active(graph.node, node)
            node.wait(lambda: not recorder.unmatched(), "publish its topics")
            started = time.monotonic() - begin

            def check() -> None:
                node.check()
                if recorder.problem:
                    raise UserError(f"what the node published could not be recorded: {recorder.problem}")

            meter = Meter(process.pid, gpu_before, gpu=gpu)
            answers = _Pulse(lambda: sum(recorder.counts.values()))
            with meter, running_group(player_command, environment, player_log, lock) as player:
                while player.poll() is None:
                    check()
                    answers.look()
                    if watch is not None:
                        watch(recorder.counts[f"{NODE}/label"])
                    time.sleep(0.05)
            if player.returncode:
                raise UserError(f"the player failed: {_tail(player_log)}")
            published = _read_stamps(stamps)
            # Each frame gives one message of each topic, but for those that are dropped.
            while not answers.over() and any(recorder.counts[topic] < len(published) for topic in topics):
                check()
                time.sleep(0.05)
            check()
        if process.returncode not in (0, -signal.SIGINT):
            raise UserError(f"the node ended with status {process.returncode}: {_tail(node_log)}")
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


class _Process:
    """The node's process, while something is expected of it.

    :param log: what it says
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    def check(self) -> None:
        """Make sure that it lives.

        :raises UserError: it has ended
        """
        if self._process.poll() is not None:
            raise UserError(f"the node ended with status {self._process.returncode}: {_tail(self.log)}")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what the node is to do.

        :raises UserError: it has ended, or takes too long
        """
        end = time.monotonic() + _START_TIMEOUT
        while not condition():
            self.check()
            if time.monotonic() > end:
                raise UserError(f"the node did not {what} within {_START_TIMEOUT:.0f} s: {_tail(self.log)}")
            time.sleep(0.05)


def _wait_until_active(recorder: Node, node: _Process) -> None:
    client = recorder.create_client(GetState, f"{NODE}/get_state")
    try:
        node.wait(client.service_is_ready, "start")

        def active() -> bool:
            future = client.call_async(GetState.Request())
            end = time.monotonic() + 2.0
            while not future.done() and time.monotonic() < end:
                time.sleep(0.01)
            state = future.result() if future.done() else None
            if state is not None and state.current_state.id == State.PRIMARY_STATE_UNCONFIGURED:
                text = node.log.read_text(errors="replace")
                if "cannot configure" in text or "cannot activate" in text:
                    raise UserError(f"the node does not start: {_tail(node.log)}")
            return state is not None and state.current_state.id == State.PRIMARY_STATE_ACTIVE

        node.wait(active, "become active")
    finally:
        recorder.destroy_client(client)


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


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace").strip() if log.is_file() else ""
    return "\n  ".join(["", *text.splitlines()[-8:]]) + f"\n(the whole log is {log})"
