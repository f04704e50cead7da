"""The figures as people read them, table and picture, and as programs do, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from rt_seg_ros.benchmark.cases import Plan
from rt_seg_ros.benchmark.run import Result, Row, score
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_bytes, write_json, write_text

PICTURES = (".png", ".svg", ".pdf")
_NONE = "-"


def _figure(value: float | None, pattern: str, scale: float = 1.0) -> str:
    return _NONE if value is None or math.isnan(value) else format(value * scale, pattern)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _milliseconds(value: float | None) -> str:
    return _figure(value, ".2f" if value is not None and value < 10 else ".1f")


#: Heading, whether it is a number, and what stands there. A column that would be empty or the same all along is left
#: out, but for those that are named in _ALWAYS.
_COLUMNS: dict[str, tuple[bool, Callable[[Row], str]]] = {
    "model": (False, lambda r: r.case.model),
    "frame": (False, lambda r: _size(r.case.size)),
    "ratio": (True, lambda r: f"{r.case.ratio:g}"),
    "mode": (False, lambda r: r.case.mode),
    "cameras": (True, lambda r: str(r.case.cameras)),
    "backend": (False, lambda r: "naive node" if r.case.naive else r.backend or r.case.backend),
    "precision": (False, lambda r: r.precision or r.case.precision),
    "batch": (True, lambda r: str(r.case.batch)),
    "threads": (True, lambda r: str(r.case.threads or "all")),
    "median ms": (True, lambda r: _milliseconds(r.median)),
    "p95 ms": (True, lambda r: _milliseconds(r.p95)),
    "frames/s": (True, lambda r: _figure(r.per_second, ".1f")),
    "of naive": (True, lambda r: _figure(r.of_naive, ".2f")),
    "network ms": (True, lambda r: _milliseconds(r.network)),
    "outside network": (True, lambda r: _figure(r.outside, ".1f", 100) + (" %" if r.outside is not None else "")),
    "floor ms": (True, lambda r: _milliseconds(r.floor)),
    "in node ms": (True, lambda r: _milliseconds(r.node)),
    "of pipeline": (True, lambda r: _figure(r.of_pipeline, ".2f")),
    "CPU ms": (True, lambda r: _milliseconds(r.cpu)),
    "start s": (True, lambda r: _figure(r.start, ".1f")),
    "memory MiB": (True, lambda r: _figure(r.memory, ".0f")),
    "lost": (True, lambda r: str(r.lost)),
}
_ALWAYS = frozenset({"model", "frame", "backend", "precision", "median ms", "p95 ms", "frames/s"})
_MARKERS, _NAIVE_MARKERS = "osD^v", "x+123"  # by the frames' size
_SPARED = ("floor ms", "CPU ms", "network ms", "memory MiB", "start s", "p95 ms", "precision", "frames/s")
_NOTHING = {"ratio": {"1"}, "cameras": {"1"}, "batch": {"1"}, "threads": {"all"}, "lost": {"0"}}


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the columns that say something."""
    columns = {name: [cell(row) for row in rows] for name, (_, cell) in _COLUMNS.items()}
    told = [
        name
        for name, cells in columns.items()
        if name in _ALWAYS
        or (name == "mode" and len(set(cells)) > 1)
        or (name != "mode" and set(cells) - {_NONE} - _NOTHING.get(name, set()))
    ]
    return told, [[columns[name][i] for name in told] for i in range(len(rows))]


def table(result: Result, width: int | None = None) -> Table:
    """Return the figures as a table for the terminal.

    :param width: of the terminal in characters; what does not fit is left out, the least important first
    """
    headings, cells = _cells(result.rows)
    widths = [max(map(len, (*name.split(" "), *texts))) + 3 for name, *texts in zip(headings, *cells, strict=True)]
    kept = dict(zip(headings, widths, strict=True))
    for name in _SPARED:
        if width is not None and sum(kept.values()) + 2 > width:
            kept.pop(name, None)
    drawn = Table(box=box.SIMPLE_HEAD, title=title(result), title_justify="left")
    for name in kept:
        drawn.add_column(name.replace(" ", "\n"), justify="right" if _COLUMNS[name][0] else "left", no_wrap=True)
    if len(kept) < len(headings):
        drawn.caption = f"no room here for: {', '.join(name for name in headings if name not in kept)}"
    for row, texts in zip(result.rows, cells, strict=True):
        told = [text for name, text in zip(headings, texts, strict=True) if name in kept]
        drawn.add_row(*told, style="red" if row.error else "dim" if row.case.naive else None)
    return drawn


