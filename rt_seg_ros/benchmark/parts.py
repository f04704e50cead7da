"""The steps around the network, one by one, each against the naive way to do it, on real frames and logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from rt_seg_ros.backends.base import HostBackend
from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.naive import NaiveNode
from rt_seg_ros.benchmark.report import title
from rt_seg_ros.benchmark.run import about, busy_remarks, load
from rt_seg_ros.benchmark.spec import MASK_CLASS
from rt_seg_ros.drawing import Painter, colourise
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.masks import binary_mask
from rt_seg_ros.pipeline import Segmenter
from rt_seg_ros.resampling import LabelUpsampler, Normaliser, resize_pixels
from rt_seg_ros.working_size import Size

Call = Callable[[], object]
_AT_ONCE = 0.01  # seconds for which one way is repeated before it is the other's turn
_FIGURES = frozenset({"ratio", "here ms", "naive ms", "of naive"})


@dataclass(frozen=True)
class Part:
    """One step: median milliseconds of both ways, and the median over rounds of the one over the other."""

    name: str
    case: Case
    ours: float
    naive: float
    of_naive: float


@dataclass
class Parts:
    """All steps, and what they were measured on."""

    parts: list[Part]
    machine: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def measure_parts(
    cases: Sequence[Case],
    frames: Callable[[Size], Sequence[NDArray[np.uint8]]],
    rounds: int,
    watch: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None,
) -> Parts:
    """Measure every step for each case's model, size and ratio; the two ways take turns.

    :param frames: gives BGR images, uint8 (H, W, 3), of a size
    :raises UserError: a model that cannot be had, or a runtime that keeps its logits to itself
    """
    before, parts = load(), []
    for case in cases:
        image = resize_pixels(frames(case.size)[0], case.size)
        steps = list(_steps(case, np.ascontiguousarray(image)).items())
        what = f"{case.model} {case.size[0]}x{case.size[1]}" + (f" ratio {case.ratio:g}" if case.ratio != 1 else "")
        for name, ways in watch(steps, what, len(steps)) if watch else steps:
            counts = [_repeats(way) for way in ways]
            turns = [[_time(way, n) for way, n in zip(ways, counts, strict=True)] for _ in range(rounds)]
            times = np.array(turns)
            ours, naive = np.median(times, axis=0).tolist()
            ratio = float(np.median(times[:, 0] / times[:, 1]))
            parts.append(Part(name, case, ours, naive, ratio))
    on = about()
    return Parts(parts, on, busy_remarks(before, on["cores"]))


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
    """Return headings and cells of a table, the figures last; the ratio only where it is not 1 all along."""
    shrunk = any(p.case.ratio != 1 for p in parts)
    cells = [
        [
            p.case.model,
            f"{p.case.size[0]}x{p.case.size[1]}",
            *([f"{p.case.ratio:g}"] if shrunk else []),
            p.name,
            *(f"{figure:.3f}" for figure in (p.ours, p.naive, p.of_naive)),
        ]
        for p in parts
    ]
    return ["model", "frame", *(["ratio"] if shrunk else []), "step", "here ms", "naive ms", "of naive"], cells


def parts_table(found: Parts) -> Table:
    """Return the figures as a table for the terminal."""
    headings, cells = parts_cells(found.parts)
    drawn = Table(box=box.SIMPLE_HEAD, title=title(found.machine), title_justify="left")
    for name in headings:
        drawn.add_column(name, justify="right" if name in _FIGURES else "left")
    for row in cells:
        drawn.add_row(*row)
    return drawn


def parts_markdown(found: Parts) -> str:
    """Return title, table and remarks as Markdown."""
    headings, cells = parts_cells(found.parts)
    ruler = ["---:" if name in _FIGURES else "---" for name in headings]
    table = [f"| {' | '.join(row)} |" for row in (headings, ruler, *cells)]
    remarks = ["", *(f"- {remark}" for remark in found.remarks)] if found.remarks else []
    return "\n".join([f"{title(found.machine)}.", "", *table, *remarks]) + "\n"
