"""``rt-seg evaluate``: how good and how fast models are, on a data set or a recorded drive, with a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rt_seg_ros.cli.console import unbounded_console
from rt_seg_ros.cli.evaluation_job import Job, check_outputs, evaluate_models
from rt_seg_ros.cli.evaluation_tables import print_comparison, print_evaluation
from rt_seg_ros.cli.options import add_model_options, need_ros, segmenter_config
from rt_seg_ros.cli.output import for_who_reads
from rt_seg_ros.data.datasets import open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import NO_TRUTH, Frames, open_frames
from rt_seg_ros.evaluation.matching import DEFAULT_TOLERANCE, SPELLINGS
from rt_seg_ros.evaluation.report import metrics
from rt_seg_ros.files import write_json
from rt_seg_ros.labels import LabelSpace, load_label_space
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.recordings import is_recording
from rt_seg_ros.zoo import ModelCard, find_model, list_models

SUMMARY = "score models on a data set or a recorded drive, with a report"
EPILOG = f"""\
DATA is one of
  a drive       rosbag2 (folder, .mcap, .db3; compressed too), images raw or compressed. Its truth is a topic of
                label images (mono8), or a folder of them named by stamp:
                {SPELLINGS}
  CamVid        <split>/ with <split>annot/, in the SegNet layout; test/ with testannot/ alone will do
  Cityscapes    leftImg8bit/<split>/ with gtFine/<split>/
  pairs         images/ with labels/ (ids as grey values), with a folder per split or without

