"""What ``rt-seg evaluate`` and ``rt-seg demo`` do: models over the same frames, offline or live, and reports."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rt_seg_ros.bags import BagWriter
from rt_seg_ros.cli.progress import progress, progress_share
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import Frames, Message
from rt_seg_ros.evaluation.offline import STAGES as OFFLINE_STAGES
from rt_seg_ros.evaluation.offline import evaluate
from rt_seg_ros.evaluation.outputs import Outputs, Overlays, ResultBag, Sink
from rt_seg_ros.evaluation.recording import STAGES as LIVE_STAGES
from rt_seg_ros.evaluation.recording import evaluate_recording, write_result_bag
from rt_seg_ros.evaluation.report import ReportFolder, check_report, is_figures, live_folder, report_files
from rt_seg_ros.evaluation.stored import file_name
from rt_seg_ros.files import check_apart, check_file, check_folder
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.zoo import ModelCard


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
