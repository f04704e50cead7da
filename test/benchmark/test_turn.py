"""One turn, in this process: what is measured is what runs, and it fits together."""

import time

import cv2
import numpy as np
import pytest

from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.benchmark.naive import NaiveNode
from rt_seg_ros.benchmark.parts import measure_parts, parts_markdown, parts_table
from rt_seg_ros.benchmark.spec import Answer, Order, peak_memory_mib
from rt_seg_ros.benchmark.turn import take_turn
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.drawing import overlay
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.zoo import find_model

SIZE = (96, 128)


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory):
    folder, street = tmp_path_factory.mktemp("frames"), SyntheticDrive(3, *SIZE)
    files = [folder / f"{i}.jpg" for i in range(3)]
    for i, file in enumerate(files):
        cv2.imwrite(str(file), street.render(i)[0])
    return [str(file) for file in files]


def turn(case, files, tmp_path, **changes):
    values = {"warm_up": 0.0, "seconds": 0.01, "least": 4, "labels": str(tmp_path / "labels.npy")}
    order = Order(case, files, time.monotonic(), answer=str(tmp_path / "answer.json"), **{**values, **changes})
    order.write(tmp_path / "order.json")
    assert Order.read(tmp_path / "order.json") == order
    return take_turn(order)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"input": "raw", "outputs": "mask"}, {"outputs": "labels", "batch": 2}, {"mode": "network"}, {"ratio": 0.75}],
    ids=["jpeg", "raw", "batch", "network", "ratio"],
)
def test_figures_fit_together(changes, naive, files, tmp_path):
    case = Case(**{"mode": "pipeline", "model": "cgnet", "size": SIZE, "backend": "torch", "device": "cpu", **changes})
    begin = time.monotonic()
    answer = turn(case.counterpart() if naive else case, files, tmp_path)
    seconds = time.monotonic() - begin
    assert len(answer.total) == len(answer.network) >= 4
    assert all(0 < network <= total for network, total in zip(answer.network, answer.total, strict=True))
    assert 0 < answer.first < seconds
    assert sum(answer.total) * 1e-3 * (1 if naive else case.batch) < seconds
    assert answer.cpu > 0 and answer.memory > 50
    assert (answer.backend, answer.device, answer.precision) == ("torch", "cpu", "fp32")
    assert answer.working == [max(64, round(side * case.ratio)) for side in SIZE]
    assert (tmp_path / "labels.npy").exists() == (case.mode == "pipeline")
    answer.write(tmp_path / "answer.json")
    assert Answer.read(tmp_path / "answer.json") == answer


def test_the_naive_node_is_slow_but_right(files):
    naive, segmenter = NaiveNode(find_model("cgnet"), device="cpu"), Segmenter(SegmenterConfig(device="cpu"))
    for file in files:
        with open(file, "rb") as stream:
            image = naive.decode(stream.read())
        labels = naive.labels(image)
        assert (labels == segmenter.segment(image).labels).mean() > 0.999
        assert np.array_equal(naive.mask(labels, 3), (labels == 3) * np.uint8(255))
        ours = overlay(image, labels, segmenter.label_space, legend=False)
        inside = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
        assert np.abs(naive.overlay(image, labels)[inside].astype(int) - ours[inside]).max() <= 1


def test_peak_memory_is_a_process_s_own():
    before = peak_memory_mib()
    block = np.ones(40 << 20, np.uint8)
    assert peak_memory_mib() >= before > 50
    del block
    assert peak_memory_mib("none such") == 0.0


def test_the_parts_are_measured_against_one_another(files):
    case = Case("pipeline", "cgnet", SIZE, backend="torch", device="cpu")
    found = measure_parts([case], lambda size: [cv2.imread(files[0])], rounds=2)
    assert len(found.parts) == len({part.name for part in found.parts}) == 6
    assert all(part.ours > 0 and part.naive > 0 and part.of_naive > 0 for part in found.parts)
    lines = [line for line in parts_markdown(found).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found.parts) and all(line.count("|") == lines[0].count("|") for line in lines)
    assert "ratio" not in lines[0]


def test_parts_tell_their_ratio_their_machine_and_that_it_was_busy(files, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    cases = [Case("pipeline", "cgnet", (192, 256), ratio=r, backend="torch", device="cpu") for r in (1.0, 0.5)]
    found = measure_parts(cases, lambda size: [cv2.imread(files[0])], rounds=1)
    said = parts_markdown(found)
    heading, _, *body = [[c.strip() for c in line.strip("|").split("|")] for line in said.splitlines() if "|" in line]
    assert [row[heading.index("ratio")] for row in body] == ["1"] * 6 + ["0.5"] * 6
    assert said.startswith(found.machine["cpu"]) and f"numpy {np.__version__}" in said.splitlines()[0]
    assert "busy when this began (load 99.0)" in said
    drawn = parts_table(found)
    assert found.machine["cpu"] in drawn.title and "ratio" in [column.header for column in drawn.columns]
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert not measure_parts([], lambda size: [], rounds=1).remarks
