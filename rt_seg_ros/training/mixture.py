"""Which samples each step sees: several sources mixed by weight.

Their order is a function of (seed, step), so that a continued run sees what an unbroken one sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.augment import generator
from rt_seg_ros.training.sources import PictureSource
from rt_seg_ros.working_size import Size

_EPOCHS_KEPT = 2  # what is read ahead may be in the next one already


@dataclass(frozen=True)
class Group:
    """The samples of a batch whose sources give pictures of one size, those of a source together.

    Each int64 (n,): ``source``, ``index`` in it, ``position`` in the batch; ``sizes`` int64 (n, 2) of the pictures.
    """

    source: NDArray[np.int64]
    index: NDArray[np.int64]
    position: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def by_source(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield each source with the indices in it, for these rows of the group."""
        for k in np.unique(self.source[rows]):
            yield int(k), self.index[rows][self.source[rows] == k]


class Mixture:
    """Several sources as one endless sequence of samples.

    An epoch is one pass over the first source, with samples of the others in proportion to their weight. Each
    source is shuffled anew for each of its passes; the samples of an epoch are shuffled among each other.
    """

    def __init__(self, sources: Sequence[PictureSource], weights: Sequence[float], seed: int) -> None:
        self.sources = list(sources)
        self.seed = seed
        first = len(sources[0])
        self.shares = [first, *(max(1, round(first * w / weights[0])) for w in weights[1:])]
        self.epoch_samples = sum(self.shares)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def samples(self, start: int, count: int) -> NDArray[np.int64]:
        """Return which samples stand at positions ``start`` to ``start + count``: (source, index), int64 (n, 2)."""
        positions = np.arange(start, start + count)
        parts = []
        for epoch in range(positions[0] // self.epoch_samples, positions[-1] // self.epoch_samples + 1):
            here = positions[positions // self.epoch_samples == epoch] - epoch * self.epoch_samples
            parts.append(self._epoch(int(epoch))[here])
        return np.concatenate(parts)

    def names(self, start: int, count: int) -> list[str]:
        """Return the names of the samples at these positions."""
        return [self.sources[k].names[i] for k, i in self.samples(start, count)]

    def groups(self, start: int, count: int) -> list[Group]:
        """Return the samples at these positions, in groups of one size."""
        samples = self.samples(start, count)
        by_size: dict[Size, list[int]] = {}
        for position, (k, _) in enumerate(samples):
            by_size.setdefault(self.sources[k].size, []).append(position)
        groups = []
        for positions in by_size.values():
            # Python's sort is stable: within a source, as they come.
            ordered = np.array(sorted(positions, key=lambda p: samples[p, 0]), np.int64)
            source, index = samples[ordered, 0], samples[ordered, 1]
            sizes = np.stack([self.sources[k].sizes[i] for k, i in zip(source, index, strict=True)])
            groups.append(Group(source, index, ordered, sizes))
        return groups

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            rows = []
            for k, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
                draws = np.arange(epoch * share, (epoch + 1) * share)
                index = np.empty(share, np.int64)
                for turn in range(draws[0] // len(source), draws[-1] // len(source) + 1):
                    order = generator(self.seed, 1, k, int(turn)).permutation(len(source))
                    here = draws // len(source) == turn
                    index[here] = order[draws[here] % len(source)]
                rows.append(np.stack([np.full(share, k), index], axis=1))
            mixed = np.concatenate(rows)
            while len(self._orders) >= _EPOCHS_KEPT:
                del self._orders[min(self._orders)]
            self._orders[epoch] = mixed[generator(self.seed, 2, epoch).permutation(len(mixed))]
        return self._orders[epoch]
