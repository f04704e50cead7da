"""Options that several subcommands share, under the names that the node's parameters have."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rt_seg_ros.backends import BACKENDS, PRECISIONS
from rt_seg_ros.errors import UserError
from rt_seg_ros.pickles import is_pickle
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.ros.installation import check_one_ros
from rt_seg_ros.working_size import check_size
from rt_seg_ros.zoo import find_model

ALLOW_PICKLE = "take --weights of another form too, a run's best.pt or a state dict; only tensors are read of it"


def size(text: str) -> tuple[int, int]:
    """Read ``HxW``, as in ``360x480``: height first."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if match is None or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"'{text}' is no size: write HEIGHTxWIDTH, as in 360x480")
    return int(match[1]), int(match[2])


def add_weights_options(group: argparse._ActionsContainer) -> None:
    """Declare what :func:`chosen_weights` takes."""
    group.add_argument(
        "--weights", default="", metavar="FILE", help="weights of your own (.safetensors) in place of the package's"
    )
    group.add_argument("--allow-pickle", action="store_true", help=ALLOW_PICKLE)


def chosen_weights(args: argparse.Namespace, model: str) -> str:
    """Return the file of weights to use; where that is a pickle and may be, one with the same tensors.

    :param model: the model that they are for
    :raises UserError: as :func:`rt_seg_ros.training.pickled.weights_from_pickle`
    """
    weights: str = args.weights
    if not weights or not args.allow_pickle or not is_pickle(weights):
        return weights
    from rt_seg_ros.training.pickled import weights_from_pickle

    network = find_model(model, allow_random_weights=True).network
    return str(weights_from_pickle(Path(weights), network, args.label_space))


def add_model_options(parser: argparse.ArgumentParser, several_models: bool = False) -> None:
    """Declare what chooses a model and says how it runs.

    :param several_models: leave ``--model`` to the caller, who takes more than one.
    """
    group = parser.add_argument_group("the model and how it runs")
    default = SegmenterConfig()
    if not several_models:
        group.add_argument(
            "--model", default=default.model, metavar="NAME", help="model, see rt-seg models (default: %(default)s)"
        )
    add_weights_options(group)
    group.add_argument(
        "--label-space",
        default="",
        metavar="NAME",
        help="names and colours of the classes: a name or a YAML file (default: the weights' own)",
    )
    group.add_argument("--backend", default=default.backend, choices=BACKENDS, help="runtime (default: %(default)s)")
    group.add_argument(
        "--device", default=default.device, metavar="NAME", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    group.add_argument(
        "--precision", default=default.precision, choices=PRECISIONS, help="arithmetic (default: %(default)s)"
    )
    group.add_argument(
        "--downsampling-ratio",
        "--ratio",
        type=float,
        default=default.downsampling_ratio,
        metavar="G",
        help="let the network work at this fraction of the image's size, up to 1; 0: at which it sees things about as "
        "large as it learnt them, and never enlarged; with weights trained with data.size that size, always "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="let the network work at this size, as in 360x480, whatever the image's; multiples of 8",
    )
    group.add_argument(
        "--confidence-threshold",
        type=float,
        default=default.confidence_threshold,
        metavar="P",
        help="leave pixels of a lower probability than this, 0 to 1, unlabelled (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=int, default=default.threads, metavar="N", help="CPU threads; 0: the runtime's choice"
    )
    group.add_argument(
        "--allow-random-weights",
        action="store_true",
        help="run a network without weights; its labels are noise",
    )


def need_ros(what: str, instead: str = "") -> None:
    """Make sure that ROS 2 is there, before any work that would be lost without.

    :param what: what it is needed for, as in "to play a recording"; ``instead``: what goes without
    :raises UserError: where it cannot be imported, or two are mixed
    """
    check_one_ros()
    # Importing it here is the check, and lets the wheels' start-up hook run before anything is opened.
    try:
        import rclpy  # noqa: F401

        import rt_seg_ros.msg  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{what}, ROS 2 is needed, and this Python cannot import '{error.name}': source your workspace's "
            f"setup.bash (or set up with `make setup`){instead and f'; {instead}'}"
        ) from error


def segmenter_config(args: argparse.Namespace, model: str | None = None) -> SegmenterConfig:
    """Make a config of what :func:`add_model_options` declared.

    :raises UserError: for a value out of range.
    """
    name = args.model if model is None else model
    height, width = args.size or (0, 0)
    if args.size:
        check_size("--size", args.size)
    if args.size and args.downsampling_ratio:
        raise UserError(f"--size {height}x{width} and --ratio {args.downsampling_ratio:g} both name a size; give one")
    config = SegmenterConfig(
        model=name,
        weights=chosen_weights(args, name),
        label_space=args.label_space,
        backend=args.backend,
        device=args.device,
        precision=args.precision,
        input_height=height,
        input_width=width,
        downsampling_ratio=args.downsampling_ratio,
        confidence_threshold=args.confidence_threshold,
        threads=args.threads,
        allow_random_weights=args.allow_random_weights,
    )
    config.check()
    return config
