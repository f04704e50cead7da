"""At which second of a video a frame is shown."""

from __future__ import annotations

import pytest

from rt_seg_ros.evaluation.timeline import Timeline

NANO = 10**9
EVEN = [0.1 * i for i in range(8)]


@pytest.mark.parametrize(
    ("stamps", "recorded", "expected"),
    [
        (EVEN, EVEN, EVEN),
        ([0, 0.1, 45, 45.1], None, [0, 0.1, 45, 45.1]),  # a pause
        ([0, 0.1, 300, 300.1], [0, 0.1, 300, 300.1], [0, 0.1, 300, 300.1]),  # a long one, in the recording too
        ([0, 0.1, 300, 300.1], EVEN, [0, 0.1, 0.15, 0.25]),  # a clock that was set
        ([0, 0.1, 300, 300.1], None, [0, 0.1, 0.15, 0.25]),
        ([0, 0.1, -100, -99.9], EVEN, [0, 0.1, 0.15, 0.25]),
        ([0, 0.1, 1000, 0.3, 0.4], EVEN, [0, 0.1, 0.15, 0.3, 0.4]),  # one stamp is wrong
        ([0, 0.1, -1000, 0.3, 0.4], None, [0, 0.1, 0.15, 0.3, 0.4]),
        ([0, 0.1, 0.3, 0.2, 0.4], EVEN, [0, 0.1, 0.3, 0.35, 0.4]),  # neighbours are swapped
        ([0, 0, 0.2, 0.2, 0.4], EVEN, [0, 0.05, 0.2, 0.25, 0.4]),
        ([5, 5, 5, 5], None, [0, 0.05, 0.15, 0.25]),  # they stand still
        ([5, 5, 5, 5], [0, 0.2, 0.4, 0.6], [0, 0.1, 0.3, 0.5]),
    ],
)
def test_stamps_as_long_as_they_make_sense(stamps, recorded, expected):
    timeline = Timeline(10.0)
    start = 1_700_000_000 * NANO
    times = [None if recorded is None else start + round(recorded[i] * NANO) for i in range(len(stamps))]
    found = [timeline.seconds(start + round(s * NANO), time) for s, time in zip(stamps, times, strict=True)]
    assert found == pytest.approx(expected)


def test_without_a_rate_frames_go_on_at_ten_a_second():
    timeline = Timeline(0.0)
    assert [timeline.seconds(7) for _ in range(3)] == pytest.approx([0, 0.05, 0.15])