def markdown(result: Result) -> str:
    """Return title, table and notes as Markdown."""
    headings, cells = _cells(result.rows)
    lines = [
        f"{title(result)}.",
        "",
        f"| {' | '.join(headings)} |",
        f"|{'|'.join('---:' if _COLUMNS[name][0] else '---' for name in headings)}|",
        *(f"| {' | '.join(texts)} |" for texts in cells),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result))]) + "\n"


def title(result: Result) -> str:
    """Tell what was measured on what."""
    on = result.machine
    cores = f"{on['cores']} {'core' if on['cores'] == 1 else 'cores'}"
    programs = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    return f"{on.get('gpu', on['cpu'])}, {cores}, {on['system']}, Python {on['python']}; {programs}"


def notes(result: Result) -> list[str]:
    """Tell how the figures came about, and what is to be known of them."""
    rows, effort = result.rows, result.effort
    counts = [row.frames for row in rows if not row.error]
    frames = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    said = [
        f"{effort.rounds} {'round' if effort.rounds == 1 else 'rounds'}, all cases in turn in each, every turn in a "
        f"process of its own: {effort.warm_up:g} s of warm-up, then {effort.seconds:g} s, in all {frames} frames a case"
    ]
    first = rows[0].case
    if first.mode == "network":
        said.append("the network alone: normalised planes to logits")
    elif first.mode == "node":
        said.append(
            "median, p95: from publishing a raw image to receiving its label over DDS, label and one mask subscribed, "
            "the next image sent when the last is answered; in node: from receiving to publishing; of pipeline: that "
            "over the pipeline's time for the same without ROS"
        )
    else:
        taken = "a JPEG's bytes" if first.input == "jpeg" else "a raw image's bytes"
        made = {"labels": "its labels", "mask": "labels and the mask of one class", "overlay": "labels and overlay"}
        said.append(f"from {taken} to {made[first.outputs]}, frame after frame, nothing overlapped")
    if any(row.of_naive is not None for row in rows):
        said.append("of naive: time over that of the naive node in the same round; the median over rounds")
    if any(row.floor is not None for row in rows):
        said.append(_about_floor(result))
    untrained = sorted({row.case.model for row in rows if not row.trained and not row.error})
    if untrained:
        said.append(
            f"random weights: {', '.join(untrained)}. The network's time does not depend on them; the way from its "
            "noise to labels takes longer than with trained weights"
        )
    for row in rows:
        if row.agreement is not None and row.trained and row.case.ratio == 1 and row.agreement < 0.99:
            name = f"{row.case.model} {_size(row.case.size)} {row.backend} {row.precision}"
            said.append(f"{name}: only {100 * row.agreement:.2f} % of the first frame's labels are the naive node's")
        if row.error:
            wanted = "naive node" if row.case.naive else f"{row.case.backend} {row.case.precision}"
            said.append(f"{row.case.model} {_size(row.case.size)} {wanted}: not measured: {row.error}")
    return [*said, *(f"left out: {text}" for text in result.left_out), *result.remarks]


def _about_floor(result: Result) -> str:
    rates = []
    for peak in result.peaks:
        moved = f" and {peak['bytes'] / 1e9:.0f} GB/s" if peak["bytes"] else ""
        rates.append(f"{peak['precision']} on {peak['device']} {peak['macs'] / 1e9:.0f} G multiply-adds/s{moved}")
    return (
        "floor: the network's multiply-adds at the rate of a large matrix product, on a GPU no less than what its "
        f"layers must move ({', '.join(rates)}); ways to compute with fewer multiply-adds may go below"
    )


