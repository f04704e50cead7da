"""Jobs done aside: the latest counts, and nothing lives on when all is done."""

import threading
import time

from rt_seg_ros.ros.preparation import Preparation


class Bench:
    """A preparation whose jobs take until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Semaphore(0)
        self.begun: list = []
        self.delivered: list = []
        self.preparation = Preparation(self.build, lambda job, result: self.delivered.append((job, result)))

    def build(self, job):
        self.begun.append(job)
        assert self.let_go.acquire(timeout=10)
        if job == "bad":
            raise ValueError("no")
        return f"{job} done"

    def wait_begun(self, job) -> None:
        deadline = time.monotonic() + 10
        while job not in self.begun and time.monotonic() < deadline:
            time.sleep(0.001)
        assert job in self.begun

    def wait_idle(self) -> None:
        deadline = time.monotonic() + 10
        while self.preparation.busy and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not self.preparation.busy


def test_a_job_is_delivered():
    bench = Bench()
    bench.let_go.release()
    bench.preparation.request("a")
    bench.wait_idle()
    assert bench.delivered == [("a", "a done")]


def test_of_those_asked_for_meanwhile_the_latest_is_done():
    bench = Bench()
    bench.preparation.request("a")
    bench.wait_begun("a")
    for job in "bcd":
        bench.preparation.request(job)
    bench.let_go.release(2)
    bench.wait_idle()
    assert bench.begun == ["a", "d"]
    assert bench.delivered == [("d", "d done")]


def test_a_failure_is_delivered_as_such():
    bench = Bench()
    bench.let_go.release()
    bench.preparation.request("bad")
    bench.wait_idle()
    ((job, error),) = bench.delivered
    assert job == "bad" and isinstance(error, ValueError)


def test_what_was_cancelled_is_not_delivered():
    bench = Bench()
    bench.preparation.request("a")
    bench.wait_begun("a")
    bench.preparation.cancel()
    bench.let_go.release()
    bench.wait_idle()
    assert bench.delivered == []


def test_close_waits_and_leaves_no_thread():
    before = threading.active_count()
    bench = Bench()
    bench.preparation.request("a")
    bench.wait_begun("a")
    threading.Timer(0.05, bench.let_go.release).start()
    bench.preparation.close()
    bench.wait_idle()
    assert bench.delivered == []
    time.sleep(0.01)
    assert threading.active_count() <= before
