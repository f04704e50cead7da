"""The short cut through upsampling: the same labels as interpolation and arg max of every class, ties included."""

from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rt_seg_ros import border_cells
from rt_seg_ros.border_cells import BorderCells
from rt_seg_ros.resampling import LabelUpsampler
from rt_seg_ros.scratch import Scratch

planes = st.tuples(st.integers(1, 14), st.integers(1, 14))
factors = st.floats(2.0, 9.0)


def shortened(logits, size):
    """Take the short cut, however little there is to gain."""
    with patch.multiple(border_cells, _COST=0, _COST_OF_CELL=0, _COST_OF_PIXEL=0):
        labels = BorderCells(logits.shape[1:], size, Scratch())(logits)
    assert labels is not None
    return labels


def everywhere(logits, size):
    return LabelUpsampler()._everywhere(logits, size, False)[0]


def smooth(seed, classes, h, w, spread=1.5):
    """Logits in areas, as a network gives them."""
    noise = np.random.default_rng(seed).normal(size=(classes, h, w)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(plane, (0, 0), spread) for plane in noise]) * 8


def size_of(h, w, fy, fx):
    return max(2 * h, round(h * fy)), max(2 * w, round(w * fx))


def exact_scores(logits, size):
    """Interpolate whole numbers exactly: int64 (classes, H, W), all with the same denominator."""
    _, h, w = logits.shape

    def axis(n, m):
        # (i + 0.5) * n / m - 0.5, times 2 m
        at = (2 * np.arange(m) + 1) * n - m
        low = at // (2 * m)
        share = np.where((low < 0) | (low >= n - 1), 0, at - low * 2 * m)
        low = np.clip(low, 0, n - 1)
        return low, np.minimum(low + 1, n - 1), share, 2 * m

    y0, y1, fy, ny = axis(h, size[0])
    x0, x1, fx, nx = axis(w, size[1])
    z = logits.astype(np.int64)
    top = z[:, y0][:, :, x0] * (nx - fx) + z[:, y0][:, :, x1] * fx
    bottom = z[:, y1][:, :, x0] * (nx - fx) + z[:, y1][:, :, x1] * fx
    return top * (ny - fy)[:, None] + bottom * fy[:, None]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 19), planes, factors, factors, st.sampled_from([0.3, 1.5]), st.integers(0, 99))
def test_labels_are_those_of_interpolate_and_argmax(classes, shape, fy, fx, spread, seed):
    logits, size = smooth(seed, classes, *shape, spread), size_of(*shape, fy, fx)
    labels = shortened(logits, size)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits).double()[None], size, mode="bilinear")[0].numpy()
    rounding = 1e-6 * np.abs(logits).max()
    own = np.take_along_axis(full, labels[None].astype(np.intp), 0)[0]
    assert (full.max(0) - own).max() <= rounding
    top = np.sort(full, 0)
    clear = top[-1] - top[-2] > 2 * rounding if classes > 1 else np.ones(size, bool)
    assert np.array_equal(labels[clear], full.argmax(0)[clear])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 19), planes, factors, factors, st.sampled_from([0.3, 1.5]), st.integers(0, 99))
def test_labels_are_those_of_the_plain_way(classes, shape, fy, fx, spread, seed):
    logits, size = smooth(seed, classes, *shape, spread), size_of(*shape, fy, fx)
    other = shortened(logits, size) != everywhere(logits, size)
    if other.any():  # only where two classes are equal but for a sum's rounding
        resized = np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits])
        top = np.sort(resized, 0)
        # OpenCV's old releases round positions to float32, and so weights to some millionths.
        recent = tuple(int(n) for n in cv2.__version__.split(".")[:2]) >= (4, 10)
        ulps = 4 if recent else 64
        assert (top[-1] - top[-2])[other].max() <= ulps * np.spacing(np.abs(logits).max())


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 9), planes, st.sampled_from([2, 4, 8, 16]), st.integers(1, 3), st.integers(0, 99))
def test_of_equal_classes_the_first_wins(classes, shape, factor, largest, seed):
    """Small whole numbers and factors of two: nothing is rounded, and there are ties wherever one looks."""
    logits = np.random.default_rng(seed).integers(-largest, largest + 1, (classes, *shape)).astype(np.float32)
    size = shape[0] * factor, shape[1] * factor
    expected = exact_scores(logits, size).argmax(0)
    assert np.array_equal(shortened(logits, size), expected)
    assert np.array_equal(everywhere(logits, size), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), planes, factors, factors, st.integers(0, 99))
