"""Parts of the HTML pages: a page that needs nothing else, with style and script in it, tiles, tables, strips."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

from rt_seg_ros import __version__
from rt_seg_ros.evaluation import charts
from rt_seg_ros.labels import LabelSpace

_HERE = Path(__file__).parent


def page(title: str, body: str, space: LabelSpace) -> str:
    """Return a whole page around its body; its main colour is taken from the label space's."""
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>:root {{ --hue: {_hue(space)}; }}\n{style}</style></head>\n"
        f'<body><main>{body}</main><dialog><img alt=""></dialog><script>{script}</script></body></html>\n'
    )


def css_colour(space: LabelSpace, i: int) -> str:
    """Return a class's colour as CSS."""
    return "#{:02x}{:02x}{:02x}".format(*space.classes[i].color)


def _hue(space: LabelSpace) -> int:
    """Return the hue of the class whose colour is nearest to a calm blue, and has enough of it."""
    hues = []
    for entry in space.classes:
        hue, saturation, _ = colorsys.rgb_to_hsv(*(v / 255 for v in entry.color))
        if saturation > 0.35:
            hues.append(round(360 * hue))
    near = [hue for hue in hues if 170 <= hue <= 225]
    return min(near, key=lambda hue: abs(hue - 205)) if near else 205


def tile(value: str, unit: str, name: str, note: str, first: bool = False) -> str:
    """Return a big figure.

    :param first: it is the one that matters most, and the largest
    """
    small = f"<small>{escape(unit)}</small>" if unit else ""
    kind = "tile first" if first else "tile"
    return f'<div class="{kind}"><b>{escape(value)}{small}</b><span>{escape(name)}</span><em>{escape(note)}</em></div>'


def strip(why: str, facts: str, cells: Sequence[tuple[str, str]]) -> str:
    """Return images of one frame side by side.

    :param why: it is shown
    :param facts: what else stands above it, as HTML
    :param cells: (name, data URI)
    """
    images = "".join(
        f'<figure><img src="{uri}" alt="{escape(name)}" loading="lazy"><span>{escape(name)}</span></figure>'
        for name, uri in cells
    )
    reason = f"<b>{escape(why.capitalize())}</b>" if why else ""
    columns = f"--n:{min(len(cells), 5)}"
    return (
        f'<figure class="strip"><figcaption>{reason}{facts}</figcaption>'
        f'<div class="cells" style="{columns}">{images}</div></figure>'
    )


def table(head: str, rows: Sequence[str]) -> str:
    """Return a table that scrolls by itself where it is too wide.

    :param head: cells of the head
    :param rows: whole rows
    """
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def class_name(space: LabelSpace, i: int) -> str:
    """Return a class's name after its colour; the number after the last class stands for no label."""
    if i == space.num_classes:
        return "no label"
    return f"<span>{charts.swatch(css_colour(space, i))}{escape(space.names[i])}</span>"


def legend(space: LabelSpace, present: Collection[int], more: str = "") -> str:
    """Return a list of the classes that are present, each after its colour.

    :param more: what the list ends with, as HTML
    """
    names = "".join(
        f"<li>{charts.swatch(css_colour(space, c.id))}{escape(c.name)}</li>" for c in space.classes if c.id in present
    )
    return f'<ul class="keys">{names}{more}</ul>'


def made(command: str) -> str:
    """Return what a page was made by, as HTML."""
    by = f" by <code>{escape(command)}</code>" if command else ""
    return f"Made{by} with rt_seg_ros {__version__}"