figures:
  IoU           pixels both true and predicted as a class, over pixels that are either; mIoU is its mean
  accuracy      share of a class's pixels that is found; of all pixels; and the mean over classes
  boundary F    how well the edges between classes lie where they should
  flicker       share of pixels whose label changes from frame to frame where the truth does not
  coverage      share of pixels with a label
  frames/s      speed of the whole pipeline (resizing, network, labels at the frame's size), without reading
Void is ignored, one matrix is summed over all frames, and a class without a single true positive counts 0.
A drive without truth gets everything but the scores.

offline, as it is by default, every frame is segmented, as fast as it goes. With --live the real ROS 2 node runs as a
process of its own, the drive is played to it over DDS at --rate, and what it publishes is recorded and scored.

examples:
  rt-seg evaluate drive.mcap --report result                 then open result/report.html
  rt-seg evaluate drive --model cgnet,csrnet_light --report result
  rt-seg evaluate drive --model all --truth labels/ --tolerance 0.02
  rt-seg evaluate drive --live --rate 0.5 --report result
  rt-seg evaluate drive --bag labelled.mcap                  the drive with labels, overlay, masks: to play, for RViz
  rt-seg evaluate camvid --split val --weights runs/mine/cgnet_camvid11.safetensors --report result
  rt-seg compare result other                                two results, frame by frame

exit status: 0 done; 1 done, but frames were lost, or something could not be read or written; 2 nothing was evaluated
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("data", type=Path, metavar="DATA", help="recorded drive, or data set folder")
    parser.add_argument(
        "--model", default=SegmenterConfig().model, metavar="NAME[,NAME...]",
        help="models, see rt-seg models; all: those with weights (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--split", metavar="NAME", help="part of a data set that has several: train, val, test...")
    drive = parser.add_argument_group("a drive")
    drive.add_argument("--topic", default="", metavar="TOPIC", help="image topic, where it has several")
    drive.add_argument(
        "--truth", default="", metavar="TOPIC|FOLDER",
        help=f"label topic, folder of label images named by stamp, or {NO_TRUTH} (default: the drive's label topic)",
    )  # fmt: skip
    drive.add_argument(
        "--tolerance", type=float, metavar="S",
        help=f"seconds that an image and its truth may lie apart (default: {DEFAULT_TOLERANCE})",
    )  # fmt: skip
    drive.add_argument("--live", action="store_true", help="play it to the real node, and score what that publishes")
    drive.add_argument(
        "--rate", type=float, metavar="R", help="of playing, times the recording's own speed (default: 1)"
    )
    output = parser.add_argument_group("what to write")
    output.add_argument("--report", type=Path, metavar="DIR", help="write report.html, figures, labels and video here")
    output.add_argument("--video", action=argparse.BooleanOptionalAction, help="the report's video (default: yes)")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, as JSON")
    output.add_argument(
        "--bag", type=Path, metavar="OUT.mcap",
        help="write the drive with the node's topics here; of several models OUT_NAME.mcap each",
    )  # fmt: skip
    output.add_argument("--overwrite", action="store_true", help="replace a --bag that is there")
    add_model_options(parser, several_models=True)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write what was asked for; return the exit status."""
    if args.rate is not None and not args.live:
        raise UserError("--rate is of playing: give it together with --live; offline every frame is segmented")
    if args.rate is not None and not 0 < args.rate <= 1000:
        raise UserError(f"--rate is {args.rate}; give a number above 0")
    if args.video is not None and args.report is None:
        raise UserError("--video and --no-video are of the report: give --report DIR, too")
    if args.overwrite and args.bag is None:
        raise UserError("--overwrite is of --bag: give that, too; a report and --json replace what they wrote before")
    if args.live:
        need_ros("to evaluate live", "without --live the drive is segmented here")
    models = choose_models(args)
    space = next(iter(models.values()))[1].load_label_space()
    _check_data(args, space)
    tolerance = DEFAULT_TOLERANCE if args.tolerance is None else args.tolerance
    frames = open_frames(args.data, space, args.split, args.topic, args.truth, tolerance)
    for option in ("live", "bag"):
        if getattr(args, option) and not frames.is_drive:
            raise UserError(f"--{option} needs a recorded drive; {args.data} is a data set")
    job = Job(
        frames, models, args.live, args.rate or 1.0, args.report, args.video is not False, args.bag, args.overwrite,
        shlex.join(["rt-seg", "evaluate", *sys.argv[2:]]) if sys.argv[1:2] == ["evaluate"] else "",
        _sources(args, frames),
    )  # fmt: skip
    check_outputs(job, args.json)
    if frames.damage:
        print(f"{frames.path}: {frames.damage}", file=sys.stderr)
    if frames.results:
        print(
            f"{frames.path}: {', '.join(frames.results)}: taken for labels of a node, which are no truth; if they are, "
            "name them (--truth TOPIC)",
            file=sys.stderr,
        )
    if frames.remark:
        print(f"{frames.path}: {frames.remark}", file=sys.stderr)

    evaluations, written = evaluate_models(job)
    # Before anything is printed: who ceases to read has the file.
    if args.json is not None:
        write_json(args.json, metrics(evaluations))
    with for_who_reads():
        _print(job, evaluations, written, args.json)
    problems = [*job.problems, *(f"{e.name}: {problem}" for e in evaluations for problem in e.problems)]
    problems += [
        f"{e.name}: {e.counts.unaccounted} frames unaccounted for, {e.counts.lost} lost on the way"
        for e in evaluations
        if e.counts.unaccounted or e.counts.lost
    ]
    for problem in problems:
        print(f"rt-seg evaluate: {problem}", file=sys.stderr)
    return 1 if problems or any(evaluation.damage for evaluation in evaluations) else 0


def _print(job: Job, evaluations: list[Evaluation], written: list[Path], figures: Path | None) -> None:
    console = unbounded_console()
    for evaluation in evaluations:
        print_evaluation(console, evaluation)
    if len(evaluations) > 1:
        print_comparison(console, evaluations)
    if figures is not None:
        print(f"figures: {figures}")
    if written:
        print(f"report: {', '.join(str(path) for path in written)}")
    for path in job.bags:
        if path.exists():
            print(f"recording: {path}")


def _check_data(args: argparse.Namespace, space: LabelSpace) -> None:
    """Refuse a file that is no recording, a tolerance that has nothing to do, and a data set of other classes."""
    path = args.data.expanduser()
    if path.is_file() and not is_recording(path):
        raise UserError(
            f"{path} is a file, and neither a data set's folder nor a recording (rosbag2: folder, .mcap, .db3); of "
            "images and videos there is no truth: see rt-seg segment"
        )
    if args.tolerance is not None and path.is_dir() and not is_recording(path):
        raise UserError(
            f"--tolerance is for recorded drives, whose truth is found by its stamps; {path} is a data set, where it "
            "is found by name: leave it out"
        )
    beside = path / "labels.yaml"
    if args.label_space or is_recording(path) or not beside.is_file():
        return
    try:
        told = load_label_space(beside)
    except UserError:
        return  # another program's, for all that is known
    if [name.casefold() for name in told.names] != [name.casefold() for name in space.names]:
        raise UserError(
            f"{beside} has other classes ({told.name}) than the model ({space.name}): give --weights of those classes, "
            "or say what the ids are with --label-space"
        )


def _sources(args: argparse.Namespace, frames: Frames) -> list[Path]:
    """Return the files and folders that are read: no output may replace them, or lie in such a folder."""
    root = frames.path
    if not frames.is_drive:
        dataset = open_dataset(root, args.split)
        files = (Path(name) for i in range(len(dataset)) for name in dataset.file_names(i))
        return [root / name for name in sorted({file.relative_to(root).parts[0] for file in files})]
    sources = sorted(path for path in root.iterdir() if path.is_file()) if root.is_dir() else [root]
    truth = Path(args.truth).expanduser()
    return [*sources, truth] if args.truth and truth.is_dir() else sources


def choose_models(args: argparse.Namespace) -> dict[str, tuple[SegmenterConfig, ModelCard]]:
    """Return the models that ``--model`` names, each with its config, before any is loaded.

    :raises UserError: a name or value that does not exist, or models of several label spaces
    """
    names = [name.strip() for name in args.model.split(",") if name.strip()]
    if not names:
        raise UserError("--model names no model; see rt-seg models")
    if "all" in names:
        if len(names) > 1:
            raise UserError("--model all goes alone")
        # A network's plain name stands for the best of its weights.
        wanted = args.label_space or None
        known = list_models()
        cards = [card for card in known if wanted in (None, card.label_space)]
        plain = {card.name: card.network for card in cards if card.name == f"{card.network}_{card.label_space}"}
        names = list(dict.fromkeys(plain.get(card.name, card.name) for card in cards))
        if not names and known:
            others = ", ".join(sorted({card.label_space for card in known}))
            raise UserError(f"there are no weights for label space '{wanted}', only for {others}; see rt-seg models")
        if not names:
            raise UserError("there are no weights yet; see rt-seg models")
    if args.weights and len(names) > 1:
        raise UserError("--weights is one file: give one --model with it")
    models: dict[str, tuple[SegmenterConfig, ModelCard]] = {}
    for name in names:
        config = segmenter_config(args, name)
        card = find_model(config.model, config.label_space, config.weights, config.allow_random_weights)
        if all(card != other for _, other in models.values()):
            models[card.name if args.weights else name] = config, card
    spaces = {card.label_space for _, card in models.values()}
    if len(spaces) > 1:
        raise UserError(
            f"these models speak several label spaces ({', '.join(sorted(spaces))}): their scores cannot be "
            "compared; choose those of one (--label-space)"
        )
    return models
