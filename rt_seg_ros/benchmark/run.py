"""Measuring: every case in turn, round after round, each turn in a process of its own.

Rounds are interleaved, so that whatever else the machine does falls on all cases alike; ratios are taken within a
round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.benchmark.cases import Case, Mode, Plan
from rt_seg_ros.benchmark.spec import Answer, Order
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.usage import gpu_number, machine
from rt_seg_ros.processes import Steps, running_process
from rt_seg_ros.resampling import resize_pixels
from rt_seg_ros.working_size import Size, in_steps
from rt_seg_ros.zoo import ModelCard, card_score

#: Called with the turns to come, what is done, and their number; passes them on, as a progress bar does.
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]

#: The module that takes a turn of this kind.
Modules = Mapping[Mode, str]

#: Seconds for a turn's process to end after Ctrl-C: longer than it waits for a node of its own, asked three times.
_STOP_TIMEOUT = 60.0
_KILL_TIMEOUT = 10.0
_PACKAGES = (
    "torch", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "opencv-python-headless", "opencv-python", "numpy"
)  # fmt: skip
#: Load of the machine, over its cores, above which figures are not to be trusted.
_BUSY = 0.25


@dataclass(frozen=True)
class Effort:
    """How thoroughly is measured.

    ``rounds``; ``warm_up`` and ``seconds``: of each case in each round; ``least``: frames measured then at the least;
    ``limit``: seconds that a turn may take in all, in which a runtime may build an engine or compile kernels.
    """

    rounds: int = 5
    warm_up: float = 0.5
    seconds: float = 2.0
    least: int = 5
    limit: float = 900.0

    def check(self) -> None:
        """Check all values.

        :raises UserError: naming one that is out of range
        """
        if not 1 <= self.rounds <= 1000:
            raise UserError(f"rounds is {self.rounds}; use 1 to 1000")
        if not 0 <= self.warm_up <= 600:
            raise UserError(f"warm-up is {self.warm_up} seconds; use 0 to 600")
        if not 0 < self.seconds <= 3600:
            raise UserError(f"seconds is {self.seconds}; use more than 0, up to 3600")
        if not 1 <= self.limit <= 86400:
            raise UserError(f"turn-limit is {self.limit:g} seconds; use 1 to 86400")


@dataclass
class Row:
    """What was found for one case, over all rounds; milliseconds by frame, None where it does not apply.

    ``median``, ``p95``: from the input's bytes to the last output (of a node: from publishing an image to receiving
    its label); ``network``: median inside the network; ``outside``: share of the time that is not; ``node``: median
    inside the node; ``of_naive``: this case's time over the naive node's, the median over rounds; ``of_pipeline``: a
    node's own time over the pipeline's alone; ``cpu``: CPU time; ``start``: median seconds from the start of a process
    to its first label; ``memory``: peak in MiB; ``floor``: the least time for the network; ``agreement``: share of the
    first frame's pixels with the naive node's label; ``miou``: by the model's card, in percent, where the card's score
    is of such work; ``unscored``: why it is not.
    """

    case: Case
    backend: str = ""
    device: str = ""
    precision: str = ""
    working: Size = (0, 0)
    rounds: int = 0
    frames: int = 0
    lost: int = 0
    median: float = math.nan
    p95: float = math.nan
    network: float | None = None
    outside: float | None = None
    node: float | None = None
    of_naive: float | None = None
    of_pipeline: float | None = None
    cpu: float = math.nan
    start: float = math.nan
    memory: float = math.nan
    floor: float | None = None
    agreement: float | None = None
    miou: float | None = None
    miou_on: str = ""
    unscored: str = ""
    trained: bool = True
    error: str = ""

    @property
    def per_second(self) -> float:
        """Frames a second, one after the other."""
        return 1e3 / self.median


@dataclass
class Result:
    """All rows, and what they were measured on; ``stopped``: whole rounds after which it was interrupted, if it was."""

    rows: list[Row]
    effort: Effort
    machine: dict[str, Any]
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    peaks: list[dict[str, Any]] = field(default_factory=list)
    stopped: int | None = None


@dataclass
class _Collected:
    answers: list[Answer] = field(default_factory=list)
    labels: NDArray[np.uint8] | None = None
    error: str = ""
    failed_in: int = -1  # the round


def measure(
    plan: Plan, frames: Callable[[Size], Sequence[NDArray[np.uint8]]], effort: Effort, modules: Modules,
    watch: Watch | None = None, floor: bool = True,
) -> Result:  # fmt: skip
    """Measure all cases of a plan.

    A case that fails is told as such, and the others go on. Interrupted after at least one whole round, it ends with
    what the whole rounds found.

    :param frames: gives BGR images, uint8 (H, W, 3), of a size
    :param floor: also find the least time for each network
    :raises UserError: values out of range, or not one case that could be measured
    :raises KeyboardInterrupt: before the end of the first round
    """
    effort.check()
    before = load()
    collected = {case: _Collected() for case in plan.cases}
    peaks: list[dict[str, Any]] = []
    trouble = ""
    with tempfile.TemporaryDirectory(prefix="rt_seg_benchmark_") as folder:
        place = Path(folder)
        files = {size: _write_frames(place, size, frames(size)) for size in dict.fromkeys(c.size for c in plan.cases)}
        stopped = _take_turns(place, collected, files, effort, modules, watch)
        rows = [_row(case, collected) for case in plan.cases]
        if all(row.error for row in rows):
            raise UserError(f"nothing could be measured: {rows[0].error}")
        if floor and stopped is None:
            try:
                peaks, trouble = _add_floors(place, rows, effort.limit)
            except KeyboardInterrupt:
                stopped = effort.rounds
    on = about(next((n for row in rows if (n := gpu_number(row.device)) is not None), None))
    result = Result(rows, effort, on, plan.left_out, peaks=peaks, stopped=stopped)
    if trouble:
        result.remarks.append(f"no floor could be reckoned: {trouble}")
    if stopped is not None:
        without = ", and before the floor was reckoned" if floor else ""
        result.remarks.append(f"stopped after {stopped} of {effort.rounds} rounds{without}")
    result.remarks += busy_remarks(before, on["cores"])
    return result


def load() -> float:
    """Return the load of the machine over the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy_remarks(before: float, cores: int) -> list[str]:
    """Say that the machine had other work, where it had.

    :param before: :func:`load` before the work
    """
    if before / max(1, cores) <= _BUSY:
        return []
    return [f"the machine was busy when this began (load {before:.1f}): do not trust these figures"]


