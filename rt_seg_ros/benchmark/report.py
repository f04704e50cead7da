"""The figures as people read them, table and picture, and as programs do, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from rt_seg_ros.benchmark.cases import Case, Plan
from rt_seg_ros.benchmark.run import Result, Row, score
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
#: What tells two points of one runtime apart, where it varies.
_VARIANTS: dict[str, Callable[[Case], str]] = {
    "mode": lambda c: c.mode,
    "size": lambda c: _size(c.size),
    "ratio": lambda c: f"ratio {c.ratio:g}",
    "batch": lambda c: f"batch {c.batch}",
    "threads": lambda c: f"threads {c.threads}" if c.threads else "all threads",
    "cameras": lambda c: f"cameras {c.cameras}",
    "input": lambda c: c.input,
    "outputs": lambda c: c.outputs,
}
_MARKERS, _NAIVE_MARKERS = "osD^v<>Phd", "x+1234|_"  # by variant
#: Share of a frame's labels below which they are not the naive node's, by the working size over the frame's from which
#: on that holds. Frames are shrunk by area here and between the nearest pixels there: with trained weights, on rendered
#: and real frames, 95.3 to 100 % are the same down to a half, and at 0.3, where those skip most pixels, down to 75 %.
#: Channels in the wrong order leave 37 to 89 %, scores enlarged to the nearest pixel or a working size that is no whole
#: step of 8 leave 92 to 97 %.
_SAME_LABELS = ((0.98, 0.99), (0.45, 0.95), (0.0, 0.7))
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
    drawn = Table(box=box.SIMPLE_HEAD, title=title(result.machine), title_justify="left")
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
        f"{title(result.machine)}.",
        "",
        f"| {' | '.join(headings)} |",
        f"|{'|'.join('---:' if _COLUMNS[name][0] else '---' for name in headings)}|",
        *(f"| {' | '.join(texts)} |" for texts in cells),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result))]) + "\n"


def title(on: Mapping[str, Any]) -> str:
    """Tell on what was measured, and with what.

    :param on: as :func:`rt_seg_ros.benchmark.run.about` tells it
    """
    cores = f"{on['cores']} {'core' if on['cores'] == 1 else 'cores'}"
    programs = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    return f"{on.get('gpu', on['cpu'])}, {cores}, {on['system']}, Python {on['python']}; {programs}"


def notes(result: Result) -> list[str]:
    """Tell how the figures came about, and what is to be known of them."""
    rows, effort = result.rows, result.effort
    counts = [row.frames for row in rows if not row.error]
    frames = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    rounds = effort.rounds if result.stopped is None else result.stopped
    said = [
        f"{rounds} {'round' if rounds == 1 else 'rounds'}, all cases in turn in each, every turn in a "
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
        if row.agreement is not None and row.trained and row.agreement < _same_labels(row):
            ratio = "" if row.case.ratio == 1 else f" ratio {row.case.ratio:g}"
            name = f"{row.case.model} {_size(row.case.size)}{ratio} {row.backend} {row.precision}"
            said.append(f"{name}: only {100 * row.agreement:.2f} % of the first frame's labels are the naive node's")
        if row.error:
            wanted = "naive node" if row.case.naive else f"{row.case.backend} {row.case.precision}"
            said.append(f"{row.case.model} {_size(row.case.size)} {wanted}: not measured: {row.error}")
    return [*said, *(f"left out: {text}" for text in result.left_out), *result.remarks]


def _same_labels(row: Row) -> float:
    scale = min(works / side for works, side in zip(row.working, row.case.size, strict=True))
    return next(share for least, share in _SAME_LABELS if min(scale, 1.0) >= least)


def _about_floor(result: Result) -> str:
    rates = []
    for peak in result.peaks:
        moved = f" and {peak['bytes'] / 1e9:.0f} GB/s" if peak["bytes"] else ""
        on = f"{peak['device']} with {peak['threads']} threads" if peak["threads"] else peak["device"]
        rates.append(f"{peak['precision']} on {on} {peak['macs'] / 1e9:.0f} G multiply-adds/s{moved}")
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
        "stopped": result.stopped,
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
        import matplotlib
    except ImportError as error:
        raise UserError("--picture needs matplotlib: pip install matplotlib") from error
    if matplotlib.__version_info__ < (3, 7):
        raise UserError(f"--picture needs matplotlib 3.7, not {matplotlib.__version__}: pip install 'matplotlib>=3.7'")
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path} is of no kind that is drawn; give a file in {', '.join(PICTURES)}")
    if all(case.mode == "network" for case in plan.cases):
        raise UserError("--picture shows pipeline or node; leave out --network-only")
    reasons: dict[str, list[str]] = {}
    for case in plan.cases:
        card = case.card()
        works = card.working_size(case.size, case.ratio)
        if not case.naive and case.mode != "network":
            reasons.setdefault(score(card, works, case.precision)[2], []).append(case.model)
    if "" not in reasons:
        raise UserError(f"--picture {path}: there would be nothing in it: {'; '.join(_by_reason(reasons))}")


def undrawn(result: Result) -> list[str]:
    """Say what is not in the picture for want of a score, or of one that compares with the others, and why."""
    reasons: dict[str, list[str]] = {}
    on = _scored_on(result)
    for row in _of_frames(result):
        if row.miou is None:
            reasons.setdefault(row.unscored, []).append(row.case.model)
        elif row.miou_on != on:
            reasons.setdefault(f"the score in its card is on {row.miou_on}, not {on}", []).append(row.case.model)
    return [f"not in the picture: {said}" for said in _by_reason(reasons)]


def _of_frames(result: Result) -> list[Row]:
    """Return the rows that a picture could show: measured, and of all that a frame takes."""
    return [row for row in result.rows if not row.error and row.case.mode != "network"]


def _scored_on(result: Result) -> str:
    """Return the data that most models' scores are of: scores on other data do not compare."""
    models = {row.case.model: row.miou_on for row in _of_frames(result) if row.miou is not None}
    return Counter(models.values()).most_common(1)[0][0] if models else ""


