"""Evaluating what a node published while a drive was played to it: a live run, recorded.

The node saw stamps of its own time; the list of those, in the order of playing, puts the two together again. Stamps in
the drive need not rise for that, nor be there at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rt_seg_ros.bags import BagReader, BagWriter, open_bag
from rt_seg_ros.bags.cdr import restamped, stamp_of
from rt_seg_ros.bags.results import DEFAULT_NAMESPACE, ResultTopics
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.frames import Frames, Item, Message
from rt_seg_ros.evaluation.outputs import FrameResult, FrameTable, Outputs, SourceTopics
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.evaluation.usage import Usage, gpu_number, machine
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.zoo import ModelCard

STAGES = ("wait", "decode", "preprocess", "network", "postprocess", "publish", "total", "age")
NODE = DEFAULT_NAMESPACE
#: Topics below the node's on which it publishes once a frame.
_OUTPUTS = ("label", "overlay", "confidence", "class_masks", "stats")
#: Frames whose messages may be on their way at once.
_OPEN_FRAMES = 8

#: What the node published of one frame: (type, time of recording, message) by the last part of the topic.
_Parts = dict[str, tuple[str, int, bytes]]


@dataclass(frozen=True)
class Recorded:
    """A live run: what the node published, and to what.

    ``recording``: rosbag2 of the node's outputs; ``stamps``: those under which the drive's frames were played (ns), in
    the order of playing; ``rate``: of playing, 1: as it was recorded; ``load_seconds``: from the start of the node's
    process until it served; ``usage``: what that process took while it was played to.
    """

    recording: Path
    stamps: Sequence[int]
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
        table.begin(frames.rate)
    outputs = outputs or Outputs()
    unmatched = 0
    first_arrival: int | None = None
    last_arrival = 0
    first_took = 0.0
    with open_bag(live.recording) as bag, outputs:
        items = iter(frames)
        item = next(items, None)
        for place, parts in _answers(bag, live.stamps, ("label", "overlay", "stats")):
            stats = _stats(evaluation, bag, parts)
            if "label" not in parts:
                continue
            kind, arrived, data = parts["label"]
            if first_arrival is None:
                first_arrival, first_took = arrived, stats["total_ms"] / 1e3 if stats is not None else 0.0
            last_arrival = arrived
            while item is not None and place is not None and item.index < place:
                _look_for_rejected(evaluation, item, evaluation.counts.rejected)
                item = next(items, None)
            if item is None or item.index != place:
                unmatched += 1
                continue
            labels = bag.decode_labels(f"{NODE}/label", kind, data)
            timings = {stage: float(stats[f"{stage}_ms"]) for stage in STAGES} if stats is not None else {}
            scores = evaluation.scores.update(labels, item.truth((labels.shape[0], labels.shape[1])))
            if table is not None:
                table.add(name, item, scores, timings)
            outputs.take(FrameResult(item, labels, overlay=_image(bag, parts, "overlay")))
        # To the end, so that the truth of frames without a label is counted too. What the node rejected after its last
        # label it has told nobody: it stands among the lost.
        unknown = evaluation.counts.rejected + evaluation.counts.lost
        for item in items:
            _look_for_rejected(evaluation, item, unknown)
    gpu = gpu_number(evaluation.device)
    evaluation.machine = machine(gpu)
    if gpu is None:
        evaluation.usage = replace(live.usage, gpu_memory_mib=None)
    evaluation.add_outcome(frames, outputs.problems)
    if first_arrival is not None and evaluation.counts.processed > 1:
        # From the first result to the last there is one frame less, unless that one took longer than a frame's share.
        between = (last_arrival - first_arrival) / 1e9
        evaluation.seconds = between + max(first_took, between / (evaluation.counts.processed - 1))
    if unmatched:
        evaluation.problems.append(
            f"{unmatched} labels of the node are left out, as their stamps do not tell which frames they belong to"
        )
    if not evaluation.scores.frames:
        raise UserError(evaluation.problems[-1] if unmatched else "the node published no label")
    return evaluation


def _look_for_rejected(evaluation: Evaluation, item: Item, number: int) -> None:
    """Try a frame that has no label, as long as less than ``number`` were found for which the node had a reason."""
    if sum(evaluation.rejections.values()) < number:
        try:
            item.frame()
        except ImageRejected as error:
            evaluation.note_rejected(item, error)


def _answers(bag: BagReader, played: Sequence[int], names: Collection[str]) -> Iterator[tuple[int | None, _Parts]]:
    """Yield (index of the frame, messages) of each frame that the node answered, by rising index.

    The index counts the frames as they were played, which is their order in the drive. It is None where the stamp
    does not tell it: nothing or more than one frame was played under it, or the answer comes after a later frame's.

    :param names: of the topics that are wanted, below the node's
    """
    places: dict[int, int | None] = {}
    for place, stamp in enumerate(played):
        places[stamp] = None if stamp in places else place
    last = -1
    for stamp, parts in _by_frame(bag, names):
        found = places.get(stamp)
        if found is None or found <= last:
            yield None, parts
        else:
            last = found
            yield found, parts


def _by_frame(bag: BagReader, names: Collection[str]) -> Iterator[tuple[int, _Parts]]:
    """Yield (stamp, messages) of each frame, in the order of their first messages."""
    wanted = [topic for name in names if (topic := f"{NODE}/{name}") in bag.topics]
    open_frames: dict[int, _Parts] = {}
    for topic, kind, recorded, data in bag.raw_messages(wanted):
        open_frames.setdefault(stamp_of(data), {})[topic.rsplit("/", 1)[1]] = kind, recorded, data
        # One that lacks a message holds back those after it for a while, so that the order stays.
        while open_frames:
            stamp, parts = next(iter(open_frames.items()))
            if len(parts) < len(wanted) and len(open_frames) <= _OPEN_FRAMES:
                break
            yield stamp, open_frames.pop(stamp)
    yield from open_frames.items()


def _image(bag: BagReader, parts: _Parts, part: str) -> Any:
    if part not in parts:
        return None
    kind, recorded, data = parts[part]
    return bag.decode_image(f"{NODE}/{part}", kind, recorded, data).frame.bgr()


def _stats(evaluation: Evaluation, bag: BagReader, parts: _Parts) -> Mapping[str, Any] | None:
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


def write_result_bag(
    path: Path, frames: Frames, live: Recorded, space: LabelSpace, threshold: float = 0.0, overwrite: bool = False
) -> set[str]:
    """Write a drive's topics and what the node published to them, with the drive's stamps and times of recording.

    :param threshold: confidence below which the node left pixels unlabelled
    :return: topics of the drive whose type is not known, and which are therefore missing
    :raises UserError: where it cannot be written
    """
    with open_bag(frames.path) as source, open_bag(live.recording) as bag, BagWriter(path, overwrite=overwrite) as out:
        topics = ResultTopics(out, space, threshold=threshold)
        copies = SourceTopics(source, out)
        answers = ((place, parts) for place, parts in _answers(bag, live.stamps, _OUTPUTS) if place is not None)
        place, parts = next(answers, (-1, {}))
        for entry in frames.with_messages():
            if isinstance(entry, Message):
                copies.copy(entry)
            elif entry.index == place:
                topics.add_label_info(entry.stamp_ns, entry.frame_id, entry.recorded_ns)
                for name, (kind, _, data) in parts.items():
                    message = restamped(data, entry.stamp_ns)
                    out.write_raw(f"{NODE}/{name}", kind, message, entry.recorded_ns, types=bag.types)
                place, parts = next(answers, (-1, {}))
    return copies.left_out
