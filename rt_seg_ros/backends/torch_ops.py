"""What comes before and after a network, as PyTorch operations on whatever device the tensors are.

The same results as :mod:`rt_seg_ros.resampling` gives on the host, within rounding: area averages where an image
shrinks, linear interpolation where it grows, bilinear logits, the first of equal classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rt_seg_ros.images import CHANNELS, RGB_AT, Frame, Order
from rt_seg_ros.working_size import Size

#: Logits (N, classes, h, w), size, labels uint8 (N, H, W) to write and confidences likewise, or None.
LabelWriter = Callable[[Tensor, Size, Tensor, Tensor | None], None]


@lru_cache(maxsize=64)
def taps(length: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which of ``length`` samples make up each of ``target``, and with what weight.

    Pixel centres lie at half-integers. Shrinking averages over the area of a target pixel; growing interpolates
    linearly between neighbours and repeats the border.

    :return: indices and weights, both (target, samples per target)
    """
    if target < length:
        edges = np.arange(target + 1) * (length / target)
        first = np.floor(edges[:-1] + 1e-9).astype(np.int64)
        count = int(np.max(np.ceil(edges[1:] - 1e-9) - first))
        indices = first[:, None] + np.arange(count)
        covered = np.minimum(edges[1:, None], indices + 1) - np.maximum(edges[:-1, None], indices)
        weights = np.clip(covered, 0.0, 1.0)
        weights /= weights.sum(1, keepdims=True)
        return np.minimum(indices, length - 1), weights.astype(np.float32)
    centres = np.maximum((np.arange(target) + 0.5) * (length / target) - 0.5, 0.0)
    lower = np.minimum(centres.astype(np.int64), length - 1)
    share = np.where(lower < length - 1, centres - lower, 0.0)
    indices = np.stack([lower, np.minimum(lower + 1, length - 1)], 1)
    return indices, np.stack([1.0 - share, share], 1).astype(np.float32)


class PixelResizer:
    """:func:`rt_seg_ros.resampling.resize_pixels` for a batch, on a device.

    :param source: (height, width) of what comes in
    :param target: of what goes out
    """

    def __init__(self, source: Size, target: Size, device: torch.device | str) -> None:
        shrunk = min(source[0], target[0]), min(source[1], target[1])
        # Where the average of 2x2 lies halfway, OpenCV rounds up, and elsewhere to even.
        self._halves_up = source == (2 * target[0], 2 * target[1])
        self._steps: list[list[tuple[int, Tensor, Tensor]]] = []
        # As on the host: first all that shrinks, rounded, then all that grows.
        for before, after in ((source, shrunk), (shrunk, target)):
            step = []
            for axis in (0, 1):
                if before[axis] != after[axis]:
                    indices, weights = taps(before[axis], after[axis])
                    shape = (-1, 1, 1) if axis == 0 else (-1, 1)
                    columns = torch.from_numpy(np.ascontiguousarray(indices.T)).to(device)
                    shares = torch.from_numpy(np.ascontiguousarray(weights.T)).to(device)
                    step.append((axis + 1, columns, shares.reshape(len(shares), *shape)))
            if step:
                self._steps.append(step)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Resize ``pixels``, uint8 (N, H, W, C); what comes out is float32 unless nothing is to be done."""
        x = pixels
        for step in self._steps:
            for axis, indices, weights in step:
                total = x.index_select(axis, indices[0]) * weights[0]
                for column, weight in zip(indices[1:], weights[1:], strict=True):
                    total = torch.addcmul(total, x.index_select(axis, column).float(), weight)
                x = total
            x = (x + 0.5).floor() if self._halves_up else x.round()
        return x


def write_labels(logits: Tensor, size: Size, labels: Tensor, confidence: Tensor | None) -> None:
    """Resize logits bilinearly, take the arg max and the probability of it (the plain way, and the reference).

    :param logits: (N, classes, h, w), at most 255 classes
    :param labels: uint8 (N, *size), to write
    :param confidence: likewise, in 1/255; None: not wanted
    """
    for i in range(len(logits)):  # scores of full size take much memory
        full = logits[i : i + 1].float()
        if full.shape[-2:] != size:
            full = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
        best, index = full.max(1)
        labels[i : i + 1].copy_(index)
        if confidence is not None:
            total = (full - best.unsqueeze(1)).exp_().sum(1)
            confidence[i : i + 1].copy_((255.0 / total).round_())


def alike_together(frames: Sequence[Frame], sizes: Sequence[Size]) -> list[int]:
    """Return the frames' indices, those of frames and labels alike together.

    In whatever order several cameras' frames wait, they are then few kinds of calls.
    """

    def kind(i: int) -> tuple[str, int, int, int, int]:
        return frames[i].order, frames[i].height, frames[i].width, sizes[i][0], sizes[i][1]

    return sorted(range(len(frames)), key=kind)


def put_back(results: Sequence[NDArray[np.uint8]], places: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Return results, one for each of ``places``, in the order that these were in before :func:`alike_together`."""
    return [result for _, result in sorted(zip(places, results, strict=True), key=lambda pair: pair[0])]


