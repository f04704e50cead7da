"""Evaluating what a node published while a drive was played to it: a live run, recorded.

The node saw stamps of its own time; a table from those to the stamps in the drive puts the two together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rt_seg_ros.bags import BagReader, BagWriter, open_bag
from rt_seg_ros.bags.cdr import restamped, stamp_of
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE, ResultTopics
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import Frames, Item, Message
from rt_seg_ros.evaluation.outputs import FrameResult, FrameTable, Outputs
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.evaluation.usage import Usage, gpu_number, machine
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.zoo import ModelCard

STAGES = ("wait", "decode", "preprocess", "network", "postprocess", "publish", "total", "age")
NODE = DEFAULT_NAMESPACE
#: Frames whose messages may be on their way at once.
_OPEN_FRAMES = 8


@dataclass(frozen=True)
class Recorded:
    """A live run: what the node published, and how its stamps go with the drive's.

    ``stamps``: from the stamp a frame was played under to the one in the drive (ns), in the order of playing.
    """

    recording: Path
    stamps: Mapping[int, int]
    rate: float = 1.0
    load_seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)


def evaluate_recording(
    name: str,
    card: ModelCard,
    space: LabelSpace,
    frames: Frames,
    live: Recorded,
    outputs: Outputs | None = None,
    table: FrameTable | None = None,
) -> Evaluation:
    """Score a recording of the node's topics against the drive that was played to it.

    :param card: of the model that the node ran
    :param space: its label space, in which the truth is too
    :param frames: the drive
    :raises UserError: where a recording cannot be read, or the node published no label
    """
    evaluation = Evaluation(
        name=name,
        card=card,
        space=space,
        data=frames.name,
        path=str(frames.path),
        topic=frames.topic,
        mode="live",
        scores=Scores(space.num_classes, in_sequence=True),
        rate=live.rate,
        truth=frames.truth_name,
        load_seconds=live.load_seconds,
        usage=live.usage,
    )
    evaluation.counts.played = len(live.stamps)
    if table is not None:
        table.begin()
    outputs = outputs or Outputs()
    first_arrival: int | None = None
    last_arrival = 0
    with open_bag(live.recording) as bag, outputs:
        items = iter(frames)
        item = next(items, None)
        for published, parts in _by_frame(bag):
            stats = _stats(evaluation, bag, parts)
            arrived, labels = _labels(bag, parts)
            stamp = live.stamps.get(published)
            if labels is None or stamp is None:
                continue
            first_arrival = arrived if first_arrival is None else first_arrival
            last_arrival = arrived
            while item is not None and item.stamp_ns < stamp:
                item = next(items, None)
            if item is None:
                break
            if item.stamp_ns != stamp:
                continue
            timings = {stage: float(stats[f"{stage}_ms"]) for stage in STAGES} if stats is not None else {}
            scores = evaluation.scores.update(labels, item.truth((labels.shape[0], labels.shape[1])))
            if table is not None:
                table.add(name, item, scores, timings)
            outputs.take(FrameResult(item, labels, overlay=_image(bag, parts, "overlay"), timings=timings))
        for _ in items:  # so that the truth of frames without a label is counted too
            pass
    gpu = gpu_number(evaluation.device)
    evaluation.machine = machine(gpu)
    if gpu is None:
        evaluation.usage = replace(live.usage, gpu_memory_mib=None)
    evaluation.matching = replace(frames.matching)
    evaluation.damage = frames.damage
    evaluation.problems += outputs.problems
    if first_arrival is not None and evaluation.counts.processed > 1:
        # From the first result to the last there is one frame less.
        evaluation.seconds = (last_arrival - first_arrival) / 1e9
        evaluation.seconds *= evaluation.counts.processed / (evaluation.counts.processed - 1)
    if not evaluation.scores.frames:
        raise UserError("the node published no label")
    return evaluation


def _by_frame(bag: BagReader) -> Iterator[tuple[int, dict[str, tuple[str, int, bytes]]]]:
    """Yield (stamp, messages by the last part of their topic) of each frame; stats come last of a frame."""
    wanted = [t for t in (f"{NODE}/label", f"{NODE}/overlay", f"{NODE}/stats") if t in bag.topics]
    open_frames: dict[int, dict[str, tuple[str, int, bytes]]] = {}
    for topic, kind, recorded, data in bag.raw_messages(wanted):
        stamp = stamp_of(data)
        part = topic.rsplit("/", 1)[1]
        open_frames.setdefault(stamp, {})[part] = kind, recorded, data
        if len(open_frames[stamp]) == len(wanted) or len(open_frames) > _OPEN_FRAMES:
            complete = stamp if len(open_frames[stamp]) == len(wanted) else next(iter(open_frames))
            yield complete, open_frames.pop(complete)
    yield from open_frames.items()


def _labels(bag: BagReader, parts: Mapping[str, tuple[str, int, bytes]]) -> tuple[int, Any]:
    if "label" not in parts:
        return 0, None
    kind, recorded, data = parts["label"]
    return recorded, bag.decode_labels(f"{NODE}/label", kind, recorded, data)


def _image(bag: BagReader, parts: Mapping[str, tuple[str, int, bytes]], part: str) -> Any:
    if part not in parts:
        return None
    kind, recorded, data = parts[part]
    return bag.decode_image(f"{NODE}/{part}", kind, recorded, data).frame.bgr()


def _stats(
    evaluation: Evaluation, bag: BagReader, parts: Mapping[str, tuple[str, int, bytes]]
) -> Mapping[str, Any] | None:
    """Count what the node says of a frame."""
    if "stats" not in parts:
        return None
    kind, _, data = parts["stats"]
    stats: dict[str, Any] = vars(bag.types.deserialize_cdr(data, kind))
    counts = evaluation.counts
    if stats["received"] >= counts.received:  # the last one holds the final count
        counts.received, counts.processed = int(stats["received"]), int(stats["processed"])
        counts.dropped, counts.rejected = int(stats["dropped"]), int(stats["rejected"])
    evaluation.backend, evaluation.device, evaluation.precision = stats["backend"], stats["device"], stats["precision"]
    timings = {stage: float(stats[f"{stage}_ms"]) for stage in STAGES}
    evaluation.add_stages(timings)
    evaluation.busy_seconds += sum(timings[stage] for stage in ("preprocess", "network", "postprocess")) / 1e3
    evaluation.count_size(
        (int(stats["image_height"]), int(stats["image_width"])),
        (int(stats["working_height"]), int(stats["working_width"])),
    )
    return stats


def write_result_bag(path: Path, frames: Frames, live: Recorded, space: LabelSpace, overwrite: bool = False) -> None:
    """Write a drive's topics and what the node published to them, with the drive's stamps and times of recording.

    :raises UserError: where it cannot be written
    """
    with open_bag(frames.path) as source, open_bag(live.recording) as bag, BagWriter(path, overwrite=overwrite) as out:
        topics = ResultTopics(out, space)
        answers = _Answers(bag, live.stamps)
        for entry in frames.with_messages():
            if isinstance(entry, Message):
                if not entry.topic.startswith(f"{NODE}/") and entry.type in source.types.fielddefs:
                    out.write_raw(entry.topic, entry.type, entry.data, entry.recorded_ns, types=source.types)
                continue
            for topic, kind, data in answers.to(entry):
                topics.add_label_info(entry.stamp_ns, entry.frame_id, entry.recorded_ns)
                out.write_raw(topic, kind, restamped(data, entry.stamp_ns), entry.recorded_ns, types=bag.types)


class _Answers:
    """The node's messages frame by frame, in the order of the drive."""

    def __init__(self, bag: BagReader, stamps: Mapping[int, int]) -> None:
        self._messages = bag.raw_messages()
        self._stamps = stamps
        self._next = next(self._messages, None)

    def to(self, item: Item) -> Iterator[tuple[str, str, bytes]]:
        """Yield (topic, type, message) of what answers a frame."""
        while self._next is not None:
            topic, kind, _, data = self._next
            stamp = self._stamps.get(stamp_of(data), -1)
            if stamp > item.stamp_ns:
                return
            if stamp == item.stamp_ns:
                yield topic, kind, data
            self._next = next(self._messages, None)
