"""Labels at full size without the sums that cannot change them: an exact short cut through bilinear upsampling.

Between four neighbouring values of a plane, its *cell*, bilinear interpolation gives a convex combination of the four.
Where one class is ahead at all four corners of a cell it is therefore ahead at every pixel between them: nothing needs
to be computed there. Only cells on the borders between classes need the sums, and of them only those of the classes
that can win at all: one whose largest corner is below another's smallest is behind it everywhere in the cell.

In what remains, the first of a cell's possible classes is subtracted from the others, so that its own plane is zero
and need not be computed; equal classes stay equal by that to the last bit, and the first of them wins.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.scratch import Scratch
from rt_seg_ros.working_size import Size

Index = NDArray[np.intp]

_LEAST_FACTOR = 2  # with less there are cells without a pixel
_PIXELS_AT_ONCE = 131_072  # what there is of each then fits a core's own cache
# What it costs, in units of one class at one pixel by interpolation of whole planes (measured with 11 and 19 classes
# and factors of 2 to 16): at all, for each cell on a border, and for each pixel in such a cell.
_COST, _COST_OF_CELL, _COST_OF_PIXEL = 140_000, 150, 8


class BorderCells:
    """Upsamples planes of one size to labels of one size.

    Equals OpenCV's linear interpolation of each plane (pixel centres at half-integers, the outermost values go on
    beyond the edge) and arg max over them, the first of equals. Where two classes are equal but for the rounding of
    their sums, either may win. Not for several threads at once.

    :param planes: (h, w) of the logits
    :param size: (height, width) of the labels
    :param scratch: memory to work in, which several of these may share
    """

    def __init__(self, planes: Size, size: Size, scratch: Scratch) -> None:
        self._planes, self._size, self._scratch = planes, size, scratch
        self._possible = min(size[0] / planes[0], size[1] / planes[1]) >= _LEAST_FACTOR
        self._rows = _Axis(planes[0], size[0], planes[1], size[1])
        self._columns = _Axis(planes[1], size[1], 1, 1)
        self._pixels_of_cell = self._rows.most * self._columns.most
        self._at_once = max(1, _PIXELS_AT_ONCE // self._pixels_of_cell)

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """Return labels, uint8 ``size``; None where interpolation of whole planes is faster, or nothing else will do.

        :param logits: float32 (classes, h, w), contiguous; one of at most 255 classes
        """
        plainly = logits.shape[0] * self._size[0] * self._size[1]
        if not self._possible or plainly < _COST:
            return None
        highest = logits.max(axis=0)
        if not (np.isfinite(highest).all() and np.isfinite(logits.min())):
            return None
        winners = cv2.copyMakeBorder(self._winners(logits, highest), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        cells = winners[:-1, :-1]
        mixed = cells != winners[1:, :-1]
        mixed |= cells != winners[:-1, 1:]
        mixed |= cells != winners[1:, 1:]
        border = np.flatnonzero(mixed)
        if _COST + border.size * (_COST_OF_CELL + _COST_OF_PIXEL * self._pixels_of_cell) > plainly:
            return None
        labels = np.empty(self._size, np.uint8)
        np.take(np.take(cells, self._columns.cell, axis=1), self._rows.cell, axis=0, out=labels, mode="clip")
        flat = logits.reshape(logits.shape[0], -1)
        for begin in range(0, border.size, self._at_once):
            y, x = np.divmod(border[begin : begin + self._at_once], self._planes[1] + 1)
            self._decide(self._corners(flat, y, x), y, x, labels.reshape(-1))
        return labels

    def _winners(self, logits: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Arg max of the planes themselves, uint8 (h, w)."""
        ahead = self._scratch("ahead", logits.shape, np.uint8)
        np.equal(logits, highest, out=ahead.view(np.bool_))
        ahead -= 1  # 0 where the class is ahead, 255 elsewhere
        ahead |= np.arange(logits.shape[0], dtype=np.uint8)[:, None, None]
        winners: NDArray[np.uint8] = ahead.min(axis=0)
        return winners

    def _corners(self, flat: NDArray[np.float32], y: Index, x: Index) -> NDArray[np.float32]:
        """Values at the corners of some cells: (classes, 4, cells), in the order of reading.

        :param flat: logits, (classes, h * w)
        :param y: row of each cell
        :param x: column of each cell
        """
        top, bottom = self._rows.first_values[y], self._rows.second_values[y]
        left, right = self._columns.first_values[x], self._columns.second_values[x]
        at = np.concatenate((top + left, top + right, bottom + left, bottom + right))
        corners = self._scratch("corners", (flat.shape[0], at.size), np.float32)
        np.take(flat, at, axis=1, out=corners, mode="clip")
        return corners.reshape(flat.shape[0], 4, y.size)

    def _decide(self, corners: NDArray[np.float32], y: Index, x: Index, labels: NDArray[np.uint8]) -> None:
        """Write the labels of the pixels in some cells.

        :param labels: flattened
        """
        scratch, cells = self._scratch, y.size
        possible = corners.max(axis=1) >= corners.min(axis=1).max(axis=0)

        # Cells with more possible classes first: whatever their number, those that have an n-th are the first ones.
        numbers = np.add.reduce(possible, axis=0, dtype=np.uint8)
        order = np.argsort(255 - numbers, kind="stable")
        numbers, y, x = numbers[order], y[order], x[order]
        # Each pair of a cell and a class that is possible there; first every cell's first class, then every second...
        cell, class_id = np.divmod(np.flatnonzero(np.take(possible.T, order, axis=0)), corners.shape[0])
        first = np.cumsum(numbers, dtype=np.intp) - numbers
        rank = (np.arange(cell.size) - first[cell]).astype(np.uint8)
        by_rank = np.argsort(rank, kind="stable")
        cell, class_id = cell[by_rank], class_id[by_rank]
        ids = class_id.astype(np.uint8)
        at = class_id * (4 * cells) + order[cell]
        values = np.take(corners.reshape(-1), at + cells * np.arange(4)[:, None])  # (4, pairs)

        # Each cell's first class is the one that the others are compared with.
        later = cell[cells:]
        scores = self._interpolated(values[:, cells:] - np.take(values[:, :cells], later, axis=1), y[later], x[later])
        shape = (scores.shape[0], scores.shape[1], cells)
        won = scratch("won", shape, np.uint8)
        won[...] = ids[:cells]
        wins = scratch("wins", shape, np.uint8)
        ahead = before = np.zeros((1, 1, cells), np.float32)
        begin = 0
        for number in np.bincount(rank)[1:].tolist():
            here = slice(begin, begin + number)
            ahead = np.maximum(ahead[:, :, :number], before[:, :, :number], out=before[:, :, :number])
            before, win = scores[:, :, here], wins[:, :, :number]
            np.greater(before, ahead, out=win.view(np.bool_))
            win *= ids[cells:][here]
            np.maximum(won[:, :, :number], win, out=won[:, :, :number])  # a later class has a larger id
            begin += number

        rows = scratch("rows", shape[::2], np.intp)
        np.take(self._rows.places, y, axis=1, out=rows, mode="clip")
        columns = scratch("columns", shape[1:], np.intp)
        np.take(self._columns.places, x, axis=1, out=columns, mode="clip")
        places = scratch("places", shape, np.intp)
        np.add(rows[:, None], columns, out=places)
        labels[places] = won

    def _interpolated(self, values: NDArray[np.float32], y: Index, x: Index) -> NDArray[np.float32]:
        """Interpolate between corners, (4, n), at all pixels of the cells that they belong to: (rows, columns, n)."""
        down, across, n = self._rows.most, self._columns.most, y.size
        weight = self._scratch("weight", (max(down, across), n), np.float32)
        edges = self._scratch("edges", (2, across, n), np.float32)
        np.take(self._columns.weight, x, axis=1, out=weight[:across], mode="clip")
        np.multiply((values[1::2] - values[::2])[:, None], weight[:across], out=edges)
        edges += values[::2, None]
        upper, drop = edges
        drop -= upper
        np.take(self._rows.weight, y, axis=1, out=weight[:down], mode="clip")
        scores = self._scratch("scores", (down, across, n), np.float32)
        np.multiply(drop[None], weight[:down, None], out=scores)
        scores += upper[None]
        return scores