def about(gpu: int | None = None) -> dict[str, Any]:
    """Return what figures were measured on, and with which versions.

    :param gpu: number of the GPU that took part
    """
    return {**machine(gpu), "versions": versions()}


def versions() -> dict[str, str]:
    """Return the versions of what has a part in the speed, as far as it is installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _write_frames(place: Path, size: Size, images: Sequence[NDArray[np.uint8]]) -> list[str]:
    files = []
    for i, image in enumerate(images):
        path = place / f"{size[0]}x{size[1]}_{i}.jpg"
        path.write_bytes(cv2.imencode(".jpg", resize_pixels(image, size), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
        files.append(str(path))
    return files


def _take_turns(
    place: Path, collected: Mapping[Case, _Collected], files: Mapping[Size, list[str]], effort: Effort,
    modules: Modules, watch: Watch | None,
) -> int | None:  # fmt: skip
    """Take all turns, round after round; return after how many whole rounds it was interrupted, None if it was not.

    :raises KeyboardInterrupt: before the end of the first round
    """
    turns = [(round_, case) for round_ in range(effort.rounds) for case in collected]
    done = 0
    try:
        for round_, case in watch(turns, "benchmark", len(turns)) if watch else turns:
            found = collected[case]
            if not found.error:
                answer = _take_turn(place, case, files[case.size], effort, modules[case.mode], first=round_ == 0)
                found.error, found.failed_in = answer.error, round_ if answer.error else -1
                if not answer.error:
                    found.answers.append(answer)
                if (stored := place / "labels.npy").exists():
                    found.labels = np.load(stored)
                    stored.unlink()
            done += 1
    except KeyboardInterrupt:
        whole = done // len(collected)
        if not whole:
            raise
        for found in collected.values():  # figures of all cases are to be of the same rounds
            del found.answers[whole:]
            if found.failed_in >= whole:
                found.error = ""
        return whole
    return None


def _take_turn(place: Path, case: Case, files: list[str], effort: Effort, module: str, first: bool) -> Answer:
    order, answer = place / "order.json", place / "answer.json"
    answer.unlink(missing_ok=True)
    Order(
        case=case,
        frames=files,
        spawned=time.monotonic(),
        warm_up=effort.warm_up,
        seconds=effort.seconds,
        least=effort.least,
        answer=str(answer),
        labels=str(place / "labels.npy") if first and case.mode == "pipeline" else None,
    ).write(order)
    said = _run(module, order, place / "said.txt", effort.limit)
    if answer.exists():
        return Answer.read(answer)
    last = [line for line in said.splitlines() if line.strip()][-1:]
    return Answer(error=f"its process failed: {last[0] if last else 'it said nothing'}")


def _run(module: str, order: Path, log: Path, limit: float) -> str:
    """Run a module on an order and return what it said, and that ``limit`` seconds were not enough.

    However this ends, its process ends.
    """
    late = ""
    command = [sys.executable, "-m", module, str(order)]
    with (
        log.open("wb") as output,
        running_process(command, _ending, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = f"\nit did not end within {limit:g} seconds (--turn-limit)"
    return log.read_text(encoding="utf-8", errors="replace") + late


def _ending(process: subprocess.Popen[bytes]) -> Steps:
    """Ask a process to end as Ctrl-C would, for it may have others to end."""
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in a shell's background; its children are, too
    ask = process.terminate if deaf else partial(process.send_signal, signal.SIGINT)
    return [(ask, _STOP_TIMEOUT), (process.terminate, _KILL_TIMEOUT), (process.kill, _KILL_TIMEOUT)]


def _row(case: Case, collected: Mapping[Case, _Collected]) -> Row:
    own = collected[case]
    if own.error or not own.answers:
        return Row(case, error=own.error or "not measured")
    last = own.answers[-1]
    total = np.concatenate([a.total for a in own.answers])
    row = Row(
        case,
        backend="naive" if case.naive else last.backend,
        device=last.device,
        precision=last.precision,
        working=(last.working[0], last.working[1]),
        rounds=len(own.answers),
        frames=total.size,
        lost=sum(a.lost for a in own.answers),
        median=float(np.median(total)),
        p95=float(np.percentile(total, 95)),
        cpu=float(np.median([a.cpu for a in own.answers])),
        start=float(np.median([a.first for a in own.answers])),
        memory=max(a.memory for a in own.answers),
    )
    if case.mode == "pipeline":
        network = np.concatenate([a.network for a in own.answers])
        row.network = float(np.median(network))
        row.outside = float(1 - np.median(network / total))
    if case.mode == "node" and last.node:
        row.node = float(np.median(np.concatenate([a.node for a in own.answers])))
    if not case.naive:
        naive = collected.get(case.counterpart())
        row.of_naive = _ratio(own.answers, naive.answers if naive else [], "total")
        if naive is not None and naive.labels is not None and own.labels is not None:
            row.agreement = float((naive.labels == own.labels).mean())
    if case.mode == "node" and not case.naive:
        alone = collected.get(replace(case, mode="pipeline"))
        row.of_pipeline = _ratio(own.answers, alone.answers if alone else [], "node")
    card = case.card()
    row.trained = card.weights is not None
    row.miou, row.miou_on, row.unscored = score(card, row.working, row.precision)
    return row


def _ratio(ours: Sequence[Answer], theirs: Sequence[Answer], what: str) -> float | None:
    """Time over time, round by round; the median of these."""
    pairs = [
        float(np.median(getattr(a, what)) / np.median(b.total))
        for a, b in zip(ours, theirs, strict=False)
        if getattr(a, what)
    ]
    return float(np.median(pairs)) if pairs else None


def score(card: ModelCard, working: Size, precision: str) -> tuple[float | None, str, str]:
    """Return the mean IoU in percent that a card tells of such work, the data it is of, and why there is none.

    A card's score (:func:`card_score`) is of the size of its frames, and of fp32; bf16 and fp16 cost a few hundredths
    of a point, another size many points, int8 what only an evaluation tells.
    """
    found = card_score(card)
    if found is None:
        return None, "", "no score in its card"
    if card.frame_size is None:
        return None, "", "its card does not tell at which size it was scored"
    scored = in_steps(*card.frame_size)
    if working != scored:
        works = f"the network works at {working[0]}x{working[1]}"
        return None, "", f"{works}, and the score in its card is of {scored[0]}x{scored[1]}"
    if precision == "int8":
        return None, "", "in int8, and the score in its card is not"
    return found.miou, found.data, ""


def _add_floors(place: Path, rows: Sequence[Row], limit: float) -> tuple[list[dict[str, Any]], str]:
    """Find the least time of each row's network; return the rates it was reckoned with, or what failed."""
    wanted = [row for row in rows if not row.error and not row.case.naive]
    order, answer = place / "floor.json", place / "floors.json"
    cases = [
        {"case": r.case.to_dict(), "device": r.device, "precision": r.precision, "worked": r.working} for r in wanted
    ]
    order.write_text(json.dumps({"cases": cases, "answer": str(answer)}), encoding="utf-8")
    said = _run("rt_seg_ros.benchmark.floor", order, place / "said.txt", limit)
    if not answer.exists():
        return [], next((line for line in reversed(said.splitlines()) if line.strip()), "no reason was given")
    found = json.loads(answer.read_text(encoding="utf-8"))
    for row, floor in zip(wanted, found["floors"], strict=True):
        row.floor = floor
    peaks: list[dict[str, Any]] = found["peaks"]
    return peaks, ""
