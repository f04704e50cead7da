"""The report's page: stands alone, says what was measured, fits narrow and wide windows."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from rich.console import Console

from rt_seg_ros.cli import main
from rt_seg_ros.cli.evaluation_tables import print_comparison, print_evaluation
from rt_seg_ros.evaluation import charts
from rt_seg_ros.evaluation.evaluation import Evaluation
from rt_seg_ros.evaluation.page import Content, _frame_name, report_page
from rt_seg_ros.evaluation.pictures import Choice, Picture, choose, encode, read_rows
from rt_seg_ros.evaluation.scores import Scores
from rt_seg_ros.labels import LabelClass, LabelSpace
from rt_seg_ros.zoo import ModelCard

VOID = {"meta", "link", "img", "br", "input"}


class Tags(HTMLParser):
    """Checks that tags are closed in their order; collects what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "poster")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reports(tmp_path_factory, weights, street):
    """A report of one model, and one of two, each with its figures."""
    from rt_seg_ros.bags import BagWriter

    folder = tmp_path_factory.mktemp("reports")
    with BagWriter(folder / "a <drive> & more.mcap") as bag:
        for i, (image, labels) in enumerate(street):
            bag.add_image("/camera/image_raw", 10**18 + i * 10**8, "camera", image)
            bag.add_label("/camera/label", 10**18 + i * 10**8, "camera", labels)
    command = ["evaluate", str(bag.path), "--backend", "torch"]
    assert main([*command, "--weights", str(weights), "--report", str(folder / "one")]) == 0
    models = ["--model", "cgnet,frfnet_slim", "--allow-random-weights"]
    assert main([*command, *models, "--report", str(folder / "two")]) == 0
    return folder


@pytest.mark.parametrize("name", ["one", "two"])
def test_it_stands_alone_and_is_whole(reports, name):
    text = (reports / name / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    beside = {link for link in tags.links if link and not link.startswith("data:image/jpeg;base64,")}
    assert beside and all((reports / name / link).is_file() for link in beside)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert "a &lt;drive&gt; &amp; more.mcap" in text and "<drive>" not in text
    assert len(text) < 3_000_000


def test_it_says_what_was_measured(reports):
    text = (reports / "one" / "report.html").read_text()
    figures = json.loads((reports / "one" / "metrics.json").read_text())
    plain = re.sub(r"<[^>]+>", "", text)
    for name in ("miou", "pixel_accuracy", "class_accuracy", "boundary_f"):
        assert f"{100 * figures[name]:.1f}%" in plain, name
    assert f"{100 * figures['flicker']:.2f}%" in plain
    for entry, values in figures["classes"].items():
        assert re.search(rf"{entry}</span>.*?<span>{100 * values['iou']:.1f}</span>", text), entry
    for title in ("Worst, median and best", "What is taken for what", "Over time", "Latency", "Where the frames went"):
        assert title in text
    assert "8 frames" in plain and "rt_seg_ros" in plain


def test_worst_and_median_frames_are_those_of_the_table(reports):
    text = (reports / "one" / "report.html").read_text()
    rows = read_rows(reports / "one" / "per_frame.csv", ["miou"])["tiny"]
    scores = rows.columns["miou"]
    shown = [(why, int(index)) for why, index in re.findall(r"<b>(Worst|Median|Best)</b>.*?frame (\d+),", text)]
    order = np.argsort(scores, kind="stable")
    assert shown[0] == ("Worst", int(order[0])) and ("Best", int(order[-1])) in shown
    assert ("Median", int(order[4])) in shown
    score = f"mIoU {100 * scores[order[0]]:.1f} %"
    assert score in text


def test_a_frames_name_is_no_markup():
    assert "&lt;img onerror=x&gt;.png" in _frame_name(Choice(3, "worst"), Picture("<img onerror=x>.png", "", None))


def test_several_models_are_set_side_by_side(reports):
    text = (reports / "two" / "report.html").read_text()
    assert "2 models" in text and "Accuracy against speed" in text and "The same frames, side by side" in text
    assert text.count("<details") == 2 and text.count("<video") == 2
    figures = json.loads((reports / "two" / "metrics.json").read_text())["models"]
    for model in figures:
        assert re.search(rf"{model['name']}</th>.*?>{100 * model['miou']:.1f}</td>", text)


def test_the_choice_of_frames():
    indices = np.arange(100, 200)
    scores = np.linspace(0.9, 0.1, 100)
    chosen = [(c.why, c.index) for c in choose(indices, scores)]
    # The worst three are not neighbours.
    assert chosen == [("worst", 199), ("worst", 194), ("worst", 189), ("median", 149), ("best", 100)]
    scores[:] = np.nan
    assert [c.why for c in choose(indices, scores)] == ["", "", ""]
    assert [c.index for c in choose(indices[:1], scores[:1])] == [100]
    assert choose(indices[:0], scores[:0]) == []
    assert [(c.why, c.index) for c in choose(np.array([7]), np.array([0.5]))] == [("worst", 7)]


def test_a_table_that_ends_early_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "t.csv").write_text("model,frame,miou\na,0,0.5\na,1,\nb,0,0.25\na,2,0.7\na,3\na,")
    rows = read_rows(tmp_path / "t.csv", ["miou"])
    assert rows["a"].frame.tolist() == [0, 1, 2, 3] and rows["b"].columns["miou"].tolist() == [0.25]
    np.testing.assert_array_equal(rows["a"].columns["miou"], np.array([0.5, np.nan, 0.7, np.nan], np.float32))


