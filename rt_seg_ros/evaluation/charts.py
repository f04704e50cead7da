"""Charts as HTML and SVG, for pages that stand alone.

Lines and areas are SVG stretched to whatever width there is; text is HTML over it, so it stays as large on a telephone
as on a screen. Colours come from the page's style: ``c0``, ``c1``... for series, variables for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: As many colours for series as the page's style has.
COLOURS = 8
#: Stands where there is no value.
NONE = "\u2013"
_WIDTH, _HEIGHT = 1000, 300  # of the drawing, in its own units


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about so many round numbers from ``low`` to ``high``."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= min((1, 2, 5, 10), key=lambda factor: abs(span / (step * factor) - count))
    first = math.ceil(low / step - 1e-6)
    return [n * step for n in range(first, math.floor(high / step + 1e-6) + 1)]


def tick_labels(marks: Sequence[float]) -> list[str]:
    """Write ticks with as many digits as tell them apart."""
    step = min((abs(b - a) for a, b in pairwise(marks)), default=1.0) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{mark:,.{digits}f}" for mark in marks]


def number(value: float) -> str:
    """Write a number as short as it can be read: 0.04, 3.1, 42, 1,250."""
    if value == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value)) + 1e-9)) if abs(value) < 10 else 0
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def line(
    name: str,
    points: Sequence[tuple[float, float, float, float]],
    unit: str,
    along: str,
    high: float | None = None,
    video: str = "",
    span: tuple[float, float] | None = None,
) -> str:
    """Draw values from 0 over time (or over frames); a pale band shows least and largest.

    :param points: (place, value, least, largest); the last two differ where points stand for several values
    :param unit: of the values
    :param along: unit of the axis, or ``frame``
    :param high: top of the scale; by default the largest value
    :param video: id of the video that goes to the place that is clicked
    :param span: of the axis, where it is another than that of the points
    """
    left, right = span or (min(p[0] for p in points), max(p[0] for p in points))
    right = max(right, left + 1e-6)
    top = max(p[3] for p in points) if high is None else high
    if top < 1e-6:  # all are 0: figures beside a scale of millionths would say nothing
        top = 1
    marks = ticks(0, top)

    def x(place: float) -> float:
        return _WIDTH * (place - left) / (right - left)

    def y(value: float) -> float:
        return _HEIGHT * (1 - min(max(value, 0), top) / top)

    shapes = [f'<path class="grid" d="{" ".join(f"M0 {y(m):.1f}H{_WIDTH}" for m in marks)}"/>']
    if any(p[3] > p[2] for p in points):
        upper = " ".join(f"{x(p[0]):.1f} {y(p[3]):.1f}" for p in points)
        lower = " ".join(f"{x(p[0]):.1f} {y(p[2]):.1f}" for p in reversed(points))
        shapes.append(f'<path class="band c0" d="M{upper} L{lower}Z"/>')
    path = " ".join(f"{x(p[0]):.1f} {y(p[1]):.1f}" for p in points)
    shapes.append(f'<path class="line c0" d="M{path}"/>')
    data = {
        "left": left,
        "right": right,
        "unit": unit,
        "along": along,
        "name": name,
        "points": [[_r(v) for v in p] for p in points],
    }
    places = ticks(left, right, 5)
    tail = f" {along}" if along != "frame" else ""
    below = _axis("left", places, left, right, tail)
    beside = _axis("bottom", marks, 0, top)
    seeks = f' data-video="{escape(video)}"' if video else ""
    return (
        f'<div class="chart" data-chart="{escape(json.dumps(data, separators=(",", ":")))}"{seeks}>'
        f'<div class="chart-y">{beside}</div><div class="chart-plot">{_svg(shapes)}<i class="cursor"></i></div>'
        f'<div class="chart-x">{below}</div></div>'
    )


def histogram(
    edges: NDArray[np.float64], shares: NDArray[np.float64], marks: Sequence[tuple[str, float]], unit: str
) -> str:
    """Draw a distribution.

    :param edges: (N + 1,) of the bins
    :param shares: (N,) of the values that lie in each
    :param marks: (name, value): drawn as lines across
    """
    low, high = float(edges[0]), max(float(edges[-1]), float(edges[0]) + 1e-9)
    most = max(float(shares.max()), 1e-9)

    def x(value: float) -> float:
        return _WIDTH * (min(value, high) - low) / (high - low)

    shapes = []
    for begin, end, share in zip(edges[:-1], edges[1:], shares, strict=True):
        if share > 0:
            height = max(2.0, _HEIGHT * share / most)
            left, width = x(float(begin)), x(float(end)) - x(float(begin))
            shapes.append(
                f'<rect class="column" x="{left + 0.08 * width:.1f}" y="{_HEIGHT - height:.1f}" '
                f'width="{0.84 * width:.1f}" height="{height:.1f}"/>'
            )
    # Lines that lie close together are told apart by the height of their words.
    lines_across = "".join(
        f'<span class="across{" before" if x(value) > 0.75 * _WIDTH else ""}" '
        f'style="left:{x(value) / _WIDTH:.2%};--row:{row}"><em>{escape(name)} {number(value)}</em></span>'
        for row, (name, value) in enumerate(marks)
        if low <= value <= high * 1.0001
    )
    below = _axis("left", ticks(low, high), low, high, f" {unit}")
    return (
        f'<div class="chart plain"><div class="chart-plot">{_svg(shapes)}{lines_across}</div>'
        f'<div class="chart-x">{below}</div></div>'
    )


@dataclass(frozen=True)
class Bar:
    """A row of :func:`bars`: its name, a colour of its own, and a value from 0 to 1 for each series (None: none).

    ``note`` stands at the end, ``marks`` are small lines over the bars, as high as the values.
    """

    name: str
    colour: str
    values: Sequence[float | None]
    note: str = ""
    marks: Sequence[float | None] = field(default_factory=tuple)


def bars(rows: Sequence[Bar]) -> str:
    """Draw bars, one row for each name; with several values a row has as many bars, in the series' colours."""
    drawn = []
    for row in rows:
        several = len(row.values) > 1
        tracks = []
        for i, value in enumerate(row.values):
            share = min(max(value or 0.0, 0.0), 1.0)
            colour = f' class="fill c{i % COLOURS}"' if several else ' class="fill"'
            own = "" if several else f";background:{row.colour}"
            mark = row.marks[i] if i < len(row.marks) else None
            line = f'<i class="tick" style="left:{mark:.2%}"></i>' if mark is not None else ""
            fill = f'<i{colour} style="width:{share:.2%}{own}"></i>'
            tracks.append(f'<span class="track{" thin" if several else ""}">{fill}{line}</span>')
        figures = "".join(f"<span>{NONE if v is None else f'{100 * v:.1f}'}</span>" for v in row.values)
        note = f'<span class="bar-note">{escape(row.note)}</span>' if row.note else ""
        drawn.append(
            f'<div class="bar-row"><span class="bar-name">{swatch(row.colour)}{escape(row.name)}</span>'
            f'<span class="tracks">{"".join(tracks)}</span><span class="bar-value">{figures}</span>'
            f"{note}</div>"
        )
    kind = "bars" if any(row.note for row in rows) else "bars bare"
    return f'<div class="{kind}">{"".join(drawn)}</div>'


