"""The steps around the network, one by one, each against the naive way to do it, on real frames and logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from rt_seg_ros.backends.base import HostBackend
from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.naive import NaiveNode
from rt_seg_ros.benchmark.spec import MASK_CLASS
from rt_seg_ros.drawing import Painter, colourise
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.masks import binary_mask
from rt_seg_ros.pipeline import Segmenter
from rt_seg_ros.resampling import LabelUpsampler, Normaliser, Size, resize_pixels

Call = Callable[[], object]
_AT_ONCE = 0.01  # seconds for which one way is repeated before it is the other's turn


@dataclass(frozen=True)
class Part:
    """One step: median milliseconds of both ways, and the median over rounds of the one over the other."""

    name: str
    size: Size
    model: str
    ours: float
    naive: float
    ratio: float


def measure_parts(
    cases: Sequence[Case],
    frames: Callable[[Size], Sequence[NDArray[np.uint8]]],
    rounds: int,
    watch: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None,
) -> list[Part]:
    """Measure every step for each case's model and size; the two ways take turns.

    :param frames: gives BGR images, uint8 (H, W, 3), of a size
    :raises UserError: a model that cannot be had, or a runtime that keeps its logits to itself
    """
    parts = []
    for case in cases:
        image = resize_pixels(frames(case.size)[0], case.size)
        steps = list(_steps(case, np.ascontiguousarray(image)).items())
        what = f"{case.model} {case.size[0]}x{case.size[1]}"
        for name, ways in watch(steps, what, len(steps)) if watch else steps:
            counts = [_repeats(way) for way in ways]
            turns = [[_time(way, n) for way, n in zip(ways, counts, strict=True)] for _ in range(rounds)]
            times = np.array(turns)
            ours, naive = np.median(times, axis=0).tolist()
            ratio = float(np.median(times[:, 0] / times[:, 1]))
            parts.append(Part(name, case.size, case.model, ours, naive, ratio))
    return parts


def _steps(case: Case, image: NDArray[np.uint8]) -> Mapping[str, tuple[Call, Call]]:
    """Return each step as (this package's way, the naive way)."""
    import torch

    segmenter = Segmenter(case.config())
    backend = segmenter.backend
    if not isinstance(backend, HostBackend):
        raise UserError(f"backend '{backend.name}' on {backend.device} does all this on the device: use --device cpu")
    working = segmenter.working_size(*case.size)
    logits = backend.logits(backend.prepared([Frame(image)], working))[0].copy()
    naive = NaiveNode(case.card(), case.ratio, "cpu", case.threads)
    as_tensor = torch.from_numpy(logits)[None]
    normalise, upsample = Normaliser(segmenter.card.mean, segmenter.card.std), LabelUpsampler()
    painter = Painter(segmenter.label_space, legend=False)
    planes = np.empty((3, *working), np.float32)
    labels, _ = upsample(logits, case.size)
    picture, mask = np.empty_like(image), np.empty_like(labels)

    def scores() -> torch.Tensor:
        return torch.nn.functional.interpolate(as_tensor, case.size, mode="bilinear", align_corners=False)

    def certainty() -> object:
        probability, index = scores().softmax(1).max(1)
        return index[0].numpy().astype(np.uint8), (probability[0].numpy() * 255).round().astype(np.uint8)

    return {
        "pixels to planes": (lambda: normalise.write(Frame(image), planes), lambda: naive.prepare(image)),
        "logits to labels": (lambda: upsample(logits, case.size), lambda: naive.arg_max(as_tensor, case.size)),
        "logits to labels and confidence": (lambda: upsample(logits, case.size, True), certainty),
        "labels to colours": (
            lambda: colourise(labels, segmenter.label_space, out=picture),
            lambda: naive.colours(labels),
        ),
        "overlay": (lambda: painter.overlay(image, labels, picture), lambda: naive.overlay(image, labels)),
        "mask of a class": (lambda: binary_mask(labels, MASK_CLASS, mask), lambda: naive.mask(labels, MASK_CLASS)),
    }


def _repeats(call: Call) -> int:
    call()
    return max(1, round(_AT_ONCE * 1e3 / max(_time(call, 1), 1e-3)))


def _time(call: Call, times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) * 1e3 / times


def parts_cells(parts: Sequence[Part]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of a table."""
    cells = [
        [p.model, f"{p.size[0]}x{p.size[1]}", p.name, f"{p.ours:.3f}", f"{p.naive:.3f}", f"{p.ratio:.3f}"]
        for p in parts
    ]
    return ["model", "frame", "step", "here ms", "naive ms", "of naive"], cells


def parts_table(parts: Sequence[Part]) -> Table:
    """Return the figures as a table for the terminal."""
    headings, cells = parts_cells(parts)
    drawn = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(headings):
        drawn.add_column(name, justify="right" if i > 2 else "left")
    for row in cells:
        drawn.add_row(*row)
    return drawn


def parts_markdown(parts: Sequence[Part]) -> str:
    """Return the figures as a table in Markdown."""
    headings, cells = parts_cells(parts)
    ruler = ["---"] * 3 + ["---:"] * 3
    return "".join(f"| {' | '.join(row)} |\n" for row in (headings, ruler, *cells))