def test_a_run_of_one_frame_without_truth_has_a_page():
    space = LabelSpace("own", (LabelClass(0, "<b>", (1, 2, 3)), LabelClass(1, "two", (200, 0, 0))))
    card = ModelCard("x", "cgnet", "own", 2)
    evaluation = Evaluation("x", card, space, "d", "d", "offline", Scores(2, True))
    evaluation.scores.update(np.zeros((4, 4), np.uint8), None)
    evaluation.counts.processed = evaluation.counts.played = 1
    evaluation.count_size((4, 4), (4, 4))
    text = report_page(Content([evaluation]))
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))["frames"] == 1
    # What a node does in a second, and what the pipeline does of itself.
    evaluation.busy_seconds, evaluation.seconds = 0.02, 0.25
    for mode, frames in (("offline", "50.0"), ("live", "4.0")):
        tile = re.search(r'<div class="tile.*?</div>', report_page(Content([replace(evaluation, mode=mode)])), re.S)
        assert tile is not None and frames in tile[0] and "frames" in tile[0], tile
    # With truth, a class that nobody ever sees, and one name that is markup.
    evaluation.scores.update(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    evaluation = replace(evaluation)
    text = report_page(Content([evaluation]))
    assert "&lt;b&gt;" in text and "not in the truth" in text
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_ticks_are_round_and_within():
    assert charts.ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert charts.ticks(0.2, 3.9, 5) == [1, 2, 3]
    for low, high in ((0, 1e-3), (17, 17.5), (0, 86400), (-3, 3)):
        marks = charts.ticks(low, high)
        assert 2 <= len(marks) <= 9 and low - 1e-9 <= marks[0] and marks[-1] <= high * (1 + 1e-9) + 1e-9
    assert charts.tick_labels([1.0, 1.02, 1.04]) == ["1.00", "1.02", "1.04"]
    assert "left:0.00%" in charts.scatter([("untimed", 0.0, 70.0)], "ms", "mIoU")
    assert charts.tick_labels([0, 500, 1000]) == ["0", "500", "1,000"] and charts.tick_labels([3]) == ["3"]
    assert [charts.number(v) for v in (0, 0.0412, 3.14, 42.4, 1250)] == ["0", "0.041", "3.1", "42", "1,250"]


BROWSER = next((b for name in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(name))), "")
PROBE = """<script>
let failed = "";
window.onerror = (message) => { failed += message; };
window.onload = () => {
  const page = document.documentElement;
  const inside = (e) => e.closest(".scroll, .chart-plot, .chart-x, dialog");
  const wide = [...document.querySelectorAll("main *")].filter(
    (e) => !inside(e) && e.getBoundingClientRect().right > page.clientWidth + 1);
  const said = wide.map((e) => e.outerHTML.slice(0, 80));
  parent.postMessage({ width: page.clientWidth, scroll: page.scrollWidth, failed, wide: said }, "*");
};
</script>"""


@pytest.mark.skipif(not BROWSER, reason="needs Chromium to open the page in")
@pytest.mark.parametrize("name", ["one", "two"])
def test_nothing_overflows_in_a_browser(reports, tmp_path, name):
    """Opened for real in frames of several widths: no script fails, and nothing is wider than its window."""
    page = reports / name / "probe.html"
    page.write_text((reports / name / "report.html").read_text().replace("<head>", f"<head>{PROBE}"))
    widths = (360, 400, 800, 1400)
    frames = "".join(f'<iframe src="file://{page}" width={w} height=900 style="border:0"></iframe>' for w in widths)
    listener = (
        "onmessage = (e) => { const told = document.createElement('pre');"
        " told.textContent = JSON.stringify(e.data); document.body.append(told); }"
    )
    (tmp_path / "frames.html").write_text(f"<body><script>{listener}</script>{frames}</body>")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    command += ["--window-size=1500,1000", "--virtual-time-budget=5000", "--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{tmp_path / 'frames.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    page.unlink()
    told = [json.loads(html.unescape(found)) for found in re.findall(r"<pre>(.*?)</pre>", done.stdout)]
    assert sorted(one["width"] for one in told) == sorted(widths)
    for one in told:
        assert one["failed"] == "" and one["wide"] == [] and one["scroll"] <= one["width"], one


def test_names_in_brackets_are_shown_whole_in_the_terminal():
    space = LabelSpace("own", (LabelClass(0, "[red]wall", (1, 2, 3)), LabelClass(1, "[/]", (200, 0, 0))))
    card = ModelCard("x", "cgnet", "own", 2)
    evaluation = Evaluation("x [b]", card, space, "[bold]d", "d", "offline", Scores(2, True))
    evaluation.scores.update(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    evaluation.counts.processed = evaluation.counts.played = 1
    evaluation.count_size((4, 4), (4, 4))
    evaluation.damage = "[/run] is torn"
    console = Console(width=200, file=io.StringIO())
    print_evaluation(console, evaluation)
    print_comparison(console, [evaluation, evaluation])
    said = console.file.getvalue()
    for text in ("[red]wall", "[/]", "x on [bold]d", "models on [bold]d", "x [b]", "[/run] is torn"):
        assert text in said


def test_a_picture_is_no_larger_than_a_page_needs():
    for shape in ((66_000, 4), (4, 66_000), (300, 400)):
        uri = encode(np.zeros((*shape, 3), np.uint8))
        data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
        height, width = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]
        assert height <= 2880 and width <= 720
    assert (height, width) == (300, 400)
