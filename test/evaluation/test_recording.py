"""A live run that is recorded already, scored: frames are told by their place in the order of playing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drive_names import IMAGE, LABEL, START, STEP

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.bags.results import ResultTopics
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation import recording
from rt_seg_ros.evaluation.frames import open_frames
from rt_seg_ros.evaluation.outputs import FrameTable
from rt_seg_ros.evaluation.recording import STAGES, Recorded, evaluate_recording, write_result_bag
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.zoo import find_model

SPACE = load_label_space("camvid11")
RESULT = "/segmentation/label"
SIZE = (8, 12)
PLAYED = START + 10**15
FRAMES = 12
RISING = [START + n * STEP for n in range(FRAMES)]
SET_BACK = [stamp - (100 * 10**9 if n >= 5 else 0) for n, stamp in enumerate(RISING)]
REPEATED = [START + n % 5 * STEP for n in range(FRAMES)]
SWAPPED = [*RISING[:3], RISING[4], RISING[3], *RISING[5:]]


def labels(n: int) -> np.ndarray:
    return np.full(SIZE, n % 11, np.uint8)


def write_drive(path: Path, stamps: list[int]) -> Path:
    """Write a drive whose truth is another class in each frame."""
    with BagWriter(path) as bag:
        for n, stamp in enumerate(stamps):
            bag.add_image(IMAGE, stamp, "camera", np.zeros((*SIZE, 3), np.uint8), recorded_ns=START + n * STEP)
            bag.add_label(LABEL, stamp, "camera", labels(n), START + n * STEP)
    return path


def write_answers(path: Path, answered: list[tuple[int, int]], lacking: int = -1) -> Path:
    """Write what the node published of frames (number, stamp), the right labels; of one of them no overlay."""
    with BagWriter(path) as bag:
        topics = ResultTopics(bag, SPACE)
        for count, (n, stamp) in enumerate(answered, 1):
            overlay = None if n == lacking else np.zeros((*SIZE, 3), np.uint8)
            stats = {"received": count, "processed": count, "backend": "torch", "device": "cpu", "precision": "fp32"}
            topics.add(stamp, "camera", labels(n), overlay, None, stats, PLAYED + count * STEP)
    return path


@pytest.fixture
def scored(tmp_path, weights):
    """Score answers to a drive; return the evaluation, the rows of its table, and the result bag's (time, label)."""

    def score(stamps, answered, played, lacking=-1):
        frames = open_frames(write_drive(tmp_path / "drive.mcap", stamps), SPACE)
        live = Recorded(write_answers(tmp_path / "live.mcap", answered, lacking), played)
        left = tmp_path / f".frames.csv.{2**22 + 1}.part"  # of a process that is gone: none has such a number
        left.touch()
        table = FrameTable(tmp_path / "frames.csv", STAGES)
        assert not left.exists()
        card = find_model("cgnet", weights=str(weights))
        try:
            evaluation = evaluate_recording("cgnet", card, SPACE, frames, live, table=table)
        finally:
            table.close()
        rows = [line.split(",")[1] for line in (tmp_path / "frames.csv").read_text().splitlines()[1:]]
        write_result_bag(tmp_path / "result.mcap", frames, live, SPACE)
        with open_bag(tmp_path / "result.mcap") as bag:
            result = [(at, bag.decode_labels(*rest, data)[0, 0]) for *rest, at, data in bag.raw_messages([RESULT])]
        return evaluation, list(map(int, rows)), result

    return score


@pytest.mark.parametrize("dropped", [(), (0, 4, 5, 9), (11,)])
@pytest.mark.parametrize("stamps", [RISING, SET_BACK, SWAPPED, REPEATED, [0] * FRAMES])
def test_every_labelled_frame_is_scored_whatever_the_stamps(scored, stamps, dropped):
    played = [PLAYED + n * STEP for n in range(FRAMES)]
    answered = [n for n in range(FRAMES) if n not in dropped]
    evaluation, rows, result = scored(stamps, [(n, played[n]) for n in answered], played)
    assert rows == answered and not evaluation.problems
    assert evaluation.counts.played == FRAMES and evaluation.counts.processed == len(answered)
    assert result == [(START + n * STEP, n % 11) for n in answered]
    if stamps is not REPEATED:  # there the truth's stamps do not tell either
        assert evaluation.scores.scored == len(answered) and evaluation.scores.matrix.pixel_accuracy() == 1.0


def test_stamps_that_were_published_need_not_rise(scored):
    played = [PLAYED + SET_BACK[n] - START for n in range(FRAMES)]
    evaluation, rows, result = scored(SET_BACK, list(enumerate(played)), played)
    assert rows == list(range(FRAMES)) and len(result) == FRAMES and not evaluation.problems


