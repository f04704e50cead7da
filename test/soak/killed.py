"""The node is killed at work, time and again: the one that comes serves who was there before, and counts right."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from statistics import median

from soak.faults import Bench
from soak.run import CAMERAS, check_labels, flowing, start

from ros_harness import Graph

_ON_ITS_WAY = 0.5  # seconds: what a node had published before it was killed has come by then


def kill(graph: Graph, kills: int, seed: int, backend: str, cameras: int, say: Callable[[str], None]) -> list[str]:
    """Kill the node and start it again, ``kills`` times.

    :return: what did not hold; what was measured is said
    """
    names = list(CAMERAS[:cameras])
    rng = random.Random(seed)
    node = start(graph, "killed", names, backend)
    bench = None
    dark: list[float] = []
    try:
        node.wait_state("active")
        bench = Bench(graph, node, names, rng)
        flowing(bench)
        for number in range(kills):
            time.sleep(rng.uniform(0, 2))
            dark.append(_kill_once(bench, backend, names))
            say(f"node killed, {number + 1} of {kills}: labels again after {dark[-1]:.1f} s")
        compared = check_labels(bench)
        say(
            f"{kills} times killed; labels again after {median(dark):.1f} s (median), {max(dark):.1f} s (longest); "
            f"{compared} labels compared"
        )
        node = bench.node
        bench.expect(node.stop() == 0, "the last node did not end well")
        bench.expect("Traceback" not in node.last_log, f"a traceback is in the log:\n{node.last_log[-3000:]}")
    finally:
        if bench is not None:
            bench.close()
            node = bench.node
        node.kill()
    return bench.problems


def _kill_once(bench: Bench, backend: str, names: list[str]) -> float:
    """Return the seconds from the start of the new process until labels of each camera come."""
    bench.node.process.kill()
    ended = bench.node.process.wait(20)
    bench.expect(ended == -signal.SIGKILL, f"the node ended with {ended} before it was killed")
    bench.expect("Traceback" not in bench.node.log(), f"a traceback is in the log:\n{bench.node.log()[-3000:]}")
    time.sleep(_ON_ITS_WAY)
    for observer in bench.observers:
        observer.oldest = None
    now = bench.graph.node.get_clock().now().to_msg()
    begin = time.monotonic()
    bench.node = start(bench.graph, "killed", names, backend)
    flowing(bench)
    seconds = time.monotonic() - begin
    for observer in bench.observers:
        fresh = observer.oldest is not None and observer.oldest >= (now.sec, now.nanosec)
        bench.expect(fresh, f"a label of {observer.name} is of before the node's start: {observer.oldest}")
    bench.node.wait_answer()
    bench.expect(bench.node.transition("deactivate"), "the node that was started again does not deactivate")
    bench.collect_counts()
    bench.expect(bench.node.transition("activate"), "the node that was started again does not activate")
    flowing(bench)
    return seconds
