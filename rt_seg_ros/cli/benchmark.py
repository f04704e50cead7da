"""``rt-seg benchmark``: how fast everything is here, against what people usually write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends import BACKENDS, PRECISIONS
from rt_seg_ros.benchmark.cases import INPUTS, OUTPUTS, Case, Grid, plan
from rt_seg_ros.benchmark.parts import measure_parts, parts_markdown, parts_table
from rt_seg_ros.benchmark.report import (
    check_picture,
    markdown,
    notes,
    save_csv,
    save_json,
    save_picture,
    table,
    undrawn,
)
from rt_seg_ros.benchmark.run import Effort, Result, measure
from rt_seg_ros.cli.console import unbounded_console
from rt_seg_ros.cli.options import add_weights_options, chosen_weights, need_ros, size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import check_apart, check_file, json_keys, write_bytes
from rt_seg_ros.networks import list_networks
from rt_seg_ros.png_marks import is_marked, marked
from rt_seg_ros.sources import open_source
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import list_models

SUMMARY = "measure the speed of networks, pipeline and node"
EPILOG = """\
what is measured
  (default)        the pipeline: a frame's bytes to labels and overlay, frame after frame
  --network-only   the network alone: planes to logits
  --parts          each step around the network by itself, against the naive way
  --node           the ROS 2 node over DDS: from publishing an image to receiving its label
Each is compared with the naive node, what is usually written around a network, at the same work and in the same run:
PyTorch in eager mode, numpy before and after. Every turn runs in a process of its own, and all cases take turns, so
leave the machine alone meanwhile. Options that take several values, with commas, measure every combination.

columns:
  median, p95      milliseconds a frame
  of naive         time over the naive node's; 0.33: three times as fast
  network          milliseconds inside the network; on a GPU by events on the device
  outside network  share of the time that is not the network's
  floor            least time for the network's multiply-adds on this machine
  in node          milliseconds from receiving an image to publishing the last output
  of pipeline      that over the pipeline's time for the same without ROS
  CPU              CPU time a frame, all cores together
  start            seconds from the start of a process to the first label
  memory           peak of the process

examples:
  rt-seg benchmark
  rt-seg benchmark --model all --allow-random-weights --size 360x480,720x960 --csv speed.csv --picture speed.png
  rt-seg benchmark --backend torch,openvino --precision fp32,bf16 --batch 1,4 --threads 1,2
  rt-seg benchmark --network-only --model csrnet_light --ratio 1,0.75,0.5 --allow-random-weights
  rt-seg benchmark --node --cameras 1,2,4
  rt-seg benchmark --markdown > speed.md

Ctrl-C after a whole round ends with what was measured until then; --parts keeps nothing.

