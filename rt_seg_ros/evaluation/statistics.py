"""Numbers of many frames in little memory: percentiles of latency, series thinned out for charts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PER_OCTAVE = 128
_LOWEST = -10  # octaves of a millisecond: 1 µs
_OCTAVES = 36  # up to 18 hours
PERCENTILES = (50, 95, 99)


class Distribution:
    """Milliseconds of any number of frames, in a histogram of fixed size.

    Its bins grow by the 128th root of two, so a percentile is true to 0.3 %; number, mean, least and largest are
    exact.
    """

    def __init__(self) -> None:
        self._bins: NDArray[np.int64] = np.zeros(_OCTAVES * _PER_OCTAVE, np.int64)
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.largest = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one frame; less than a microsecond counts as none at all, and NaN, what is not known, not."""
        if math.isnan(milliseconds):
            return
        value = max(0.0, float(milliseconds))
        position = (math.log2(value) - _LOWEST) * _PER_OCTAVE if value > 0 else 0.0
        self._bins[min(max(int(position), 0), len(self._bins) - 1)] += 1
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.largest = max(self.largest, value)

    @property
    def mean(self) -> float:
        """Mean in milliseconds; 0 without a frame."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the least value that so many percent of the frames do not exceed; 0 without a frame."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(self.count * percent / 100))
        position = int(np.searchsorted(np.cumsum(self._bins), rank))
        middle = 2.0 ** (_LOWEST + (position + 0.5) / _PER_OCTAVE)
        return min(max(middle, self.least), self.largest)

    def histogram(self, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the edges (bins + 1,) of equal bins over what occurred, in milliseconds, and the share in each."""
        if not self.count:
            return np.zeros(bins + 1), np.zeros(bins)
        # A handful of stragglers is not to press the rest into one bin; they count in the last.
        top = min(self.largest, 1.5 * self.percentile(99)) or 1.0
        edges = np.linspace(0.9 * self.least, top, bins + 1)
        filled = np.flatnonzero(self._bins)
        values = np.clip(2.0 ** (_LOWEST + (filled + 0.5) / _PER_OCTAVE), self.least, self.largest)
        counts, _ = np.histogram(np.minimum(values, top), edges, weights=self._bins[filled])
        return edges, counts / self.count

    def to_dict(self) -> dict[str, Any]:
        """Return the figures in milliseconds, with the number of frames behind them."""
        percentiles = {f"p{p}": round(self.percentile(p), 3) for p in PERCENTILES}
        return {
            "frames": self.count,
            "mean": round(self.mean, 3),
            **percentiles,
            "max": round(self.largest, 3),
        }


def binned(
    places: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]], bins: int
) -> list[tuple[float, float, float, float]]:
    """Thin out a series for a chart: (place, mean, least, largest) of each bin of places that has a value.

    :param places: (N,), along the axis
    :param values: (N,); NaN where there is none
    """
    known = ~np.isnan(values)
    places, values = places[known].astype(np.float64), values[known].astype(np.float64)
    if not len(values):
        return []
    if len(values) <= bins:
        return [(float(p), float(v), float(v), float(v)) for p, v in zip(places, values, strict=True)]
    start, stop = float(places.min()), float(places.max())
    numbers = np.minimum((places - start) / max(stop - start, 1e-9) * bins, bins - 1).astype(np.int64)
    count = np.bincount(numbers, minlength=bins)
    means = np.bincount(numbers, values, bins) / np.maximum(count, 1)
    where = np.bincount(numbers, places, bins) / np.maximum(count, 1)
    least, largest = np.full(bins, np.inf), np.full(bins, -np.inf)
    np.minimum.at(least, numbers, values)
    np.maximum.at(largest, numbers, values)
    return [(float(where[i]), float(means[i]), float(least[i]), float(largest[i])) for i in np.flatnonzero(count)]
