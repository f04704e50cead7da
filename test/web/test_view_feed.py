"""What comes on the board: the newest frame, every frame accounted for, nothing for nobody."""

import threading
import time
import zlib
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.pipeline import Segmenter
from rt_seg_ros.sources import SourceFrame
from rt_seg_ros.web import board as boards
from rt_seg_ros.web.board import Board, Seen, State
from rt_seg_ros.web.feed import Arrival, FileFeed, SegmentingFeed, model_choices
from rt_seg_ros.web.picture import MAX_WIDTH, Picture
from rt_seg_ros.web.relay import RelayFeed
from view_harness import CONFIG, FRAMES, HEIGHT, WIDTH, wait


def watch(board, until, timeout=30.0):
    """Read the board as a browser does until ``until(update)``; return all updates."""
    updates, seen, end = [], Seen(), time.monotonic() + timeout
    while True:
        assert time.monotonic() < end, f"in vain; the last: {updates[-1:]}"
        updates.append(board.next(seen, 0.5))
        seen = updates[-1].seen
        if until(updates[-1]):
            return updates


class Fake:
    """A segmenter that does nothing, or fails."""

    label_space = load_label_space("camvid11")
    card = SimpleNamespace(name="fake")
    backend_name = device = precision = "none"
    broken = False

    def warm_up_for(self, *_):
        return False

    def segment(self, frame, *_):
        if self.broken:
            raise RuntimeError("out of memory")
        return SimpleNamespace(labels=np.zeros((8, 8), np.uint8), working_size=(8, 8), timings={})


def blank(name="0"):
    return SourceFrame(name, Frame(np.zeros((8, 8, 3), np.uint8)))


def is_status(status):
    return lambda update: bool(update.state) and update.state["status"] == status


def counts(updates):
    """Return the last (received, processed, dropped, rejected)."""
    return [sample[4:8] for update in updates for sample in update.samples][-1]


def test_a_drive_is_played_in_its_own_time_and_every_frame_accounted_for(make_feed):
    feed = make_feed()
    feed.start()
    begin = time.monotonic()
    updates = watch(feed.board, is_status("ended"))
    assert time.monotonic() - begin > 0.9 * (FRAMES - 1) / 10
    wait(lambda: feed._last is not None and feed._last.name == f"{FRAMES - 1:06d}", "the last frame")
    time.sleep(0.2)
    updates += [feed.board.next(updates[-1].seen, 0)]
    received, processed, dropped, rejected = counts(updates)
    assert (received, rejected) == (FRAMES, 0)
    assert processed >= 1 and processed + dropped == received
    shown = [update.picture for update in updates if update.picture]
    assert shown[-1].position == FRAMES - 1  # the newest is never the one that is dropped
    assert [picture.stamp_ns for picture in shown] == sorted(picture.stamp_ns for picture in shown)


def test_a_slow_network_drops_frames_and_not_time(make_feed, segmenter, monkeypatch):
    slow = segmenter.reconfigured(CONFIG)
    segment = slow.segment

    def slowly(*of):
        time.sleep(0.25)
        return segment(*of)

    monkeypatch.setattr(slow, "segment", slowly)
    feed = make_feed(loop=True)
    feed._segmenter = slow
    feed.start()
    updates = watch(feed.board, lambda update: update.seen.picture >= 5)
    received, processed, dropped, _ = counts(updates)
    assert dropped > processed
    assert 0 <= received - processed - dropped <= 1  # one may wait
    waits = [sample.wait for update in updates for sample in update.samples]
    assert max(waits[1:]) < 1e3  # it does not grow


def test_nothing_is_done_while_nobody_watches(make_feed, monkeypatch):
    monkeypatch.setattr(boards, "ATTENTION", 0.3)
    feed = make_feed(loop=True)
    feed.start()
    time.sleep(0.6)
    assert feed._received == 0
    watch(feed.board, lambda update: update.seen.picture >= 1)
    time.sleep(1.0)
    received = feed._received
    time.sleep(0.6)
    assert feed._received == received
    watch(feed.board, lambda update: update.picture is not None and feed._received > received)


