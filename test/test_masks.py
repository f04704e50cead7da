"""The run-length code and the masks of single classes."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rt_seg_ros.labels import UNLABELLED, load_label_space
from rt_seg_ros.masks import binary_mask, class_masks, decode_runs

SPACE = load_label_space("camvid11")
# Few ids, so that classes form regions; some that the label space does not have.
ANY_LABELS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 3, 10, 11, 200, UNLABELLED]))
)


def codes(labels):
    return {found.id: found.runs.tolist() for found in class_masks(np.asarray(labels, np.uint8), SPACE)}


def test_known_codes():
    assert codes([[0, 1, 1], [1, 0, 0]]) == {0: [0, 1, 3, 2], 1: [1, 3, 2]}
    assert codes([[3, 3, 3], [3, 3, 3]]) == {3: [0, 6]}
    assert codes([[255, 3], [3, 0]]) == {0: [3, 1], 3: [1, 2, 1]}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_LABELS)
def test_a_view_gives_the_codes_of_its_copy(labels):
    for view in (labels[::2, ::3], labels.T, labels[::-1, ::-1]):
        assert codes(view) == codes(view.copy())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_LABELS)
def test_class_masks_agree_with_one_class_at_a_time(labels):
    masks = class_masks(labels, SPACE)
    assert [m.id for m in masks] == [i for i in np.unique(labels) if i < SPACE.num_classes]
    for found in masks:
        expected = labels == found.id
        rows, columns = np.nonzero(expected)
        assert found.name == SPACE.names[found.id]
        assert found.pixel_count == expected.sum()
        x, y, width, height = found.box
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert found.runs.dtype == np.uint32
        assert (found.runs[1:] > 0).all()  # one code for each mask: only the first run may be empty
        decoded = decode_runs(found.runs, *labels.shape)
        assert decoded.dtype == np.uint8 and np.array_equal(decoded, expected * np.uint8(255))
        assert np.array_equal(decoded, binary_mask(labels, found.id))


def test_nothing_has_no_class_masks():
    assert class_masks(np.full((2, 2), UNLABELLED, np.uint8), SPACE) == []
    assert class_masks(np.zeros((0, 4), np.uint8), SPACE) == []


def test_binary_mask_fills_the_buffer_given():
    labels = np.array([[0, 3], [3, 255]], np.uint8)
    out = np.ones((2, 2), np.uint8)
    assert binary_mask(labels, 3, out) is out
    assert out.tolist() == [[0, 255], [255, 0]]
    assert binary_mask(labels, 255).tolist() == [[0, 0], [0, 255]]


def test_runs_may_be_what_a_message_holds():
    from array import array

    assert decode_runs(array("I", [1, 2, 1]), 2, 2).tolist() == [[0, 255], [255, 0]]
    assert decode_runs([1, 2, 1], 2, 2).tolist() == [[0, 255], [255, 0]]
    assert decode_runs([], 0, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("runs", "height", "width", "says"),
    [
        ([4], 2, 3, "add up to 4"),
        ([], 2, 3, "add up to 0"),
        ([4294967295, 4294967295], 2, 3, "from 4294967295 to 4294967295"),
        ([-2, 8], 2, 3, "from -2 to 8"),
        ([2**62] * 4 + [6], 2, 3, "from 6 to 4611686018427387904"),  # of 64 bits, the sum would be 6
        (np.full(2**14, 2**50, np.uint64), 0, 5, "they are from 0 to 0"),
        ([[6]], 2, 3, "flat array"),
        ([2.5, 3.5], 2, 3, "whole numbers"),
        ([6], -2, -3, "size -2x-3"),
    ],
)
def test_wrong_codes_are_refused(runs, height, width, says):
    with pytest.raises(ValueError, match=says):
        decode_runs(runs, height, width)


def test_a_real_frame_takes_a_millisecond_or_two():
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, SPACE.num_classes, (36, 48), dtype=np.uint8)
    labels = np.kron(coarse, np.ones((10, 10), np.uint8))
    labels[rng.random(labels.shape) < 0.01] = 10  # speckle: thousands of runs more
    times = []
    for _ in range(20):
        start = time.perf_counter()
        masks = class_masks(labels, SPACE)
        times.append(time.perf_counter() - start)
    assert len(masks) == SPACE.num_classes
    assert min(times) < 0.010  # about 0.4 ms here; the margin is for a busy machine
