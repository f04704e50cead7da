"""Stages in threads: order, bounds, errors, and no thread left behind."""

import threading
import time

import pytest

from rt_seg_ros.overlap import Background, map_ahead, prefetch


def names():
    return {t.name for t in threading.enumerate() if t.name.startswith(("prefetch", "background", "ahead"))}


def test_prefetch_keeps_the_order():
    assert list(prefetch(range(100), depth=3)) == list(range(100))
    assert list(prefetch([])) == []
    assert list(prefetch([None, None])) == [None, None]
    assert not names()


def test_prefetch_works_ahead_but_not_far():
    fetched = []

    def items():
        for number in range(50):
            fetched.append(number)
            yield number

    stream = prefetch(items(), depth=4)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(fetched) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(fetched) == 6  # one taken, four waiting, one in hand
    stream.close()
    assert not names()


def test_prefetch_hands_on_an_error_in_its_place():
    def items():
        yield 1
        raise ValueError("the source broke")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="the source broke"):
        next(stream)
    assert not names()


def test_prefetch_hands_on_an_error_of_a_source_that_cannot_be_begun():
    class Gone:
        def __iter__(self):
            raise OSError("gone")

    told = []

    def read():
        try:
            list(prefetch(Gone()))
        except OSError as error:
            told.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert told == ["gone"] and not names()


def test_prefetch_closes_its_source_when_left_early():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    for _ in prefetch(items()):
        break
    assert closed.wait(5)


def test_background_with_one_worker_keeps_the_order_and_finishes():
    done = []
    with Background(workers=1, depth=2) as background:
        for number in range(20):
            background.submit(done.append, number)
    assert done == list(range(20))
    assert not names()


def test_background_bounds_what_waits():
    release, started = threading.Event(), []
    with Background(workers=1, depth=3) as background:
        for number in range(3):
            background.submit(lambda n=number: (started.append(n), release.wait(5)))
        fourth = threading.Thread(target=background.submit, args=(release.is_set,))
        fourth.start()
        fourth.join(0.1)
        assert fourth.is_alive()
        release.set()
        fourth.join(5)
        assert not fourth.is_alive()


def test_background_hands_on_errors():
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        with Background() as background:
            background.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        with Background(depth=1) as background:
            for _ in range(3):
                background.submit(fail)
    with pytest.raises(KeyError):  # the block's own error comes first
        with Background() as background:
            background.submit(fail)
            raise KeyError
    assert not names()


def test_map_ahead_keeps_the_order_and_a_bound():
    begun = []

    def double(item):
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return 2 * item

    results = map_ahead(double, range(50), workers=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 8
    assert list(results) == [2 * i for i in range(1, 50)]
    assert not names()


def test_map_ahead_hands_on_errors_and_drops_the_rest():
    begun = []

    def fail_at_two(item):
        begun.append(item)
        if item == 2:
            raise OSError("gone")
        return item

    results = map_ahead(fail_at_two, range(1000), workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert len(begun) < 20 and not names()


def test_what_is_not_begun_when_a_call_fails_is_dropped():
    begun, go = [], threading.Event()

    def call(number):
        begun.append(number)
        if number == 0:
            raise ValueError("the first")
        go.wait(5)

    stream = map_ahead(call, range(10), workers=1)
    threading.Timer(0.3, go.set).start()
    with pytest.raises(ValueError, match="the first"):
        next(stream)
    assert begun in ([0], [0, 1])  # three were handed in
    assert not names()