def test_pause_go_on_restart(make_feed):
    feed = make_feed(rate=0.2)
    feed.start()
    watch(feed.board, lambda update: update.seen.picture >= 1)
    feed.pause(True)
    assert feed.board.state.status == "paused"
    received = feed._received
    stop = threading.Event()
    watcher = threading.Thread(target=lambda: [feed.board.next(Seen(), 0.1) for _ in iter(stop.is_set, True)])
    watcher.start()
    try:
        time.sleep(0.8)
        assert feed._received <= received + 1
        feed.pause(False)
        wait(lambda: feed._received > received + 1, "frames after the pause")
        wait(lambda: feed._last.name >= "000004", "a frame well on")
        feed.restart()
        wait(lambda: feed._last.name < "000004", "one of the first frames again")  # which one a busy machine shows
        assert feed.board.state.status == "running"
    finally:
        stop.set()
        watcher.join()


def test_an_ended_source_can_be_started_again_and_shown_by_another_model(make_feed):
    feed = make_feed(rate=20)
    feed.start()
    first = watch(feed.board, is_status("ended"))
    name = f"{FRAMES - 1:06d}"
    wait(lambda: feed._last is not None and feed._last.name == name, "the last frame")
    feed.choose_model("frfnet_slim")
    assert feed.board.state.switching == "frfnet_slim"
    before = first[-1].seen.picture
    updates = watch(
        feed.board, lambda u: bool(u.state) and u.state["model"] == "frfnet_slim" and not u.state["switching"]
    )
    updates = watch(feed.board, lambda update: update.seen.picture > before)
    assert updates[-1].picture.name == name and "frfnet_slim" in feed.board.state.model_details
    received = feed._received
    feed.restart()
    watch(feed.board, lambda update: feed._received == received + FRAMES)


def test_a_model_that_cannot_be_had_leaves_the_present_one(make_feed):
    feed = make_feed(loop=True)
    with pytest.raises(UserError, match="no model 'nonsense'; there are: cgnet, frfnet_slim"):
        feed.choose_model("nonsense")
    feed._choices["csrnet_light"] = model_choices(CONFIG, ["csrnet_light"])["csrnet_light"].__class__(
        model="csrnet_light", weights="/nowhere.safetensors"
    )
    feed.start()
    feed.choose_model("csrnet_light")
    updates = watch(feed.board, lambda u: bool(u.state) and "nowhere.safetensors" in u.state["message"])
    assert updates[-1].state["switching"] == "" and updates[-1].state["model"] == "cgnet"
    watch(feed.board, lambda update: update.seen.picture > updates[-1].seen.picture)


@pytest.mark.parametrize(("status", "stays"), [("waiting", True), ("failed", True), ("running", False)])
def test_choosing_a_model_leaves_it_said_why_nothing_comes(monkeypatch, status, stays):
    def loaded(self, name):
        if name == "broken":
            raise UserError("no such weights")
        return Fake()

    monkeypatch.setattr(SegmentingFeed, "_loaded", loaded)
    feed = SegmentingFeed(Board(State(source="camera")), Fake(), {"other": CONFIG, "broken": CONFIG}, "fake")
    feed.board.update(status=status, message="why")
    feed.choose_model("other")
    wait(lambda: feed.board.state.model == "other" and not feed.board.state.switching, "the other model")
    assert feed.board.state.message == ("why" if stays else "")
    feed.choose_model("broken")
    wait(lambda: feed.board.state.message == "no such weights", "why it failed")


def test_a_nodes_change_of_model_leaves_it_said_why_nothing_comes():
    board = Board(State(source="/segmentation"))
    relay = RelayFeed(
        board, SimpleNamespace(set_model=lambda *_: None), [{"name": "cgnet", "label": "", "card": "cgnet_camvid11"}]
    )
    relay.tell("waiting", "nobody publishes")
    relay.choose_model("cgnet")
    assert board.state.message == "nobody publishes"
    relay.switched()
    assert (board.state.message, board.state.switching) == ("nobody publishes", "")
    relay.switched("it went back")
    assert board.state.message == "it went back"
    relay.tell("running")
    relay.switched("it went back")
    relay.choose_model("cgnet")
    assert board.state.message == ""


def test_frames_that_cannot_be_read_are_counted_and_told(make_feed, tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((HEIGHT, WIDTH, 3), 60 * i, np.uint8))
    (tmp_path / "1.png").write_bytes(b"this is no image")
    feed = make_feed(tmp_path, rate=2)
    feed.start()
    updates = watch(feed.board, is_status("ended"))
    wait(lambda: feed._processed == 2, "two frames")
    assert feed._rejected == 1 and feed._received == 3
    assert any(update.state and "1.png" in update.state["message"] for update in updates)


