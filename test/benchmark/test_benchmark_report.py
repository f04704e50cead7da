"""What is made of the figures: whose accuracy they are shown with, what tells points apart, and what is remarked on."""

import re
from dataclasses import replace

import pytest

from rt_seg_ros.benchmark.cases import Case, Plan
from rt_seg_ros.benchmark.report import check_picture, notes, save_picture, undrawn
from rt_seg_ros.benchmark.run import Effort, Result, Row, _Collected, _row, score
from rt_seg_ros.benchmark.spec import Answer
from rt_seg_ros.errors import UserError
from rt_seg_ros.zoo import ModelCard

MACHINE = {"cpu": "some CPU", "cores": 2, "system": "Linux", "python": "3", "versions": {"numpy": "2"}}
CASE = Case("pipeline", "cgnet", (360, 480), backend="openvino", device="cpu")


def card(**changes):
    values = {"frame_size": (360, 480), "scores": {"camvid val": {"miou": 68.1}}}
    return ModelCard("net", "cgnet", "camvid11", 11, **{**values, **changes})


def row(case=CASE, **changes):
    values = {"precision": case.precision, "working": case.size, "rounds": 1, "frames": 5, "median": 10.0, "p95": 11.0}
    values |= {"miou": 68.1, "miou_on": "camvid val"}
    return Row(case, "naive" if case.naive else case.backend, "cpu", **{**values, **changes})


def result(*rows):
    return Result(list(rows), Effort(), MACHINE)


def answer(total, network=(), **values):
    return Answer(total=list(total), network=list(network), working=[360, 480], **values)


def test_a_row_s_figures_are_those_of_its_rounds():
    ours = _Collected([
        answer([10, 10, 10, 30], [8, 8, 8, 8], cpu=20, first=1.0, memory=100, lost=1),
        answer([20, 20, 20, 20], [19, 19, 19, 19], cpu=40, first=3.0, memory=300, lost=2),
        answer([40, 40, 40, 40], [38, 38, 38, 38], cpu=90, first=2.0, memory=200),
    ])  # fmt: skip
    naive = _Collected([answer([100] * 3), answer([40] * 3), answer([50] * 3)])
    one = _row(CASE, {CASE: ours, CASE.counterpart(): naive})
    assert (one.rounds, one.frames, one.lost) == (3, 12, 3)
    assert one.median == 20 and 30 < one.p95 <= 40
    assert one.network == 19 and one.outside == pytest.approx(0.05)
    assert one.of_naive == 0.5, "the median of 0.1, 0.5 and 0.8: this machine's slow rounds are slow for both"
    assert (one.cpu, one.start, one.memory) == (40, 2.0, 300)


def test_a_node_is_held_against_the_pipeline_alone():
    node = replace(CASE, mode="node", input="raw", outputs="mask")
    alone, naive = replace(node, mode="pipeline"), node.counterpart()
    rounds = {node: answer([15] * 3, node=[12] * 3), alone: answer([10] * 3), naive: answer([60])}
    one = _row(node, {case: _Collected([found]) for case, found in rounds.items()})
    assert one.node == 12 and one.of_pipeline == pytest.approx(1.2) and one.of_naive == 0.25


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_card_s_score_is_that_of_its_working_size(precision):
    assert score(card(), (360, 480), precision) == (68.1, "camvid val", "")
    for other in ((720, 960), (184, 240), (480, 360)):
        miou, on, why = score(card(), other, precision)
        assert miou is None and not on
        assert f"works at {other[0]}x{other[1]}" in why and "360x480" in why
    # Frames that are no whole steps of 8 were seen at the next size that is.
    assert score(card(frame_size=(353, 473)), (352, 472), precision)[0] == 68.1


def test_no_score_is_made_up():
    for changes, precision, said in (
        ({}, "int8", "int8"),
        ({"scores": {}}, "fp32", "no score"),
        ({"frame_size": None}, "fp32", "size"),
    ):
        miou, on, why = score(card(**changes), (360, 480), precision)
        assert miou is None and not on and said in why


