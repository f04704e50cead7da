"""``rt-seg drive``: recordings to replay, with ground truth: rendered, or of a data set's frames."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from rt_seg_ros.bags.writer import STORAGES
from rt_seg_ros.cli.options import size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.data.drives import (
    CAMERA_INFO_TOPIC,
    DEFAULT_SPLIT,
    IMAGE_TOPIC,
    LABEL_INFO_TOPIC,
    LABEL_TOPIC,
    Drive,
    write_camvid_drive,
    write_synthetic_drive,
)
from rt_seg_ros.errors import UserError
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE

SUMMARY = "make a drive to replay, with ground truth: rendered, or of CamVid frames"
EPILOG = f"""\
A drive is a rosbag2 (mcap) with these topics; the first three share their stamps:
  {IMAGE_TOPIC:<22} sensor_msgs/Image, bgr8
  {CAMERA_INFO_TOPIC:<22} sensor_msgs/CameraInfo
  {LABEL_TOPIC:<22} sensor_msgs/Image, mono8: the true class id of every pixel, 255 = unlabelled
  {LABEL_INFO_TOPIC:<22} vision_msgs/LabelInfo, once, latched: the names of the ids

examples:
  rt-seg drive synth town                                 20 seconds of a rendered street, 360x480
  rt-seg drive synth big --size 720x960 --frames 600      a minute, larger
  rt-seg drive synth other --seed 7                       another street, other light, other traffic
  rt-seg drive from-camvid ~/data/camvid val_drive        CamVid's validation frames, with their labels
  rt-seg drive from-camvid yard yard_drive --label-space yard/labels.yaml      pictures and classes of your own

Read it with ros2 bag, RViz, Foxglove, or rt-seg play, segment and evaluate.
"""

_USAGE = """rt-seg drive synth OUT [options]
       rt-seg drive from-camvid DIR OUT [options]"""

_FRAMES, _SIZE, _SEED = 200, (360, 480), 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = _USAGE
    parser.add_argument(
        "kind", choices=("synth", "from-camvid"), help="render a drive, or make one of a data set's frames"
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="[DIR] OUT",
        help="the data set's folder (from-camvid), then the recording to write: a new folder or a file ending in .mcap",
    )
    synth = parser.add_argument_group(
        "synth",
        "A street with labels exact to the pixel, under changing light, with traffic, pedestrians and cyclists; all\n"
        "11 classes of camvid11 occur. The same seed, size and rate give the same drive.",
    )
    synth.add_argument("--frames", type=int, metavar="N", help=f"how many frames (default: {_FRAMES})")
    synth.add_argument("--size", type=size, metavar="HxW", help="height and width of the frames (default: 360x480)")
    synth.add_argument("--seed", type=int, metavar="S", help=f"which street, from 0 on (default: {_SEED})")
    camvid = parser.add_argument_group(
        "from-camvid",
        "Frames in the order of their names, with their labels. DIR is CamVid in the SegNet layout (val/ with\n"
        "valannot/), Cityscapes (leftImg8bit/ with gtFine/), or any folder with images/ and labels/.",
    )
    camvid.add_argument("--split", help=f"which part of the data set (default: {DEFAULT_SPLIT}, where it has parts)")
    camvid.add_argument(
        "--label-space",
        metavar="NAME|FILE",
        help="what the ids in its labels mean (default: camvid11; of the Cityscapes layout cityscapes19)",
    )
    both = parser.add_argument_group("both")
    both.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="frames a second (default: %(default)g)")
    both.add_argument("--storage", choices=STORAGES, default="mcap", help="file format (default: %(default)s)")
    both.add_argument("--overwrite", action="store_true", help="replace a recording that is there already")


def run(args: argparse.Namespace) -> int:
    """Write the drive, and say what may be done with it."""
    if args.kind == "synth":
        _refuse(args, "synth", "split", "label_space")
        (out,) = _paths(args, "OUT")
        frames = _FRAMES if args.frames is None else args.frames
        seed = _SEED if args.seed is None else args.seed
        drive = write_synthetic_drive(
            out, frames, args.size or _SIZE, seed, args.rate, args.storage, args.overwrite, progress
        )
    else:
        _refuse(args, "from-camvid", "frames", "size", "seed")
        dataset, out = _paths(args, "DIR OUT")
        drive = write_camvid_drive(
            dataset, out, args.split, args.rate, args.storage, args.overwrite, progress, args.label_space
        )
    print(_told(drive))
    return 0


def _paths(args: argparse.Namespace, expected: str) -> list[Path]:
    names = expected.split()
    if len(args.paths) != len(names):
        given = " ".join(map(str, args.paths))
        raise UserError(f"expected rt-seg drive {args.kind} {expected}, got {len(args.paths)} paths: {given}")
    return list(args.paths)


def _refuse(args: argparse.Namespace, kind: str, *options: str) -> None:
    """Refuse options of the other kind."""
    for option in options:
        if getattr(args, option) is not None:
            raise UserError(f"--{option.replace('_', '-')} means nothing to rt-seg drive {kind}; leave it out")


def _told(drive: Drive) -> str:
    space = drive.space
    labelled = max(1, int(drive.pixels[: space.num_classes].sum()))
    shares = ", ".join(f"{c.name} {100 * drive.pixels[c.id] / labelled:.1f} %" for c in space.classes)
    path = shlex.quote(str(drive.path))
    evaluate = f"rt-seg evaluate {path}"
    if space.name == DEFAULT_LABEL_SPACE:
        evaluate += "       score a model against its labels"
    else:
        evaluate += f" --weights FILE       score weights of {space.name} against its labels"
    return f"""\
wrote {drive.path}: {drive.frames} frames of {drive.height}x{drive.width}, {drive.frames / drive.rate:.1f} s \
at {drive.rate:g} Hz, {drive.bytes / 1e6:.0f} MB
  {shares}

next:
  rt-seg segment {path}        its overlay as a video; --labels: label images as well
  {evaluate}
  rt-seg play {path}           publish it over ROS 2, as a camera would
  ros2 bag info {path}         with a full ROS 2: info, play, RViz, Foxglove"""