@pytest.mark.parametrize(("first_took", "seconds"), [(20.0, FRAMES * 0.1), (3000.0, 3.0 + (FRAMES - 1) * 0.1)])
def test_the_throughput_of_a_run_counts_what_its_first_frame_took(scored, monkeypatch, first_took, seconds):
    told = recording._stats

    def stats(evaluation, bag, parts):
        return {**told(evaluation, bag, parts), "total_ms": first_took}

    monkeypatch.setattr(recording, "_stats", stats)
    played = [PLAYED + n * STEP for n in range(FRAMES)]
    evaluation, _, _ = scored(RISING, list(enumerate(played)), played)
    assert evaluation.seconds == pytest.approx(seconds)


def test_a_frame_that_lacks_a_message_does_not_cost_its_neighbours(scored):
    played = [PLAYED + n * STEP for n in range(FRAMES)]
    evaluation, rows, result = scored(RISING, list(enumerate(played)), played, lacking=2)
    assert rows == list(range(FRAMES)) and len(result) == FRAMES and not evaluation.problems


def test_what_cannot_be_told_apart_is_counted_and_said(scored):
    played = [PLAYED + n * STEP for n in range(FRAMES)]
    played[3] = played[2]
    answered = [*enumerate(played), (5, PLAYED - 1)]
    evaluation, rows, result = scored(RISING, answered, played)
    assert rows == [n for n in range(FRAMES) if n not in (2, 3)] and len(result) == len(rows)
    (problem,) = evaluation.problems
    assert problem.startswith("3 labels of the node are left out")


@pytest.mark.parametrize("where", [1, FRAMES - 1])
def test_images_that_cannot_be_used_are_told_with_the_first(tmp_path, weights, where):
    """The last one the node tells nobody of: it counts as lost."""
    drive, played = tmp_path / "drive.mcap", [PLAYED + n * STEP for n in range(FRAMES)]
    with BagWriter(drive) as bag:
        for n, stamp in enumerate(RISING):
            image = bag.message(
                "sensor_msgs/msg/Image", header=bag.header(stamp, "camera"), height=8, width=12, encoding="mono8",
                is_bigendian=0, step=12, data=np.zeros(10 if n == where else 96, np.uint8),
            )  # fmt: skip
            bag.write(IMAGE, image, stamp)
    with BagWriter(tmp_path / "live.mcap") as bag:
        topics = ResultTopics(bag, SPACE)
        for n in (n for n in range(FRAMES) if n != where):
            rejected = int(n > where)
            stats = {"received": n + 1, "processed": n + 1 - rejected, "rejected": rejected, "device": "cpu"}
            topics.add(played[n], "camera", labels(n), None, None, stats, played[n])
    frames = open_frames(drive, SPACE)
    live = Recorded(tmp_path / "live.mcap", played)
    evaluation = evaluate_recording("cgnet", find_model("cgnet", weights=str(weights)), SPACE, frames, live)
    assert evaluation.rejections == {"short_data": 1} and evaluation.counts.lost == int(where == FRAMES - 1)
    (problem,) = evaluation.problems
    assert problem.startswith(f"1 image cannot be used (short_data: 1); the first: frame {where}, 1700000"), problem


def test_no_label_that_can_be_told_apart_is_an_error(scored):
    with pytest.raises(UserError, match="12 labels of the node are left out"):
        scored(RISING, [(n, PLAYED) for n in range(FRAMES)], [PLAYED] * FRAMES)


def test_the_result_bag_keeps_what_was_latched_and_names_what_is_missing(tmp_path):
    drive = tmp_path / "drive.mcap"
    with BagWriter(drive) as bag:
        bag.write("/tf_static", bag.message("tf2_msgs/msg/TFMessage", transforms=[]), START, latched=True)
        bag.add_image(IMAGE, START, "camera", np.zeros((*SIZE, 3), np.uint8))
        bag.write("/gone", bag.message("std_msgs/msg/String", data="x"), START)
    # Another name, of the same length, and a definition that makes no sense: a type that is not known.
    data = drive.read_bytes().replace(b"std_msgs/msg/String", b"my_msgs/msg/Strange")
    data = data.replace(b"string data", b"string ????")
    drive.write_bytes(data)
    frames = open_frames(drive, SPACE)
    live = Recorded(write_answers(tmp_path / "live.mcap", [(0, PLAYED)]), [PLAYED])
    assert write_result_bag(tmp_path / "result.mcap", frames, live, SPACE, threshold=0.75) == {"/gone"}
    with open_bag(tmp_path / "result.mcap") as bag:
        assert bag.is_latched("/tf_static") and not bag.is_latched(IMAGE) and "/gone" not in bag.topics
        ((_, _, info),) = bag.messages(["/segmentation/label_info"])
        assert info.threshold == 0.75
