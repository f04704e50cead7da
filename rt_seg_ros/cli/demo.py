"""``rt-seg demo``: the whole path at work, in a minute, with nothing but this package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from rt_seg_ros.bags import open_bag
from rt_seg_ros.cli.options import size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.data.drives import IMAGE_TOPIC, LABEL_TOPIC, write_synthetic_drive
from rt_seg_ros.drawing import error_map, overlay, panel
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace, load_label_space
from rt_seg_ros.video import VideoWriter
from rt_seg_ros.zoo import find_model

if TYPE_CHECKING:
    from rt_seg_ros.evaluation.replay import ReplayScore

SUMMARY = "render a drive, run the real ROS 2 node on it, show the result"
EPILOG = """\
what happens
  1. a street is rendered into a rosbag2, with the true class of every pixel
  2. the node and a player start as processes of their own and talk over DDS, in a domain of their own
  3. what the node publishes is recorded, and scored against the truth

examples:
  rt-seg demo
  rt-seg demo --frames 300 --seed 7 --size 720x960
  rt-seg demo --rate 3                        more than most CPUs can do: the newest frame wins, the rest are counted
"""

Image = NDArray[np.uint8]
_ROWS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--model", default="cgnet", metavar="NAME", help="see rt-seg models (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=150, metavar="N", help="length of the drive (default: %(default)s)"
    )
    parser.add_argument("--size", type=size, default=(360, 480), metavar="HxW", help="of its images (default: 360x480)")
    # A drive that no shipped weights were trained on: recipes take seeds below 1000.
    parser.add_argument("--seed", type=int, default=2026, metavar="S", help="which street (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="R", help="of playing, 1: 10 Hz (default: %(default)s)"
    )
    parser.add_argument("--downsampling-ratio", type=float, default=1.0, metavar="G", help="default: %(default)s")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--allow-random-weights", action="store_true", help="run a model that has no weights yet")


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit status."""
    console = Console()
    card = find_model(args.model, allow_random_weights=args.allow_random_weights)  # refuse before anything is rendered
    space = card.load_label_space()
    if space.name != load_label_space("camvid11").name:
        raise UserError(f"model '{card.name}' speaks label space '{space.name}'; the rendered drive speaks camvid11")
    from rt_seg_ros.evaluation.replay import score_recording
    from rt_seg_ros.ros.live import run_live

    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    drive = out / "drive.mcap"
    console.print(f"[bold]1[/]  rendering {args.frames} frames of a street, {args.size[1]}x{args.size[0]}")
    write_synthetic_drive(
        drive, args.frames, args.size, args.seed, overwrite=True,
        watch=lambda items, what, total: progress(items, what, total),
    )  # fmt: skip
    console.print(f"[bold]2[/]  the node ({card.name}) and a player, over DDS, at {args.rate * 10:g} frames a second")
    parameters = {
        "model": args.model,
        "device": args.device,
        "downsampling_ratio": float(args.downsampling_ratio),
        "allow_random_weights": args.allow_random_weights,
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("labels", total=args.frames)
        live = run_live(
            drive, out, IMAGE_TOPIC, parameters, args.rate, watch=lambda done: bar.update(task, completed=done)
        )
    console.print("[bold]3[/]  scoring and drawing")
    score = score_recording(live.recording, space, drive, live.stamps, truth_topic=LABEL_TOPIC)
    video, picture = _draw(out, drive, live.recording, live.stamps, space, score, args.rate * 10)
    _report(console, score, space, live.start_seconds)
    console.print(
        f"\nvideo      {video}\npicture    {picture}\nrecording  {live.recording}\nnode's log {live.node_log}"
    )
    if not score.labels:
        raise UserError(f"the node published no label; see {live.node_log}")
    if score.unaccounted or score.lost:
        console.print(f"[bold red]{score.unaccounted} frames unaccounted for, {score.lost} lost on the way[/]")
        return 1
    return 0


def _report(console: Console, score: ReplayScore, space: LabelSpace, start: float) -> None:
    frames = Table(title="frames", title_justify="left")
    for name in ("played", "received", "processed", "dropped", "rejected", "unaccounted"):
        frames.add_column(name, justify="right")
    frames.add_row(
        *(
            str(n)
            for n in (score.played, score.received, score.processed, score.dropped, score.rejected, score.unaccounted)
        )
    )
    console.print(frames)
    if score.dropped:
        console.print("dropped: a newer frame came before the network was free (none at a lower --rate)\n")

    latency = Table(title=f"milliseconds per frame, of {score.processed} frames", title_justify="left")
    for name in ("stage", "p50", "p95", "max"):
        latency.add_column(name, justify="left" if name == "stage" else "right")
    names = {"total_ms": "received to published", "age_ms": "age of a label: stamp to published"}
    for stage, values in score.stages.items():
        if len(values):
            figures = [f"{v:.1f}" for v in (np.median(values), np.percentile(values, 95), values.max())]
            latency.add_row(names.get(stage, stage.removesuffix("_ms")), *figures, end_section=stage == "publish_ms")
    console.print(latency)

    iou = Table(title=f"IoU against the drive's truth, {score.scored} frames", title_justify="left")
    iou.add_column("class")
    iou.add_column("IoU %", justify="right")
    for c, value in zip(space.classes, score.matrix.per_class_iou(), strict=True):
        red, green, blue = c.color
        iou.add_row(f"[on rgb({red},{green},{blue})]  [/] {c.name}", f"{value * 100:.1f}")
    iou.add_section()
    iou.add_row("[bold]mIoU[/]", f"[bold]{score.matrix.miou() * 100:.1f}[/]")
    console.print(iou)
    console.print(f"node ready {start:.1f} s after its process was started")


def _draw(
    out: Path,
    drive: Path,
    recording: Path,
    stamps: Mapping[int, int],
    space: LabelSpace,
    score: ReplayScore,
    rate: float,
) -> tuple[Path, Path]:
    """Write the overlays as the node published them as a video, and the best, median and worst frames as a picture."""
    video, picture = out / "overlay.mp4", out / "picture.png"
    with open_bag(recording) as bag, VideoWriter(video, fps=max(rate, 1.0)) as writer:
        for image in bag.images("/segmentation/overlay"):
            writer.write(image.frame.bgr())
    if not score.ious:
        return video, picture
    ordered = sorted(score.ious, key=lambda pair: pair[1])
    chosen = [ordered[-1], ordered[len(ordered) // 2], ordered[0]][: min(_ROWS, len(ordered))]
    wanted = {stamp for stamp, _ in chosen}
    with open_bag(drive) as source, open_bag(recording) as bag:
        images = {i.stamp_ns: i.frame.bgr().copy() for i in source.images(IMAGE_TOPIC) if i.stamp_ns in wanted}
        truths = {stamp: labels.copy() for stamp, _, labels in source.labels(LABEL_TOPIC) if stamp in wanted}
        found = {
            stamps[stamp]: labels.copy()
            for stamp, _, labels in bag.labels("/segmentation/label")
            if stamps.get(stamp) in wanted
        }
    rows = [
        [
            images[stamp],
            overlay(images[stamp], truths[stamp], space, legend=False),
            overlay(images[stamp], found[stamp], space),
            error_map(found[stamp], truths[stamp], images[stamp]),
        ]
        for stamp, _ in chosen
    ]
    words = ("best", "median", "worst")
    captions = [f"{word} frame: mIoU {iou * 100:.1f} %" for word, (_, iou) in zip(words, chosen, strict=False)]
    cv2.imwrite(str(picture), panel(rows, ("camera", "truth", "published labels", "errors"), captions))
    return video, picture
