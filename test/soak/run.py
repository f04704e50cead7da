"""The soak: the node for as long as one likes, with cameras at 30 Hz and faults by a seed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from soak.faults import FAULTS, Bench
from soak.malformed import MAX_PIXELS
from soak.measure import descriptors, resident, thread_names, threads
from soak.observer import COUNTS

from ros_harness import Graph, NodeProcess

#: A killed participant is forgotten after its lease, and what the middleware holds for it is let go (seconds).
_LEASE = 60.0
GROWTH, GROWTH_IF_BRIEF = 0.02, 0.5
CAMERAS = ("front", "rear")


@dataclass
class Level:
    """What the node's process holds: bytes of resident memory, threads, open files and sockets."""

    memory: int
    threads: int
    descriptors: int
    names: dict[str, int] = field(default_factory=dict)  # of threads


@dataclass
class Report:
    """What came of a soak; ``problems`` is empty where all held."""

    seed: int
    seconds: float = 0.0
    frames: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    labels_compared: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    start: Level | None = None
    end: Level | None = None
    most_memory: int = 0
    backend: str = ""
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the report as text."""
        assert self.start and self.end
        rows = [
            ("seed, seconds", f"{self.seed}, {self.seconds:.0f}"),
            ("backend", self.backend),
            *((f"frames {name}", str(self.frames[name])) for name in COUNTS),
            *((f"  {reason}", str(count)) for reason, count in sorted(self.reasons.items())),
            *((f"fault: {name}", str(count)) for name, count in self.faults.items()),
            ("labels compared with offline inference", str(self.labels_compared)),
            *((name, f"{value:.1f} ms") for name, value in self.latency_ms.items()),
            *(
                (f"{name} after warm-up, at the end", f"{before}, {after}")
                for name, before, after in (
                    ("memory (MB)", f"{self.start.memory / 1e6:.1f}", f"{self.end.memory / 1e6:.1f}"),
                    ("threads", self.start.threads, self.end.threads),
                    ("descriptors", self.start.descriptors, self.end.descriptors),
                )
            ),
            ("growth of memory", f"{100 * (self.end.memory / self.start.memory - 1):+.2f} %"),
            ("most memory (MB)", f"{self.most_memory / 1e6:.1f}"),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"PROBLEM: {p}" for p in self.problems), "failed" if self.problems else "all held"])

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def soak(
    graph: Graph,
    seconds: float,
    seed: int,
    backend: str = "auto",
    cameras: int = 2,
    brief: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run the node with cameras and faults, and see whether it stays as it was.

    :param seconds: after the warm-up, in which each fault comes, and which takes a fifth of it, at most two minutes
    :param brief: each fault once and no more, without a warm-up: memory is held to no more than not to run away
    """
    names = list(CAMERAS[:cameras])
    node = start(graph, "soaked", names, backend)
    report = Report(seed)
    bench = None
    try:
        node.wait_state("active")
        bench = Bench(graph, node, names, random.Random(seed))
        _run(bench, report, 0.0 if brief else seconds, brief, say)
    finally:
        if bench is not None:
            bench.close()
        node.kill()
    return report


def start(
    graph: Graph, name: str, cameras: list[str], backend: str = "auto", kind: type[NodeProcess] = NodeProcess
) -> NodeProcess:
    """Start a node with cameras of these names."""
    topics = ",".join(f"'/{camera}/image_raw'" for camera in cameras)
    # A stalled subscriber can hold up only what waits for it.
    overlays = [f"/{name}/{camera}/overlay" if len(cameras) > 1 else f"/{name}/overlay" for camera in cameras]
    reliable = [w for o in overlays for w in ("-p", f"qos_overrides.{o}.publisher.reliability:=reliable")]
    return kind(
        graph,
        name,
        arguments=reliable,
        camera_topics=f"[{topics}]",
        backend=backend,
        device="cpu",
        max_image_pixels=MAX_PIXELS,
    )


