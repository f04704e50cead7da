"""``rt-seg evaluate``: how good and how fast models are, on a data set or a recorded drive, with a report."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rt_seg_ros.bags import BagWriter
from rt_seg_ros.cli.console import unbounded_console
from rt_seg_ros.cli.evaluation_tables import print_comparison, print_evaluation
from rt_seg_ros.cli.options import add_model_options, need_ros, segmenter_config
from rt_seg_ros.cli.output import for_who_reads
from rt_seg_ros.cli.progress import progress, progress_share
from rt_seg_ros.data.datasets import open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import NO_TRUTH, Frames, Message, open_frames
from rt_seg_ros.evaluation.matching import DEFAULT_TOLERANCE, SPELLINGS
from rt_seg_ros.evaluation.offline import STAGES as OFFLINE_STAGES
from rt_seg_ros.evaluation.offline import evaluate
from rt_seg_ros.evaluation.outputs import Outputs, Overlays, ResultBag, Sink
from rt_seg_ros.evaluation.recording import STAGES as LIVE_STAGES
from rt_seg_ros.evaluation.recording import evaluate_recording, write_result_bag
from rt_seg_ros.evaluation.report import ReportFolder, check_report, is_figures, live_folder, metrics, report_files
from rt_seg_ros.evaluation.stored import file_name
from rt_seg_ros.files import check_apart, check_file, check_folder, write_json
from rt_seg_ros.images import ImageRejected
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


@dataclass
class Job:
    """What is to be evaluated, and what is to be written.

    ``models``: config and card by the name that each goes by; ``sources``: files and folders that are read.
    """

    frames: Frames
    models: dict[str, tuple[SegmenterConfig, ModelCard]]
    live: bool = False
    rate: float = 1.0
    report: Path | None = None
    video: bool = True
    bag: Path | None = None
    overwrite: bool = False
    command: str = ""
    sources: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def bag_of(self, name: str) -> Path | None:
        """Return where a model's result bag goes."""
        if self.bag is None or len(self.models) == 1:
            return self.bag
        return self.bag.with_name(f"{self.bag.stem}_{file_name(name)}{self.bag.suffix}")

    @property
    def bags(self) -> list[Path]:
        """Where all models' result bags go; empty where none is wanted."""
        return [path for name in self.models if (path := self.bag_of(name)) is not None]


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
    _check_data(args)
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


def _check_data(args: argparse.Namespace) -> None:
    """Refuse a file that is no recording, and a tolerance that has nothing to do."""
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


def check_outputs(job: Job, figures: Path | None = None) -> None:
    """Refuse what cannot be written before any work is done.

    :raises UserError: what, and why
    """
    frame = _pixels(job.frames) * job.frames.total * len(job.models)
    files: list[Path] = []
    if job.report is not None:
        files = report_files(job.report, list(job.models), job.frames.is_drive, job.live)
        if job.frames.is_drive and job.report.resolve() == job.frames.path.resolve() and job.report.is_dir():
            raise UserError(f"--report {job.report} is the recording's own folder: choose another")
        check_report(files, job.sources)
        # About as much as labels (PNG), video and, live, the recording of raw topics come to.
        check_folder(job.report, round(frame * (0.4 if not job.live else 4.6)))
    if figures is not None:
        check_apart(figures, [source for source in job.sources if source.is_file()])
        check_file(figures, is_figures)
    for path in job.bags:
        check_apart(path, [*job.sources, job.frames.path])
        if path.resolve() in [file.resolve() for file in files]:
            raise UserError(f"--bag {path} is a file of the report; choose another name")
        BagWriter(path, overwrite=job.overwrite)
        # The source's own topics, and of the results the overlay above all.
        check_folder(path.absolute().parent, sum(file.stat().st_size for file in job.sources) + round(frame * 5.2))


def _pixels(frames: Frames) -> int:
    """Return the number of pixels of the first frame."""
    for item in frames:
        try:
            frame = item.frame()
        except ImageRejected:
            continue
        return frame.height * frame.width
    return 0