def test_whole_numbers_at_any_factor(classes, shape, fy, fx, seed):
    logits = np.random.default_rng(seed).integers(-3, 4, (classes, *shape)).astype(np.float32)
    size = size_of(*shape, fy, fx)
    labels, exact = shortened(logits, size), exact_scores(logits, size)
    scale = 4 * size[0] * size[1]
    own = np.take_along_axis(exact, labels[None].astype(np.intp), 0)[0]
    # Weights are rounded now, and so may be what is an exact tie.
    assert ((exact.max(0) - own) / scale).max() <= 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), planes, factors, factors, st.integers(0, 99))
def test_a_class_that_repeats_an_earlier_one_never_wins(classes, shape, fy, fx, seed):
    first = smooth(seed, classes, *shape, 0.8)
    labels = shortened(np.concatenate([first, first, first[::-1]]), size_of(*shape, fy, fx))
    assert labels.max() < classes


def test_many_classes_in_one_cell():
    """All of 200 are so close together that each is possible in every cell."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 6, 7)).astype(np.float32) * 0.01
    assert np.array_equal(shortened(logits, (48, 56)), everywhere(logits, (48, 56)))


def test_a_class_ahead_at_no_corner_wins_in_the_middle():
    logits = np.array([[[1, 0]], [[0, 1]], [[0.9, 0.9]]], np.float32)
    labels = shortened(logits, (4, 20))
    assert labels[0].tolist() == [0] * 6 + [2] * 8 + [1] * 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_to_the_plain_way(value):
    logits = smooth(0, 5, 8, 9)
    logits[2, 3, 4] = value
    assert BorderCells((8, 9), (64, 72), Scratch())(logits) is None
    with np.errstate(all="raise"):
        assert LabelUpsampler()(logits, (64, 72))[0].shape == (64, 72)


@pytest.mark.parametrize("size", [(15, 72), (64, 17), (8, 9), (4, 4)])
def test_less_than_twice_the_size_is_left_to_the_plain_way(size):
    logits = smooth(0, 5, 8, 9)
    assert BorderCells((8, 9), size, Scratch())(logits) is None
    assert np.array_equal(LabelUpsampler()(logits, size)[0], everywhere(logits, size))


def test_more_cells_than_are_done_at_once(monkeypatch):
    monkeypatch.setattr(border_cells, "_PIXELS_AT_ONCE", 5 * 64)
    logits = smooth(3, 7, 20, 30)
    assert np.array_equal(shortened(logits, (160, 240)), everywhere(logits, (160, 240)))


def test_noise_is_left_to_the_plain_way_and_areas_are_not():
    noise = np.random.default_rng(0).normal(size=(11, 45, 60)).astype(np.float32)
    assert BorderCells((45, 60), (360, 480), Scratch())(noise) is None
    assert BorderCells((45, 60), (360, 480), Scratch())(smooth(0, 11, 45, 60, 4)) is not None


def test_labels_are_the_caller_s_to_keep():
    upsample, size = LabelUpsampler(), (360, 480)
    first, _ = upsample(smooth(1, 11, 45, 60, 4), size)
    kept = first.copy()
    for seed in range(2, 6):
        upsample(smooth(seed, 11, 45, 60, 4), size)
        upsample(smooth(seed, 5, 23, 30, 4), (184, 240), confidence=seed % 2 == 0)
    assert np.array_equal(first, kept)
    assert first.flags.c_contiguous and first.flags.owndata


def test_planes_need_not_lie_in_their_order_in_memory():
    logits = smooth(1, 11, 45, 60, 4)
    last = np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert not last.flags.c_contiguous
    assert np.array_equal(LabelUpsampler()(last, (360, 480))[0], LabelUpsampler()(logits, (360, 480))[0])