class _Axis:
    """One direction of the way from planes to labels: ``n`` values become ``m`` pixels, in ``n + 1`` cells.

    The first and last cell lie half outside; both of their values are the outermost one.

    ``cell``: the cell of each pixel, (m,). ``first_values``, ``second_values``: those of each cell, (n + 1,).
    ``most``: pixels in the largest cell. ``places``: the pixels of each cell, (most, n + 1); the last one stands again
    and again where there are fewer. ``weight``: the second value's share there, float32 likewise.

    :param value_step: from one value to the next in a flattened plane
    :param pixel_step: from one pixel to the next in a flattened label image
    """

    def __init__(self, n: int, m: int, value_step: int, pixel_step: int) -> None:
        # As OpenCV reckons, so that weights agree to the last bit (old releases round the position, too).
        position = (np.arange(m) + 0.5) * (1.0 / (m / n)) - 0.5
        before = np.floor(position)
        weight = (position - before).astype(np.float32)
        weight[(before < 0) | (before >= n - 1)] = 0
        self.cell: Index = np.clip(before, -1, n - 1).astype(np.intp) + 1
        cells = np.arange(n + 1)
        self.first_values: Index = np.maximum(cells - 1, 0) * value_step
        self.second_values: Index = np.minimum(cells, n - 1) * value_step
        numbers = np.bincount(self.cell, minlength=n + 1)
        self.most = int(numbers.max())
        ends = np.cumsum(numbers)
        pixels = np.minimum((ends - numbers) + np.arange(self.most)[:, None], ends - 1)
        self.places: Index = pixels * pixel_step
        self.weight: NDArray[np.float32] = weight[pixels]