def test_a_source_that_breaks_is_told(make_feed, monkeypatch):
    feed = make_feed()

    def broken(self):
        raise UserError("the recording is damaged")
        yield

    monkeypatch.setattr(type(feed._source), "__iter__", broken)
    feed.start()
    updates = watch(feed.board, is_status("failed"))
    assert updates[-1].state["message"] == "the recording is damaged"


def test_a_frame_that_is_dropped_is_not_decoded(segmenter):
    board = Board(State(source="camera"))
    feed = SegmentingFeed(board, segmenter, {"cgnet": CONFIG}, "cgnet")
    read = []

    def reader(number):
        return lambda: read.append(number) or SourceFrame(str(number), Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))

    for number in range(5):
        feed.take(reader(number))
    feed.start()
    wait(lambda: feed._processed == 1, "a frame")
    feed.close()
    assert read == [4] and feed._dropped == 4
    with pytest.raises(UserError, match="cannot be paused"):
        feed.pause(True)
    with pytest.raises(UserError, match="cannot be started again"):
        feed.restart()


@pytest.mark.parametrize("how", ["raises", "has a problem"])
def test_a_frame_shown_again_that_fails_is_not_counted_twice(how):
    segmenter = Fake()
    feed = SegmentingFeed(Board(State(source="camera")), segmenter, {}, "fake")
    feed.start()
    try:
        feed.take(blank)
        wait(lambda: feed._processed == 1, "the frame")
        segmenter.broken = how == "raises"
        feed._show_again(blank() if segmenter.broken else SourceFrame("0", problem="torn"))
        wait(lambda: feed.board.state.message, "what is wrong")
        assert (feed._received, feed._processed, feed._dropped, feed._rejected) == (1, 1, 0, 0)
        segmenter.broken = True
        feed.take(blank)
        wait(lambda: feed._rejected == 1, "a rejected one")
        assert (feed._received, feed._processed, feed._dropped, feed._rejected) == (2, 1, 0, 1)
    finally:
        feed.close()