def heat_map(names: Sequence[str], colours: Sequence[str], shares: NDArray[np.float64], down: str, across: str) -> str:
    """Draw a matrix of shares as a table; its cells say so many percent. Its diagonal has a colour of its own.

    :param shares: (rows, columns), 0 to 1; where columns are one more than names the last is ``none``
    :param down: what the rows are
    :param across: what the columns are
    """
    columns = [*names, "none"][: shares.shape[1]]
    column_colours = [*colours, "transparent"][: shares.shape[1]]
    head = "".join(
        f'<th scope="col"><span>{escape(name)}</span>{swatch(colour)}</th>'
        for name, colour in zip(columns, column_colours, strict=True)
    )
    body = []
    for i, name in enumerate(names):
        cells = []
        for j, share in enumerate(shares[i]):
            kind = "same" if i == j else "other"
            # Rare confusions are to be seen beside the frequent ones.
            strength = f"{100 * math.sqrt(min(max(float(share), 0.0), 1.0)):.0f}%"
            text = f"{100 * share:.0f}" if share >= 0.005 else ""
            dark = " strong" if share >= 0.4 else ""
            title = f"{name} → {columns[j]}: {100 * share:.2f} %"
            cells.append(f'<td class="{kind}{dark}" style="--s:{strength}" title="{escape(title)}">{text}</td>')
        body.append(f'<tr><th scope="row">{swatch(colours[i])}{escape(name)}</th>{"".join(cells)}</tr>')
    caption = f"rows: {escape(down)}, columns: {escape(across)}; percent of each row"
    return (
        f'<div class="scroll"><table class="heat"><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def scatter(points: Sequence[tuple[str, float, float]], along: str, up: str) -> str:
    """Draw named points, (name, x, y), each in its series' colour; both axes begin where the points need them to."""
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    right = 1.12 * max(xs) or 1.0
    span = max(max(ys) - min(ys), 2.0)
    bottom, top = max(0.0, min(ys) - 0.35 * span), max(ys) + 0.25 * span
    marks, places = ticks(bottom, top), ticks(0, right, 5)
    grid = " ".join(f"M0 {_HEIGHT * (1 - (m - bottom) / (top - bottom)):.1f}H{_WIDTH}" for m in marks)
    grid += " " + " ".join(f"M{_WIDTH * p / right:.1f} 0V{_HEIGHT}" for p in places)
    dots = []
    placed: list[tuple[float, float, str]] = []
    for i, (name, x, y) in enumerate(points):
        # Names of dots that lie close together go above and below them.
        near = {k for px, py, k in placed if abs(px - x) < 0.5 * right and abs(py - y) < 0.1 * (top - bottom)}
        height = next((k for k in ("", " above", " below") if k not in near), "")
        placed.append((x, y, height))
        side = f"{' before' if x > 0.6 * right else ''}{height}"
        where = f"left:{x / right:.2%};bottom:{(y - bottom) / (top - bottom):.2%}"
        dots.append(f'<span class="dot c{i % COLOURS}{side}" style="{where}"><em>{escape(name)}</em></span>')
    beside = _axis("bottom", marks, bottom, top)
    below = _axis("left", places, 0, right)
    grid_path = f'<path class="grid" d="{grid}"/>'
    return (
        f'<div class="chart tall"><div class="chart-y">{beside}</div>'
        f'<div class="chart-plot">{_svg([grid_path])}{"".join(dots)}</div>'
        f'<div class="chart-x">{below}<b>{escape(along)}</b></div><p class="axis">{escape(up)}</p></div>'
    )


def budget(parts: Sequence[tuple[str, float]], unit: str) -> str:
    """Draw what makes up a whole, (name, value), as one bar with a legend."""
    whole = sum(value for _, value in parts) or 1.0
    pieces = "".join(
        f'<i class="p{i % 6}" style="flex-grow:{value / whole:.4f}" title="{escape(name)}: {number(value)} {unit}"></i>'
        for i, (name, value) in enumerate(parts)
    )
    legend = "".join(
        f'<li><i class="p{i % 6}"></i>{escape(name)} <b>{number(value)}</b> {escape(unit)}</li>'
        for i, (name, value) in enumerate(parts)
    )
    return f'<div class="budget">{pieces}</div><ul class="keys">{legend}</ul>'


def swatch(colour: str) -> str:
    """Return a small square of a colour."""
    return f'<i class="swatch" style="background:{colour}"></i>'


def _svg(shapes: Sequence[str]) -> str:
    size = f"0 0 {_WIDTH} {_HEIGHT}"
    return f'<svg viewBox="{size}" preserveAspectRatio="none" aria-hidden="true">{"".join(shapes)}</svg>'


def _axis(side: str, marks: Sequence[float], low: float, high: float, tail: str = "") -> str:
    return "".join(
        f'<span style="{side}:{(mark - low) / (high - low):.2%}">{escape(text + tail)}</span>'
        for mark, text in zip(marks, tick_labels(marks), strict=True)
    )


def _r(value: float) -> float:
    return float(f"{value:.5g}")
