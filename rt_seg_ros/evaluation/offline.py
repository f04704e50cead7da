"""Evaluating a model offline: every frame through the pipeline itself, as fast as it goes.

Reading and decoding, scoring, and writing run on threads of their own beside the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import Frames, Item, Message
from rt_seg_ros.evaluation.outputs import FrameResult, FrameTable, Outputs
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.evaluation.statistics import Distribution
from rt_seg_ros.evaluation.usage import Meter, gpu_memory_mib, gpu_number, machine
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.overlap import Background, prefetch
from rt_seg_ros.pipeline import Segmentation, Segmenter, SegmenterConfig

#: Is handed (the frames, what is done, their number) and passes them on, as a progress bar does.
Watch = Callable[[Iterable["Entry"], str, int], Iterable["Entry"]]

STAGES = ("decode", "preprocess", "network", "postprocess", "total")
_AHEAD = 4


@dataclass(frozen=True)
class _Decoded:
    item: Item
    frame: Frame
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    decode_ms: float


@dataclass(frozen=True)
class _Rejected:
    item: Item
    error: ImageRejected


Entry = _Decoded | _Rejected | Message


def evaluate(
    name: str,
    config: SegmenterConfig,
    frames: Frames,
    outputs: Outputs | None = None,
    table: FrameTable | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Segment every frame, score those that have truth.

    :param name: what the model is called in the results
    :param outputs: what is written besides; entered and left here
    :param table: takes a row for each frame
    :raises UserError: a config that cannot be had, what the frames cannot be read for, or not one frame
    """
    frames.check()
    before = gpu_memory_mib(gpu_number(config.device) or 0) if config.device != "cpu" else None
    begin = time.perf_counter()
    segmenter = Segmenter(config)
    segmenter.backend.live = False  # here frames wait, and all are to be segmented by one and the same
    loaded = time.perf_counter() - begin
    gpu = gpu_number(segmenter.device)
    evaluation = Evaluation(
        name=name,
        card=segmenter.card,
        space=segmenter.label_space,
        data=frames.name,
        path=str(frames.path),
        topic=frames.topic,
        mode="offline",
        scores=Scores(segmenter.label_space.num_classes, in_sequence=frames.is_drive),
        backend=segmenter.backend_name,
        device=segmenter.device,
        precision=segmenter.precision,
        truth=frames.truth_name,
        load_seconds=loaded,
        machine=machine(gpu),
    )
    outputs = outputs or Outputs()
    meter = Meter(gpu_before_mib=before if gpu is not None else None, gpu=gpu or 0)
    if table is not None:
        table.begin(frames.rate)
    run = _Run(evaluation, segmenter, outputs, table)
    with meter:
        with outputs, Background(workers=1, depth=_AHEAD) as scorer:
            entries: Iterable[Entry] = prefetch(_decoded(frames, outputs.wants_messages), _AHEAD)
            for entry in watch(entries, f"evaluate {name}", frames.total) if watch else entries:
                if isinstance(entry, Message):
                    outputs.take(entry)
                elif isinstance(entry, _Rejected):
                    run.reject(entry.item, entry.error)
                else:
                    run.segment(entry, scorer)
        if run.started is not None:
            evaluation.seconds = time.perf_counter() - run.started
    evaluation.backend, evaluation.device = segmenter.backend_name, segmenter.device
    evaluation.precision = segmenter.precision
    evaluation.usage = meter.usage
    evaluation.add_outcome(frames, outputs.problems)
    evaluation.stages["total"] = evaluation.stages.pop("total", Distribution())  # the sum stands last
    if not evaluation.counts.processed:
        raise UserError(
            f"{frames.path} has no frame that can be segmented: {evaluation.counts.played} images, of which "
            f"{evaluation.counts.rejected} cannot be used{f' ({evaluation.reasons})' if evaluation.reasons else ''}"
        )
    return evaluation


class _Run:
    """What is done with each frame."""

    def __init__(
        self, evaluation: Evaluation, segmenter: Segmenter, outputs: Outputs, table: FrameTable | None
    ) -> None:
        self._evaluation = evaluation
        self._segmenter = segmenter
        self._outputs = outputs
        self._table = table
        self.started: float | None = None

    def reject(self, item: Item, error: ImageRejected) -> None:
        evaluation = self._evaluation
        evaluation.counts.played += 1
        evaluation.counts.received += 1
        evaluation.counts.rejected += 1
        evaluation.note_rejected(item, error)

    def segment(self, entry: _Decoded, scorer: Background) -> None:
        evaluation, frame = self._evaluation, entry.frame
        try:
            asked = time.perf_counter()
            self._segmenter.warm_up_for(frame, self._outputs.wants_confidence)
            begin = time.perf_counter()
            self.started = begin if self.started is None else self.started + begin - asked
            segmentation = self._segmenter.segment(frame, confidence=self._outputs.wants_confidence)
        except ImageRejected as error:
            self.reject(entry.item, error)
            return
        seconds = time.perf_counter() - begin
        counts = evaluation.counts
        counts.played += 1
        counts.received += 1
        counts.processed += 1
        evaluation.busy_seconds += seconds
        evaluation.count_size((frame.height, frame.width), segmentation.working_size)
        timings = {"decode": entry.decode_ms, **segmentation.timings, "total": seconds * 1e3}
        evaluation.add_stages(timings)
        scorer.submit(self._score, entry, segmentation.labels, timings)
        self._outputs.take(
            FrameResult(
                item=entry.item,
                labels=segmentation.labels,
                image=entry.image,
                confidence=segmentation.confidence,
                stats=self._stats(entry, segmentation, timings) if self._outputs.wants_messages else None,
            )
        )

    def _score(self, entry: _Decoded, labels: NDArray[np.uint8], timings: dict[str, float]) -> None:
        begin = time.thread_time()
        scores = self._evaluation.scores.update(labels, entry.truth)
        if entry.truth is not None:
            self._evaluation.scoring.add((time.thread_time() - begin) * 1e3)
        if self._table is not None:
            self._table.add(self._evaluation.name, entry.item, scores, timings)

    def _stats(self, entry: _Decoded, segmentation: Segmentation, timings: dict[str, float]) -> dict[str, object]:
        evaluation, counts = self._evaluation, self._evaluation.counts
        working = segmentation.working_size
        return {
            "model": evaluation.card.name,
            "label_space": evaluation.space.name,
            "backend": evaluation.backend,
            "device": evaluation.device,
            "precision": evaluation.precision,
            "image_height": entry.frame.height,
            "image_width": entry.frame.width,
            "working_height": working[0],
            "working_width": working[1],
            **{f"{stage}_ms": timings.get(stage, 0.0) for stage in STAGES},
            "received": counts.received,
            "processed": counts.processed,
            "rejected": counts.rejected,
        }


def _decoded(frames: Frames, with_messages: bool) -> Iterator[Entry]:
    """Decode image and truth of each frame; on the thread that fetches ahead."""
    for entry in frames.with_messages() if with_messages else frames:
        if isinstance(entry, Message):
            yield entry
            continue
        begin = time.perf_counter()
        try:
            frame = entry.frame()
        except ImageRejected as error:
            yield _Rejected(entry, error)
            continue
        milliseconds = (time.perf_counter() - begin) * 1e3
        yield _Decoded(entry, frame, frame.bgr(), entry.truth((frame.height, frame.width)), milliseconds)