def texts(path, *rows):
    save_picture(path, result(*rows))
    return re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("field", "values", "named"),
    [
        ("size", [(360, 480), (720, 960)], ["360x480", "720x960"]),
        ("ratio", [1.0, 0.5], ["ratio 1", "ratio 0.5"]),
        ("batch", [1, 4], ["batch 1", "batch 4"]),
        ("threads", [0, 2], ["all threads", "threads 2"]),
        ("cameras", [1, 2], ["cameras 1", "cameras 2"]),
        ("input", ["jpeg", "raw"], ["jpeg", "raw"]),
        ("outputs", ["labels", "overlay"], ["labels", "overlay"]),
        ("mode", ["node", "pipeline"], ["node", "pipeline"]),
    ],
)
def test_points_are_told_apart_by_whatever_varies(tmp_path, field, values, named):
    shown = texts(tmp_path / "b.svg", *(row(replace(CASE, **{field: value})) for value in values))
    assert [text for text in shown if text.startswith("openvino")] == [f"openvino fp32, {name}" for name in named]


def test_what_does_not_vary_is_not_repeated(tmp_path):
    shown = texts(tmp_path / "b.svg", row(), row(CASE.counterpart()))
    assert {"openvino fp32", "naive node"} <= set(shown)
    assert any("360x480" in text for text in shown)


def test_only_what_has_a_score_is_drawn_and_the_rest_is_named(tmp_path):
    larger, quantised = replace(CASE, size=(720, 960)), replace(CASE, precision="int8")
    rows = [row(), row(larger, miou=None, unscored="works at 720x960"), row(quantised, miou=None, unscored="is int8")]
    rows.append(row(replace(larger, model="frfnet"), miou=None, unscored="works at 720x960"))
    rows.append(row(replace(CASE, model="csrnet_light"), miou=None, unscored="broken", error="broken"))
    said = undrawn(result(*rows))
    assert said == ["not in the picture: cgnet, frfnet: works at 720x960", "not in the picture: cgnet: is int8"]
    shown = texts(tmp_path / "b.svg", *rows)
    assert [text for text in shown if text.startswith("openvino")] == ["openvino fp32"]
    assert "not in the picture" in " ".join(shown)
    assert not undrawn(result(rows[0]))


def test_scores_on_other_data_are_not_drawn_beside_each_other(tmp_path):
    other = row(replace(CASE, model="csrnet_heavy"), miou=73.0, miou_on="rendered drive 1001")
    rows = [row(), row(replace(CASE, model="frfnet")), other]
    assert undrawn(result(*rows)) == [
        "not in the picture: csrnet_heavy: the score in its card is on rendered drive 1001, not camvid val"
    ]
    shown = texts(tmp_path / "b.svg", *rows)
    assert {"cgnet", "frfnet"} <= set(shown) and "csrnet_heavy" not in shown
    assert not undrawn(result(other)), "alone, it compares with nothing"


def test_a_picture_of_nothing_is_told_and_not_drawn(tmp_path):
    path = tmp_path / "b.png"
    with pytest.raises(UserError, match=r"not drawn.*cgnet: works at 720x960"):
        save_picture(path, result(row(miou=None, unscored="works at 720x960")))
    with pytest.raises(UserError, match="nothing that has a score could be measured"):
        save_picture(path, result(row(error="broken")))
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": (720, 960)}, "works at 720x960"),
        ({"ratio": 0.5}, "works at 184x240"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_a_picture_that_would_show_nothing_is_refused_before_any_work(tmp_path, changes, said):
    without = replace(CASE, **changes)
    with pytest.raises(UserError, match=said):
        check_picture(tmp_path / "b.png", Plan([without, without.counterpart()]))
    check_picture(tmp_path / "b.png", Plan([without, CASE]))
    check_picture(tmp_path / "b.png", Plan([replace(CASE, size=(720, 960), ratio=0.5)]))


@pytest.mark.parametrize(
    ("working", "share", "remarked"),
    [
        ((360, 480), 0.995, False),
        ((360, 480), 0.985, True),
        ((184, 240), 0.96, False),
        ((184, 240), 0.94, True),
        ((88, 120), 0.75, False),
        ((88, 120), 0.65, True),
    ],
)
def test_labels_that_are_not_the_naive_node_s_are_remarked_on(working, share, remarked):
    ratio = {184: 0.5, 88: 0.25}.get(working[0], 1.0)
    said = [note for note in notes(result(row(replace(CASE, ratio=ratio), working=working, agreement=share)))
            if "first frame's labels" in note]  # fmt: skip
    assert bool(said) == remarked
    if remarked:
        assert (f"ratio {ratio:g}" in said[0]) == (ratio < 1)
