"""`python test/soak --minutes 30 --seed 1`: the long forms of the soak and of the fuzzer; the exit status tells."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ros_harness import Graph

_TEST = Path(__file__).resolve().parents[1]
sys.path[0:1] = [str(_TEST), str(_TEST / "ros")]
# PyTorch keeps what oneDNN compiled for each shape, up to 1024 of them: a bound, but one that takes the fuzzer's
# thousands of image sizes long to reach, and until then looks like a leak.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
os.environ.setdefault("RT_SEG_CACHE", str(_TEST.parent / "build" / "test_cache"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cameras", type=int, default=2, choices=(1, 2))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--kills", type=int, default=0, help="times to kill the node and start it again besides")
    parser.add_argument("--failures", type=int, default=0, help="times to break the backend that serves besides")
    parser.add_argument("--transitions", type=int, default=0, help="lifecycle transitions to make besides")
    parser.add_argument("--changes", type=int, default=0, help="live changes of parameters to make besides")
    parser.add_argument(
        "--fuzz", type=int, default=0, help="malformed messages to feed besides, half of them compressed"
    )
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder for soak.json")
    options = parser.parse_args()

    import rclpy

    from rt_seg_ros.ros.domains import take_domain

    domain, lock = take_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ[
        "ROS_LOCALHOST_ONLY" if os.environ.get("ROS_DISTRO") == "humble" else "ROS_AUTOMATIC_DISCOVERY_RANGE"
    ] = "1" if os.environ.get("ROS_DISTRO") == "humble" else "LOCALHOST"
    with lock:
        rclpy.init()
        try:
            held = _soak(options) if options.minutes else True
            held &= _kill(options) if options.kills else True
            held &= _fail(options) if options.failures else True
            held &= _drill(options) if options.transitions or options.changes else True
            held &= _fuzz(options) if options.fuzz else True
            return 0 if held else 1
        finally:
            rclpy.try_shutdown()


def _soak(options: argparse.Namespace) -> bool:
    from soak.run import soak

    from ros_harness import Graph

    graph = Graph()
    try:
        report = soak(
            graph,
            60 * options.minutes,
            options.seed,
            options.backend,
            options.cameras,
            say=_say,
        )
    finally:
        graph.close()
    report.save(options.out / "soak.json")
    print(report.table())
    return not report.problems


def _kill(options: argparse.Namespace) -> bool:
    from soak.killed import kill

    return _held(lambda graph: kill(graph, options.kills, options.seed, options.backend, options.cameras, _say))


def _fail(options: argparse.Namespace) -> bool:
    from soak.failing import fail

    return _held(lambda graph: fail(graph, options.failures, options.seed, options.cameras, False, _say))


def _drill(options: argparse.Namespace) -> bool:
    from soak.drill import drill

    return _held(lambda graph: drill(graph, options.transitions, options.changes, options.seed, _say))


def _held(part: Callable[[Graph], list[str]]) -> bool:
    """Run a part in a graph of its own, tell what did not hold, and return whether all did."""
    from ros_harness import Graph

    graph = Graph()
    try:
        problems = part(graph)
    finally:
        graph.close()
    _say("\n".join([*(f"PROBLEM: {problem}" for problem in problems), "failed" if problems else "all held"]))
    return not problems


def _say(text: str) -> None:
    print(text, flush=True)


def _fuzz(options: argparse.Namespace) -> bool:
    from soak.fuzz import fuzz

    from rt_seg_ros.memory import keep_freed_memory

    keep_freed_memory()
    held = True
    for compressed in (False, True):
        begin = time.monotonic()
        result = fuzz(options.fuzz // 2, options.seed, compressed)
        growth = result.memory_after - result.memory_before
        kind, seconds = "compressed" if compressed else "raw", time.monotonic() - begin
        print(f"{result.count} malformed {kind} images in {seconds:.0f} s: {dict(result.reasons)}")
        print(
            f"the slowest {result.slowest * 1e3:.0f} ms; memory {growth / 1e6:+.1f} MB "
            f"of {result.memory_before / 1e6:.1f}; {len(result.problems)} problems"
        )
        print("\n".join(result.problems[:20]))
        held &= not result.problems and growth < 16 << 20
    return held


if __name__ == "__main__":
    sys.exit(main())