def _run(bench: Bench, report: Report, seconds: float, brief: bool, say: Callable[[str], None]) -> None:
    node, rng = bench.node, bench.rng
    pid = node.process.pid
    flowing(bench)
    warm = time.monotonic() + min(120.0, 0.2 * seconds)
    while not brief:
        for name, fault in FAULTS.items():
            say(f"warm-up: {name}; {resident(pid) / 1e6:.1f} MB, {threads(pid)} threads")
            fault(bench)
        if time.monotonic() > warm:
            break
    if not brief:
        _both_sizes(bench)
    report.start = _level(pid) if brief else at_rest(bench, None)
    say(f"warm: {report.start}")

    begin = time.monotonic()
    injected: Counter[str] = Counter()
    kinds = rng.sample(list(FAULTS), len(FAULTS)) if brief else []
    while kinds or (time.monotonic() - begin) < seconds:
        kinds = kinds or rng.sample(list(FAULTS), len(FAULTS))  # in turn, in an order of chance
        name, passed = kinds.pop(), time.monotonic() - begin
        say(f"{passed:.0f} s: {name}; {resident(pid) / 1e6:.1f} MB, {threads(pid)} threads")
        FAULTS[name](bench)
        injected[name] += 1
        bench.expect(node.process.poll() is None, f"the node ended after '{name}'")
        end = min(time.monotonic() + rng.uniform(0.5, 3), max(begin + seconds, time.monotonic() + 0.3))
        while time.monotonic() < end:
            report.most_memory = max(report.most_memory, resident(pid))
            time.sleep(0.2)
        flowing(bench)
    report.seconds = time.monotonic() - begin
    report.faults = dict(injected)

    if not brief:
        _both_sizes(bench)
    report.end = _level(pid) if brief else at_rest(bench, report.start)
    report.most_memory = max(report.most_memory, report.end.memory)
    bench.expect(node.transition("deactivate"), "the last deactivate failed")
    bench.collect_counts()
    report.backend = node.status()[2]["backend"]
    _judge(bench, report, brief)
    bench.expect(node.stop() == 0, "the node did not end well")
    bench.expect("Traceback" not in node.last_log, f"a traceback is in the log:\n{node.last_log[-3000:]}")
    report.problems = bench.problems


def flowing(bench: Bench) -> None:
    """Wait until labels of each camera's present size come."""
    for camera, observer in zip(bench.cameras, bench.observers, strict=True):
        seen = sum(observer.labels.values())
        bench.graph.wait(
            lambda o=observer, s=seen: sum(o.labels.values()) > s,
            f"labels of {camera.name}; log:\n{bench.node.log()[-3000:]}",
        )


def check_labels(bench: Bench) -> int:
    """Hold all labels against offline inference; return how many there were."""
    for observer in bench.observers:
        wrong = observer.wrong_labels()
        bench.expect(not wrong, f"wrong labels: {'; '.join(wrong[:5])}")
        bench.expect(not observer.twice, f"{observer.twice} labels of {observer.name} came twice")
    return sum(sum(observer.labels.values()) for observer in bench.observers)


def _both_sizes(bench: Bench) -> None:
    """Have each size come once more: the same is loaded at both times of measuring."""
    for camera in bench.cameras:
        for size in (1, 0):
            camera.kill()
            camera.size, camera.reliable = size, False
            camera.start()
            flowing(bench)


def at_rest(bench: Bench, former: Level | None) -> Level:
    """Return what the node holds once killed cameras are forgotten; no sooner than it is as before, if ever."""
    pid = bench.node.process.pid
    deadline = time.monotonic() + _LEASE
    before = None
    while True:
        time.sleep(3.0)
        level = _level(pid)
        publishers = [bench.node.status(f"camera {o.name}")[2]["publishers"] for o in bench.observers]
        settled = set(publishers) == {"2"} and before is not None  # the camera, and this process's own
        if former is not None:
            settled &= (level.threads, level.descriptors) == (former.threads, former.descriptors)
        elif before is not None:
            settled &= (level.threads, level.descriptors) == (before.threads, before.descriptors)
        if settled or time.monotonic() > deadline:
            return level
        before = level


def _level(pid: int) -> Level:
    return Level(int(median(resident(pid) for _ in range(5))), threads(pid), descriptors(pid), thread_names(pid))


def _judge(bench: Bench, report: Report, brief: bool) -> None:
    assert report.start and report.end
    counts: Counter[str] = Counter()
    for observer in bench.observers:
        counts.update(observer.counts)
    report.labels_compared = check_labels(bench)
    report.frames = {name: counts[name] for name in COUNTS}
    report.reasons = {name: n for name, n in counts.items() if ": " in name}
    bench.expect(report.labels_compared > 0.5 * counts["processed"], "most labels were not seen")
    bench.expect("rejected: inference_failed" not in report.reasons, "inference failed")

    latencies = np.array([pair for observer in bench.observers for pair in observer.latencies])
    total, wait = latencies.T
    for name, values in (("latency", total), ("queue wait", wait), ("processing", total - wait)):
        for percent in (50, 99):
            report.latency_ms[f"{name} p{percent}"] = float(np.percentile(values, percent))
    allowed = len(bench.cameras) * report.latency_ms["processing p99"]
    bench.expect(
        brief or report.latency_ms["queue wait p99"] <= allowed,  # of few frames, the last hundredth is one
        f"frames wait for more than one round ({allowed:.1f} ms)",
    )

    growth = report.end.memory / report.start.memory - 1
    bench.expect(growth <= (GROWTH_IF_BRIEF if brief else GROWTH), f"memory has grown by {100 * growth:.2f} %")
    if not brief:
        names = f"{report.start.names}, {report.end.names}"
        bench.expect(report.end.threads == report.start.threads, f"the number of threads has changed: {names}")
        bench.expect(report.end.descriptors == report.start.descriptors, "the number of descriptors has changed")