def to_dict(result: Result) -> dict[str, Any]:
    """Return everything as plain values for JSON; NaN as None."""
    rows = []
    for row in result.rows:
        values = {**asdict(row), "per_second": row.per_second}
        rows.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})
    return {
        "machine": result.machine,
        "effort": asdict(result.effort),
        "rows": rows,
        "peaks": result.peaks,
        "left_out": result.left_out,
        "notes": notes(result),
    }


def save_json(path: Path, result: Result) -> None:
    """Write everything as JSON.

    :raises UserError: the file cannot be written
    """
    write_json(path, to_dict(result))


def save_csv(path: Path, result: Result) -> None:
    """Write a line for each case: its fields, then what was found.

    :raises UserError: the file cannot be written
    """
    lines = []
    for row in to_dict(result)["rows"]:
        case = {name: _size(value) if name == "size" else value for name, value in row.pop("case").items()}
        row["working"] = _size(row["working"])
        asked = {f"asked_{name}" if name in row else name: value for name, value in case.items()}
        lines.append({**asked, **row})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def check_picture(path: Path, plan: Plan) -> None:
    """Check that a picture can be drawn of what will be measured.

    :raises UserError: where it cannot
    """
    try:
        from matplotlib.figure import Figure  # noqa: F401
    except ImportError as error:
        raise UserError("--picture needs matplotlib: pip install matplotlib") from error
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path} is of no kind that is drawn; give a file in {', '.join(PICTURES)}")
    if all(case.mode == "network" for case in plan.cases):
        raise UserError("--picture shows pipeline or node; leave out --network-only")
    if all(score(case.card())[0] is None for case in plan.cases):
        raise UserError(f"--picture {path}: no model among these has a score in its card")


def save_picture(path: Path, result: Result) -> None:
    """Draw accuracy, as the models' cards have it, against speed.

    :raises UserError: nothing that has a score could be measured, or the file cannot be written
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = [row for row in result.rows if not row.error and row.miou is not None and row.case.mode != "network"]
    if not rows:
        raise UserError(f"{path} was not drawn: no model that was measured has a score in its card")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    sizes = list(dict.fromkeys(row.case.size for row in rows))
    for n, runtime in enumerate(dict.fromkeys(map(_runtime, rows))):
        own = [row for row in rows if _runtime(row) == runtime]
        naive, which = own[0].case.naive, sizes.index(own[0].case.size) % len(_MARKERS)
        axes.scatter(
            [row.median for row in own],
            [row.miou or 0.0 for row in own],
            label=runtime,
            color="0.6" if naive else f"C{n % 10}",
            marker=(_NAIVE_MARKERS if naive else _MARKERS)[which],
            zorder=3,
        )
    for model in dict.fromkeys(row.case.model for row in rows):
        times = [(row.median, row.miou or 0.0) for row in rows if row.case.model == model]
        axes.plot(*zip(*sorted(times), strict=True), color="0.85", linewidth=1, zorder=2)
        axes.annotate(model, min(times), xytext=(0, 7), textcoords="offset points", fontsize=9, ha="center")
    axes.set_xscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    wide = max(row.median for row in rows) > 5 * min(row.median for row in rows)
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # decades alone would be a label or two
    axes.xaxis.set_minor_formatter(NullFormatter() if wide else plain)
    axes.grid(color="0.92", zorder=0)
    on = ", ".join(dict.fromkeys(row.miou_on for row in rows))
    axes.set(xlabel="milliseconds a frame", ylabel=f"mean IoU on {on}, percent", title="accuracy against speed")
    axes.margins(0.12)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix(".") or "png", dpi=130)
    write_bytes(path, drawn.getvalue())


def _runtime(row: Row) -> str:
    name = "naive node" if row.case.naive else f"{row.backend} {row.precision}"
    return f"{name}, {_size(row.case.size)}"
