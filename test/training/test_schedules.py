"""Learning rates over a run."""

from __future__ import annotations

import math

import pytest

from rt_seg_ros.training.schedules import cosine, poly, rate_factor, warm_up


def test_poly():
    assert [poly(p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([1, 0.5**0.9, 0, 0])
    assert poly(1.0, final=0.01) == 0.01 and poly(0.5, 2.0, 0.2) == pytest.approx(0.2 + 0.8 * 0.25)


def test_cosine():
    assert [cosine(p) for p in (-1.0, 0.0, 0.5, 1.0)] == pytest.approx([1, 1, 0.5, 0])
    assert cosine(1 / 3, 0.1) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)


def test_warm_up():
    assert [warm_up(s, 10, 0.1) for s in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1, 1])
    assert warm_up(0, 0) == 1.0


def test_rate_is_the_product():
    assert rate_factor("poly", 5, 0.5, power=1.0, warm_up_steps=10) == pytest.approx(0.25)
    assert rate_factor("cosine", 50, 0.5, warm_up_steps=10) == pytest.approx(0.5)
    assert rate_factor("constant", 50, 0.5) == 1.0
    with pytest.raises(ValueError, match="constant"):
        rate_factor("step", 0, 0.0)