exit status: 0 done; 1 some cases could not be measured; 2 none could; 130 interrupted
"""

_MARK = "rt-seg benchmark"
#: The mark in the language of each kind of picture that is text.
_COMMENTS = {".svg": f"<!-- {_MARK} -->\n".encode(), ".pdf": f"% {_MARK}\n".encode()}
_FRAMES = 8
_SEED = 2026  # the demo's street

#: Options that mean nothing to what is measured, with the reason; and those of which --parts takes one value.
_NOT_FOR = {
    "parts": (
        ("batch", "cameras", "input", "outputs", "naive", "seconds", "warm_up", "turn_limit", "csv", "json", "picture"),
        "shows steps by themselves, as a table or --markdown",
    ),
    "node": (("input", "outputs"), "takes raw images, and gives labels and the mask of a class"),
    "network_only": (("input", "outputs"), "goes from planes to logits"),
}
_ONE_FOR_PARTS = ("backend", "precision", "threads")

_WORDS: dict[object, str] = {int: "whole number", float: "number"}

Frames = Callable[[Size], Sequence[NDArray[np.uint8]]]
T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    kind = parser.add_argument_group("what to measure").add_mutually_exclusive_group()
    kind.add_argument("--network-only", action="store_true", help="the network alone")
    kind.add_argument("--parts", action="store_true", help="the steps around the network, one by one")
    kind.add_argument("--node", action="store_true", help="the ROS 2 node over DDS")
    grid = parser.add_argument_group("on what, and how; several values with commas")
    grid.add_argument(
        "--model", default="cgnet", metavar="NAMES",
        help="models, see rt-seg models; all: those with weights, with --allow-random-weights every network "
        "(default: %(default)s)",
    )  # fmt: skip
    grid.add_argument(
        "--size", type=_several(size), default=[(360, 480)], metavar="HxW", help="of the frames (default: 360x480)"
    )
    grid.add_argument(
        "--ratio", "--downsampling-ratio", type=_several(float), default=[1.0], metavar="G",
        help="size at which the network works over the frame's, up to 1 (the default); 0: as elsewhere by default",
    )  # fmt: skip
    grid.add_argument(
        "--backend", type=_several(_one_of(BACKENDS)), default=["auto"], metavar="NAMES",
        help=f"runtimes: {', '.join(BACKENDS)} (default: auto)",
    )  # fmt: skip
    grid.add_argument(
        "--precision", type=_several(_one_of(PRECISIONS)), default=["fp32"], metavar="NAMES",
        help=f"arithmetic: {', '.join(PRECISIONS)} (default: fp32)",
    )  # fmt: skip
    grid.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    grid.add_argument("--batch", type=_several(int), default=[1], metavar="N", help="frames in one go (default: 1)")
    grid.add_argument(
        "--threads", type=_several(int), default=[0], metavar="N",
        help="CPU threads of the network; 0: the runtime's choice (default: 0)",
    )  # fmt: skip
    grid.add_argument("--cameras", type=_several(int), default=[1], metavar="N", help="with --node (default: 1)")
    grid.add_argument(
        "--input", choices=INPUTS, default="jpeg", help="what the pipeline begins with (default: %(default)s)"
    )
    grid.add_argument(
        "--outputs", choices=OUTPUTS, default="overlay",
        help="what the pipeline makes: labels; besides them the mask of a class, or an overlay (default: %(default)s)",
    )  # fmt: skip
    grid.add_argument("--source", type=Path, metavar="PATH", help="frames: images, a video or a recorded drive "
                      "(default: a rendered street)")  # fmt: skip
    add_weights_options(grid)
    grid.add_argument("--label-space", default="", metavar="NAME", help="classes (default: the weights' own)")
    grid.add_argument(
        "--allow-random-weights", action="store_true",
        help="measure networks without weights; a network's speed does not depend on them",
    )  # fmt: skip
    grid.add_argument("--no-naive", dest="naive", action="store_false", help="without the naive node")
    how = parser.add_argument_group("how thoroughly")
    default = Effort()
    how.add_argument("--rounds", type=int, default=default.rounds, metavar="N", help="default: %(default)s")
    how.add_argument(
        "--seconds", type=float, default=default.seconds, metavar="S",
        help="how long a case is measured in a round (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--warm-up", type=float, default=default.warm_up, metavar="S",
        help="how long it runs before that (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--turn-limit", type=float, default=default.limit, metavar="S",
        help="how long a case may take in a round in all, with what its runtime builds first (default: %(default)g)",
    )  # fmt: skip
    out = parser.add_argument_group("what to make of it, besides the table")
    out.add_argument("--csv", type=Path, metavar="FILE", help="figures, a line for each case")
    out.add_argument("--json", type=Path, metavar="FILE", help="figures, and what they were measured on")
    out.add_argument("--picture", type=Path, metavar="FILE",
                     help="accuracy against speed, of what the models' scores are of (.png, .svg, .pdf)")  # fmt: skip
    out.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    _check_options(args)
    effort = Effort(args.rounds, args.warm_up, args.seconds, limit=args.turn_limit)
    effort.check()
    _check_one_file_each(args)
    planned = plan(_grid(args))
    for path, replaceable in ((args.csv, _is_csv), (args.json, _is_json), (args.picture, _is_picture)):
        if path is not None:
            check_apart(path, [args.source] if args.source is not None else [])
            check_file(path, replaceable)
    if args.picture is not None:
        check_picture(args.picture, planned)
    if args.node:
        need_ros("to measure the node", "without --node the pipeline is measured")
    frames = _source_frames(args.source) if args.source is not None else _rendered
    if args.parts:
        return _parts(args, planned.cases, frames, effort.rounds)
    # By name: what measures must not know what it measures with.
    modules = {
        "pipeline": "rt_seg_ros.benchmark.turn",
        "network": "rt_seg_ros.benchmark.turn",
        "node": "rt_seg_ros.ros.roundtrip",
    }
    result = measure(planned, frames, effort, modules, progress, floor=not args.node)  # type: ignore[arg-type]
    if args.picture is not None:
        result.remarks += undrawn(result)
    try:
        _print(result, args.markdown)
    finally:  # Ctrl-C also ends what this may be piped into
        for path, save in ((args.csv, save_csv), (args.json, save_json), (args.picture, _save_picture)):
            if path is not None:
                save(path, result)
    if result.stopped is not None:
        print(f"rt-seg benchmark: interrupted after {result.stopped} of {effort.rounds} rounds", file=sys.stderr)
        return 130
    return 1 if any(row.error for row in result.rows) else 0


def _print(result: Result, as_markdown: bool) -> None:
    if as_markdown:
        print(markdown(result), end="", flush=True)
        return
    console = unbounded_console()
    console.print(table(result, console.width))
    for note in notes(result):
        console.print(note, highlight=False, soft_wrap=True)


def _check_one_file_each(args: argparse.Namespace) -> None:
    """Refuse one file for two things, of which the second would replace the first.

    :raises UserError: naming both options
    """
    taken: dict[Path, str] = {}
    for name in ("csv", "json", "picture"):
        path = getattr(args, name)
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), name)
        if other != name:
            raise UserError(f"--{other} and --{name} are the same file, {path}: choose another for one of them")


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what the kind of measurement would ignore.

    :raises UserError: naming the options
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for kind, (names, reason) in _NOT_FOR.items():
        ignored = [name for name in names if getattr(args, name) != parser.get_default(name)]
        if getattr(args, kind) and ignored:
            options = ", ".join("--no-naive" if name == "naive" else f"--{name.replace('_', '-')}" for name in ignored)
            are, them = ("is", "it") if len(ignored) == 1 else ("are", "them")
            raise UserError(f"{options} {are} not for --{kind.replace('_', '-')}, which {reason}: leave {them} out")
    for name in _ONE_FOR_PARTS:
        if args.parts and len(getattr(args, name)) > 1:
            raise UserError(f"--{name} has several values; with --parts only --model, --size and --ratio may have")


def _parts(args: argparse.Namespace, cases: Sequence[Case], frames: Frames, rounds: int) -> int:
    found = measure_parts([case for case in cases if not case.naive], frames, 10 * rounds, progress)
    if args.markdown:
        print(parts_markdown(found), end="")
        return 0
    console = unbounded_console()
    console.print(parts_table(found))
    for remark in found.remarks:
        console.print(remark, highlight=False, soft_wrap=True)
    return 0


def _is_json(path: Path) -> bool:
    """Return whether a file holds figures of an earlier benchmark."""
    return {"machine", "effort", "rows"} <= json_keys(path)


def _is_csv(path: Path) -> bool:
    with path.open("rb") as file:
        return {b"model", b"median", b"p95"} <= set(file.readline(10_000).strip().split(b","))


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture that an earlier benchmark drew, and marked as its own."""
    comment = _COMMENTS.get(path.suffix.lower())
    return is_marked(path, _MARK) if comment is None else path.read_bytes().endswith(comment)


