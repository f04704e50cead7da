"""The boundary F-score against a slow computation from its definition."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from rt_seg_ros.evaluation.boundary import BoundaryScore, tolerance_pixels

CLASSES = 5


def coarse(rng: np.random.Generator, height: int = 60, width: int = 90, void: bool = False) -> np.ndarray:
    small = rng.integers(0, CLASSES + (1 if void else 0), (height // 12, width // 12), np.uint8)
    labels = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    labels[labels == CLASSES] = 255
    return labels


def edge_pixels(labels: np.ndarray, ignore: np.ndarray | None) -> dict[int, set[tuple[int, int]]]:
    """Pixels by class that have a neighbour of another label."""
    found: dict[int, set[tuple[int, int]]] = {c: set() for c in range(CLASSES)}
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                if not (0 <= v < height and 0 <= u < width) or labels[v, u] == labels[y, x]:
                    continue
                if ignore is not None and (ignore[y, x] or ignore[v, u]):
                    continue
                if labels[y, x] < CLASSES:
                    found[int(labels[y, x])].add((y, x))
    return found


def slow(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """F by class from the definition, pixel by pixel; NaN where a class has no edge at all."""
    counts = np.zeros((4, CLASSES))
    for truth, prediction in pairs:
        reach = tolerance_pixels(*truth.shape)
        void = truth == 255
        true, found = edge_pixels(truth, void), edge_pixels(prediction, None)
        near_void = {
            (y + dy, x + dx)
            for y, x in zip(*np.nonzero(void), strict=True)
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
        }

        def close(pixel: tuple[int, int], others: set[tuple[int, int]], reach: int = reach) -> bool:
            return any(max(abs(pixel[0] - y), abs(pixel[1] - x)) <= reach for y, x in others)

        for c in range(CLASSES):
            judged, true_judged = found[c] - near_void, true[c] - near_void
            counts[:, c] += (
                len(judged),
                sum(close(p, true[c]) for p in judged),
                len(true_judged),
                sum(close(p, found[c]) for p in true_judged),
            )
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.nan_to_num(counts[1] / counts[0]), np.nan_to_num(counts[3] / counts[2])
        f = np.nan_to_num(2 * precision * recall / (precision + recall))
    return np.where(counts[0] + counts[2] > 0, f, np.nan)


@pytest.mark.parametrize("void", [False, True])
def test_it_is_what_its_definition_says(void):
    rng = np.random.default_rng(1)
    pairs = []
    score = BoundaryScore(CLASSES)
    for _ in range(2):
        truth = coarse(rng, void=void)
        prediction = np.roll(truth, 1, axis=1)
        noise = rng.random(truth.shape) < 0.003
        prediction[noise] = rng.integers(0, CLASSES, int(noise.sum()))
        prediction[prediction == 255] = 2
        prediction[:6, :9] = 255  # unlabelled
        pairs.append((truth, prediction))
        frame = score.update(truth, prediction)
        alone = slow([(truth, prediction)])
        in_truth = [len(edge_pixels(truth, truth == 255)[c]) > 0 for c in range(CLASSES)]
        assert frame == pytest.approx(alone[in_truth].mean())
    expected = slow(pairs)
    np.testing.assert_allclose(score.per_class(), expected)
    assert 0.2 < score.mean() < 0.98
    assert score.mean() == pytest.approx(expected.mean())


@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1), (1, 1), (3, 200)])
def test_narrow_images_have_edges_too(height, width):
    truth = np.zeros((height, width), np.uint8)
    truth[height // 2 :, width // 2 :] = 1
    assert BoundaryScore(2).update(truth, truth) == (None if height == width else 1.0)


@pytest.mark.parametrize("first", [0, 10, 14, 16, 30, 250])
def test_many_classes_are_told_apart(first):
    """Classes are looked at sixteen at once: what lies in different sixteens is as different as within."""
    truth = np.full((40, 60), first, np.uint8)
    truth[:, 30:] = first + 3
    score = BoundaryScore(255)
    assert score.update(truth, truth) == 1.0
    wrong = np.where(truth == first, first + 1, first + 2).astype(np.uint8)
    assert score.update(truth, wrong) == 0.0
    f = score.per_class()
    assert f[[first, first + 3]] == pytest.approx(2 / 3) and f[[first + 1, first + 2]].tolist() == [0, 0]
    assert np.isnan(np.delete(f, range(first, first + 4))).all()


def test_within_the_tolerance_is_right_and_beyond_it_is_wrong():
    height, width = 240, 320  # diagonal 400: 3 pixels
    assert tolerance_pixels(height, width) == 3 and tolerance_pixels(360, 480) == 4 and tolerance_pixels(20, 20) == 1
    truth = np.zeros((height, width), np.uint8)
    truth[:, 160:] = 1
    for shift, expected in ((0, 1.0), (3, 1.0), (4, 0.0)):
        prediction = np.zeros_like(truth)
        prediction[:, 160 + shift :] = 1
        assert BoundaryScore(2).update(truth, prediction) == expected, shift


def test_without_an_edge_there_is_no_score():
    score = BoundaryScore(3)
    flat = np.zeros((20, 20), np.uint8)
    assert score.update(flat, flat) is None and score.mean() is None
    assert np.isnan(score.per_class()).all()
    halves = flat.copy()
    halves[:, 10:] = 255  # towards void there is no edge
    assert score.update(halves, flat) is None
    halves[:, 10:] = 1
    assert score.update(halves, flat) == 0.0  # all edges missed
    assert score.mean() == 0.0 and np.isnan(score.per_class()[2])


def test_it_is_cheap_enough_for_a_thread_beside_the_network():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 11, (12, 16), np.uint8)
    truth = cv2.resize(small, (480, 360), interpolation=cv2.INTER_NEAREST)
    prediction = np.roll(truth, 3, axis=0)
    score = BoundaryScore(11)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        score.update(truth, prediction)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.01


def test_a_prediction_that_is_right_wherever_truth_has_a_class_is_perfect():
    rng = np.random.default_rng(3)
    score = BoundaryScore(CLASSES)
    for _ in range(4):
        truth = coarse(rng, void=True)
        filled = truth.copy()
        filled[truth == 255] = rng.integers(0, CLASSES, int((truth == 255).sum()))
        assert score.update(truth, filled) in (1.0, None)
    assert score.mean() == 1.0