def test_closing_waits_for_a_model_that_is_being_loaded(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def loaded(self, name):
        begun.set()
        assert go_on.wait(30)
        return Fake()

    monkeypatch.setattr(SegmentingFeed, "_loaded", loaded)
    feed = SegmentingFeed(Board(State(source="camera")), Fake(), {"other": CONFIG}, "fake")
    feed.start()
    feed.choose_model("other")
    assert begun.wait(30)
    closing = threading.Thread(target=feed.close)
    closing.start()
    try:
        closing.join(0.3)
        assert closing.is_alive()  # the interpreter must not end inside the runtime
    finally:
        go_on.set()
        closing.join(30)
    assert not closing.is_alive()
    assert "preparation" not in [thread.name for thread in threading.enumerate()]
    begun.clear()
    feed.choose_model("other")  # asked by a browser meanwhile
    assert not begun.wait(0.2)


def test_of_models_chosen_one_after_another_only_the_last_is_shown(monkeypatch):
    begun, go_on, shown = [], threading.Semaphore(0), []

    def loaded(self, name):
        begun.append(name)
        assert go_on.acquire(timeout=30)
        return Fake()

    monkeypatch.setattr(SegmentingFeed, "_loaded", loaded)
    feed = SegmentingFeed(Board(State(source="camera")), Fake(), {"a": CONFIG, "b": CONFIG}, "fake")
    monkeypatch.setattr(feed, "_tell_model", lambda: shown.append(feed._chosen))
    feed.start()
    try:
        for loads in (["a", "b"], ["a", "b", "a"]):  # in the second round b is what runs
            feed.choose_model("a")
            wait(lambda loads=loads: begun == loads[: 2 * len(loads) - 3], "the first to be loaded")
            feed.choose_model("b")
            assert feed.board.state.switching == "b"
            go_on.release(2)
            wait(lambda: not feed._preparing, "the end of it")
            assert (begun, shown, feed.board.state.switching) == (loads, ["b"], "")
            while go_on.acquire(blocking=False):
                pass
    finally:
        go_on.release(9)
        feed.close()


def test_a_pause_just_after_a_restart_is_told():
    class Slow:
        kind, total, fps = "video", 1000, 10.0

        def __iter__(self):
            for number in range(self.total):
                time.sleep(0.3)  # so long does it take to let go of it
                yield blank(str(number))

    feed = FileFeed(Board(State(source="slow")), Fake(), {}, "fake", Slow())
    stop = threading.Event()
    watcher = threading.Thread(target=lambda: [feed.board.next(Seen(), 0.1) for _ in iter(stop.is_set, True)])
    watcher.start()
    feed.start()
    try:
        wait(lambda: feed._received >= 1, "a frame")
        feed.restart()
        time.sleep(0.02)
        feed.pause(True)
        wait(lambda: not feed._again.is_set(), "the other round")
        time.sleep(0.1)
        assert feed.board.state.status == "paused" and feed._paused
        feed.pause(False)
        received = feed._received
        wait(lambda: feed._received > received, "frames after the pause")
        assert feed.board.state.status == "running"
    finally:
        stop.set()
        watcher.join()
        feed.close()


def test_readers_of_the_board_do_not_wait_for_one_another():
    board = Board(State(source="x"))
    labels = np.zeros((2, 2), np.uint8)
    first = board.next(Seen(), 0)
    for number in range(100):
        board.show(Picture(None, labels, str(number)))
        board.record(1.0, 0.5, 0.1, (number, number, 0, 0))
    update = board.next(first.seen, 0)
    assert update.picture.name == "99" and update.seen.picture == 100
    assert [sample.received for sample in update.samples] == list(range(100))  # the graphs miss nothing
    assert update.state is None
    again = board.next(update.seen, 0)
    assert again.picture is None and again.samples == []
    other_run = board.next(Seen("another", 10**6, 10**6, 10**6), 0)
    assert other_run.picture is not None and other_run.state is not None and len(other_run.samples) == 100


def test_a_picture_is_packed_once_and_exactly():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 12, (40, 60), np.uint8)
    labels[0, :5] = 255
    pixels = cv2.resize(rng.integers(0, 255, (4, 6, 3), np.uint8), (60, 40))
    picture = Picture(Frame(pixels), labels, "f", 1_500_000_000, space=3, position=7)
    about, data = picture.packed()
    assert picture.packed()[1] is data
    assert (about["width"], about["height"], about["space"], about["position"], about["stamp"]) == (60, 40, 3, 7, 1.5)
    ids = np.frombuffer(zlib.decompress(data[about["image_bytes"] :]), np.uint8).reshape(40, 60)
    assert (ids == labels).all()
    assert about["counts"][255] == (labels == 255).sum() and sum(about["counts"].values()) == labels.size
    shown = cv2.imdecode(np.frombuffer(data[: about["image_bytes"]], np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown.astype(int) - pixels).mean() < 6
    as_png = Picture(None, cv2.imencode(".png", labels)[1].tobytes())
    about, data = as_png.packed()
    assert about["image_bytes"] == 0 and zlib.decompress(data) == labels.tobytes()
    with pytest.raises(ValueError, match="no labels"):
        Picture(None, b"nonsense").packed()


def test_a_large_picture_is_shrunk_and_its_shares_are_of_the_whole():
    labels = np.zeros((200, 4 * MAX_WIDTH), np.uint8)
    labels[:, ::4] = 1
    about, data = Picture(Frame(np.zeros((200, 4 * MAX_WIDTH, 3), np.uint8)), labels).packed()
    assert (about["width"], about["height"], about["label_width"]) == (MAX_WIDTH, 50, MAX_WIDTH)
    assert about["counts"] == {0: labels.size * 3 // 4, 1: labels.size // 4}
    assert len(zlib.decompress(data[about["image_bytes"] :])) == 50 * MAX_WIDTH
    tall = np.zeros((70_000, 8), np.uint8)  # more than a JPEG can be
    about, _ = Picture(Frame(np.zeros((70_000, 8, 3), np.uint8)), tall).packed()
    assert (about["height"], about["width"], about["label_height"]) == (65500, 7, 65500) and about["image_bytes"]


def test_a_relay_names_the_classes_of_a_node(tmp_path):
    class Remote:
        asked = None

        def set_model(self, name, card):
            self.asked = name, card
            if name == "frfnet":
                raise UserError("/segmentation refuses: no")

    board, remote = Board(State(source="/segmentation")), Remote()
    models = [{"name": n, "label": n, "card": f"{n}_camvid11"} for n in ("cgnet", "csrnet_light", "frfnet")]
    relay = RelayFeed(board, remote, models)

    def report(model, space):
        relay.report(
            model=model,
            label_space=space,
            details="",
            image=(360, 480),
            working=(180, 240),
            total=9,
            network=5,
            wait=1,
            age=20,
            counts=(3, 2, 1, 0),
            stamp_ns=0,
        )

    report("cgnet_camvid11", "camvid11")
    assert board.state.model == "cgnet" and board.state.size == "480x360, network 240x180"
    assert [c["name"] for c in board.state.classes] == list(load_label_space("camvid11").names)
    relay.choose_model("csrnet_light")
    assert remote.asked == ("csrnet_light", "csrnet_light_camvid11") and board.state.switching == "csrnet_light"
    report("cgnet_camvid11", "camvid11")
    assert board.state.switching  # the former one still serves
    report("csrnet_light_camvid11", "camvid11")
    assert (board.state.switching, board.state.model) == ("", "csrnet_light")
    with pytest.raises(UserError, match="refuses"):
        relay.choose_model("frfnet")
    assert board.state.switching == ""
    report("mine", "of_my_own")
    assert board.state.model == "mine" and board.state.classes[3]["name"] == "class 3"
    assert "--label-space" in board.state.message
    assert board.next(Seen(), 0).samples[-1].age == 20

    # A label space of the user's own is that of what has no name here, and of what bears its name.
    file = tmp_path / "mine.yaml"
    file.write_text("name: of_my_own\nclasses:\n  - {id: 0, name: field, color: [1, 2, 3]}\n")
    relay = RelayFeed(board, remote, models, load_label_space(file))
    for model, space, first in (("mine", "of_my_own", "field"), ("cgnet_camvid11", "camvid11", "sky")) * 2:
        report(model, space)
        assert board.state.classes[0]["name"] == first


def test_labels_that_came_before_their_classes_are_shown_with_them():
    board = Board(State(source="/segmentation"))
    relay = RelayFeed(board, SimpleNamespace(), [])

    def report(stamp, space):
        values = dict(model="m", details="", image=(8, 8), working=(8, 8), total=9, network=5, wait=1, age=None)
        relay.report(**values, counts=(3, 2, 1, 0), label_space=space, stamp_ns=stamp)
        update = board.next(Seen(), 0)
        return update.seen.picture, update.picture.stamp_ns, update.picture.space, update.state["space"]

    labels = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
    relay.show(None, labels, 7)
    assert report(7, "camvid11") == (2, 7, 1, 1)
    relay.show(None, labels, 8)
    assert report(8, "camvid11") == (3, 8, 1, 1)  # once is enough
    assert report(9, "cityscapes19") == (3, 8, 1, 2)  # its labels were lost: those before are of other classes


def test_a_frames_place_is_told_by_its_turn_not_by_its_name(make_feed, tmp_path):
    for number, name in enumerate(("0700", "0800", "street")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((HEIGHT, WIDTH, 3), 50 * number, np.uint8))
    feed = make_feed(source=tmp_path)
    feed.start()
    updates = watch(feed.board, is_status("ended"))
    wait(lambda: feed._processed + feed._dropped == 3, "all frames")
    updates.append(feed.board.next(Seen(), 5))
    shown = {u.picture.name: u.picture.position for u in updates if u.picture is not None}
    assert shown["street"] == 2 and shown.items() <= {"0700": 0, "0800": 1, "street": 2}.items()
    feed._show_again(feed._last)
    wait(lambda: feed._waiting is None, "the last once more")
    assert feed._last_position == 2


def test_stamps_that_jump_are_not_waited_for():
    feed = object.__new__(FileFeed)
    feed._source = SimpleNamespace(fps=10.0)
    hour = 3600 * 10**9
    assert feed._distance(hour, 2 * hour) == feed._distance(2 * hour, hour) == 0.1
    assert feed._distance(hour, hour + 2 * 10**8) == pytest.approx(0.2)


def test_frames_of_two_sizes_in_turn_are_each_segmented_once(monkeypatch):
    runs = []
    segmenter = Segmenter(replace(CONFIG, backend="torch"))
    run = segmenter.backend.run
    monkeypatch.setattr(segmenter.backend, "run", lambda frames, *rest: runs.append(1) or run(frames, *rest))
    feed = SegmentingFeed(Board(State("a folder")), segmenter, {"cgnet": CONFIG}, "cgnet")
    frames = [SourceFrame(str(n), Frame(np.zeros((64, 96 + 32 * (n % 2), 3), np.uint8))) for n in range(8)]
    for item in frames:
        feed._segment(Arrival(item.frame, 0.0), item, item.frame)
    assert len(runs) == len(frames) + 2 * segmenter.backend.warm_up_calls
