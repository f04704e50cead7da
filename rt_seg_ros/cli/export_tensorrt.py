"""``rt-seg export --format tensorrt``: engines built ahead of the node."""

from __future__ import annotations

import argparse

from rt_seg_ros.cli.options import chosen_weights, size
from rt_seg_ros.cli.progress import progress, progress_share
from rt_seg_ros.errors import UserError
from rt_seg_ros.working_size import MAX_SIDE, check_size
from rt_seg_ros.zoo import find_model

SUFFIX = ".engine"
_ANY_GPU = "auto"
EPILOG = """\
TensorRT's engines are built on the GPU that will run them (TensorRT for RTX builds without one) and go into the cache,
where backend:=tensorrt finds them; --out writes one to a file besides. With --size an engine takes uint8 pixels of that
size and gives uint8 labels; without, it takes any size up to 1088x1920 and gives logits, which is slower.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only this format takes."""
    group = parser.add_argument_group("for --format tensorrt")
    group.add_argument(
        "--label-size", type=size, metavar="HxW",
        help="size of the labels: the camera's, where --size is less (default: --size)",
    )  # fmt: skip
    group.add_argument("--confidence", action="store_true", help="give the labels' probabilities too")
    group.add_argument("--device", default=_ANY_GPU, metavar="NAME", help="GPU to build on: cuda or cuda:N")


def is_meant(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for this format."""
    return bool(args.format == "tensorrt" or (not args.format and args.out is not None and args.out.suffix == SUFFIX))


def check_absent(args: argparse.Namespace) -> None:
    """Check that no option of this format is given with another one.

    :raises UserError: naming it
    """
    given = {"label-size": args.label_size, "confidence": args.confidence, "device": args.device != _ANY_GPU}
    for name, value in given.items():
        if value:
            raise UserError(f"--{name} is for --format tensorrt alone")
    if args.precision == "bf16":
        raise UserError("--precision bf16 is for --format tensorrt alone; other files take fp32, fp16 or int8")


def run(args: argparse.Namespace) -> int:
    """Build an engine, and tell how it compares with PyTorch."""
    if args.opset is not None:
        raise UserError("--opset is for files of ONNX and OpenVINO: leave it out")
    if args.outputs is not None:
        raise UserError("--outputs is for files of ONNX and OpenVINO: an engine with --size gives labels, else logits")
    if args.size is None and (args.label_size or args.confidence or args.batch > 1):
        raise UserError("--label-size, --confidence and --batch take an engine of a fixed size: give --size")
    if args.size is not None:
        check_size("--size", args.size)
    if args.label_size is not None and max(args.label_size) > MAX_SIDE:
        height, width = args.label_size
        raise UserError(f"--label-size is {height}x{width}; each side must be 1 to {MAX_SIDE} pixels")
    if not 1 <= args.batch <= 8:
        raise UserError(f"--batch {args.batch}: 1 to 8 frames go together")
    if args.out is not None and args.out.suffix != SUFFIX:
        raise UserError(f"--out {args.out}: a file of format 'tensorrt' ends in {SUFFIX}")
    card = find_model(args.model, args.label_space, chosen_weights(args, args.model), args.allow_random_weights)

    from rt_seg_ros.backends.engines import EngineSpec
    from rt_seg_ros.export.engine import export_engine, find_tensorrt
    from rt_seg_ros.export.exporting import check_out
    from rt_seg_ros.export.samples import open_samples

    spec = EngineSpec(args.size, args.label_size, args.batch, args.precision, args.confidence)
    find_tensorrt(args.device, args.precision)
    if args.out is not None:
        check_out(args.out, args.overwrite)
    samples = open_samples(
        args.calibration, args.split, card.load_label_space(), args.calibration_frames, args.check_frames
    )
    done = export_engine(
        card, spec, args.device, samples, args.out, progress, lambda: progress_share("build the engine")
    )
    print(f"{card.name}: {done.about} ({done.size / 1e6:.1f} MB)")
    if args.out is not None:
        print(f"wrote {args.out}")
    if done.kept is not None:
        print(f"kept for backend:=tensorrt in {done.kept}")
    print(f"graph, by ONNX Runtime: {done.graph}")
    print(f"engine: {done.engine or 'has not run, there is no GPU here'}")
    return 0
