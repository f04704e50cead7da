"""A run is not lost with those who watch it, nor by a signal that comes in the midst of something."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rt_seg_ros.cli import ablate, main, models, train
from rt_seg_ros.files import remove_leftovers, write_aside
from rt_seg_ros.training.checkpoint import LAST, read_checkpoint
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.signals import stop_on_signals
from rt_seg_ros.training.watcher import Progress, Watcher

SMALL = [
    "network={name: cgnet, options: {m: 2, n: 2}}",
    "augment.crop=[32, 48]",
    "schedule={batch: 2, max_steps: 100000, warm_up_steps: 0}",
    "run={device: cpu, precision: fp32, ema: 0.9, validate_every: 1e6, threads: 1}",
]
OFTEN = "run.checkpoint_minutes=0.0001"
COMMAND = [sys.executable, "-m", "rt_seg_ros.cli"]
#: The same, which waits for a full pipe for a shorter time.
IMPATIENT = [
    sys.executable,
    "-c",
    "import sys; from rt_seg_ros import cli; from rt_seg_ros.cli import output; output._PATIENCE_SECONDS = 0.5; "
    "sys.exit(cli.main())",
]


@contextlib.contextmanager
def running(
    streets: Path, out: Path, *overrides: str, command: Sequence[str] = COMMAND, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    words = ["train", "cgnet_camvid_paper", "--data", str(streets), "--out", str(out), *SMALL, *overrides]
    run = subprocess.Popen(
        [*command, *words],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


def await_file(path: Path, run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not path.exists() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert path.exists(), run.returncode


def test_interrupt_after_the_reader_went_keeps_what_was_learnt(streets, tmp_path):
    out = tmp_path / "run"
    with running(streets, out) as run:
        assert run.stdout is not None and run.stderr is not None
        while not run.stdout.readline().startswith(b"step "):
            assert run.poll() is None
        run.stdout.close()
        run.send_signal(signal.SIGINT)
        told = run.stderr.read()
        assert run.wait(60) == 3, told
        run.stdout = None
    assert all(line.startswith(b"warning: data set") for line in told.splitlines())
    assert read_checkpoint(out)["step"] > 0


def test_a_run_whose_reader_went_comes_to_its_end(streets, tmp_path):
    """As in ``rt-seg train ... | head -1``; here head reads standard error as well."""
    out = tmp_path / "run"
    ends = ("schedule.max_steps=12", "run.validate_every=1")
    with running(streets, out, *ends, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(120) == 0
        run.stdout = None
    assert read_checkpoint(out)["step"] == 12 and (out / "cgnet_camvid11.safetensors").is_file()


def test_a_pipe_that_nobody_empties_does_not_hold_a_run_up(streets, tmp_path):
    out = tmp_path / "run"
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"." * 4096)
    with running(streets, out, OFTEN, command=IMPATIENT, stdout=writer) as run:
        await_file(out / LAST, run)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 3
    assert read_checkpoint(out)["step"] > 0
    assert set(os.read(reader, 8192)) == {ord(".")}
    os.close(reader)
    os.close(writer)


def test_a_terminal_that_closes_is_a_ctrl_c(streets, tmp_path):
    out = tmp_path / "run"
    ours, terminal = os.openpty()
    with running(streets, out, OFTEN, stdout=terminal, stderr=terminal) as run:
        os.close(terminal)
        end, shown = time.monotonic() + 120, b""
        while b"images/s" not in shown and time.monotonic() < end:
            shown += os.read(ours, 4096)
        os.close(ours)
        time.sleep(0.3)  # the bar is drawn ten times a second
        assert run.poll() is None
        run.send_signal(signal.SIGHUP)
        assert run.wait(60) == 3
    assert read_checkpoint(out)["step"] > 0


def test_what_the_display_cannot_write_is_left_out(monkeypatch):
    """Streams that were closed, and such as the process was not given."""
    with open(os.devnull, "w") as closed:
        pass
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        with train.Display() as display:
            display.on_preparing("train", 1, 1)
            display.on_step(Progress(1, 2, 0.5, 1.0, 1.0, 0.1, 1.0, 1.0))
            display.on_message("hello")


# -- signals -------------------------------------------------------------------------------------------------


class Speechless(Watcher):
    """Fails where it is told anything."""

    def on_message(self, text: str) -> None:
        raise BrokenPipeError


@pytest.fixture
def trainer(streets: Path, tmp_path: Path) -> Iterator[Trainer]:
    trainer = Trainer(load_recipe("cgnet_camvid_paper", SMALL), streets, tmp_path / "run")
    trainer.watcher = Speechless()
    yield trainer
    trainer.feed.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signals_handler_only_notes_it(trainer, number):
    before = signal.getsignal(number)
    with stop_on_signals(trainer.stop):
        signal.raise_signal(number)
        assert trainer._asked_to_stop and signal.getsignal(number) == before  # the second ends at once
    assert signal.getsignal(number) == before


def test_a_signal_that_comes_while_handlers_are_set_is_heard(trainer, monkeypatch):
    plain = signal.signal

    def then_interrupted(number: int, handler: Any) -> Any:
        former = plain(number, handler)
        if number == signal.SIGINT and not trainer._asked_to_stop:
            signal.raise_signal(signal.SIGINT)
        return former

    monkeypatch.setattr(signal, "signal", then_interrupted)
    with stop_on_signals(trainer.stop):
        assert trainer._asked_to_stop


# -- the command's exit status --------------------------------------------------------------------------------


def break_pipe(*_: object) -> int:
    raise BrokenPipeError


@pytest.mark.parametrize(
    ("module", "words", "status"),
    [(train, ["x"], 1), (train, ["--list"], 0), (ablate, ["x", "--dry"], 0), (models, [], 0)],
    ids=str,
)
def test_a_broken_pipe_is_no_success_of_a_run(monkeypatch, module, words, status):
    monkeypatch.setattr(module, "run", break_pipe)
    assert main([module.__name__.rpartition(".")[2], *words]) == status


# -- files ---------------------------------------------------------------------------------------------------


def test_two_processes_that_write_one_file_do_not_mix(tmp_path):
    path = tmp_path / LAST
    program = (
        "import sys; from pathlib import Path; from rt_seg_ros.files import write_aside\n"
        "write_aside(Path(sys.argv[1]), lambda file: file.write(b'b' * 100))"
    )

    def write(file: Any) -> None:
        file.write(b"a" * 10)
        file.flush()
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=120)
        assert path.read_bytes() == b"b" * 100
        file.write(b"a" * 10)
        file.flush()
        assert path.read_bytes() == b"b" * 100

    write_aside(path, write)
    assert path.read_bytes() == b"a" * 20 and list(tmp_path.iterdir()) == [path]


def test_what_dead_processes_left_aside_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".last.pt.{gone.pid}.part", f".last.pt.{os.getpid()}.part", ".last.pt.part", ".mine.²³.part"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
