"""The confusion matrix against scikit-learn's, and the protocol's corners."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from rt_seg_ros.evaluation.confusion import ConfusionMatrix


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 11, (3, 36, 48), np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 11, truth.shape, np.uint8)).astype(np.uint8)
    truth[:, :3] = 255
    return truth, guess


def test_against_scikit_learn(frames):
    truth, guess = frames
    counted = ConfusionMatrix(11)
    for one, other in zip(truth, guess, strict=True):
        counted.update(one, other)
    valid = truth != 255
    t, p = truth[valid], guess[valid]
    np.testing.assert_array_equal(counted.matrix, confusion_matrix(t, p, labels=range(11)))
    iou = jaccard_score(t, p, labels=range(11), average=None, zero_division=0)
    np.testing.assert_allclose(counted.per_class_iou(), iou)
    assert counted.miou() == pytest.approx(iou.mean())
    assert counted.pixel_accuracy() == pytest.approx(accuracy_score(t, p))
    assert counted.class_accuracy() == pytest.approx(recall_score(t, p, labels=range(11), average="macro"))
    assert counted.pixels == valid.sum()


def test_a_class_without_true_positive_counts_zero():
    counted = ConfusionMatrix(4)
    # 0 is found; 1 is missed; 2 is only predicted; 3 never occurs.
    counted.update(np.array([0, 0, 1], np.uint8), np.array([0, 0, 2], np.uint8))
    assert counted.per_class_iou().tolist() == [1, 0, 0, 0]
    assert counted.miou() == 0.25


def test_one_matrix_is_summed_over_the_split():
    counted, other = ConfusionMatrix(2), ConfusionMatrix(2)
    counted.update(np.array([0, 0], np.uint8), np.array([0, 1], np.uint8))
    other.update(np.array([1, 1, 1, 0], np.uint8), np.array([1, 1, 1, 0], np.uint8))
    counted.add(other)
    assert counted.per_class_iou().tolist() == [2 / 3, 3 / 4]


def test_matrices_added_up_are_one_of_all_frames_also_of_what_has_no_label(frames):
    truth, guess = frames
    guess = np.where(guess == 10, 255, guess).astype(np.uint8)
    whole, added = ConfusionMatrix(11), ConfusionMatrix(11)
    whole.update(truth, guess)
    for one, other in zip(truth, guess, strict=True):
        part = ConfusionMatrix(11)
        part.update(one, other)
        added.add(part)
    assert added.missed.sum() == ((guess == 255) & (truth != 255)).sum() and added.pixels == (truth != 255).sum()
    np.testing.assert_array_equal(added.per_class_iou(), whole.per_class_iou())
    assert added.pixel_accuracy() == whole.pixel_accuracy()


def test_void_is_ignored_and_an_unlabelled_prediction_is_a_miss():
    counted = ConfusionMatrix(2)
    counted.update(np.array([255, 11, 0, 0], np.uint8), np.array([0, 1, 0, 255], np.uint8))
    assert (counted.pixels, counted.pixel_accuracy(), counted.per_class_iou().tolist()) == (2, 0.5, [0.5, 0.0])


def test_a_frames_own_mean_is_over_the_classes_of_its_truth():
    counted = ConfusionMatrix(5)
    counted.update(np.array([0, 0, 1, 1], np.uint8), np.array([0, 0, 1, 4], np.uint8))
    assert counted.miou_of_present() == pytest.approx((1 + 0.5) / 2)
    assert ConfusionMatrix(2).miou_of_present() == 0


def test_nothing_counted_is_zero():
    assert (ConfusionMatrix(3).miou(), ConfusionMatrix(3).pixel_accuracy(), ConfusionMatrix(3).pixels) == (0, 0, 0)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        ConfusionMatrix(2).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        ConfusionMatrix(2).update(np.zeros(2, np.int64), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="num_classes"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="cannot be added"):
        ConfusionMatrix(2).add(ConfusionMatrix(3))


def test_a_frame_costs_less_than_a_millisecond():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.integers(0, 11, (30, 40), np.uint8), 12, axis=0), 12, axis=1)
    guess = np.roll(truth, 3, axis=1)
    counted = ConfusionMatrix(11)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        counted.update(truth, guess)
        times.append(time.perf_counter() - begin)
    assert truth.shape == (360, 480) and min(times) < 0.001
