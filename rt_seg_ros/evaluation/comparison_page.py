"""A comparison of two sets of labels as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.bags import open_bag
from rt_seg_ros.bags.cdr import stamp_of
from rt_seg_ros.drawing import overlay
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation import charts
from rt_seg_ros.evaluation.comparison import FIGURES, Comparison, changed_picture, difference_picture
from rt_seg_ros.evaluation.page_parts import class_name, css_colour, legend, made, page, strip, table, tile
from rt_seg_ros.evaluation.pictures import encode
from rt_seg_ros.evaluation.statistics import binned
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.resampling import resize_pixels

Image = NDArray[np.uint8]

_NANO = 1_000_000_000
_POINTS = 400
_FLIPS = 9
_ALPHA = 0.7


def camera_images(
    comparison: Comparison, tolerance: float, source: Path | None = None, topic: str = ""
) -> dict[int | str, Image]:
    """Find the camera's images of the frames that differ most, BGR by key.

    They are looked for in ``source``, in the drive that a result was made of, and in the recordings themselves; where
    there are none the page does without.

    :param tolerance: seconds that their stamps may differ from the labels'
    :raises UserError: a ``source`` that cannot be read
    """
    keys = {d.key for d in comparison.worst if isinstance(d.key, int)}
    if not keys:
        return {}
    if source is not None:
        return _images(source, topic, keys, tolerance)
    places: list[tuple[Path, str]] = []
    for side in (comparison.a, comparison.b):
        if side.figures.get("path"):
            places.append((Path(str(side.figures["path"])), str(side.figures.get("topic") or "")))
        places.append((side.stream.path, ""))
    for path, name in places:
        try:
            if path.exists() and (found := _images(path, name, keys, tolerance)):
                return found
        except UserError:
            continue
    return {}


def _images(path: Path, topic: str, keys: set[int], tolerance: float) -> dict[int | str, Image]:
    nearest = dict.fromkeys(keys, round(tolerance * _NANO) + 1)
    messages: dict[int, tuple[str, int, bytes]] = {}
    found: dict[int | str, Image] = {}
    with open_bag(path) as bag:
        candidates = [t for t in bag.image_topics() if not t.endswith(("/overlay", "/confidence"))]
        name = bag.image_topic(topic or (candidates[0] if len(candidates) == 1 else None))
        for _, kind, recorded, data in bag.raw_messages([name]):
            stamp = stamp_of(data) or recorded
            for key in keys:
                if abs(stamp - key) < nearest[key]:
                    nearest[key] = abs(stamp - key)
                    messages[key] = kind, recorded, data
            if not any(nearest.values()):
                break
        for key, message in messages.items():
            with suppress(ImageRejected):
                found[key] = bag.decode_image(name, *message).frame.bgr().copy()
    return found


def comparison_page(comparison: Comparison, images: Mapping[int | str, Image], command: str = "") -> str:
    """Return the page.

    :param images: of the camera, by key of frame
    """
    a, b, space = comparison.a, comparison.b, comparison.space
    per_class = comparison.per_class()
    known = per_class[~np.isnan(per_class)]
    differs = [share for _, share in comparison.series]
    tiles = [
        tile(f"{100 * comparison.agreement:.1f}", "%", "agreement", "pixels with the same label", first=True),
        tile(f"{100 * float(known.mean()):.1f}" if len(known) else charts.NONE, "%", "mean of the classes",
             "both say it, of those where either does"),
        tile(f"{comparison.frames:,}", "", "frames", _unmatched(comparison)),
        tile(f"{100 * float(np.median(differs)):.1f}", "%", "median frame", "of its pixels differ"),
        tile(f"{100 * max(differs):.1f}", "%", "worst frame", "of its pixels differ"),
    ]  # fmt: skip
    parts = [
        '<header><p class="eyebrow">Comparison</p>'
        f"<h1>{escape(a.title)} <span>and</span> {escape(b.title)}</h1>"
        f'<ul class="facts"><li>A: {escape(a.name)}</li><li>B: {escape(b.name)}</li></ul>'
        f"{_warnings(comparison)}</header>",
        f'<div class="tiles">{"".join(tiles)}</div>',
    ]
    if figures := _figures(comparison):
        parts.append(f'<h2>Figures of the two</h2><div class="card">{figures}</div>')
    parts += [_where(comparison, images), _which(comparison)]
    parts.append(
        "<footer><p>A class's agreement is the intersection of the two over their union. All figures: "
        f'<a href="comparison.json">comparison.json</a>.</p><p>{made(command)}.</p></footer>'
    )
    return page(f"{escape(a.title)} and {escape(b.title)}", "".join(parts), space)


def _warnings(comparison: Comparison) -> str:
    said = [
        f"{name} is not whole: {side.stream.damage}."
        for name, side in (("A", comparison.a), ("B", comparison.b))
        if side.stream.damage
    ]
    if comparison.assumed:
        said.append(f"Label space {comparison.space.name} was assumed, as neither tells its own.")
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in said)


def _unmatched(comparison: Comparison) -> str:
    said = []
    if comparison.only_a or comparison.only_b:
        said.append(f"{comparison.only_a:,} only in A, {comparison.only_b:,} only in B")
    if comparison.resized:
        said.append(f"{comparison.resized:,} resized to A's size")
    if comparison.rejected:
        said.append(f"{comparison.rejected:,} unreadable")
    return "; ".join(said) or "in both"


def _figures(comparison: Comparison) -> str:
    rows = []
    for key, a, b in comparison.figures():
        figure = FIGURES[key]
        one, other = figure.scale * a, figure.scale * b
        rows.append(
            f'<tr><th scope="row">{figure.title} <small>{figure.unit}</small></th>'
            f"<td>{one:.2f}</td><td>{other:.2f}</td><td>{other - one:+.2f}</td>"
            f"<td>{comparison.frames_of(key)}</td></tr>"
        )
    return table("<th></th><th>A</th><th>B</th><th>B - A</th><th>over frames</th>", rows) if rows else ""


def _where(comparison: Comparison, images: Mapping[int | str, Image]) -> str:
    space = comparison.space
    strips = []
    for difference in comparison.worst:
        cells = []
        image = images.get(difference.key)
        labels = [("A", difference.a), ("B", difference.b)]
        if image is not None:
            image = resize_pixels(image, difference.a.shape)
            cells.append(("camera", encode(image)))
            cells += [(name, encode(overlay(image, one, space, _ALPHA, legend=False))) for name, one in labels]
        else:
            blank = np.full((*difference.a.shape, 3), 30, np.uint8)
            cells += [(name, encode(overlay(blank, one, space, 1.0, legend=False))) for name, one in labels]
        cells.append(("what B says where they differ", encode(changed_picture(difference, space))))
        key = f"{difference.key / 1e9:.3f}" if isinstance(difference.key, int) else difference.key
        strips.append(strip("", f"<b>{100 * difference.share:.1f} % differ</b><span>frame {escape(key)}</span>", cells))
    present = {int(i) for d in comparison.worst for one in (d.a, d.b) for i in np.unique(one)}
    places, shares = zip(*comparison.series, strict=True)
    points = binned(np.array(places), 100 * np.array(shares), _POINTS)
    along = "s" if comparison.a.stream.by_stamp else "frame"
    chart = charts.line("differs", points, "%", along) if len(points) > 1 else ""
    graph = f"<h3>Pixels that differ, %</h3>{chart}" if chart else ""
    place = encode(difference_picture(comparison))
    assert comparison.place is not None
    most = f"At the brightest place the two differ in {100 * float(comparison.place.max()):.0f} % of the frames."
    figure = f'<figure><img src="{place}" alt="how often each place differs"></figure>'
    return (
        '<h2>Where they differ</h2><div class="card film"><div><h3>Over all frames</h3>'
        f'<div class="cells" style="--n:1">{figure}</div><p class="note">{most}</p></div>'
        f'<div class="graphs">{graph}</div></div>'
        f'<div class="card"><h3>The frames that differ most</h3>{"".join(strips)}{legend(space, present)}</div>'
    )


def _which(comparison: Comparison) -> str:
    space, classes = comparison.space, comparison.space.num_classes
    rows = [
        charts.Bar(c.name, css_colour(space, c.id), [None if np.isnan(v) else float(v)])
        for c, v in zip(space.classes, comparison.per_class(), strict=True)
    ]
    counts = comparison.matrix[:classes].astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    if not comparison.matrix[:, classes].any():
        counts = counts[:, :classes]
    heat = charts.heat_map(
        space.names, [css_colour(space, c.id) for c in space.classes], counts / np.maximum(total, 1), "A", "B"
    )
    flips = comparison.flips()
    wrong = sum(pixels for _, _, pixels in flips) or 1
    listed = []
    for i, j, pixels in flips[:_FLIPS]:
        pair = f"{class_name(space, i)} <i>becomes</i> {class_name(space, j)}"
        listed.append(f'<tr><td class="mistake">{pair}</td><td>{100 * pixels / wrong:.1f} %</td></tr>')
    most = table("<th>A, B</th><th>of what differs</th>", listed) if listed else "<p>There are none.</p>"
    return (
        f'<h2>Which classes flip</h2><div class="card"><h3>Agreement on each class, %</h3>{charts.bars(rows)}</div>'
        f'<div class="mixed"><div class="card"><h3>What A calls it, and B</h3>{heat}</div>'
        f'<div class="card"><h3>Most of the flips</h3>{most}</div></div>'
    )
