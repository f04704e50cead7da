"""What an evaluation says in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rt_seg_ros.cli.console import UNBOUNDED
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.statistics import PERCENTILES

_NONE = "-"
_LEAST_NAME = 16  # columns for a name, below which nothing is gained by folding it


@dataclass
class _Grid:
    """A table whose first column holds names, and the others figures."""

    title: str
    names: list[str]
    rows: list[list[str]] = field(default_factory=list)
    mean: list[str] | None = None

    def show(self, console: Console) -> None:
        """Print it, as several tables one below the other where it is wider than the terminal."""
        left = list(range(1, len(self.names)))
        first = True
        while left:
            count = len(left)
            while count > 1 and self._width(console, left[:count]) > console.width:
                count -= 1
            # Not cropped: on the narrowest of terminals its lines are broken, but whole.
            console.print(self._table(console, left[:count], self.title if first else None), crop=False)
            left, first = left[count:], False

    def _width(self, console: Console, columns: Sequence[int]) -> int:
        wide = console.options.update(width=UNBOUNDED)
        return console.measure(self._table(console, columns), options=wide).maximum

    def _table(self, console: Console, columns: Sequence[int], title: str | None = None) -> Table:
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
        rows = [*self.rows, self.mean] if self.mean is not None else self.rows
        table.add_column(self.names[0], overflow="fold", max_width=max(_LEAST_NAME, console.width // 2))
        for i in columns:
            widest = max(len(text) for row in [self.names[i].split("\n"), *([row[i]] for row in rows)] for text in row)
            table.add_column(self.names[i], justify="right", no_wrap=True, min_width=widest)
        for row in self.rows:
            table.add_row(row[0], *(row[i] for i in columns))
        if self.mean is not None:
            table.add_section()
            table.add_row(self.mean[0], *(self.mean[i] for i in columns))
        return table


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print one model's figures."""
    if evaluation.is_scored:
        _classes(evaluation).show(console)
    _latency(evaluation).show(console)
    for line in _lines(evaluation):
        console.print(line, highlight=False, soft_wrap=True)
    console.print()


def print_comparison(console: Console, evaluations: Sequence[Evaluation]) -> None:
    """Print several models' figures in one table."""
    live = any(evaluation.mode == "live" for evaluation in evaluations)
    scored = any(evaluation.is_scored for evaluation in evaluations)
    names = ["mIoU\n%", "pixel\nacc. %", "bound.\nF %", "flicker\n%"] if scored else []
    names += ["frames\n/s", "p50\nms", "p95\nms"]
    # Offline all models are of one process, and what one leaves behind would count for those after it.
    names += ["memory\nMiB", "\ndropped"] if live else []
    grid = _Grid(escape(f"models on {evaluations[0].data}"), ["\nmodel", *names])
    for evaluation in evaluations:
        scores = evaluation.scores
        row = [escape(evaluation.name)]
        if scored:
            known = evaluation.is_scored
            row += [
                _percent(scores.matrix.miou() if known else None, 2),
                _percent(scores.matrix.pixel_accuracy() if known else None),
                _percent(scores.boundary.mean()),
                _percent(scores.flicker.flicker.value, 2),
            ]
        total = evaluation.total
        memory = evaluation.usage.memory_mib
        row += [f"{evaluation.frames_per_second:.1f}", f"{total.percentile(50):.1f}", f"{total.percentile(95):.1f}"]
        row += [_NONE if memory is None else f"{memory:,.0f}", str(evaluation.counts.dropped)] if live else []
        grid.rows.append(row)
    grid.show(console)


def _classes(evaluation: Evaluation) -> _Grid:
    matrix = evaluation.scores.matrix
    truth = matrix.matrix.sum(axis=1) + matrix.missed
    title = escape(f"{evaluation.card.name} on {evaluation.data}")
    grid = _Grid(title, ["class", "IoU %", "accuracy %", "boundary F %", "pixels %"])
    rows = zip(
        evaluation.space.classes,
        matrix.per_class_iou(),
        matrix.per_class_accuracy(),
        evaluation.scores.boundary.per_class(),
        100 * truth / max(matrix.pixels, 1),
        strict=True,
    )
    for entry, iou, accuracy, edge, share in rows:
        red, green, blue = entry.color
        name = f"[on rgb({red},{green},{blue})]  [/] {escape(entry.name)}"
        grid.rows.append([name, f"{100 * iou:.1f}", f"{100 * accuracy:.1f}", _percent(edge), f"{share:.1f}"])
    boundary = _percent(evaluation.scores.boundary.mean())
    grid.mean = ["mean", f"{100 * matrix.miou():.2f}", f"{100 * matrix.class_accuracy():.2f}", boundary, ""]
    return grid


