"""Flicker against a slow computation, and where it cannot be told."""

from __future__ import annotations

import numpy as np
import pytest

from rt_seg_ros.evaluation.flicker import Flicker


def test_it_is_the_share_of_pixels_that_change_without_cause():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 3, (6, 20, 30), np.uint8)
    truths = np.repeat(rng.integers(0, 3, (3, 20, 30), np.uint8), 2, axis=0)
    truths[:, :4] = 255
    flicker = Flicker()
    singles = [flicker.update(frame, truth) for frame, truth in zip(frames, truths, strict=True)]
    part = whole = changed = moved = known = 0
    expected = [None]
    for i in range(1, 6):
        one = [0, 0]
        for y in range(20):
            for x in range(30):
                changed += frames[i, y, x] != frames[i - 1, y, x]
                if truths[i, y, x] == 255 or truths[i - 1, y, x] == 255:
                    continue
                known += 1
                if truths[i, y, x] != truths[i - 1, y, x]:
                    moved += 1
                    continue
                one[1] += 1
                one[0] += frames[i, y, x] != frames[i - 1, y, x]
        part, whole = part + one[0], whole + one[1]
        expected.append(one[0] / one[1])
    assert singles == pytest.approx(expected)
    assert flicker.flicker.value == pytest.approx(part / whole) and flicker.flicker.pairs == 5
    assert flicker.changed.value == pytest.approx(changed / (5 * 600))
    assert flicker.truth_changed.value == pytest.approx(moved / known)


def test_a_mistake_that_stays_and_what_truly_moves_are_no_flicker():
    truth = np.zeros((10, 10), np.uint8)
    wrong = np.full((10, 10), 3, np.uint8)
    flicker = Flicker()
    assert [flicker.update(wrong, truth), flicker.update(wrong, truth)] == [None, 0.0]
    moved = truth.copy()
    moved[:, :5] = 1
    flicker = Flicker()
    flicker.update(truth, truth)
    assert flicker.update(moved, moved) == 0.0
    assert flicker.truth_changed.value == flicker.changed.value == 0.5


def test_frames_without_truth_are_passed_over_and_another_size_begins_anew():
    truth = np.zeros((10, 10), np.uint8)
    flicker = Flicker()
    assert flicker.update(truth, truth) is None
    assert flicker.update(truth + 1, None) is None
    assert flicker.update(truth, truth) == 0.0  # against the last frame that had truth
    assert (flicker.changed.pairs, flicker.changed.value) == (2, 1.0)
    large = np.zeros((12, 10), np.uint8)
    assert flicker.update(large, large) is None and flicker.changed.pairs == 2
    assert Flicker().flicker.value is None


def test_a_pair_in_which_nothing_can_be_compared_is_not_counted():
    known, void = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    flicker = Flicker()
    for truth in (known, void, known, known):
        flicker.update(known, truth)
    assert (flicker.flicker.pairs, flicker.truth_changed.pairs, flicker.changed.pairs) == (1, 1, 3)
