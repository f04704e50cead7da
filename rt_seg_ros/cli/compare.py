"""``rt-seg compare``: two sets of labels of the same frames, and where they differ."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rt_seg_ros.cli.console import TableConsole
from rt_seg_ros.cli.output import for_who_reads
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.comparison import Comparison, common_space, compare, difference_picture, open_side
from rt_seg_ros.evaluation.comparison_page import camera_images, comparison_page
from rt_seg_ros.evaluation.matching import DEFAULT_TOLERANCE
from rt_seg_ros.files import check_apart, check_file, check_folder, json_keys, write_bytes, write_json, write_text

SUMMARY = "compare two results, or two streams of labels: agreement, where they differ, which classes flip"
EPILOG = """\
A and B are each one of
  a result      folder that rt-seg evaluate --report has written
  a recording   rosbag2 with a topic of label images: a result bag, or what a node was recorded to publish
  a folder      of label images (ids as grey values), with its subfolders; of one that rt-seg segment wrote, its label/
Labels that do not tell their classes are taken for those of camvid11; ids outside a label space are refused.
Frames of recordings and of results on drives belong together by stamp, those of folders by name.

examples:
  rt-seg compare result_cgnet result_csrnet --out difference      then open difference/compare.html
  rt-seg compare result result --models cgnet,csrnet_light        two models of one result
  rt-seg compare before.mcap after.mcap --json difference.json
  rt-seg compare labels_a/ labels_b/ --label-space cityscapes19

exit status: 0 compared; 2 nothing could be compared
"""

_FLIPS = 8
_FIGURES, _PICTURE, _PAGE = "comparison.json", "difference.png", "compare.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("a", type=Path, metavar="A", help="result, recording, or folder of label images")
    parser.add_argument("b", type=Path, metavar="B", help="the same for the other side")
    parser.add_argument("--models", default="", metavar="A[,B]", help="models of results that hold several")
    parser.add_argument("--topics", default="", metavar="A[,B]", help="label topics of recordings that hold several")
    parser.add_argument(
        "--tolerance", type=float, metavar="S",
        help=f"seconds that the stamps of a frame may differ (default: {DEFAULT_TOLERANCE})",
    )  # fmt: skip
    parser.add_argument("--label-space", default="", metavar="NAME", help="name or YAML file, where neither side tells")
    parser.add_argument("--images", type=Path, metavar="DRIVE", help="recording with the camera's images")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of that recording, where it has several")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write compare.html, comparison.json, difference.png here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, write what was asked for; return the exit status."""
    tolerance = DEFAULT_TOLERANCE if args.tolerance is None else args.tolerance
    if not 0 <= tolerance < 3600:
        raise UserError(f"--tolerance is {tolerance}; give seconds, from 0")
    if args.images is not None and args.out is None:
        raise UserError("--images is for the page: give --out, too")
    if args.image_topic and args.images is None:
        raise UserError("--image-topic is one of the recording that --images names: give that, too")
    if args.json is not None:
        check_file(args.json, _is_comparison)
    models, topics = _two("--models", args.models), _two("--topics", args.topics)
    a, b = (open_side(path, m, t) for path, m, t in zip((args.a, args.b), models, topics, strict=True))
    for option, given in (("--images", args.images), ("--tolerance", args.tolerance)):
        if given is not None and not a.stream.by_stamp:
            raise UserError(f"{option} needs stamps, and {a.name} is a folder of images, which go by name")
    if args.out is not None:
        files = [args.out / name for name in (_FIGURES, _PICTURE, _PAGE)]
        for file in files:
            check_apart(file, [a.stream.path, b.stream.path])
        check_folder(args.out)
        ours = _is_comparison(files[0])
        for file in files:
            check_file(file, lambda path: ours)
    space = common_space(a, b, args.label_space)
    assumed = not (args.label_space or a.classes() or b.classes())
    comparison = compare(a, b, space, tolerance, progress, assumed)
    # Written before anything is printed: who ceases to read has the files.
    if args.json is not None:
        write_json(args.json, comparison.to_dict())
    if args.out is not None:
        images = camera_images(comparison, tolerance, args.images, args.image_topic)
        command = shlex.join(["rt-seg", "compare", *sys.argv[2:]]) if sys.argv[1:2] == ["compare"] else ""
        write_json(args.out / _FIGURES, comparison.to_dict())
        write_bytes(args.out / _PICTURE, cv2.imencode(".png", difference_picture(comparison))[1].tobytes())
        write_text(args.out / _PAGE, comparison_page(comparison, images, command))
    with for_who_reads():
        _print(TableConsole(), comparison)
        if args.json is not None:
            print(f"figures: {args.json}")
        if args.out is not None:
            if args.images is not None and not images:
                print(f"no image of the frames that differ most has its stamp in {args.images}, within {tolerance:g} s")
            print(f"comparison: {args.out / _PAGE}")
    return 0