class _Writable:
    """Memory as NumPy's array interface describes it, said to be writable; it keeps whose memory it is."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _writable(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a view that PyTorch takes without a warning: a message's pixels are read-only, and are only read."""
    return array if array.flags.writeable else np.asarray(_Writable(array))


@dataclass(frozen=True)
class Call:
    """All that determines what is to be computed, but for the pixels themselves.

    ``frames``: height, width and channel order of each frame; ``sizes``: of each frame's labels.
    """

    frames: tuple[tuple[int, int, Order], ...]
    working: Size
    sizes: tuple[Size, ...]
    confidence: bool

    @classmethod
    def of(cls, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> Call:
        """Describe a call of :meth:`rt_seg_ros.backends.base.Backend.run`."""
        layouts = tuple((frame.height, frame.width, frame.order) for frame in frames)
        return cls(layouts, working, tuple((size[0], size[1]) for size in sizes), confidence)

    @property
    def frame_bytes(self) -> tuple[int, ...]:
        """Bytes of each frame, without padding."""
        return tuple(height * width * CHANNELS[order] for height, width, order in self.frames)

    @property
    def input_bytes(self) -> int:
        """Bytes of all frames, one after another."""
        return sum(self.frame_bytes)

    @property
    def label_bytes(self) -> int:
        """Bytes of all label maps, one after another."""
        return sum(height * width for height, width in self.sizes)

    @property
    def output_bytes(self) -> int:
        """Bytes of all label maps and then, where wanted, all confidences."""
        return self.label_bytes * (2 if self.confidence else 1)

    def pack(self, frames: Sequence[Frame], flat: Tensor) -> None:
        """Write the frames' pixels one after another into ``flat``, uint8 (at least ``input_bytes``,) of the host.

        By PyTorch's threads, which do it in a fraction of the time that one takes.
        """
        begin = 0
        for frame, count in zip(frames, self.frame_bytes, strict=True):
            to = flat[begin : begin + count].view(frame.pixels.shape)
            if frame.pixels.flags.c_contiguous:
                to.copy_(torch.from_numpy(_writable(frame.pixels)))
            else:  # PyTorch takes no mirrored views
                np.copyto(to.numpy(), frame.pixels)
            begin += count

    def unpack(self, flat: NDArray[np.uint8]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]] | None]:
        """Return labels and confidences as arrays of their own."""

        def maps(begin: int) -> list[NDArray[np.uint8]]:
            result = []
            for height, width in self.sizes:
                result.append(flat[begin : begin + height * width].reshape(height, width).copy())
                begin += height * width
            return result

        return maps(0), maps(self.label_bytes) if self.confidence else None


class Program:
    """One :class:`Call`, from bytes of frames to bytes of labels, without a step on the host.

    :param logits: float (N, 3, h, w), RGB, normalised -> (N, classes, h', w')
    :param mean: RGB, 0..255
    :param std: RGB, 0..255
    :param dtype: of the network
    :param writer: what makes labels of logits; see :func:`write_labels`
    """

    def __init__(
        self,
        call: Call,
        logits: Callable[[Tensor], Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        device: torch.device | str,
        writer: LabelWriter = write_labels,
    ) -> None:
        self.call = call
        self._logits = logits
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        self._dtype = dtype
        self._writer = writer
        # Neighbours that are alike go together.
        self._inputs: list[tuple[tuple[int, int, int, int], Tensor | None, PixelResizer]] = []
        for (height, width, order), group in groupby(call.frames):
            shape = len(list(group)), height, width, CHANNELS[order]
            channels = None if order == "rgb" else torch.tensor(RGB_AT[order], device=device)
            self._inputs.append((shape, channels, PixelResizer((height, width), call.working, device)))
        self._outputs = [(len(list(group)), size) for size, group in groupby(call.sizes)]

    def __call__(self, source: Tensor, target: Tensor) -> None:
        """Compute.

        :param source: uint8 (``call.input_bytes``,)
        :param target: uint8 (``call.output_bytes``,), to write
        """
        batches, begin = [], 0
        for shape, channels, resizer in self._inputs:
            end = begin + math.prod(shape)
            pixels = source[begin:end].view(shape)
            if channels is not None:
                pixels = pixels.index_select(3, channels)
            x = resizer(pixels).float().sub(self._mean).div_(self._std).to(self._dtype)
            batches.append(x.permute(0, 3, 1, 2))  # channels last, without a copy
            begin = end
        scores = self._logits(batches[0] if len(batches) == 1 else torch.cat(batches))
        first, at, labels = 0, 0, self.call.label_bytes
        for count, size in self._outputs:
            pixels_out = count * size[0] * size[1]
            one = target[at : at + pixels_out].view(count, *size)
            two = target[labels + at : labels + at + pixels_out].view(count, *size) if self.call.confidence else None
            self._writer(scores[first : first + count], size, one, two)
            first += count
            at += pixels_out
