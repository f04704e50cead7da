"""Processes of a live run: none outlives whoever started it, however that ends; and the recording of what they say."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.benchmark import run
from rt_seg_ros.errors import UserError
from rt_seg_ros.process_groups import KILL_TIMEOUT, STOP_TIMEOUT, running_group
from rt_seg_ros.ros import domains

HANG = (
    "import os, signal, sys, time\n"
    "for number in (signal.SIGINT, signal.SIGTERM):\n"
    "    signal.signal(number, lambda number, frame: print('heard', number, flush=True))\n"
    "print('ready', flush=True)\n"
    "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    "while True:\n"
    "    time.sleep(1)\n"
)
START = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from rt_seg_ros import process_groups\n"
    "from rt_seg_ros.ros.domains import take_domain\n"
    "here, process_groups.STOP_TIMEOUT = Path(sys.argv[1]), float(sys.argv[2])\n"
    "hang = [sys.executable, '-c', (here / 'hang.py').read_text(), str(here / 'child')]\n"
)
RUN = (
    "domain, lock = take_domain()\n"
    "with lock, process_groups.running_group(hang, os.environ, here / 'log', lock) as process:\n"
    "    (here / 'domain').write_text(str(domain))\n"
    "    assert process.wait() is None\n"
)
#: The turn as it is, but for a node that hangs, and before rclpy listens to signals.
TURN = (
    "import time, types\n"
    "from rt_seg_ros.ros import roundtrip\n"
    "roundtrip.Order.read = lambda path: types.SimpleNamespace(case=None)\n"
    "roundtrip._command = lambda case, folder: (hang, [])\n"
    "roundtrip._Client = lambda *_: time.sleep(60)\n"
    "sys.exit(roundtrip.main(['order.json']))\n"
)


@pytest.fixture
def start(tmp_path):
    """Start a process that runs one that hangs; return both."""
    (tmp_path / "hang.py").write_text(HANG)
    begun: list[subprocess.Popen] = []
    children: list[int] = []

    def start(code: str, patience: float = 60.0) -> tuple[subprocess.Popen, int]:
        command = [sys.executable, "-c", START + code, str(tmp_path), str(patience)]
        begun.append(subprocess.Popen(command, start_new_session=True))
        there = tmp_path / "child"
        wait_for(lambda: begun[-1].poll() is not None or (there.exists() and there.read_text()), 60)
        children.append(int((tmp_path / "child").read_text()))
        return begun[-1], children[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
    for child in children:
        if runs(child):
            os.kill(child, signal.SIGKILL)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(process: int) -> bool:
    """Return whether it does: one that is dead may wait for a parent that never asks."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_free(domain: str) -> bool:
    with (Path(tempfile.gettempdir()) / f"rt_seg_ros_domain_{domain}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_a_process_ends_with_its_parent_and_holds_the_domain_until_then(start, tmp_path):
    parent, child = start(RUN, patience=2.0)
    wait_for((tmp_path / "domain").exists, 60)  # the child may be faster than who started it
    domain = (tmp_path / "domain").read_text()
    parent.kill()
    parent.wait()
    wait_for(lambda: f"heard {int(signal.SIGTERM)}" in (tmp_path / "log").read_text(), 60)
    free, alive = is_free(domain), runs(child)  # in this order: whoever lives afterwards lived then
    assert not (free and alive)
    wait_for(lambda: not runs(child), 60)
    wait_for(lambda: is_free(domain), 60)


def test_nothing_of_a_process_stays_when_it_has_ended(tmp_path):
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    with running_group([sys.executable, "-c", code], os.environ, tmp_path / "log") as process:
        assert process.wait(20) == 0
    left = int((tmp_path / "log").read_text())
    wait_for(lambda: not runs(left), 60)
    wait_for(lambda: not list_group(process.pid), 60)


def list_group(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_run_keeps_out_of_the_users_own_domain(monkeypatch):
    monkeypatch.setattr(domains.random, "sample", lambda *_: ["the user's", 1_000_001])
    monkeypatch.setenv("ROS_DOMAIN_ID", "the user's")
    domain, lock = domains.take_domain()
    with lock:
        assert domain == 1_000_001


def test_a_lock_s_file_may_be_another_user_s(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        left = Path(folder) / "rt_seg_ros_domain_1000001"
        left.touch()
        left.chmod(0o444)
        monkeypatch.setattr(domains.tempfile, "gettempdir", lambda: folder)
        monkeypatch.setattr(domains.random, "sample", lambda *_: [1_000_001])
        root = os.geteuid() == 0
        if root:  # who may write to any file
            os.seteuid(65534)
        try:
            domain, lock = domains.take_domain()
            with lock, pytest.raises(UserError, match="no ROS domain is free"):
                assert domain == 1_000_001
                domains.take_domain()
        finally:
            if root:
                os.seteuid(0)


def test_the_process_is_the_command_itself(tmp_path):
    code = "import os, signal; print(os.getpid(), os.getpgrp(), signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with running_group([sys.executable, "-c", code], os.environ, tmp_path / "log") as process:
        assert process.wait(20) == 0
    assert (tmp_path / "log").read_text().split() == [str(process.pid), str(process.pid), "set()"]
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with running_group([sys.executable, "-c", code], os.environ, tmp_path / "log") as process:
        wait_for(lambda: "ready" in (tmp_path / "log").read_text(), 60)
    assert process.returncode == -signal.SIGINT


def test_more_of_ctrl_c_ends_a_process_that_hangs(start, tmp_path):
    parent, child = start(RUN)
    for number in (signal.SIGINT, signal.SIGTERM):
        parent.send_signal(signal.SIGINT)
        wait_for(lambda number=number: f"heard {int(number)}" in (tmp_path / "log").read_text(), 60)
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    assert not runs(child)


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_turn_of_the_benchmark_takes_its_node_with_it(number, start):
    turn, child = start(TURN, patience=0.5)
    turn.send_signal(number)
    assert turn.wait(60) == 130
    assert not runs(child)


def test_the_benchmark_waits_longer_than_a_turn_takes_to_end_its_node():
    assert run._STOP_TIMEOUT > 2 * STOP_TIMEOUT + 2 * KILL_TIMEOUT


class _Node:
    """What the recorder needs of a node; messages come by hand."""

    def __init__(self) -> None:
        self.receive = None

    def create_subscription(self, kind, topic, receive, profile, raw):
        self.receive = receive
        return topic

    def destroy_subscription(self, subscription) -> None:
        """It may be in flight already."""

    def get_clock(self):
        import rclpy.clock

        return rclpy.clock.Clock()


@pytest.mark.ros
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_full_disk_ends_the_recording_with_its_reason(problem, tmp_path, monkeypatch):
    from rclpy.serialization import serialize_message
    from std_msgs.msg import String

    from rt_seg_ros.ros.recorder import Recorder

    node, data = _Node(), serialize_message(String(data="x"))
    with BagWriter(tmp_path / "b.mcap") as writer:
        recorder = Recorder(node, writer, {"/x": String})
        node.receive(data)

        def full(*_) -> None:
            raise problem

        with monkeypatch.context() as patch:
            patch.setattr(writer._writer, "write", full)
            node.receive(data)
        assert str(problem.args[-1]) in recorder.problem
        node.receive(data)
        assert recorder.counts == {"/x": 1}
    assert open_bag(tmp_path / "b.mcap").topics["/x"].count == 1


@pytest.mark.ros
def test_a_message_in_flight_is_not_written_to_a_closed_recording(tmp_path):
    from rclpy.serialization import serialize_message
    from std_msgs.msg import String

    from rt_seg_ros.ros.recorder import Recorder

    node = _Node()
    with BagWriter(tmp_path / "b.mcap") as writer:
        recorder = Recorder(node, writer, {"/x": String})
        recorder.close()
    node.receive(serialize_message(String(data="late")))
    assert not recorder.counts and not recorder.problem
