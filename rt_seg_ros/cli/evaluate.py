"""``rt-seg evaluate``: how good a model is, measured on frames with ground truth."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from rt_seg_ros.cli.options import add_model_options, segmenter_config
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.labelled import open_labelled
from rt_seg_ros.evaluation.offline import Evaluation, evaluate
from rt_seg_ros.evaluation.report import write_json, write_report
from rt_seg_ros.pipeline import Segmenter

SUMMARY = "score a model against ground truth"
EPILOG = """\
DATA is one of
  CamVid        <split>/ with <split>annot/, in the SegNet layout; test/ with testannot/ alone will do
  Cityscapes    leftImg8bit/<split>/ with gtFine/<split>/
  pairs         images/ with labels/ (ids as grey values), with a folder per split or without
  a drive       rosbag2 (folder, .mcap, .db3) with an image topic and a topic of labels, paired by their stamps

figures:
  IoU           pixels both true and predicted as a class, over pixels that are either; mIoU is its mean
  accuracy      share of a class's pixels that is found; of all pixels; and the mean over classes
  frames/s      speed of the whole pipeline (resizing, network, labels at the frame's size), without reading
Void is ignored, one matrix is summed over all frames, and a class without a single true positive counts 0.

examples:
  rt-seg evaluate camvid --split val --model cgnet
  rt-seg evaluate camvid --split val --weights runs/mine/cgnet_camvid11.safetensors --report result
  rt-seg evaluate drive.mcap --model csrnet_light --downsampling-ratio 0.5
  rt-seg evaluate pictures --json result.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("data", type=Path, metavar="DATA", help="data set folder, or recorded drive with labels")
    parser.add_argument("--split", metavar="NAME", help="part of a data set that has several: train, val, test...")
    parser.add_argument("--topic", default="", metavar="NAME", help="image topic of a drive that has several")
    parser.add_argument("--truth-topic", default="", metavar="NAME", help="label topic of a drive that has several")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write metrics.json and confusion.png here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, as JSON")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    _check_writable(args.report, args.json)
    segmenter = Segmenter(segmenter_config(args))
    frames = open_labelled(args.data, args.split, segmenter.label_space, args.topic, args.truth_topic)
    result = evaluate(segmenter, frames, progress)
    _print(result)
    if args.json is not None:
        write_json(args.json, result.to_dict())
        print(f"figures: {args.json}")
    if args.report is not None:
        print(f"report: {', '.join(str(path) for path in write_report(args.report, result))}")
    return 0


def _check_writable(report: Path | None, figures: Path | None) -> None:
    """Refuse what cannot be written before any work is done."""
    for folder in (report, figures.parent if figures else None):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder} is not writable")


def _print(result: Evaluation) -> None:
    matrix, segmenter = result.matrix, result.segmenter
    truth = matrix.matrix.sum(axis=1) + matrix.missed
    table = Table(box=box.SIMPLE_HEAD, title=f"{segmenter.card.name} on {result.name}", title_justify="left")
    table.add_column("class")
    for name in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(name, justify="right")
    shares = 100 * truth / max(matrix.pixels, 1)
    rows = zip(segmenter.label_space.names, matrix.per_class_iou(), matrix.per_class_accuracy(), shares, strict=True)
    for name, iou, accuracy, share in rows:
        table.add_row(name, f"{100 * iou:.1f}", f"{100 * accuracy:.1f}", f"{share:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * matrix.miou():.2f}", f"{100 * matrix.class_accuracy():.2f}", "")
    console = Console()
    console.print(table)
    console.print(
        f"mIoU {100 * matrix.miou():.2f} %, pixel accuracy {100 * matrix.pixel_accuracy():.2f} %, "
        f"class accuracy {100 * matrix.class_accuracy():.2f} %\n"
        f"{result.frames} frames, {result.frames_per_second:.1f} frames/s "
        f"({segmenter.backend_name}, {segmenter.device}, {segmenter.precision})\n"
        f"protocol: {result.protocol}",
        highlight=False,
        soft_wrap=True,
    )
    if result.unmatched or result.rejected:
        console.print(
            f"left out: {result.unmatched} images without truth of the same stamp, "
            f"{result.rejected} that cannot be used",
            highlight=False,
            soft_wrap=True,
        )
