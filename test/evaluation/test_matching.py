"""Which truth belongs to which frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt_seg_ros.bags import BagWriter
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.matching import FolderTruth, Matcher, Matching, TopicTruth, Truth, Window, stamp_of_name


def truth(stamp: int) -> Truth:
    return Truth(stamp, "", lambda: np.zeros((2, 2), np.uint8))


def matched(frames: list[int], truths: list[int], tolerance: int) -> tuple[list[int | None], Matching]:
    matching = Matching()
    matcher = Matcher(np.array(truths, np.int64), Window(map(truth, truths)), tolerance, matching)
    found = []
    for i, stamp in enumerate(frames):
        pair = matcher.pair(stamp, frames[i + 1] if i + 1 < len(frames) else None)
        found.append(pair.stamp_ns if pair is not None else None)
    matcher.finish()
    return found, matching


@pytest.mark.parametrize(
    ("frames", "truths", "tolerance", "expected"),
    [
        ([0, 100, 200], [0, 100, 200], 0, [0, 100, 200]),
        ([0, 100, 200], [0, 200], 0, [0, None, 200]),  # some without truth
        ([0, 300], [0, 100, 200, 300], 10, [0, 300]),  # truth at a higher rate
        ([0, 33, 66, 100, 133], [2, 101], 10, [2, None, None, 101, None]),  # and at a lower one
        ([0, 100], [5, 95], 4, [None, None]),
        ([0, 100], [5, 95], 5, [5, 95]),
        ([0, 60], [50], 100, [None, 50]),  # the nearer frame has it
        ([0, 100], [], 10, [None, None]),
        ([0, 0, 100, 100], [0, 0, 100, 100], 10, [0, 0, 100, 100]),  # pairs of one stamp
        ([0, 100, 200, 300], [0, 100, 9000, 300], 10, [0, 100, None, 300]),  # one wrong stamp costs itself alone
        ([0, 100, 200, 300], [-9000, 100, 200, 300], 10, [None, 100, 200, 300]),
        ([0, 9000, 200, 300], [0, 100, 200, 300], 10, [0, None, 200, 300]),
        ([0, 100, 300, 200, 400], [0, 100, 200, 300, 400], 10, [0, 100, 300, 200, 400]),  # swapped neighbours
        ([0, 100, 200, 300, 400], [0, 200, 100, 300, 400], 10, [0, 100, 200, 300, 400]),
        ([500, 600, 0, 100], [500, 600, 0, 100], 10, [500, 600, 0, 100]),  # a clock that was set back
        # What is like the stamp of a frame far ahead does not take that frame's truth, and all between.
        ([0, 3000, *range(200, 4000, 100)], list(range(0, 4000, 100)), 10, [0, None, *range(200, 4000, 100)]),
        (list(range(0, 4000, 100)), [0, 3000, *range(200, 4000, 100)], 10, [0, None, *range(200, 4000, 100)]),
        # So where the next frame has no truth of its own.
        (
            [0, 3000, *range(200, 4000, 100)],
            list(range(0, 4000, 200)),
            10,
            [0, None, *(None if stamp % 200 else stamp for stamp in range(200, 4000, 100))],
        ),
    ],
)
def test_each_is_the_nearest_of_the_other(frames, truths, tolerance, expected):
    found, matching = matched(frames, truths, tolerance)
    assert found == expected
    assert matching.frames_without_truth == expected.count(None)
    assert matching.truth_without_frame == len(truths) - len([e for e in expected if e is not None])
    offsets = [abs(f - e) for f, e in zip(frames, expected, strict=True) if e is not None]
    assert matching.largest_offset_ns == max(offsets, default=0)


stamps = st.lists(st.integers(0, 400), unique=True, max_size=12).map(sorted)


@settings(deadline=None)
@given(stamps, stamps, st.integers(0, 60))
def test_against_all_pairs(frames, truths, tolerance):
    """Where two lie equally near either may be chosen; elsewhere there is one answer."""
    found, _ = matched(frames, truths, tolerance)
    taken = [f for f in found if f is not None]
    assert len(set(taken)) == len(taken)
    for i, (frame, partner) in enumerate(zip(frames, found, strict=True)):
        distances = sorted((abs(t - frame), t) for t in truths)
        following = frames[i + 1] if i + 1 < len(frames) else None
        if partner is not None:
            assert abs(partner - frame) == distances[0][0] <= tolerance
            assert following is None or abs(partner - following) >= abs(partner - frame)
        elif distances and distances[0][0] <= tolerance:
            near = [t for distance, t in distances if distance == distances[0][0]]
            later = following is not None and any(abs(t - following) < abs(t - frame) for t in near)
            assert later or any(t in found[:i] for t in near)


@given(stamps, stamps.map(lambda few: few[:9]), st.integers(0, 60), st.randoms(use_true_random=False))
def test_a_few_may_come_in_any_order(frames, truths, tolerance, random):
    assert matched(frames, random.sample(truths, len(truths)), tolerance) == matched(frames, truths, tolerance)


def test_no_more_than_a_few_label_images_wait():
    alive = 0

    class Counted:
        def __init__(self):
            nonlocal alive
            alive += 1

        def __del__(self):
            nonlocal alive
            alive -= 1

    window = Window(Truth(i, "", Counted().__repr__) for i in range(100))
    assert window(50).stamp_ns == 50 and alive <= 11
    assert window(49).stamp_ns == 49 and window(49) is None and window(10) is None and window(100) is None


@pytest.mark.parametrize(
    ("name", "stamp"),
    [
        ("1700000000123456789", 1_700_000_000_123_456_789),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("1700000000_000000007", 1_700_000_000_000_000_007),
        ("1700000000-7", 1_700_000_000_000_000_007),
        ("label_1700000000123456789", 1_700_000_000_123_456_789),
        ("front-left_1700000000.25", 1_700_000_000_250_000_000),
        ("cam2_1700000000_000000009", 1_700_000_000_000_000_009),
        ("0042", 42),
        ("frame", None),
        ("1700000000.12x", None),
        ("", None),
    ],
)
def test_stamps_in_names(name, stamp):
    assert stamp_of_name(name) == stamp


def test_truth_of_a_topic_goes_by_its_header_not_by_when_it_was_recorded(tmp_path):
    with BagWriter(tmp_path / "b") as bag:
        for stamp, recorded in ((1000, 9000), (2000, 9001)):
            bag.add_label("/label", stamp, "c", np.full((2, 3), stamp // 1000, np.uint8), recorded)
    topic = TopicTruth(tmp_path / "b", "/label")
    assert [one.stamp_ns for one in topic] == topic.stamps().tolist() == [1000, 2000]


def test_a_folder_is_read_in_the_order_of_its_stamps(tmp_path):
    for i, name in enumerate(["2_000000000.png", "1.5.png", "label_1000000000.png", "notes.txt", "legend.png"]):
        if name.endswith(".png"):
            cv2.imwrite(str(tmp_path / name), np.full((4, 5), i, np.uint8))
        else:
            (tmp_path / name).write_text("no labels")
    (tmp_path / "._1.5.png").write_bytes(b"what macOS leaves beside a file")
    folder = FolderTruth(tmp_path)
    truths = [folder.reader()(place) for place in range(folder.count)]
    assert [t.stamp_ns for t in truths] == [10**9, 1_500_000_000, 2 * 10**9] == folder.stamps().tolist()
    assert [int(t.load()[0, 0]) for t in truths] == [2, 1, 0] and folder.left_out == 1


def test_folders_that_hold_no_truth(tmp_path):
    with pytest.raises(UserError, match="holds no label images"):
        FolderTruth(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5), np.uint8))
    with pytest.raises(UserError, match=r"no file is named by a stamp \(a.png, ...\).*1700000000123456789"):
        FolderTruth(tmp_path)
    cv2.imwrite(str(tmp_path / "7.png"), np.full((4, 5, 3), (1, 2, 3), np.uint8))
    colours = FolderTruth(tmp_path).reader()
    with pytest.raises(UserError, match="one grey channel"):
        colours(0).load()
