"""The backend that serves fails at work, time and again: the next one serves, and configuring anew restores it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from soak.faults import Bench
from soak.run import CAMERAS, GROWTH, at_rest, check_labels, flowing, start

from ros_harness import BreakableNode, Graph

OK, WARN = b"\x00", b"\x01"


def fail(graph: Graph, failures: int, seed: int, cameras: int, brief: bool, say: Callable[[str], None]) -> list[str]:
    """Break the backend that serves, ``failures`` times; now and then also the one that serves instead.

    :param brief: without a warm-up, and so without a look at what the process holds
    :return: what did not hold; what was measured is said
    """
    names = list(CAMERAS[:cameras])
    rng = random.Random(seed)
    node = start(graph, "failing", names, kind=BreakableNode)
    assert isinstance(node, BreakableNode)
    bench = None
    try:
        node.wait_state("active")
        bench = Bench(graph, node, names, rng)
        flowing(bench)
        preferred = node.status()[2]["backend"]
        if not brief:  # a runtime once loaded stays loaded
            _fail_and_restore(bench, node, preferred, 2)
            _fail_and_restore(bench, node, preferred, 2)
            before = at_rest(bench, None)
            say(f"after the warm-up: {before}")
        broken: Counter[str] = Counter()
        for number in range(failures):
            # Every third time what serves instead fails as well.
            broken.update(_fail_and_restore(bench, node, preferred, 2 if number % 3 == 2 else 1))
        if not brief:
            after = at_rest(bench, before)
            say(f"at the end: {after}")
            growth = after.memory / before.memory - 1
            bench.expect(growth <= GROWTH, f"memory has grown by {100 * growth:.2f} %")
            bench.expect(after.threads == before.threads, f"threads: {before.names}, {after.names}")
            bench.expect(after.descriptors == before.descriptors, "the number of descriptors has changed")
        bench.expect(node.transition("deactivate"), "the last deactivate failed")
        bench.collect_counts()
        compared = check_labels(bench)
        counts = sum((observer.counts for observer in bench.observers), Counter())
        bench.expect(not counts["rejected"], f"frames were lost to the failures: {dict(counts)}")
        say(f"backends failed: {dict(broken)}; frames: {dict(counts)}; {compared} labels compared")
        bench.expect(node.stop() == 0, "the node did not end well")
        bench.expect("Traceback" not in node.last_log, f"a traceback is in the log:\n{node.last_log[-3000:]}")
    finally:
        if bench is not None:
            bench.close()
        node.kill()
    return bench.problems


def _fail_and_restore(bench: Bench, node: BreakableNode, preferred: str, times: int) -> list[str]:
    """Return which backends were broken, one after the other."""
    broken: list[str] = []
    serving = preferred
    for _ in range(times):
        time.sleep(bench.rng.uniform(0, 1))
        said = len(node.log())
        node.break_backend(serving)
        broken.append(serving)
        _, text, facts = node.wait_status(lambda level, text, facts: level == WARN and facts["backend"] not in broken)
        failed = f"{serving} on cpu failed"
        bench.expect(failed in text, f"/diagnostics does not tell of {serving}: {text}")
        serving = facts["backend"]
        _labels_by(bench, serving)
        told = [line for line in node.log()[said:].splitlines() if failed in line]
        bench.expect(len(told) == 1 and "[WARN]" in told[0], f"not said once, as a warning: {told}")
    bench.expect(node.transition("deactivate"), "deactivate failed")
    bench.collect_counts()
    for transition in ("cleanup", "configure", "activate"):
        bench.expect(node.transition(transition), f"{transition} failed")
    _labels_by(bench, preferred)
    node.wait_status(lambda level, text, facts: level == OK and facts["backend"] == preferred)
    return broken


def _labels_by(bench: Bench, backend: str) -> None:
    """Wait for new labels of each camera by this backend."""
    for observer in bench.observers:

        def seen(o=observer) -> int:
            return sum(count for (origin, _), count in list(o.labels.items()) if origin.backend == backend)

        former = seen()
        bench.graph.wait(
            lambda f=former, s=seen: s() > f,
            f"labels of {observer.name} by {backend}; log:\n{bench.node.log()[-3000:]}",
        )
