"""Percentiles in little memory, and series thinned out."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from rt_seg_ros.evaluation.statistics import Distribution, binned


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_percentiles_are_true_to_three_in_a_thousand(scale):
    values = scale * np.random.default_rng(0).lognormal(1.0, 0.7, 5000)
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    for percent in (1, 50, 95, 99, 100):
        exact = np.sort(values)[max(1, int(np.ceil(len(values) * percent / 100))) - 1]
        assert distribution.percentile(percent) == pytest.approx(exact, rel=0.003), percent
    assert distribution.mean == pytest.approx(values.mean())
    assert (distribution.count, distribution.largest, distribution.least) == (5000, values.max(), values.min())
    told = distribution.to_dict()
    assert told["frames"] == 5000 and told["p50"] <= told["p95"] <= told["p99"] <= told["max"]


def test_its_size_does_not_grow():
    distribution = Distribution()
    distribution.add(1.0)
    before = distribution._bins.nbytes + sys.getsizeof(distribution.__dict__)
    for i in range(20_000):
        distribution.add(0.01 * i)
    assert distribution._bins.nbytes + sys.getsizeof(distribution.__dict__) == before < 50_000


def test_corners():
    empty = Distribution()
    assert (empty.percentile(50), empty.mean, empty.to_dict()["frames"]) == (0.0, 0.0, 0)
    edges, shares = empty.histogram(10)
    assert len(edges) == 11 and shares.sum() == 0
    one = Distribution()
    for value in (0.0, math.nan, -1.0, 1e12):
        one.add(value)
    assert one.count == 3
    assert one.percentile(99) == pytest.approx(1e12, rel=1) and one.percentile(1) == pytest.approx(0.0, abs=1e-3)
    same = Distribution()
    for _ in range(10):
        same.add(7.3)
    assert same.percentile(50) == same.percentile(99) == 7.3


def test_the_histogram_holds_every_frame():
    distribution = Distribution()
    values = np.random.default_rng(1).normal(20, 2, 1000)
    for value in [*values, 5000.0]:  # a straggler is not to press the rest into one bin
        distribution.add(value)
    edges, shares = distribution.histogram(40)
    assert shares.sum() == pytest.approx(1.0)
    assert edges[0] < values.min() and edges[-1] < 100 and (shares > 0).sum() > 15


def test_a_series_is_thinned_out_with_its_extremes():
    places = np.arange(1000, dtype=np.float32)
    values = np.zeros(1000, np.float32)
    values[500], values[501], values[10:20] = 9, -3, np.nan
    points = binned(places, values, 50)
    assert len(points) == 50 and [p[0] for p in points] == sorted(p[0] for p in points)
    assert max(p[3] for p in points) == 9 and min(p[2] for p in points) == -3
    assert all(p[2] <= p[1] <= p[3] for p in points)
    assert binned(places[:3], np.array([1.0, np.nan, 2.0]), 50) == [(0, 1, 1, 1), (2, 2, 2, 2)]
    assert binned(places[:0], values[:0], 50) == []
