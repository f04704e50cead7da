"""``rt-seg benchmark`` as it is called: real processes, real figures, and everything that is made of them."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from rt_seg_ros import cli
from rt_seg_ros.benchmark.cases import Case, Plan
from rt_seg_ros.benchmark.report import notes, table
from rt_seg_ros.benchmark.run import Effort, Row, measure
from rt_seg_ros.benchmark.spec import Answer
from rt_seg_ros.cli.benchmark import _is_picture, _save_picture
from rt_seg_ros.errors import UserError

QUICK = ["--size", "96x128", "--seconds", "0.05", "--warm-up", "0", "--device", "cpu"]
MODULES = {"pipeline": "rt_seg_ros.benchmark.turn", "network": "rt_seg_ros.benchmark.turn"}


def frames(size):
    return [np.zeros((*size, 3), np.uint8)]


@pytest.fixture(scope="module", name="outcome")
def _outcome(tmp_path_factory):
    """One run with everything that it can write."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, "-m", "rt_seg_ros.cli", "benchmark", *QUICK, "--backend", "torch", "--rounds", "1"]
    command += ["--size", "96x128,360x480", "--csv", "b.csv", "--json", "b.json", "--picture", "b.png", "--markdown"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_figures_are_complete_and_consistent(outcome):
    result = json.loads((outcome[0] / "b.json").read_text())
    ours, naive, *larger = result["rows"]
    assert not ours["case"]["naive"] and naive["case"]["naive"] and len(larger) == 2
    for row in (ours, naive):
        assert row["rounds"] == 1 and row["frames"] >= result["effort"]["least"]
        assert 0 < row["network"] < row["median"] <= row["p95"]
        assert row["per_second"] == pytest.approx(1000 / row["median"])
        assert 0 < row["outside"] < 1
        assert row["cpu"] > 0 and 0.1 < row["start"] < 200 and 50 < row["memory"] < 20_000
        assert row["working"] == [96, 128] and row["device"] == "cpu" and not row["error"]
    assert ours["of_naive"] > 0 and naive["of_naive"] is None
    assert ours["agreement"] > 0.999
    assert ours["floor"] > 0 and naive["floor"] is None
    for row in (ours, naive):  # its card's score is of another size
        assert row["miou"] is None and not row["miou_on"] and "works at 96x128" in row["unscored"]
    for row in larger:
        assert row["miou"] > 50 and "camvid" in row["miou_on"] and not row["unscored"]
    (peak,) = result["peaks"]
    assert peak["macs"] > 1e6 and peak["precision"] == "fp32"
    assert {"cpu", "cores", "python", "system"} <= result["machine"].keys()
    assert {"torch", "numpy"} <= result["machine"]["versions"].keys()


def test_the_same_figures_stand_everywhere(outcome):
    folder, printed = outcome
    rows = json.loads((folder / "b.json").read_text())["rows"]
    with (folder / "b.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 4
    for line, row in zip(lines, rows, strict=True):
        for name in ("median", "p95", "network", "cpu", "start", "memory"):
            assert float(line[name]) == row[name]
        assert line["size"] == f"{row['case']['size'][0]}x{row['case']['size'][1]}" and line["model"] == "cgnet"
        assert line["miou"] == ("" if row["miou"] is None else str(row["miou"]))
    table = [line for line in printed.splitlines() if line.startswith("|")]
    heading, ruler, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len(body) == 4 and {len(heading)} == {len(cells) for cells in (ruler, *body)}
    shown = dict(zip(heading, body[0], strict=True))
    assert float(shown["median ms"]) == pytest.approx(rows[0]["median"], abs=0.051)
    assert float(shown["of naive"]) == pytest.approx(rows[0]["of_naive"], abs=0.0051)
    assert dict(zip(heading, body[1], strict=True))["backend"] == "naive node"
    assert "1 round, " in printed and "process of its own" in printed


def test_the_picture_shows_something(outcome):
    picture = cv2.imread(str(outcome[0] / "b.png"))
    assert picture.shape[0] > 400 and picture.std() > 10
    assert "not in the picture: cgnet: the network works at 96x128" in outcome[1]


def test_the_table_fits_the_terminal(outcome):
    case = Case("pipeline", "crosscbam_m", (360, 480))
    rows = [Row(case, "openvino", "cpu", "fp32", (360, 480), 5, 99, 0, 12.3, 23.4, 11.2, 0.05, of_naive=0.31)]
    result = type("R", (), {"rows": rows, "machine": json.loads((outcome[0] / "b.json").read_text())["machine"]})()
    wide, narrow = table(result), table(result, 80)
    assert len(narrow.columns) < len(wide.columns)
    assert narrow.caption and "no room here for" in str(narrow.caption)
    assert "median\nms" in [column.header for column in narrow.columns]


def test_untrained_networks_are_said_to_be():
    case = Case("network", "frfnet_slim", (96, 128), backend="torch", device="cpu", label_space="cityscapes19",
                allow_random_weights=True)  # fmt: skip
    result = measure(Plan([case]), frames, Effort(1, 0, 0.01), MODULES, floor=False)
    said = "\n".join(notes(result))
    assert "random weights: frfnet_slim" in said and "the network alone" in said
    (row,) = result.rows
    assert not row.trained and row.network is None and row.of_naive is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "cgnett"], "did you mean 'cgnet'"),
        (["--model", ","], "give a name"),
        (["--rounds", "0"], "rounds is 0"),
        (["--seconds", "0"], "seconds is 0"),
        (["--warm-up", "-1"], "warm-up is -1"),
        (["--turn-limit", "0"], "turn-limit is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--ratio", "2"], "downsampling_ratio is 2"),
        (["--threads", "-2"], "threads is -2"),
        (["--cameras", "2"], "only the node has several"),
        (["--device", "npu"], "no device 'npu'"),
        (["--source", "/nowhere"], "nothing at /nowhere"),
        (["--csv", "/proc/b.csv"], "/proc"),
        (["--picture", "b.doc"], "of no kind"),
        (["--picture", "b.png", "--network-only"], "leave out --network-only"),
        (["--picture", "b.png", "--label-space", "cityscapes19", "--allow-random-weights"], "no score in its card"),
        (["--picture", "b.png", "--size", "720x960"], "works at 720x960, and the score in its card is of 360x480"),
        (["--picture", "b.png", "--precision", "int8", "--backend", "openvino"], "in int8"),
        (["--csv", "b", "--json", "b"], "--csv and --json are the same file"),
        (["--json", "b.png", "--picture", "./b.png"], "--json and --picture are the same file"),
        (["--csv", "linked.csv", "--json", "b.json"], "--csv and --json are the same file"),
        (["--parts", "--json", "b.json"], "--json is not for --parts"),
        (["--parts", "--ratio", "1,0.5", "--batch", "1,4"], "--batch is not for --parts"),
        (["--parts", "--seconds", "1", "--warm-up", "0"], "--seconds, --warm-up are not for --parts"),
        (["--parts", "--outputs", "labels", "--input", "raw"], "--input, --outputs are not for --parts"),
        (["--parts", "--no-naive", "--cameras", "2"], "--cameras, --no-naive are not for --parts"),
        (["--node", "--input", "raw"], "--input is not for --node"),
        (["--network-only", "--outputs", "labels"], "--outputs is not for --network-only"),
        (["--parts", "--csv", "b.csv", "--picture", "b.png"], "--csv, --picture are not for --parts"),
        (["--parts", "--threads", "1,2"], "--threads has several values"),
        (["--parts", "--backend", "torch,openvino"], "--backend has several values"),
        (["--parts", "--precision", "fp32,bf16"], "--precision has several values"),
    ],
)
def test_bad_values_are_refused_before_any_work(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("linked.csv").symlink_to("b.json")
    for name in ("cli.benchmark.measure_parts", "benchmark.run.subprocess.Popen"):
        monkeypatch.setattr(f"rt_seg_ros.{name}", lambda *a, **k: pytest.fail("work was begun"))
    if arguments[0] == "--ratio":
        arguments = [*arguments, "--backend", "torch"]
    assert cli.main(["benchmark", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_only_earlier_figures_are_replaced(outcome, capsys, monkeypatch, tmp_path):
    def begun(*_, **__):
        raise UserError("work was begun")

    monkeypatch.setattr("rt_seg_ros.cli.benchmark.measure", begun)
    drive, photo = tmp_path / "drive.mcap", tmp_path / "photo.png"
    drive.write_bytes(b"\x89MCAP0\r\n")
    cv2.imwrite(str(photo), np.zeros((64, 96, 3), np.uint8))
    for arguments in (["--csv", drive], ["--json", drive], ["--csv", outcome[0] / "b.json"]):
        assert cli.main(["benchmark", *map(str, arguments)]) == 2
        assert f"{arguments[1]} is not replaced" in capsys.readouterr().err
    assert cli.main(["benchmark", "--source", str(photo), "--picture", str(photo)]) == 2
    assert "would replace the source" in capsys.readouterr().err
    assert cli.main(["benchmark", "--picture", str(photo)]) == 2
    assert "photo.png is not replaced" in capsys.readouterr().err
    files = ["--csv", str(outcome[0] / "b.csv"), "--json", str(outcome[0] / "b.json")]
    files += ["--picture", str(outcome[0] / "b.png")]
    assert cli.main(["benchmark", *files]) == 2
    assert "work was begun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "480"], "no size"),
        (["--size", "360x480,1"], "no size"),
        (["--ratio", "half"], "'half' is no number"),
        (["--batch", "1.5"], "'1.5' is no whole number"),
        (["--backend", "torch,tpu"], "there is no 'tpu'"),
        (["--precision", "fp8"], "there is no 'fp8'"),
        (["--input", "png"], "invalid choice"),
        (["--node", "--network-only"], "not allowed with"),
    ],
)
def test_what_is_no_value_is_refused_by_its_option(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["benchmark", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def broken_turn(tmp_path, monkeypatch):
    """Return what makes a program the one that takes the pipeline's turns."""

    def write(program):
        (tmp_path / "broken_turn.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return {**MODULES, "pipeline": "broken_turn"}

    return write


def test_a_turn_whose_process_fails_is_told_and_the_others_go_on(broken_turn):
    modules = broken_turn("raise SystemExit('out of order')")
    good, bad = (Case(mode, "cgnet", (96, 128), backend="torch", device="cpu") for mode in ("network", "pipeline"))
    effort = Effort(rounds=1, warm_up=0, seconds=0.01)
    result = measure(Plan([good, bad]), frames, effort, modules, floor=False)
    with pytest.raises(UserError, match="nothing could be measured: its process failed: out of order"):
        measure(Plan([bad]), frames, effort, modules)
    assert result.rows[0].rounds == 1 and not result.rows[0].error
    assert "out of order" in result.rows[1].error


def test_a_turn_that_does_not_end_costs_its_own_case(broken_turn):
    modules = broken_turn("import time; time.sleep(60)")
    case = Case("pipeline", "cgnet", (96, 128), backend="torch", device="cpu")
    with pytest.raises(UserError, match="its process failed: it did not end within 1 seconds \\(--turn-limit\\)"):
        measure(Plan([case]), frames, Effort(rounds=1, limit=1.0), modules)


def test_interrupted_it_leaves_no_process_behind():
    command = [sys.executable, "-m", "rt_seg_ros.cli", "benchmark", *QUICK, "--backend", "torch", "--seconds", "60"]
    benchmark = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (children := _children(benchmark.pid)):
        assert benchmark.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    benchmark.send_signal(signal.SIGTERM)
    assert benchmark.wait(60) == 130
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def interrupted(turns):
    """Return what takes so many turns before Ctrl-C."""

    def watch(items, what, number):
        for n, item in enumerate(items):
            if n == turns:
                raise KeyboardInterrupt
            yield item

    return watch


@pytest.fixture(name="case")
def _case(monkeypatch):
    """A case whose turns take no time."""
    answers = (Answer(total=[float(n)] * 5, cpu=1, working=[96, 128], device="cpu") for n in range(1, 100))
    monkeypatch.setattr("rt_seg_ros.benchmark.run._take_turn", lambda *_, **__: next(answers))
    return Case("network", "cgnet", (96, 128), backend="torch", device="cpu")


def test_interrupted_it_keeps_whole_rounds(case):
    plan = Plan([case, case.counterpart()])
    result = measure(plan, frames, Effort(rounds=9), MODULES, interrupted(5))
    assert [(row.rounds, row.frames, row.error) for row in result.rows] == [(2, 10, "")] * 2
    assert [row.median for row in result.rows] == [2.0, 3.0]  # of turns 1 and 3, 2 and 4; not of 5
    said = "\n".join(notes(result))
    assert "stopped after 2 of 9 rounds" in said and "2 rounds, all cases in turn" in said
    assert result.rows[0].floor is None and not result.peaks


@pytest.mark.parametrize("turns", [0, 1])
def test_interrupted_in_the_first_round_it_has_nothing(case, turns):
    with pytest.raises(KeyboardInterrupt):
        measure(Plan([case, case.counterpart()]), frames, Effort(rounds=9), MODULES, interrupted(turns))


def test_interrupted_at_the_floor_it_has_everything_else(case, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rt_seg_ros.benchmark.run._add_floors", interrupt)
    result = measure(Plan([case]), frames, Effort(rounds=3), MODULES)
    assert result.rows[0].rounds == result.stopped == 3
    assert any("before the floor was reckoned" in note for note in notes(result))


def test_interrupted_later_it_writes_what_it_has(tmp_path):
    command = [sys.executable, "-m", "rt_seg_ros.cli", "benchmark", *QUICK, "--size", "360x480", "--backend", "torch"]
    command += ["--no-naive", "--rounds", "500", "--csv", "b.csv", "--json", "b.json", "--picture", "b.png"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--markdown"], cwd=tmp_path, text=True, **pipes) as benchmark:
        seen = set()

        def in_a_third_round():
            assert benchmark.poll() is None
            seen.update(_children(benchmark.pid))
            return len(seen) > 2

        _wait_for(in_a_third_round, 120)
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in a shell's background
        benchmark.send_signal(signal.SIGTERM if deaf else signal.SIGINT)
        printed, said = benchmark.communicate(timeout=60)
    assert benchmark.returncode == 130, said
    assert "interrupted after 2 of 500 rounds" in said and "stopped after 2 of 500 rounds" in printed
    figures = json.loads((tmp_path / "b.json").read_text())
    (row,) = figures["rows"]
    assert figures["stopped"] == row["rounds"] == 2 and row["frames"] >= 10 and row["miou"] > 50
    with (tmp_path / "b.csv").open() as file:
        assert [float(line["median"]) for line in csv.DictReader(file)] == [row["median"]]
    assert cv2.imread(str(tmp_path / "b.png")) is not None
    assert not [child for child in seen if Path(f"/proc/{child}").exists()]


def test_files_are_written_also_where_nobody_reads_the_table(case, tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr("rt_seg_ros.cli.benchmark.table", broken)
    monkeypatch.setattr("rt_seg_ros.benchmark.run._add_floors", lambda *_: ([], ""))
    cli.main(["benchmark", *QUICK, "--network-only", "--rounds", "1", "--csv", str(tmp_path / "b.csv")])
    assert (tmp_path / "b.csv").read_text().startswith("mode,model,")


def test_more_of_ctrl_c_ends_a_process_that_does_not_listen(tmp_path):
    deaf = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\n"
    (tmp_path / "deaf.py").write_text(deaf + "print('ready', flush=True)\nwhile True:\n    time.sleep(1)\n")
    code = "import sys; from pathlib import Path; from rt_seg_ros.benchmark import run; "
    code += "run._run('deaf', Path('order'), Path('said'), 60)"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", code]
    benchmark = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE)
    said = tmp_path / "said"
    _wait_for(lambda: said.exists() and "ready" in said.read_text())
    (child,) = _children(benchmark.pid)
    benchmark.send_signal(signal.SIGINT)
    _wait_for(lambda: "heard" in said.read_text())
    benchmark.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in benchmark.communicate(timeout=5)[1].decode()
    assert not Path(f"/proc/{child}").exists()


def _wait_for(condition, patience=30):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _children(process):
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", status.read_text(), re.MULTILINE)
        except OSError:  # ended meanwhile
            continue
        if parent and int(parent[1]) == process:
            found.append(int(status.parent.name))
    return found


@pytest.mark.ros
def test_the_node_over_dds_beside_pipeline_and_naive_node(tmp_path, capsys):
    command = ["benchmark", "--node", *QUICK, "--backend", "torch", "--rounds", "1", "--json", str(tmp_path / "b.json")]
    assert cli.main(command) == 0
    node, pipeline, naive = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["case"]["mode"] for row in (node, pipeline, naive)] == ["node", "pipeline", "node"]
    assert 0 < node["node"] <= node["p95"]
    assert node["of_pipeline"] > 0 and node["of_naive"] > 0 and pipeline["of_naive"] is None
    assert naive["backend"] == "naive" and naive["node"] is None
    for row in (node, naive):
        assert row["frames"] >= 5 and row["cpu"] > 0 and row["memory"] > 50 and row["start"] > 0.1
    assert "over DDS" in capsys.readouterr().out


@pytest.mark.ros
def test_a_node_with_two_cameras_answers_both(tmp_path):
    command = ["benchmark", "--node", *QUICK, "--backend", "torch", "--rounds", "1", "--cameras", "2", "--no-naive"]
    assert cli.main([*command, "--json", str(tmp_path / "b.json")]) == 0
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["case"]["cameras"] == 2 and row["frames"] >= 5 and row["lost"] == 0
    assert row["node"] > 0


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_a_picture_is_known_again_as_one_that_was_drawn_here(tmp_path, monkeypatch, ending):
    def draw(path, result):
        Figure().savefig(path)

    monkeypatch.setattr("rt_seg_ros.cli.benchmark.save_picture", draw)
    path = tmp_path / f"b{ending}"
    draw(path, None)
    assert not _is_picture(path)
    _save_picture(path, None)
    assert _is_picture(path)
    if ending == ".png":
        assert cv2.imread(str(path)) is not None
    if ending == ".svg":
        ElementTree.parse(path)