def evaluate_models(job: Job) -> tuple[list[Evaluation], list[Path]]:
    """Evaluate each model and write the report.

    Where a model fails after others are through, their report is written all the same.

    :return: what was measured, and the report's files
    :raises UserError: where the first one fails, or nothing can be written
    """
    evaluations: list[Evaluation] = []
    folder = None
    if job.report is not None:
        keep = [job.frames.path, *job.sources, *job.bags]
        stages = LIVE_STAGES if job.live else OFFLINE_STAGES
        folder = ReportFolder(job.report, list(job.models), stages, job.video, keep)
    try:
        for name in job.models:
            evaluations.append(_live(job, name, folder) if job.live else _offline(job, name, folder))
    except UserError as error:
        if not evaluations:
            if folder is not None:
                folder.discard()
            raise
        job.problems.append(f"{list(job.models)[len(evaluations)]} failed: {error}")
    except BaseException:
        if folder is not None and evaluations:
            folder.finish(evaluations, job.frames, job.command)
        elif folder is not None:
            folder.discard()
        raise
    try:
        return evaluations, folder.finish(evaluations, job.frames, job.command) if folder is not None else []
    except UserError as error:  # the figures are still to be told
        job.problems.append(str(error))
        return evaluations, []


def _offline(job: Job, name: str, folder: ReportFolder | None) -> Evaluation:
    config, card = job.models[name]
    space = card.load_label_space()
    overlays = Overlays(space)
    sinks: list[Sink] = folder.sinks(name, job.frames, space, overlays) if folder is not None else []
    bag = None
    if (path := job.bag_of(name)) is not None:
        bag = ResultBag(path, job.frames.path, space, overlays, config.confidence_threshold, job.overwrite)
        sinks.append(bag)
    table = folder.table if folder is not None else None
    watch = partial(progress, counts=lambda entry: not isinstance(entry, Message))
    evaluation = evaluate(name, config, job.frames, Outputs(*sinks), table, watch)
    if bag is not None:
        _tell_left_out(job, bag.path, bag.left_out)
    return evaluation


def _tell_left_out(job: Job, bag: Path, topics: set[str]) -> None:
    if topics:
        job.problems.append(f"{bag} lacks topics whose types are not known: {', '.join(sorted(topics))}")


def _live(job: Job, name: str, folder: ReportFolder | None) -> Evaluation:
    from rt_seg_ros.ros.live import run_live

    config, card = job.models[name]
    space = card.load_label_space()
    frames = job.frames
    with ExitStack() as stack:
        if folder is None:
            out = stack.enter_context(_passing_folder())
        else:
            out = live_folder(folder.path, name, folder.names)
        with progress_share(f"labels of {name}") as show:
            recorded = run_live(
                frames.path, out, frames.topic, _parameters(config), job.rate,
                watch=lambda done: show(done / max(frames.total, 1)), confidence=job.bag is not None,
            )  # fmt: skip
        sinks = folder.sinks(name, frames, space, Overlays(space)) if folder is not None else []
        table = folder.table if folder is not None else None
        try:
            evaluation = evaluate_recording(name, card, space, frames, recorded, Outputs(*sinks), table)
        except UserError as error:
            raise UserError(f"{error}; the node's log is {out / 'node.log'}") from error
        if (path := job.bag_of(name)) is not None:
            try:
                threshold = config.confidence_threshold
                _tell_left_out(job, path, write_result_bag(path, frames, recorded, space, threshold, job.overwrite))
            except UserError as error:
                evaluation.problems.append(f"the result bag was given up: {error}")
    return evaluation


@contextmanager
def _passing_folder() -> Iterator[Path]:
    """Make a folder that goes with the end, but for the node's log where that tells of an error."""
    out = Path(tempfile.mkdtemp(prefix="rt_seg_ros_"))
    log = out / "node.log"
    told = b""
    try:
        yield out
    except UserError as error:
        told = log.read_bytes() if str(log) in str(error) and log.is_file() else b""
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)
        if told:
            out.mkdir(0o700)
            log.write_bytes(told)


def _parameters(config: SegmenterConfig) -> dict[str, object]:
    """Return the node's parameters that say what a config does."""
    default = SegmenterConfig()
    return {
        "model": config.model,
        **{name: value for name, value in vars(config).items() if value != getattr(default, name) and name != "model"},
    }
