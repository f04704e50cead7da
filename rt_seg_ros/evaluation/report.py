"""What an evaluation leaves in its folder: the page, the figures, a row for each frame, labels and videos.

Everything is written aside and moved into place, the page last; then what only an earlier report wrote is removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rt_seg_ros.bags import open_bag
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import Frames
from rt_seg_ros.evaluation.outputs import SCORE_COLUMNS, FrameTable, Overlays, OverlayVideo, Sink, StoredLabelsSink
from rt_seg_ros.evaluation.page import Content, report_page
from rt_seg_ros.evaluation.pictures import Choice, Rows, choose, make_pictures, read_rows
from rt_seg_ros.evaluation.stored import BAG_SUFFIX, LabelFolder, file_name
from rt_seg_ros.files import check_apart, check_folder, json_keys, write_json, write_text
from rt_seg_ros.labels import LabelSpace

PAGE, METRICS, TABLE = "report.html", "metrics.json", "per_frame.csv"
RECORDING = "result.mcap"  # of a live run


@dataclass
class ReportFolder:
    """The folder of a report while its evaluations run.

    :param path: is made where it is missing
    :param names: of the models to come
    :param stages: of which milliseconds are kept frame by frame
    :param keep: files and folders that are never removed, though an earlier report wrote them
    :raises UserError: the folder cannot be made or written to
    """

    path: Path
    names: Sequence[str]
    stages: tuple[str, ...]
    video: bool = True
    keep: Sequence[Path] = ()
    table: FrameTable = field(init=False)
    _labels: dict[str, StoredLabelsSink] = field(default_factory=dict, init=False)
    _videos: dict[str, OverlayVideo] = field(default_factory=dict, init=False)
    _former: set[Path] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        check_folder(self.path)
        self._former = _files_of_former(self.path)
        self.table = FrameTable(self.path / TABLE, self.stages)

    def sinks(self, name: str, frames: Frames, space: LabelSpace, overlays: Overlays) -> list[Sink]:
        """Return what is to be written while a model runs."""
        ending = _ending(name, self.names)
        sinks: list[Sink] = []
        self._labels[name] = StoredLabelsSink(self.path, f"labels{ending}", space, frames.is_drive)
        sinks.append(self._labels[name])
        if self.video and frames.is_drive:
            self._videos[name] = OverlayVideo(self.path / f"overlay{ending}.mp4", frames.rate, overlays)
            sinks.append(self._videos[name])
        return sinks

    def discard(self) -> None:
        """Leave nothing of a run that failed before its first model was through."""
        self.table.discard()

    def finish(self, evaluations: Sequence[Evaluation], frames: Frames, command: str = "") -> list[Path]:
        """Write the page and the figures of the models that are through.

        :param frames: the source, which is read once more for the pictures
        :param command: by which the run can be repeated
        :return: the files and folders
        :raises UserError: where the page or the figures cannot be written
        """
        if self.table.problem:
            evaluations[-1].problems.append(self.table.problem)
        whole = True
        try:
            self.table.close()
        except UserError as error:
            evaluations[-1].problems.append(str(error))
            whole = False
        videos = {name: sink.path for name, sink in self._videos.items() if sink.complete and sink.path.is_file()}
        labels = {name: sink.path for name, sink in self._labels.items() if sink.complete}
        for evaluation in evaluations:
            for what, places in (("labels", labels), ("video", videos)):
                if evaluation.name in places:
                    evaluation.stored[what] = places[evaluation.name].name
        content = Content(evaluations, videos={name: path.name for name, path in videos.items()}, command=command)
        if whole:
            self._add_frames(content, frames, labels)
        write_text(self.path / PAGE, report_page(content))  # what needs most room first, as both are to be of one run
        write_json(self.path / METRICS, metrics(evaluations))
        paths = [self.path / PAGE, self.path / METRICS, self.path / TABLE, *videos.values(), *labels.values()]
        if whole:
            self._remove_former(evaluations, paths)
        return [path for path in paths if path.exists()]

    def _remove_former(self, evaluations: Sequence[Evaluation], own: Sequence[Path]) -> None:
        """Remove what an earlier report wrote and this one did not: it would lie beside the figures of others."""
        live = self.names if evaluations[0].mode == "live" else []
        recordings = [live_folder(self.path, name, self.names) / RECORDING for name in live]
        kept = {path.resolve() for path in (*own, *recordings, *self.keep)}
        for path in self._former:
            place = path.resolve()
            if place in kept or any(place in other.parents for other in kept) or not _is_of_a_report(path):
                continue
            try:
                for file in sorted(path.iterdir()) if path.is_dir() else []:
                    file.unlink()
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError as error:
                problem = f"{path} is of an earlier report, and cannot be removed: {error.strerror}"
                evaluations[-1].problems.append(problem)

    def _add_frames(self, content: Content, frames: Frames, labels: Mapping[str, Path]) -> None:
        evaluations = content.evaluations
        stages = [f"{stage}_ms" for stage in self.stages if stage in ("total", "age")]
        found = read_rows(self.path / TABLE, ["seconds", *SCORE_COLUMNS, *stages])
        rows = {e.name: found[e.name] for e in evaluations if e.name in found}
        content.rows = rows
        stored = {name: path for name, path in labels.items() if name in rows}
        several = len(evaluations) > 1
        chosen = {
            name: choose(rows[name].frame, rows[name].columns["miou"], worst=2 if several else 3) for name in stored
        }
        shared = _shared([rows[name] for name in stored]) if several and stored else []
        wanted = {name: {c.index for c in [*chosen[name], *shared]} for name in stored}
        content.chosen, content.shared = chosen, shared
        if stored:
            content.pictures = make_pictures(frames, evaluations[0].space, stored, rows, wanted)


def _shared(rows: Sequence[Rows]) -> list[Choice]:
    """Choose frames that all models have segmented, by the mean of their scores."""
    common = rows[0].frame
    for other in rows[1:]:
        common = np.intersect1d(common, other.frame)
    if not len(common):
        return []
    scores = np.mean([one.columns["miou"][np.searchsorted(one.frame, common)] for one in rows], axis=0)
    return choose(common, scores, worst=2)


def metrics(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return all figures: those of the model, or of several under ``models``."""
    if len(evaluations) == 1:
        return evaluations[0].to_dict()
    first = evaluations[0]
    return {"data": first.data, "mode": first.mode, "models": [e.to_dict() for e in evaluations]}


