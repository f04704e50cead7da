"""``rt-seg export``: a model as a file for other runtimes, checked against PyTorch before it is written."""

from __future__ import annotations

import argparse
from pathlib import Path

from rt_seg_ros.cli import export_tensorrt
from rt_seg_ros.cli.options import add_weights_options, chosen_weights, size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.options import OPSETS, OUTPUTS, GraphOptions
from rt_seg_ros.working_size import check_size
from rt_seg_ros.zoo import find_model

SUMMARY = "export a model to ONNX, OpenVINO or TensorRT, also quantised to int8"
EPILOG = (
    """\
what the file takes and gives:
  --outputs logits   image: float32 (N, 3, H, W), RGB, normalised by the mean and std in the file's metadata
                     logits: float32 (N, classes, h, w) at the network's own resolution (1/8 or 1/4)
                     Give it sides that are multiples of 8: others shift the labels, by up to 7 pixels.
  --outputs labels   pixels: uint8 (N, H, W, 3), BGR, as OpenCV reads it
                     labels: uint8 (N, H, W), class ids
The file says of itself, under rt_seg_ros, what it is: network, classes with their colours, mean, std, hash of the
weights, licence.

Before it is written it runs on frames, those of --calibration or rendered streets, and must give PyTorch's labels.
int8 takes its scales from such frames, so give it frames like those that it will see; where they have labels, the cost
in mIoU is measured on others than those it was calibrated on. What takes any size and gives logits is also kept in the
cache (~/.cache/rt_seg_ros), where the backends find it: backend:=openvino precision:=int8 runs what was exported last.

"""
    + export_tensorrt.EPILOG
    + """
examples:
  rt-seg export --model cgnet --format onnx                                  any size, logits: cgnet_camvid11.onnx
  rt-seg export --model cgnet --out street.onnx --size 360x480 --outputs labels
  rt-seg export --model cgnet --out cgnet.xml --precision fp16               OpenVINO, half the size on the disk
  rt-seg export --model cgnet --format openvino --precision int8 --calibration drive.mcap
  rt-seg export --model cgnet --out cgnet.onnx --precision int8 --calibration camvid --split train
  rt-seg export --model cgnet --format tensorrt --precision fp16 --size 360x480
"""
)

_CALIBRATION_FRAMES, _CHECK_FRAMES, _CHECK_FRAMES_INT8 = 48, 24, 96


def _size_or_dynamic(text: str) -> tuple[int, int] | None:
    return None if text.strip() == "dynamic" else size(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model = parser.add_argument_group("the model")
    model.add_argument("--model", default="cgnet", metavar="NAME", help="model, see rt-seg models (default: cgnet)")
    add_weights_options(model)
    model.add_argument("--label-space", default="", metavar="NAME", help="names and colours of the classes")
    model.add_argument("--allow-random-weights", action="store_true", help="export a network without weights")
    what = parser.add_argument_group("the file")
    what.add_argument(
        "--format", default="", metavar="NAME", help="onnx, openvino or tensorrt (default: by --out's suffix)"
    )
    what.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write: .onnx, or .xml with .bin beside it (default: here, named after the model)",
    )  # fmt: skip
    what.add_argument(
        "--size", type=_size_or_dynamic, metavar="HxW",
        help="size of the images, multiples of 8; dynamic: any (the default)",
    )  # fmt: skip
    what.add_argument("--batch", type=int, default=1, metavar="N", help="images at once, with --size (default: 1)")
    what.add_argument("--outputs", choices=OUTPUTS, help=f"what it gives (default: {GraphOptions.outputs})")
    what.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        help="of the network (default: %(default)s)",
    )
    what.add_argument(
        "--opset", type=int, metavar="N",
        help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (default: {GraphOptions.opset})",
    )  # fmt: skip
    what.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    export_tensorrt.add_arguments(parser)
    frames = parser.add_argument_group("frames to check it on, and to calibrate int8 on")
    frames.add_argument(
        "--calibration", type=Path, metavar="FRAMES",
        help="folder of images, video, rosbag2 or data set (default: rendered streets)",
    )  # fmt: skip
    frames.add_argument("--split", metavar="NAME", help="part of a data set: train, val, test...")
    frames.add_argument(
        "--calibration-frames", type=int, metavar="N",
        help=f"calibrate int8 on so many (default: {_CALIBRATION_FRAMES})",
    )  # fmt: skip
    frames.add_argument(
        "--check-frames", type=int, metavar="N",
        help=f"check on so many others (default: {_CHECK_FRAMES}, of int8 {_CHECK_FRAMES_INT8})",
    )  # fmt: skip


def _default_out(options: GraphOptions, precision: str, name: str, suffix: str) -> Path:
    """Return the file that is written where none is named."""
    size = f"{options.size[0]}x{options.size[1]}" if options.size else ""
    parts = [name, size, options.outputs.replace("logits", ""), precision.replace("fp32", "")]
    return Path("_".join(filter(None, parts)) + suffix)


def run(args: argparse.Namespace) -> int:
    """Export, and tell how what was written compares with PyTorch."""
    int8 = args.precision == "int8"
    if not int8 and args.calibration_frames is not None:
        raise UserError(f"--calibration-frames is for --precision int8: {args.precision} needs no calibration")
    if args.check_frames is None:
        args.check_frames = _CHECK_FRAMES_INT8 if int8 else _CHECK_FRAMES
    if args.calibration_frames is None:
        args.calibration_frames = _CALIBRATION_FRAMES
    if args.calibration_frames < 1 or args.check_frames < 1:
        raise UserError("--calibration-frames and --check-frames must be 1 or more")
    if not int8:
        args.calibration_frames = 0  # all are there to check on
    if args.split is not None and args.calibration is None:
        raise UserError("--split names a part of --calibration, which is not given")
    if export_tensorrt.is_meant(args):
        return export_tensorrt.run(args)
    export_tensorrt.check_absent(args)
    if args.size is not None:
        check_size("--size", args.size)
    given = {name: value for name in ("outputs", "opset") if (value := getattr(args, name)) is not None}
    options = GraphOptions(size=args.size, batch=args.batch, **given)
    options.check()
    card = find_model(args.model, args.label_space, chosen_weights(args, args.model), args.allow_random_weights)

    from rt_seg_ros.export.exporting import check_out, export_model
    from rt_seg_ros.export.formats import format_of
    from rt_seg_ros.export.samples import open_samples

    form = format_of(args.format, args.out)
    out = args.out or _default_out(options, args.precision, card.name, form.suffix)
    check_out(out, args.overwrite)
    samples = open_samples(
        args.calibration, args.split, card.load_label_space(), args.calibration_frames, args.check_frames
    )
    done = export_model(card, form, options, args.precision, samples, out, progress)
    for path in done.files:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if done.kept is not None:
        print(f"kept for precision:=int8 in {done.kept}")
    print(f"{card.name}: {done.about}")
    print(done.agreement)
    return 0