def _latency(evaluation: Evaluation) -> _Grid:
    title = f"milliseconds per frame, of {evaluation.counts.processed} frames"
    grid = _Grid(title, ["stage", *(f"p{p}" for p in PERCENTILES), "max"])
    names = {"total": "received to published", "age": "age of a label: stamp to published"}
    for stage, values in evaluation.stages.items():
        figures = [*map(values.percentile, PERCENTILES), values.largest]
        name = names.get(stage, stage) if evaluation.mode == "live" else stage
        grid.rows.append([name, *(f"{v:.1f}" for v in figures)])
    return grid


def _lines(evaluation: Evaluation) -> list[str]:
    scores, counts, usage, matching = evaluation.scores, evaluation.counts, evaluation.usage, evaluation.matching
    lines = []
    if evaluation.truth:
        lines.append(escape(f"truth: {evaluation.truth}"))
    if evaluation.is_void:
        lines.append("truth is void everywhere: there is no score")
    if evaluation.is_scored:
        matrix = scores.matrix
        more = [f"boundary F {_percent(scores.boundary.mean())} %"] if scores.boundary.mean() is not None else []
        flicker = scores.flicker.flicker.value
        more += [f"flicker {_percent(flicker, 2)} %"] if flicker is not None else []
        lines.append(
            f"[bold]mIoU {100 * matrix.miou():.2f} %[/], pixel accuracy {100 * matrix.pixel_accuracy():.2f} %, "
            f"class accuracy {100 * matrix.class_accuracy():.2f} %{''.join(f', {m}' for m in more)}"
        )
    changed = scores.flicker.changed.value
    if not evaluation.is_scored and changed is not None:
        lines.append(f"labels change from frame to frame in {_percent(changed, 2)} % of the pixels")
    if scores.coverage is not None and scores.coverage < 1:
        lines.append(f"coverage {_percent(scores.coverage, 2)} % of the pixels have a label")
    runs = escape(f"({evaluation.backend}, {evaluation.device}, {evaluation.precision})")
    speed = f"{counts.processed} frames, {evaluation.frames_per_second:.1f} frames/s {runs}"
    if evaluation.mode == "offline":
        scoring = ", scoring" if evaluation.is_scored else ""
        lines.append(f"{speed}; with reading{scoring} and writing {evaluation.throughput:.1f} frames/s")
    else:
        lines.append(
            f"{speed}; played at {evaluation.rate:g} times the recording's speed, {evaluation.throughput:.1f} labels "
            "a second"
        )
        lines.append(
            f"played {counts.played}, received {counts.received}, processed {counts.processed}, dropped "
            f"{counts.dropped}, rejected {counts.rejected}, unaccounted {counts.unaccounted}"
        )
        if counts.dropped:
            lines.append("dropped: a newer frame came before the network was free (none at a lower --rate)")
    taken = []
    if usage.cores is not None:
        taken.append(f"{usage.cores:.1f} CPU cores")
    if usage.memory_mib is not None:
        taken.append(f"{usage.memory_mib:,.0f} MiB of memory")
    if usage.gpu_memory_mib is not None:
        taken.append(f"{usage.gpu_memory_mib:,.0f} MiB of GPU memory")
    if taken:
        whose = "the node" if evaluation.mode == "live" else "this process"
        lines.append(f"{whose} took {', '.join(taken)}; ready after {evaluation.load_seconds:.1f} s")
    lines.append(escape(f"protocol: {evaluation.protocol}"))
    left_out = []
    if evaluation.truth and matching.frames_without_truth:
        left_out.append(f"{matching.frames_without_truth} images without truth")
    if matching.truth_without_frame:
        left_out.append(f"{matching.truth_without_frame} label images without an image")
    if scores.void and evaluation.is_scored:
        left_out.append(f"{scores.void} images whose truth is void everywhere")
    if counts.rejected:
        left_out.append(f"{counts.rejected} images that cannot be used")
    if matching.truth_rejected:
        left_out.append(f"{matching.truth_rejected} label images that cannot be used")
    if left_out:
        lines.append(f"not scored: {', '.join(left_out)}")
    if matching.truth_resized:
        lines.append(f"truth of another size than its image, resized: {matching.truth_resized}")
    if matching.largest_offset_ns:
        lines.append(f"truth and image lay up to {matching.largest_offset_ns / 1e6:.1f} ms apart")
    if evaluation.damage:
        lines.append(f"[bold]not whole:[/] {escape(evaluation.damage)}")
    return lines


def _percent(value: float | None, digits: int = 1) -> str:
    return _NONE if value is None or value != value else f"{100 * value:.{digits}f}"  # NaN: there is none
