"""The one-slot mailbox, and taking turns between several."""

import random
import threading
import time

from rt_seg_ros.ros import mailbox
from rt_seg_ros.ros.mailbox import Counts, Mailbox, RoundRobin


def balanced(counts: Counts) -> bool:
    ended = counts.processed + counts.total_dropped + counts.total_rejected
    return counts.received == ended + counts.waiting + counts.in_hand


def test_the_oldest_gives_way_and_is_counted():
    box = Mailbox()
    box.open()
    for n in range(4):
        assert box.put(n)
    letter = box.take()
    assert letter is not None and letter.message == 3
    assert box.take() is None
    counts = box.counts()
    assert (counts.received, counts.dropped, counts.in_hand) == (4, {mailbox.NEWER_FRAME: 3}, 1)
    assert counts.busy_since is not None and counts.busy_since <= time.monotonic()
    box.processed()
    assert box.counts() == Counts(4, 1, {mailbox.NEWER_FRAME: 3}, {}, 0, 0)


def test_each_end_is_counted_with_its_reason():
    box = Mailbox()
    box.open()
    for end in (box.processed, lambda: box.dropped("no_subscriber"), lambda: box.rejected("step")):
        box.put("frame")
        box.take()
        end()
    assert box.counts() == Counts(3, 1, {"no_subscriber": 1}, {"step": 1}, 0, 0)


def test_what_waits_when_it_closes_is_dropped_and_nothing_more_comes_in():
    box = Mailbox()
    assert not box.put("before it is open")
    box.open()
    box.put("frame")
    box.close()
    assert not box.put("after")
    assert box.take() is None
    assert box.counts() == Counts(1, 0, {mailbox.DEACTIVATED: 1}, {}, 0, 0)
    box.open()
    assert box.counts() == Counts()


def test_max_rate_drops_what_comes_too_soon_and_keeps_the_rate_in_spite_of_jitter():
    box = Mailbox()
    box.open()
    box.limit_rate(10.0)
    rng = random.Random(0)
    accepted = sum(box.put(n, n / 30 + rng.uniform(-0.01, 0.01)) for n in range(3000))
    assert abs(accepted - 1000) <= 2
    counts = box.counts()
    assert counts.received == 3000 and counts.dropped[mailbox.MAX_RATE] == 3000 - accepted
    assert balanced(counts)


def test_after_a_pause_max_rate_does_not_let_a_burst_through():
    box = Mailbox()
    box.open()
    box.limit_rate(1.0)
    assert box.put("first", 0.0)
    assert [box.put("burst", 100.0 + n / 10) for n in range(5)] == [True, False, False, False, False]


def test_cameras_take_turns():
    condition = threading.Condition()
    boxes = [Mailbox(condition) for _ in range(3)]
    robin = RoundRobin(condition, boxes)
    order = []
    for box in boxes:
        box.open()
    for _ in range(3):
        for place, box in enumerate(boxes):
            if place != 1:
                box.put("frame")
        boxes[0].put("and one more of the fast one")
        for _ in range(2):
            place, _ = robin.take()
            order.append(place)
            boxes[place].processed()
    assert order == [0, 2, 0, 2, 0, 2]


def test_what_waits_is_taken_together_one_of_each_in_turn_and_no_more_than_asked():
    condition = threading.Condition()
    boxes = [Mailbox(condition) for _ in range(4)]
    robin = RoundRobin(condition, boxes)
    for place, box in enumerate(boxes):
        box.open()
        if place != 2:
            box.put(place)
    first = robin.take()
    assert first is not None and first[0] == 0
    boxes[0].put("its next")
    assert [(place, letter.message) for place, letter in robin.take_waiting(7, 0)] == [(1, 1), (3, 3)]
    assert robin.take_waiting(7, 0) == []
    boxes[1].put("one")
    boxes[3].put("three")
    assert [place for place, _ in robin.take_waiting(1, 0)] == [1]
    assert [box.counts().in_hand for box in boxes] == [1, 2, 0, 1]


def test_counts_balance_at_every_moment_with_threads_at_work():
    condition = threading.Condition()
    boxes = [Mailbox(condition) for _ in range(2)]
    robin = RoundRobin(condition, boxes)
    for box in boxes:
        box.open()
    unbalanced = []

    def work() -> None:
        while (taken := robin.take()) is not None:
            place, letter = taken
            (boxes[place].processed, lambda p=place: boxes[p].rejected("x"))[letter.message % 2]()

    def watch() -> None:
        while worker.is_alive():
            unbalanced.extend(c for c in (box.counts() for box in boxes) if not balanced(c))

    worker = threading.Thread(target=work)
    worker.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    senders = [
        threading.Thread(target=lambda b=box: [b.put(n) for n in range(5000)]) for box in boxes for _ in range(2)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    deadline = time.monotonic() + 5
    while any(box.counts().waiting for box in boxes) and time.monotonic() < deadline:
        time.sleep(0.01)
    robin.stop()
    worker.join()
    watcher.join()
    assert not unbalanced
    for box in boxes:
        counts = box.counts()
        assert counts.received == 10000
        assert counts.processed + counts.total_dropped + counts.total_rejected == 10000