def _is_comparison(path: Path) -> bool:
    return {"a", "b", "agreement"} <= json_keys(path)


def _two(option: str, text: str) -> tuple[str, str]:
    """Read ``A,B``, or one for both."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2:
        raise UserError(f"{option} is {text}; give one for A and one for B: {option} A,B")
    return parts[0], parts[-1]


def _print(console: Console, comparison: Comparison) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="agreement on each class", title_justify="left")
    table.add_column("class")
    for name in ("both / either %", "A pixels %", "B pixels %"):
        table.add_column(name, justify="right")
    total = max(int(comparison.matrix.sum()), 1)
    in_a, in_b = comparison.matrix.sum(axis=1), comparison.matrix.sum(axis=0)
    for entry, share in zip(comparison.space.classes, comparison.per_class(), strict=True):
        red, green, blue = entry.color
        value = "-" if np.isnan(share) else f"{100 * share:.1f}"
        counts = [f"{100 * n[entry.id] / total:.1f}" for n in (in_a, in_b)]
        table.add_row(f"[on rgb({red},{green},{blue})]  [/] {escape(entry.name)}", value, *counts)
    console.print(table)
    flips = comparison.flips()
    if flips:
        listed = Table(box=box.SIMPLE_HEAD, title="what flips", title_justify="left")
        for name in ("A", "B"):
            listed.add_column(name)
        for name in ("pixels %", "of what differs %"):
            listed.add_column(name, justify="right")
        wrong = sum(pixels for _, _, pixels in flips)
        for i, j, pixels in flips[:_FLIPS]:
            shares = f"{100 * pixels / total:.2f}", f"{100 * pixels / wrong:.1f}"
            listed.add_row(escape(comparison.name_of(i)), escape(comparison.name_of(j)), *shares)
        console.print(listed)
    lines = [
        escape(f"A: {comparison.a.name}"),
        escape(f"B: {comparison.b.name}"),
        f"[bold]agreement {100 * comparison.agreement:.2f} %[/] of the pixels of {comparison.frames} frames",
    ]
    if comparison.assumed:
        lines.append(f"label space {comparison.space.name} was assumed, as neither tells its own: see --label-space")
    if comparison.only_a or comparison.only_b:
        lines.append(f"not compared: {comparison.only_a} frames only in A, {comparison.only_b} only in B")
    if comparison.rejected:
        lines.append(f"not compared: {comparison.rejected} frames whose labels cannot be read")
    if comparison.resized:
        lines.append(f"of another size, resized to A's: {comparison.resized}")
    for name, side in (("A", comparison.a), ("B", comparison.b)):
        if side.stream.damage:
            lines.append(escape(f"{name} is not whole: {side.stream.damage}"))
    for name, a, b in comparison.figures():
        scale = 1 if name == "frames_per_second" else 100
        one, other = scale * a, scale * b
        over = comparison.frames_of(name)
        lines.append(f"{name}: A {one:.2f}, B {other:.2f} ({other - one:+.2f}){over and f', over {over} frames'}")
    for difference in comparison.worst[:1]:
        lines.append(f"most in frame {escape(str(difference.key))}: {100 * difference.share:.1f} % of its pixels")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
