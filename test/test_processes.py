"""Processes that end with whoever started them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rt_seg_ros.processes import running_process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def _ending(process):
    return [(process.kill, 5.0)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_one_is_started_leaves_none_behind(number, monkeypatch):
    started = []
    start = subprocess.Popen._execute_child

    def start_and_signal(self, *arguments):
        start(self, *arguments)
        started.append(self.pid)
        signal.raise_signal(number)  # before its maker has it

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "_execute_child", start_and_signal)
    former = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), running_process(SLEEP, _ending):
            pytest.fail("the block began in spite of Ctrl-C")
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, former)
    (pid,) = started
    assert not Path(f"/proc/{pid}").exists()


def test_a_signal_that_was_ignored_stays_so():
    ask = "import signal; raise SystemExit(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)"
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running_process([sys.executable, "-c", ask], _ending) as process:
            assert process.wait(30) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_it_ends_with_the_block_and_one_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="enough"), running_process(SLEEP, _ending) as process:
        raise RuntimeError("enough")
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError), running_process(["/no/such/program"], _ending):
        pytest.fail("it began")
