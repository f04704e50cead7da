"""The report as one HTML page that needs nothing else: style, script and pictures are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from rt_seg_ros.evaluation import charts
from rt_seg_ros.evaluation.boundary import TOLERANCE
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.page_parts import class_name, css_colour, legend, made, page, strip, table, tile
from rt_seg_ros.evaluation.pictures import Choice, Picture, Rows
from rt_seg_ros.evaluation.statistics import PERCENTILES, binned
from rt_seg_ros.labels import LabelSpace

_POINTS = 400
_BINS = 48
_MISTAKES = 9

#: What a stage is called on the page.
STAGE_NAMES = {
    "decode": "decode the image",
    "wait": "wait for the network",
    "preprocess": "resize, normalise",
    "network": "network",
    "postprocess": "labels at frame size",
    "publish": "draw and publish",
    "total": "total",
    "age": "age: stamp to published",
}


@dataclass
class Content:
    """What the page shows besides the figures.

    ``rows``: each model's table of frames; ``chosen``: frames to show by model, and ``shared`` those of all models
    side by side; ``pictures`` by index of frame; ``videos``: file of each model's overlay, beside the page.
    """

    evaluations: Sequence[Evaluation]
    rows: Mapping[str, Rows] = field(default_factory=dict)
    chosen: Mapping[str, Sequence[Choice]] = field(default_factory=dict)
    shared: Sequence[Choice] = ()
    pictures: Mapping[int, Picture] = field(default_factory=dict)
    videos: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def report_page(content: Content) -> str:
    """Return the page."""
    evaluations = content.evaluations
    first = evaluations[0]
    several = len(evaluations) > 1
    names = f"{len(evaluations)} models" if several else escape(first.name)
    parts = [
        f'<header><p class="eyebrow">Evaluation, {first.mode}</p>',
        f"<h1>{names} <span>on {escape(first.data)}</span></h1>",
        f"{_facts(first, several)}{_warnings(evaluations)}</header>",
    ]
    if several:
        parts += [_comparison(evaluations), _shared_frames(content)]
        parts.append("<h2>Each model</h2>")
        for i, evaluation in enumerate(evaluations):
            inner = "".join(_sections(content, evaluation, i))
            opened = " open" if i == 0 else ""
            parts.append(f"<details{opened}><summary>{_summary(evaluation)}</summary><div>{inner}</div></details>")
    else:
        parts += [_tiles(first), *_sections(content, first, 0)]
    parts.append(_footer(content))
    title = f"{names} on {escape(first.data)}"
    return page(title, "".join(parts), first.space)


# --- head and foot ----------------------------------------------------------------------------------------------------


def _facts(evaluation: Evaluation, several: bool) -> str:
    facts = [f"{evaluation.counts.processed:,} frames" if not several else f"{evaluation.counts.played:,} frames"]
    sizes = sorted(evaluation.sizes)
    facts.append(f"{sizes[0][1]}\u00d7{sizes[0][0]}" if len(sizes) == 1 else f"{len(sizes)} sizes")
    if evaluation.mode == "live":
        facts.append(f"played at {evaluation.rate:g}\u00d7 its speed to the node, over DDS")
    else:
        facts.append("every frame, as fast as it goes")
    facts.append(f"{evaluation.backend}, {evaluation.device}, {evaluation.precision}")
    machine = evaluation.machine
    if machine:
        facts.append(f"{machine.get('gpu') or machine.get('cpu')}, {machine.get('cores')} cores")
    if not evaluation.truth:
        facts.append("no ground truth")
    return f'<ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts)}</ul>'


def _warnings(evaluations: Sequence[Evaluation]) -> str:
    said: list[str] = []
    for evaluation in evaluations:
        if evaluation.damage:
            said.append(f"The recording is not whole: {evaluation.damage}. The figures are of what could be read.")
        if evaluation.is_void:
            said.append(f"Truth ({evaluation.truth}) is void everywhere: there is no score.")
        elif evaluation.truth and not evaluation.is_scored:
            said.append(
                f"There is truth ({evaluation.truth}), but none for any frame: see the tolerance and the stamps."
            )
        if evaluation.counts.unaccounted:
            said.append(f"{evaluation.counts.unaccounted} frames of {evaluation.name} are unaccounted for.")
        if evaluation.counts.lost:
            said.append(f"{evaluation.counts.lost} frames were lost on their way to {evaluation.name}.")
        said += [f"{evaluation.name}: {problem}." for problem in evaluation.problems]
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in dict.fromkeys(said))  # each once


def _footer(content: Content) -> str:
    evaluations = content.evaluations
    first = evaluations[0]
    lines = [f"<p>Protocol: {escape(first.protocol)}.</p>"]
    if first.is_scored:
        lines.append(
            "<p>Boundary F: precision and recall of the edges between classes, within "
            f"{100 * TOLERANCE:g} % of the diagonal, after Csurka et al., BMVC 2013. Flicker: of the pixels whose true "
            "label stays from one frame to the next (that has truth), the share whose predicted label changes. A "
            "frame's own mIoU is the mean over the classes in its truth.</p>"
        )
    lines.append(
        "<p>Percentiles are true to 0.3 %. All figures: <a href='metrics.json'>metrics.json</a>, "
        "frame by frame: <a href='per_frame.csv'>per_frame.csv</a>.</p>"
    )
    machine = first.machine
    on = f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('system')}" if machine else ""
    return f"<footer>{''.join(lines)}<p>{made(content.command)} on {escape(on)}.</p></footer>"


# --- several models ---------------------------------------------------------------------------------------------------


def _comparison(evaluations: Sequence[Evaluation]) -> str:
    columns: list[tuple[str, Callable[[Evaluation], float | None], str, bool]] = [
        ("mIoU %", lambda e: _percent(e.scores.matrix.miou()) if e.is_scored else None, "{:.1f}", True),
        ("pixel accuracy %", lambda e: _percent(e.scores.matrix.pixel_accuracy()) if e.is_scored else None, "{:.1f}",
         True),
        ("boundary F %", lambda e: _percent(e.scores.boundary.mean()), "{:.1f}", True),
        ("flicker %", lambda e: _percent(e.scores.flicker.flicker.value), "{:.2f}", False),
        ("frames/s", lambda e: e.frames_per_second, "{:.1f}", True),
        ("p95 ms", lambda e: e.total.percentile(95), "{:.1f}", False),
        # Offline all models are of one process, and what one leaves behind would count for those after it.
        ("memory MiB", lambda e: e.usage.memory_mib if e.mode == "live" else None, "{:,.0f}", False),
        ("dropped", lambda e: float(e.counts.dropped) if e.mode == "live" else None, "{:.0f}", False),
    ]  # fmt: skip
    columns = [c for c in columns if any(c[1](e) is not None for e in evaluations)]
    head = "".join(f"<th>{escape(name)}</th>" for name, *_ in columns)
    keys = [f'<i class="point c{i % charts.COLOURS}"></i>{escape(e.name)}' for i, e in enumerate(evaluations)]
    rows = []
    bests = []
    for _, value, _, more in columns:
        known = [v for e in evaluations if (v := value(e)) is not None]
        bests.append((max if more else min)(known))
    for evaluation, key in zip(evaluations, keys, strict=True):
        cells = []
        for (_, value, form, _), best in zip(columns, bests, strict=True):
            v = value(evaluation)
            kind = ' class="best"' if v is not None and v == best else ""
            cells.append(f"<td{kind}>{charts.NONE if v is None else form.format(v)}</td>")
        rows.append(f'<tr><th scope="row">{key}</th>{"".join(cells)}</tr>')
    parts = [f'<h2>Compared</h2><div class="card">{table(f"<th>model</th>{head}", rows)}</div>']
    if all(e.is_scored for e in evaluations):
        points = [(e.name, e.frames_per_second, 100 * e.scores.matrix.miou()) for e in evaluations]
        parts.append(
            '<div class="card" style="margin-top:16px"><h3>Accuracy against speed</h3>'
            f"{charts.scatter(points, 'frames a second of the pipeline', 'mIoU, %')}</div>"
        )
        space = evaluations[0].space
        per_class = [e.scores.matrix.per_class_iou() for e in evaluations]
        bars = [charts.Bar(c.name, css_colour(space, c.id), [float(v[c.id]) for v in per_class]) for c in space.classes]
        parts.append(
            f'<div class="card" style="margin-top:16px"><h3>IoU of each class, %</h3>{charts.bars(bars)}'
            f'<ul class="keys">{"".join(f"<li>{key}</li>" for key in keys)}</ul></div>'
        )
    return "".join(parts)


def _summary(evaluation: Evaluation) -> str:
    said = [f"<b>{escape(evaluation.name)}</b>"]
    if evaluation.is_scored:
        said.append(f"<span>mIoU {100 * evaluation.scores.matrix.miou():.1f} %</span>")
    said.append(f"<span>{evaluation.frames_per_second:.1f} frames/s</span>")
    said.append(f"<span>p95 {evaluation.total.percentile(95):.1f} ms</span>")
    return "".join(said)


def _shared_frames(content: Content) -> str:
    if not content.shared or not content.pictures:
        return ""
    strips = []
    for choice in content.shared:
        picture = content.pictures.get(choice.index)
        if picture is None:
            continue
        cells = [("camera", picture.image)]
        if picture.truth is not None:
            cells.append(("truth", picture.truth))
        for evaluation in content.evaluations:
            if evaluation.name in picture.predictions:
                score = _figure(content, evaluation.name, choice.index, "miou")
                said = f"{evaluation.name}: {100 * score:.1f} %" if score is not None else evaluation.name
                cells.append((said, picture.predictions[evaluation.name]))
        strips.append(strip(choice.why, _frame_name(choice, picture), cells))
    shown = [content.pictures[c.index] for c in content.shared if c.index in content.pictures]
    keys = _legend(content.evaluations[0].space, shown, errors=False)
    return (
        '<h2>The same frames, side by side</h2><div class="card">'
        f'<p class="note">Chosen by the mean of the models\' mIoU on each frame.</p>{"".join(strips)}{keys}</div>'
    )


# --- one model --------------------------------------------------------------------------------------------------------


def _sections(content: Content, evaluation: Evaluation, number: int) -> list[str]:
    video = f"video-{number}" if evaluation.name in content.videos else ""
    return [
        _frames(content, evaluation, video),
        _classes(evaluation),
        _over_time(content, evaluation, video),
        _latency(evaluation),
        _accounts(evaluation),
    ]


def _tiles(evaluation: Evaluation) -> str:
    scores, counts = evaluation.scores, evaluation.counts
    tiles = []
    if evaluation.is_scored:
        matrix = scores.matrix
        part = "" if scores.scored == counts.processed else f" of {counts.processed:,}"
        found = int((matrix.per_class_iou() > 0).sum())
        missing = "" if found == matrix.num_classes else f"; {matrix.num_classes - found} without a hit count 0"
        tiles.append(
            tile(f"{100 * matrix.miou():.1f}", "%", "mIoU",
                  f"mean of {matrix.num_classes} classes{missing}; {scores.scored:,}{part} frames scored", True)
        )  # fmt: skip
        tiles.append(tile(f"{100 * matrix.pixel_accuracy():.1f}", "%", "pixel accuracy", "of labelled pixels"))
        tiles.append(tile(f"{100 * matrix.class_accuracy():.1f}", "%", "class accuracy", "mean recall of the classes"))
        boundary = scores.boundary.mean()
        if boundary is not None:
            tiles.append(tile(f"{100 * boundary:.1f}", "%", "boundary F", "edges between classes"))
        flicker = scores.flicker.flicker
        if flicker.value is not None:
            tiles.append(
                tile(f"{100 * flicker.value:.2f}", "%", "flicker", f"change without cause; {flicker.pairs:,} pairs")
            )
    else:
        live = evaluation.mode == "live"
        speed = evaluation.throughput if live else evaluation.frames_per_second
        tiles.append(tile(f"{speed:.1f}", "/s", "frames", "live, to the node" if live else "of the pipeline", True))
        changed = scores.flicker.changed
        if changed.value is not None:
            tiles.append(tile(f"{100 * changed.value:.2f}", "%", "labels that change", "from frame to frame"))
    if scores.coverage is not None:
        tiles.append(tile(_coverage(scores.coverage), "%", "coverage", "pixels with a label"))
    total = evaluation.total
    what = "received to published" if evaluation.mode == "live" else "in the pipeline"
    tiles.append(tile(charts.number(total.percentile(50)), "ms", "median latency", what))
    tiles.append(
        tile(charts.number(total.percentile(95)), "ms", "p95 latency", f"at most {charts.number(total.largest)}")
    )
    if evaluation.mode == "live":
        share = f"of {counts.played:,} played; {counts.dropped:,} dropped for newer ones"
        tiles.append(tile(f"{counts.processed:,}", "", "frames labelled", share))
    elif evaluation.is_scored:
        whole = f"pipeline; {charts.number(evaluation.throughput)} with reading, scoring, writing"
        tiles.append(tile(charts.number(evaluation.frames_per_second), "/s", "frames", whole))
    else:
        tiles.append(tile(charts.number(evaluation.throughput), "/s", "throughput", "with reading and writing"))
    # The first one is as large as four; a gap at the end is filled by the last.
    gap = -(len(tiles) - 1) % 4
    return f'<div class="tiles gap{gap}">{"".join(tiles)}</div>'


def _frames(content: Content, evaluation: Evaluation, video: str) -> str:
    shown = [c for c in content.chosen.get(evaluation.name, ()) if c.index in content.pictures]
    if not shown:
        return ""
    strips = []
    for choice in shown:
        picture = content.pictures[choice.index]
        if evaluation.name not in picture.predictions:
            continue
        cells = [("camera", picture.image)]
        if picture.truth is not None:
            cells.append(("truth", picture.truth))
        cells.append(("prediction", picture.predictions[evaluation.name]))
        if evaluation.name in picture.errors:
            cells.append(("errors", picture.errors[evaluation.name]))
        score = _figure(content, evaluation.name, choice.index, "miou")
        seconds = _figure(content, evaluation.name, choice.index, "seconds")
        facts = f"<b>mIoU {100 * score:.1f} %</b>" if score is not None else ""
        if seconds is not None and video:
            to = round(seconds, 3)
            facts += f'<button class="seek" data-video="{video}" data-seconds="{to}">at {to:.1f} s</button>'
        strips.append(strip(choice.why, facts + _frame_name(choice, picture), cells))
    keys = _legend(evaluation.space, [content.pictures[c.index] for c in shown], errors=evaluation.is_scored)
    title = "Worst, median and best frames" if evaluation.is_scored else "Frames"
    return f'<h2>{title}</h2><div class="card">{"".join(strips)}{keys}</div>'


def _frame_name(choice: Choice, picture: Picture) -> str:
    return f"<span>frame {choice.index}, {escape(picture.name)}</span>"


def _legend(space: LabelSpace, pictures: Sequence[Picture], errors: bool) -> str:
    present = {c for picture in pictures for c in picture.classes}
    return legend(space, present, f"<li>{charts.swatch('#ff4840')}wrong</li>" if errors else "")


def _classes(evaluation: Evaluation) -> str:
    if not evaluation.is_scored:
        return ""
    matrix, space = evaluation.scores.matrix, evaluation.space
    truth = matrix.matrix.sum(axis=1) + matrix.missed
    shares = truth / max(matrix.pixels, 1)
    edges = evaluation.scores.boundary.per_class()
    rows = [
        charts.Bar(
            c.name,
            css_colour(space, c.id),
            [float(iou)],
            f"recall {100 * recall:.0f} %, {_share(shares[c.id])} of pixels" if truth[c.id] else "not in the truth",
            [None if np.isnan(edges[c.id]) else float(edges[c.id])],
        )
        for c, iou, recall in zip(space.classes, matrix.per_class_iou(), matrix.per_class_accuracy(), strict=True)
    ]
    counts = np.concatenate([matrix.matrix, matrix.missed[:, None]], axis=1).astype(np.float64)
    if not matrix.missed.any():
        counts = counts[:, :-1]
    heat = charts.heat_map(
        space.names,
        [css_colour(space, c.id) for c in space.classes],
        counts / np.maximum(truth, 1)[:, None],
        "truth",
        "prediction",
    )
    return (
        f'<h2>Classes</h2><div class="card"><h3>IoU of each class, %</h3>{charts.bars(rows)}'
        '<p class="note" style="margin-top:12px">The line across a bar is the boundary F of the class.</p></div>'
        f'<div class="mixed"><div class="card"><h3>What is taken for what</h3>{heat}</div>'
        f'<div class="card"><h3>Most of the errors</h3>{_mistakes(evaluation)}</div></div>'
    )


def _mistakes(evaluation: Evaluation) -> str:
    """List the confusions that make up most of the wrong pixels."""
    matrix, space = evaluation.scores.matrix, evaluation.space
    wrong = np.concatenate([matrix.matrix, matrix.missed[:, None]], axis=1)
    np.fill_diagonal(wrong, 0)
    total = int(wrong.sum())
    if not total:
        return "<p class=note>There are none.</p>"
    rows = []
    for flat in np.argsort(wrong, axis=None)[::-1][:_MISTAKES]:
        true, found = divmod(int(flat), wrong.shape[1])
        if not wrong[true, found]:
            break
        pair = f"{class_name(space, true)} <i>taken for</i> {class_name(space, found)}"
        rows.append(f'<tr><td class="mistake">{pair}</td><td>{100 * wrong[true, found] / total:.1f} %</td></tr>')
    return table("<th>truth</th><th>of wrong pixels</th>", rows)


def _over_time(content: Content, evaluation: Evaluation, video: str) -> str:
    graphs = _graphs(content, evaluation, video)
    if not graphs and not video:
        return ""
    title = f"<h2>Over {'time' if evaluation.scores.in_sequence else 'the frames'}</h2>"
    drawn = "".join(f'<div class="graph"><h3>{escape(name)}</h3>{chart}</div>' for name, chart in graphs)
    if not video:
        return f'{title}<div class="card graphs">{drawn}</div>'
    source = escape(content.videos[evaluation.name])
    poster = ""
    for choice in content.chosen.get(evaluation.name, ()):
        if choice.index in content.pictures and choice.why in ("median", ""):
            poster = f' poster="{content.pictures[choice.index].predictions.get(evaluation.name, "")}"'
    player = f'<video id="{video}" controls preload="metadata" src="{source}"{poster}></video>'
    hint = '<p class="note">A click into a graph goes to that moment.</p>' if graphs else ""
    return (
        f'{title}<div class="card film"><div class="screen"><h3>Overlay</h3>{player}{hint}</div>'
        f'<div class="graphs">{drawn}</div></div>'
    )


def _graphs(content: Content, evaluation: Evaluation, video: str) -> list[tuple[str, str]]:
    """Return (title, chart) of each series."""
    rows = content.rows.get(evaluation.name)
    if rows is None or len(rows.frame) < 2:
        return []
    seconds = rows.columns["seconds"]
    by_time = not np.isnan(seconds).any() and float(seconds.max()) > 0
    places = seconds if by_time else rows.frame.astype(np.float32)
    span = float(places.min()), float(places.max())
    live = evaluation.mode == "live"
    wanted: list[tuple[str, str, float, str, float | None]] = [
        ("mIoU of the frame", "miou", 100, "%", 100),
        ("Boundary F", "boundary_f", 100, "%", 100),
        ("Flicker", "flicker", 100, "%", None),
        ("Latency, received to published" if live else "Latency of the pipeline", "total_ms", 1, "ms", None),
        ("Age of a label, stamp to published", "age_ms", 1, "ms", None),
    ]
    graphs = []
    for title, column, scale, unit, high in wanted:
        if column not in rows.columns or (column == "age_ms" and not live):
            continue
        points = binned(places, rows.columns[column] * scale, _POINTS)
        if len(points) > 1:
            chart = charts.line(title, points, unit, "s" if by_time else "frame", high, video, span)
            graphs.append((f"{title}, {unit}", chart))
    return graphs


def _latency(evaluation: Evaluation) -> str:
    total = evaluation.total
    if not total.count:
        return ""
    edges, shares = total.histogram(_BINS)
    marks = [("median", total.percentile(50)), ("p95", total.percentile(95)), ("p99", total.percentile(99))]
    whole = ("total", "age") if evaluation.mode == "live" else ("total", "decode")
    parts = [
        (STAGE_NAMES.get(s, s), d.mean) for s, d in evaluation.stages.items() if s not in whole and d.mean > 0.0005
    ]
    rows = []
    for stage, values in evaluation.stages.items():
        figures = [values.percentile(p) for p in PERCENTILES] + [values.largest]
        cells = "".join(f"<td>{v:,.{2 if v < 10 else 1}f}</td>" for v in figures)
        rows.append(
            f'<tr><th scope="row">{escape(STAGE_NAMES.get(stage, stage))}</th>{cells}<td>{values.count:,}</td></tr>'
        )
    heads = "".join(f"<th>{name}</th>" for name in ("p50 ms", "p95 ms", "p99 ms", "max ms", "frames"))
    beside = "" if evaluation.mode == "live" else " Decoding runs beside the network and is no part of the total."
    spread = charts.histogram(edges, shares, marks, "ms")
    spent = charts.budget(parts, "ms")
    note = f'<p class="note" style="margin-top:14px">Mean of {total.count:,} frames.{beside}</p>'
    return (
        f'<h2>Latency</h2><div class="pair"><div class="card"><h3>Distribution of the total</h3>{spread}</div>'
        f'<div class="card"><h3>Where a frame\'s time goes, on average</h3>{spent}{note}</div></div>'
        f'<div class="card" style="margin-top:16px">{table(f"<th>stage</th>{heads}", rows)}</div>'
    )


def _accounts(evaluation: Evaluation) -> str:
    counts, matching, usage = evaluation.counts, evaluation.matching, evaluation.usage
    frames: list[tuple[str, str]] = [("read" if evaluation.mode == "offline" else "played", f"{counts.played:,}")]
    if evaluation.mode == "live":
        frames.append(("received by the node", f"{counts.received:,}"))
    frames.append(("segmented", f"{counts.processed:,}"))
    if evaluation.mode == "live":
        frames.append(("dropped, as a newer one came", f"{counts.dropped:,}"))
    frames.append(("rejected", f"{counts.rejected:,}" + (f" ({evaluation.reasons})" if evaluation.reasons else "")))
    if evaluation.truth:
        frames.append(("truth", evaluation.truth))
        frames.append(("scored", f"{evaluation.scores.scored:,}"))
        if evaluation.scores.void:
            frames.append(("truth that is void everywhere", f"{evaluation.scores.void:,}"))
        if evaluation.scores.in_sequence:
            frames.append(("frames without truth", f"{matching.frames_without_truth:,}"))
            frames.append(("truth without a frame", f"{matching.truth_without_frame:,}"))
        if matching.truth_resized:
            frames.append(("truth of another size, resized", f"{matching.truth_resized:,}"))
        if matching.truth_rejected:
            frames.append(("truth that cannot be used", f"{matching.truth_rejected:,}"))
        if matching.largest_offset_ns:
            frames.append(("farthest from its frame", f"{matching.largest_offset_ns / 1e6:.1f} ms"))
    process = "the node's process" if evaluation.mode == "live" else "this process, scoring and drawing included"
    taken: list[tuple[str, str]] = [("speed of the pipeline", f"{evaluation.frames_per_second:.1f} frames/s")]
    taken.append(("throughput", f"{evaluation.throughput:.1f} frames/s over {evaluation.seconds:.1f} s"))
    if usage.cores is not None:
        taken.append(("CPU", f"{usage.cores:.2f} cores on average"))
    if usage.memory_mib is not None:
        start = f" ({usage.memory_start_mib:,.0f} at the first frame)" if usage.memory_start_mib is not None else ""
        taken.append(("memory", f"{usage.memory_mib:,.0f} MiB at most{start}"))
    if usage.gpu_memory_mib is not None:
        taken.append(("GPU memory", f"{usage.gpu_memory_mib:,.0f} MiB more than before"))
    taken.append(("measured on", process))
    taken.append(("until ready", f"{evaluation.load_seconds:.1f} s"))
    origin = "random" if evaluation.card.weights is None else evaluation.card.sha256[:12]
    taken.append(("weights", f"{evaluation.card.name}, {origin}"))
    return (
        '<h2>Frames and resources</h2><div class="pair">'
        f'<div class="card"><h3>Where the frames went</h3>{_list(frames)}</div>'
        f'<div class="card"><h3>What it took</h3>{_list(taken)}</div></div>'
    )


def _list(pairs: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in pairs)}</dl>"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _coverage(share: float) -> str:
    return "100" if share == 1 else f"{100 * share:.{1 if share < 0.99 else 2}f}"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"


def _figure(content: Content, model: str, index: int, column: str) -> float | None:
    """Return what a model's table has of a frame; None where it has nothing."""
    rows = content.rows.get(model)
    if rows is None:
        return None
    found = rows.columns[column][rows.frame == index]
    return float(found[0]) if len(found) and not np.isnan(found[0]) else None