def report_files(folder: Path, names: Sequence[str], is_drive: bool, live: bool = False) -> list[Path]:
    """Return what a report puts into its folder, logs left out.

    :param names: of the models
    """
    files = [folder / PAGE, folder / METRICS, folder / TABLE]
    for name in names:
        ending = _ending(name, names)
        files.append(folder / f"labels{ending}{BAG_SUFFIX if is_drive else ''}")
        if is_drive:
            files.append(folder / f"overlay{ending}.mp4")
        if live:
            files.append(live_folder(folder, name, names) / RECORDING)
    return files


def _ending(name: str, names: Sequence[str]) -> str:
    """Return what tells a model's files from the others'; nothing where there is one."""
    return f"_{file_name(name)}" if len(names) > 1 else ""


def live_folder(folder: Path, name: str, names: Sequence[str]) -> Path:
    """Return where the recording and the logs of a model's live run go."""
    return folder / f"live_{file_name(name)}" if len(names) > 1 else folder


def _files_of_former(folder: Path) -> set[Path]:
    """Return the labels, videos and recordings in a folder that the report there wrote, by what its figures tell."""
    try:
        told = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        every = told.get("models", [told])
        names = [str(one["name"]) for one in every]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()
    endings = ["", *(f"_{file_name(name)}" for name in names)]
    own = {name for e in endings for name in (f"labels{e}", f"labels{e}{BAG_SUFFIX}", f"overlay{e}.mp4")}
    files = {folder / name for one in every for what in ("labels", "video") if (name := str(one.get(what))) in own}
    if any(one.get("mode") == "live" for one in every):
        files |= {folder / RECORDING, *(folder / f"live{ending}" / RECORDING for ending in endings)}
    return {path for path in files if os.path.exists(path) and _is_of_a_report(path)}


def check_report(files: Sequence[Path], sources: Sequence[Path] = ()) -> None:
    """Refuse a report that would replace what is evaluated, or what no earlier report wrote.

    :param files: see :func:`report_files`
    :param sources: files and folders of what is evaluated
    :raises UserError: the path, and what to do
    """
    for path in files:
        check_apart(path, sources)
    for path in files:
        if os.path.exists(path) and not _is_of_a_report(path):
            raise UserError(
                f"{path} is not replaced: no earlier report wrote it; choose another folder for the report, or move "
                "it away"
            )


def is_figures(path: Path) -> bool:
    """Return whether a file holds an evaluation's figures, as JSON."""
    return {"data", "mode"} < json_keys(path) and bool({"models", "frames_scored"} & json_keys(path))


def _is_of_a_report(path: Path) -> bool:
    """Return whether an earlier report, also one that was broken off, wrote what is there."""
    if path.is_dir():
        return path.suffix != BAG_SUFFIX and LabelFolder.wrote(path)
    whole = is_figures(path.parent / METRICS)
    if path.suffix != BAG_SUFFIX:
        return whole
    try:
        with open_bag(path) as bag:
            topics = set(bag.topics)
    except UserError:
        return False
    if path.name == RECORDING:  # a live run's log is there from its beginning
        return (path.parent / "node.log").is_file() and all(t.startswith(f"{DEFAULT_NAMESPACE}/") for t in topics)
    own = {f"{DEFAULT_NAMESPACE}/{name}" for name in ("label_info", "label/compressed")}
    return topics <= own and (whole or not topics)