def _by_reason(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{', '.join(dict.fromkeys(models))}: {reason}" for reason, models in reasons.items()]


def save_picture(path: Path, result: Result) -> None:
    """Draw accuracy, as the models' cards have it, against speed; below it stands what is not there.

    :raises UserError: nothing that has a score could be measured, or the file cannot be written
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    on = _scored_on(result)
    rows = [row for row in _of_frames(result) if row.miou is not None and row.miou_on == on]
    missing = undrawn(result)
    if not rows:
        said = "; ".join(["nothing that has a score could be measured", *missing])
        raise UserError(f"{path} was not drawn: {said}")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    varying = [name for name in _VARIANTS if len({getattr(row.case, name) for row in rows}) > 1]
    variants = list(dict.fromkeys(_variant(row, varying) for row in rows))
    ours = list(dict.fromkeys((row.backend, row.precision) for row in rows if not row.case.naive))
    for label in dict.fromkeys(_label(row, varying) for row in rows):
        own = [row for row in rows if _label(row, varying) == label]
        naive, which = own[0].case.naive, variants.index(_variant(own[0], varying))
        markers = _NAIVE_MARKERS if naive else _MARKERS
        axes.scatter(
            [row.median for row in own],
            [row.miou or 0.0 for row in own],
            label=label,
            color="0.6" if naive else f"C{ours.index((own[0].backend, own[0].precision)) % 10}",
            marker=markers[which % len(markers)],
            zorder=3,
        )
    for model in dict.fromkeys(row.case.model for row in rows):
        times = [(row.median, row.miou or 0.0) for row in rows if row.case.model == model]
        axes.plot(*zip(*sorted(times), strict=True), color="0.85", linewidth=1, zorder=2)
    axes.set_xscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    wide = max(row.median for row in rows) > 5 * min(row.median for row in rows)
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # decades alone would be a label or two
    axes.xaxis.set_minor_formatter(NullFormatter() if wide else plain)
    axes.grid(color="0.92", zorder=0)
    of = "" if "size" in varying else f", frames of {_size(rows[0].case.size)}"
    axes.set(xlabel="milliseconds a frame", ylabel=f"mean IoU on {on}, percent", title=f"accuracy against speed{of}")
    axes.margins(0.12)
    told = "\n".join(line for said in missing for line in textwrap.wrap(said, 120))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False, title=told or None, title_fontsize=7)
    fastest: dict[str, tuple[float, float]] = {}
    for row in sorted(rows, key=lambda row: row.median):
        fastest.setdefault(row.case.model, (row.median, row.miou or 0.0))
    _name_points(figure, axes, fastest)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix(".") or "png", dpi=130)
    write_bytes(path, drawn.getvalue())


def _name_points(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points: above, or where another name is, below, or farther away."""
    figure.draw_without_rendering()  # only then is known where everything lies
    taken: list[Any] = []
    for name, point in points.items():
        for up in (7, -7, 20, -20):
            side = "bottom" if up > 0 else "top"
            text = axes.annotate(name, point, (0, up), textcoords="offset points", fontsize=9, ha="center", va=side)
            extent = text.get_window_extent()
            if up == -20 or not any(extent.overlaps(other) for other in taken):
                break
            text.remove()
        taken.append(extent)


def _variant(row: Row, varying: Sequence[str]) -> str:
    return ", ".join(_VARIANTS[name](row.case) for name in varying)


def _label(row: Row, varying: Sequence[str]) -> str:
    name = "naive node" if row.case.naive else f"{row.backend} {row.precision}"
    return ", ".join(filter(None, (name, _variant(row, varying))))