def _save_picture(path: Path, result: Result) -> None:
    """Draw the picture, and mark it as one that may be replaced."""
    save_picture(path, result)
    data, kind = path.read_bytes(), path.suffix.lower()
    write_bytes(path, marked(data, _MARK) if kind == ".png" else data + _COMMENTS.get(kind, b""))


def _grid(args: argparse.Namespace) -> Grid:
    models = _models(args.model, args.allow_random_weights)
    return Grid(
        mode="network" if args.network_only else "node" if args.node else "pipeline",
        models=models,
        sizes=args.size,
        ratios=args.ratio,
        backends=args.backend,
        precisions=args.precision,
        batches=args.batch,
        threads=args.threads,
        cameras=args.cameras,
        device=args.device,
        input=args.input,
        outputs=args.outputs,
        weights=chosen_weights(args, models[0]),
        label_space=args.label_space,
        allow_random_weights=args.allow_random_weights,
        naive=args.naive,
    )


def _models(text: str, random_weights: bool) -> list[str]:
    if text == "all":
        with_weights = [card.name for card in list_models()]
        if not random_weights and not with_weights:
            raise UserError("no model has weights yet; add --allow-random-weights to measure the networks without")
        return list(list_networks()) if random_weights else with_weights
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"--model is '{text}'; give a name, several with commas, or all")
    return names


def _rendered(wanted: Size) -> list[NDArray[np.uint8]]:
    street = SyntheticDrive(_SEED, *wanted)
    return [street.render(10 * i)[0] for i in range(_FRAMES)]


def _source_frames(path: Path) -> Frames:
    frames = [item.frame.bgr().copy() for item in islice(open_source(path), _FRAMES) if item.frame is not None]
    if not frames:
        raise UserError(f"{path} has no frame that can be read")
    return lambda wanted: frames


def _several(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return what reads values with commas between them, none of them twice."""

    def read(text: str) -> list[T]:
        values: dict[T, None] = {}
        for part in text.split(","):
            try:
                values[kind(part.strip())] = None
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"'{part.strip()}' is no {_WORDS[kind]}") from error
        return list(values)

    return read


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no '{text}'; there are: {', '.join(names)}")
        return text

    return read
