"""Transitions in every order and changes of parameters, many of each, with a camera at work: nothing stays behind."""

from __future__ import annotations

import random
from collections.abc import Callable

from soak.faults import Bench, invalid_changes, valid_changes
from soak.run import GROWTH, Level, at_rest, flowing, start

from ros_harness import Graph

_NEXT = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
}
_TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")
_WAY_UP = {"unconfigured": "configure", "inactive": "activate"}
_ROUND = 20  # changes that valid_changes and invalid_changes make


def drill(graph: Graph, transitions: int, changes: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Return what did not hold; what was measured is said."""
    node = start(graph, "drilled", ["front"])
    node.wait_state("active")
    bench = Bench(graph, node, ["front"], random.Random(seed))
    try:
        flowing(bench)
        _transitions(bench, min(60, transitions))
        _changes(bench, min(200, changes))
        before = at_rest(bench, None)
        say(f"after the warm-up: {before}")
        _transitions(bench, transitions)
        after = at_rest(bench, before)
        say(f"after {transitions} transitions: {after}")
        _compare(bench, before, after, "transitions")
        # What a model takes after others were let go is more than the first did: freed memory lies elsewhere.
        _changes(bench, changes // 10)
        before = at_rest(bench, before)
        say(f"after {changes // 10} changes of parameters: {before}")
        _changes(bench, changes - changes // 10)
        after = at_rest(bench, before)
        say(f"after {changes} changes of parameters: {after}")
        _compare(bench, before, after, "changes")
        bench.expect(node.stop() == 0, "the node did not end well")
        bench.expect("Traceback" not in node.last_log, f"a traceback is in the log:\n{node.last_log[-3000:]}")
    finally:
        bench.close()
        node.kill()
    return bench.problems


def _transitions(bench: Bench, count: int) -> None:
    state = "active"

    def go(transition: str) -> str:
        expected = _NEXT.get((state, transition))
        done = bench.node.transition(transition)
        bench.expect(done == (expected is not None), f"'{transition}' in state '{state}': {done}")
        return expected or state

    for _ in range(count):
        state = go(bench.rng.choice(_TRANSITIONS))
    while state != "active":
        state = go(_WAY_UP[state])
    flowing(bench)


def _changes(bench: Bench, count: int) -> None:
    for n in range(count // _ROUND):
        (valid_changes, invalid_changes)[n % 2](bench)
    flowing(bench)


def _compare(bench: Bench, before: Level, after: Level, what: str) -> None:
    growth = after.memory / before.memory - 1
    bench.expect(growth <= GROWTH, f"memory has grown by {100 * growth:.2f} % in {what}")
    bench.expect(after.threads == before.threads, f"{what}: threads {before.names}, {after.names}")
    bench.expect(
        after.descriptors == before.descriptors, f"{what}: {before.descriptors} descriptors, {after.descriptors}"
    )
