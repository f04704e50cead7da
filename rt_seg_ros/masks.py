"""Masks of single classes: boxes, pixel counts, and the run-length code of ``rt_seg_ros/ClassMask``.

The code of a mask of ``height x width`` pixels is a ``uint32`` array of run lengths. The pixels are taken row
after row (row-major, no padding); runs of background and of foreground alternate and the first one is background,
so a mask whose first pixel is foreground starts with a run of length 0. The lengths add up to ``height * width``
and none but the first is 0: every mask has exactly one code.

A subscriber of ``~/class_masks`` needs one call::

    mask = decode_runs(message.masks[0].runs, message.height, message.width)
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rt_seg_ros.labels import LabelSpace


@dataclass(frozen=True, eq=False)
class ClassMask:
    """Where one class lies in a label image."""

    id: int
    """Class id, the value of the pixels in the label image."""
    name: str
    """Class name in the label space."""
    pixel_count: int
    """Number of pixels of the class."""
    box: tuple[int, int, int, int]
    """Tight bounding box ``(x, y, width, height)`` in pixels."""
    runs: NDArray[np.uint32]
    """Run-length code of the mask over the whole image."""


def decode_runs(runs: ArrayLike, height: int, width: int) -> NDArray[np.uint8]:
    """Mask of a run-length code.

    Nothing is allocated before the lengths are known to add up to ``height * width``.

    :param runs: run lengths, background first: ``ClassMask.runs``, or the field of the same name of a message.
    :param height: rows of the mask.
    :param width: columns of the mask.
    :returns: ``HxW`` ``uint8``, 255 where the class is and 0 elsewhere.
    :raises ValueError: if the lengths are not those of a mask of this size.
    """
    lengths = np.asarray(runs)
    if lengths.size == 0:
        lengths = lengths.astype(np.uint32)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"run lengths must be a flat array of whole numbers, not {lengths.dtype} of shape {lengths.shape}"
        )
    if height < 0 or width < 0:
        raise ValueError(f"a mask cannot have the size {height}x{width}")
    # Before the sum, which 64 bits of what comes from outside could overflow.
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= height * width:
        raise ValueError(
            f"run lengths are from {lengths.min()} to {lengths.max()}; "
            f"of a mask of {height}x{width} they are from 0 to {height * width}"
        )
    total = int(lengths.sum(dtype=np.uint64))
    if total != height * width:
        raise ValueError(f"the run lengths add up to {total} pixels, a mask of {height}x{width} has {height * width}")
    values = np.zeros(lengths.size, np.uint8)
    values[1::2] = 255
    return np.repeat(values, lengths).reshape(height, width)


def binary_mask(labels: NDArray[np.uint8], class_id: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Mask of one class: ``HxW`` ``uint8``, 255 where ``labels`` is ``class_id`` and 0 elsewhere.

    :param out: buffer of the same shape to write into.
    """
    if labels.size == 0:
        return np.zeros(labels.shape, np.uint8) if out is None else out
    return cv2.inRange(labels, class_id, class_id, dst=out)


def class_masks(labels: NDArray[np.uint8], space: LabelSpace) -> list[ClassMask]:
    """Masks of the classes that occur in a label image, in the order of their ids.

    All classes are found in one pass: the image is cut once into runs of equal labels, and what is done for a class
    afterwards costs by the number of its runs, not by the number of pixels.

    :param labels: ``HxW`` ``uint8`` class ids; ids that are not in ``space`` (255, unlabelled) give no mask.
    """
    height, width = labels.shape
    if labels.size == 0:
        return []
    flat = np.ascontiguousarray(labels).reshape(-1)
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    starts += 1
    starts = np.concatenate(([0], starts))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]

    # Runs sorted by class and, as the sort is stable, by place within the class.
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], np.arange(257))
    starts, ends = starts[order], ends[order]

    masks = []
    for entry in space.classes:
        begin, end = int(first[entry.id]), int(first[entry.id + 1])
        if begin == end:
            continue
        edges = np.empty((end - begin, 2), np.int64)
        edges[:, 0] = starts[begin:end]
        edges[:, 1] = ends[begin:end]
        masks.append(
            ClassMask(
                id=entry.id,
                name=entry.name,
                pixel_count=int((edges[:, 1] - edges[:, 0]).sum()),
                box=_box(edges, width),
                runs=_runs(edges.reshape(-1), height * width),
            )
        )
    return masks


def _runs(edges: NDArray[np.int64], size: int) -> NDArray[np.uint32]:
    """Run lengths from the places where the mask changes: start, end, start, end, ..."""
    tail = int(edges[-1] != size)
    bounds = np.zeros(edges.size + 1 + tail, np.int64)
    bounds[1 : edges.size + 1] = edges
    bounds[-1] = size
    return np.diff(bounds).astype(np.uint32)


def _box(edges: NDArray[np.int64], width: int) -> tuple[int, int, int, int]:
    """Tight box ``(x, y, width, height)`` around the runs ``[start, end)`` of an image of this width."""
    top, left = np.divmod(edges[:, 0], width)
    bottom, right = np.divmod(edges[:, 1] - 1, width)
    y = int(top[0])
    if (top != bottom).any():  # a run that goes on in the next row touches both sides of the image
        return 0, y, width, int(bottom[-1]) + 1 - y
    x = int(left.min())
    return x, y, int(right.max()) + 1 - x, int(bottom[-1]) + 1 - y
