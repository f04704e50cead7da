"""``rt-seg demo``: the whole path at work, in a minute, with nothing but this package."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from rt_seg_ros.cli.console import unbounded_console
from rt_seg_ros.cli.evaluation_job import Job, evaluate_models
from rt_seg_ros.cli.evaluation_tables import print_evaluation
from rt_seg_ros.cli.options import need_ros, size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.data.drives import LABEL_TOPIC, write_synthetic_drive
from rt_seg_ros.drawing import error_map, overlay, panel
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.frames import open_frames
from rt_seg_ros.evaluation.pictures import choose, read_frames_again, read_rows
from rt_seg_ros.evaluation.report import PAGE, RECORDING, check_report, report_files
from rt_seg_ros.files import check_folder, write_bytes, write_json
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE, find_model

SUMMARY = "render a drive, run the real ROS 2 node on it, show the result"
EPILOG = """\
what happens
  1. a street is rendered into a rosbag2, with the true class of every pixel
  2. the node and a player start as processes of their own and talk over DDS, in a domain of their own
  3. what the node publishes is recorded, and scored against the truth: open report.html in the folder of --out

examples:
  rt-seg demo
  rt-seg demo --frames 300 --seed 7 --size 720x960
  rt-seg demo --rate 3                        more than most CPUs can do: the newest frame wins, the rest are counted
"""

Image = NDArray[np.uint8]

_MARK = "demo.json"  # says which drive was rendered here, and may be replaced
_PICTURE = "picture.png"
_LABELS = "labels.mcap"


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
    parser.add_argument(
        "--downsampling-ratio", type=float, default=0.0, metavar="G", help="0: as the network learnt (the default)"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--allow-random-weights", action="store_true", help="run a model that has no weights yet")


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit status."""
    console = unbounded_console()
    if not 0 < args.rate < math.inf:
        raise UserError(f"--rate is {args.rate:g}; it must be above 0 (1: as recorded)")
    need_ros("to run the node")
    card = find_model(args.model, allow_random_weights=args.allow_random_weights)  # refuse before anything is rendered
    space = card.load_label_space()
    if space.name != DEFAULT_LABEL_SPACE:
        raise UserError(
            f"model '{card.name}' speaks label space '{space.name}'; the rendered drive speaks {DEFAULT_LABEL_SPACE}"
        )
    config = SegmenterConfig(
        model=args.model,
        device=args.device,
        downsampling_ratio=args.downsampling_ratio,
        allow_random_weights=args.allow_random_weights,
    )
    config.check()

    out: Path = args.out
    check_folder(out)
    drive = out / "drive.mcap"
    _check_former(out, drive)
    check_report(report_files(out, [args.model], is_drive=True, live=True))
    console.print(f"[bold]1[/]  rendering {args.frames} frames of a street, {args.size[1]}x{args.size[0]}")
    write_synthetic_drive(drive, args.frames, args.size, args.seed, overwrite=True, watch=progress)
    write_json(out / _MARK, {"drive": drive.name, **_stamp(drive)})
    console.print(
        f"[bold]2[/]  the node ({escape(card.name)}) and a player, over DDS, at {args.rate * 10:g} frames a second"
    )
    frames = open_frames(drive, space, truth=LABEL_TOPIC)
    job = Job(frames, {args.model: (config, card)}, live=True, rate=args.rate, report=out)
    (evaluation,), written = evaluate_models(job)
    console.print("[bold]3[/]  what the node published, scored against the truth")
    written += [out / RECORDING, out / "node.log"]  # of the live run
    if out / _LABELS in written and _draw(out, job):
        written.append(out / _PICTURE)
    print_evaluation(console, evaluation)
    console.print(f"[bold]report     {escape(str(out / PAGE))}[/]", highlight=False)
    places = {"video": "overlay.mp4", "picture": _PICTURE, "recording": RECORDING, "node's log": "node.log"}
    for what, name in places.items():
        if out / name in written:
            console.print(f"{what:<10} {escape(str(out / name))}", highlight=False)
    for problem in evaluation.problems:
        console.print(f"[red]{escape(problem)}[/]")
    counts = evaluation.counts
    if counts.unaccounted or counts.lost:
        console.print(f"[bold red]{counts.unaccounted} frames unaccounted for, {counts.lost} lost on the way[/]")
        return 1
    return 1 if evaluation.problems else 0


def _check_former(out: Path, drive: Path) -> None:
    """Refuse to replace a drive or a picture that is not an earlier demo's."""
    try:
        mark = json.loads((out / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        mark = None
    is_mark = isinstance(mark, dict) and "drive" in mark
    rendered = is_mark and drive.is_file() and mark == {"drive": drive.name, **_stamp(drive)}
    for name, own in {_MARK: is_mark, _PICTURE: is_mark, drive.name: rendered}.items():
        if (out / name).exists() and not own:
            raise UserError(
                f"{out / name} is not replaced: no earlier demo wrote it; choose another folder (--out), or move it "
                "away"
            )


def _stamp(drive: Path) -> dict[str, int]:
    """Return by what a file is known again that nobody changed."""
    known = drive.stat()
    return {"bytes": known.st_size, "modified_ns": known.st_mtime_ns}


def _draw(out: Path, job: Job) -> bool:
    """Draw the best, the median and the worst frame as one picture; return whether there is anything to be drawn."""
    ((name, (_, card)),) = job.models.items()
    space = card.load_label_space()
    rows = read_rows(out / "per_frame.csv", ["miou"])
    chosen = choose(rows[name].frame, rows[name].columns["miou"], worst=1)
    scores = dict(zip(rows[name].frame.tolist(), rows[name].columns["miou"].tolist(), strict=True))
    wanted = {name: [choice.index for choice in chosen]}
    shown = {one.index: one for one in read_frames_again(job.frames, {name: out / _LABELS}, rows, wanted)}
    images: list[list[Image]] = []
    captions = []
    for choice in reversed([c for c in chosen if c.index in shown]):
        one = shown[choice.index]
        truth, found = one.truth, one.predictions[name]
        if truth is None:
            continue
        images.append(
            [
                one.image,
                overlay(one.image, truth, space, legend=False),
                overlay(one.image, found, space),
                error_map(found, truth, one.image),
            ]
        )
        captions.append(f"{choice.why} frame: mIoU {100 * scores[choice.index]:.1f} %")
    if not images:
        return False
    _, coded = cv2.imencode(".png", panel(images, ("camera", "truth", "published labels", "errors"), captions))
    write_bytes(out / _PICTURE, coded.tobytes())
    return True
