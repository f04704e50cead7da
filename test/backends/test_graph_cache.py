"""Graphs are made once and kept; what is damaged or could be somebody else's is made anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from backend_helpers import lived_in_card

from rt_seg_ros.cache import Cache, cache_dir
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs import store
from rt_seg_ros.graphs.store import load_graph
from rt_seg_ros.zoo import ModelCard, find_model

KEY = {"network": "cgnet", "weights": "abc", "options": {"m": 3}, "size": (1, 2)}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cache():
    return Cache("things")


def test_what_was_saved_is_loaded(cache):
    assert cache.load("a", KEY) is None
    path = cache.save("a", KEY, {"x.bin": b"123", "y": b""})
    assert cache.load("a", KEY) == {"x.bin": b"123", "y": b""}
    assert path.parent == cache_dir() / "things" and path.name.startswith("a-")
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]
    cache.save("a", KEY, {"x.bin": b"4"})
    assert cache.load("a", KEY) == {"x.bin": b"4"}


def test_it_is_for_its_owner_alone(cache):
    path = cache.save("a", KEY, {"x": b"1"})
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without a home")
def test_without_a_home_nothing_is_kept_in_a_folder_that_others_share():
    program = (
        "import os, pwd; from rt_seg_ros.cache import Cache, cache_dir; os.setuid(54321); cache = Cache('things');"
        "print(cache.save('a', {}, {'x': b'1'}), cache.load('a', {}), cache.keys('a'), cache_dir())"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("None None [] ") and "RT_SEG_CACHE names another" in done.stderr
    assert tempfile.gettempdir() not in done.stdout + done.stderr
    assert not list(Path(tempfile.gettempdir()).glob("rt_seg_ros*54321*"))


@pytest.mark.parametrize(("name", "value"), [("weights", "abd"), ("options", {"m": 2}), ("size", (2, 1))])
def test_another_key_is_another_entry(cache, name, value):
    cache.save("a", KEY, {"x": b"1"})
    assert cache.load("a", {**KEY, name: value}) is None


def damage_file(path):
    (path / "x").write_bytes(b"2")


def damage_about(path):
    (path / "about.json").write_text("{")


def lose_file(path):
    (path / "x").unlink()


def tell_another_key(path):
    about = json.loads((path / "about.json").read_text())
    about["key"]["weights"] = "other"
    (path / "about.json").write_text(json.dumps(about))


def name_a_file_outside(path):
    (path.parent.parent / "secret").write_bytes(b"1")
    about = json.loads((path / "about.json").read_text())
    about["files"] = {"../../secret": "0"}
    (path / "about.json").write_text(json.dumps(about))


def open_to_others(path):
    path.chmod(0o777)


def put_a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    "harm",
    [damage_file, damage_about, lose_file, tell_another_key, name_a_file_outside, open_to_others, put_a_link],
)
def test_an_entry_that_cannot_be_trusted_is_made_anew(cache, harm, caplog):
    path = cache.save("a", KEY, {"x": b"1"})
    harm(path)
    assert cache.load("a", KEY) is None
    assert "made anew" in caplog.text and str(path) in caplog.text
    assert cache.save("a", KEY, {"x": b"3"}) == path
    assert cache.load("a", KEY) == {"x": b"3"}


def test_a_folder_of_somebody_else_is_not_used(cache, monkeypatch):
    cache.save("a", KEY, {"x": b"1"})
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.load("a", KEY) is None
    assert cache.save("a", KEY, {"x": b"1"}) is None


def test_a_place_that_cannot_be_written_is_no_error(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "file"))
    cache = Cache("things")
    assert cache.load("a", KEY) is None
    assert cache.save("a", KEY, {"x": b"1"}) is None
    assert "made anew each time" in caplog.text


def test_the_oldest_go_when_there_are_too_many():
    cache = Cache("things", keep=3)
    for number in range(5):
        path = cache.save(str(number), KEY, {"x": b"1"})
        os.utime(path, (number, number))
        if number == 2:
            cache.load("0", KEY)  # used: no longer the oldest
    names = sorted(path.name[0] for path in cache.folder.iterdir())
    assert names == ["0", "3", "4"]


def test_what_was_left_half_written_goes_after_a_day(cache):
    cache.save("a", KEY, {"x": b"1"})
    halves = [cache.folder / name for name in (".old", ".new")]
    for half in halves:
        half.mkdir()
        (half / "engine").write_bytes(b"1")
    os.utime(halves[0], (1, 1))
    cache.save("b", KEY, {"x": b"1"})
    assert [half.exists() for half in halves] == [False, True]


def test_an_entry_that_another_process_removes_meanwhile_is_no_failure(monkeypatch, caplog):
    cache = Cache("things", keep=2)
    cache.save("a", KEY, {"x": b"1"})
    present = Path.iterdir

    def iterdir(folder):
        yield from present(folder)
        yield folder / "gone"

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert cache.save("b", KEY, {"x": b"1"}) is not None and not caplog.text


def test_what_cannot_be_marked_as_used_is_used_all_the_same(cache, monkeypatch):
    cache.save("a", KEY, {"x": b"1"})

    def refuse(*_, **__):
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.load("a", KEY) == {"x": b"1"}


def test_a_graph_that_nobody_waits_for_any_more_is_not_made_to_its_end(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # then another process makes it
    said = []

    def make():
        with pytest.raises(UserError, match="could not be made") as caught:
            load_graph(find_model("cgnet"))
        said.append(caught)

    thread = threading.Thread(target=make)
    thread.start()
    deadline = time.monotonic() + 30
    while not store._processes and time.monotonic() < deadline:
        time.sleep(0.01)
    (process,) = store._processes
    store.abandon_graphs()
    thread.join(30)
    assert said and process.returncode == -signal.SIGKILL and not store._processes


def test_another_process_is_told_all_of_a_card_that_a_graph_holds():
    card = find_model("cgnet")
    space = replace(card.load_label_space(), name="mine")
    for one in (card, replace(card, label_space="mine", space=space)):
        told = store.card_from_json(json.loads(json.dumps(store.card_to_json(one))))
        assert told.load_label_space() == one.load_label_space() and told.space == one.space


def test_who_makes_a_graph_ends_with_who_asked_for_it():
    process = subprocess.Popen(
        [sys.executable, "-m", "rt_seg_ros.graphs"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    order = {"card": store.card_to_json(find_model("cgnet")), "options": {"size": None}, "out": "/nowhere/graph"}
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.close()
    assert process.wait(60) == 1 and process.stderr.read() == b""
    process.stderr.close()


def test_several_may_save_the_same_at_once(cache):
    def work(number):
        for _ in range(20):
            cache.save("a", KEY, {"x": bytes([number]) * 1000, "y": bytes([number])})
            found = cache.load("a", KEY)
            if found is not None:
                assert set(found["x"]) == set(found["y"])  # of one saving, never of two

    failures = []

    def guarded(number):
        try:
            work(number)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert cache.load("a", KEY) is not None
    assert len(list(cache.folder.iterdir())) == 1


def test_a_graph_is_made_once(tmp_path, monkeypatch):
    card = lived_in_card("cgnet", tmp_path)
    first = load_graph(card)
    monkeypatch.setattr(store, "_make", lambda *_: pytest.fail("made again"))
    assert load_graph(card) == first


@pytest.mark.parametrize("change", ["weights", "source", "damage"])
def test_a_graph_of_something_else_is_made_anew(tmp_path, monkeypatch, change):
    card = lived_in_card("cgnet", tmp_path)
    made = []
    monkeypatch.setattr(store, "_make", lambda card, options: made.append(card) or b"graph")
    load_graph(card)
    if change == "weights":
        content = bytearray(card.weights.read_bytes())
        content[-1] ^= 1
        card.weights.write_bytes(content)
        card.weights.with_suffix(".yaml").unlink()
        card = ModelCard(**{**card.__dict__, "sha256": ""})  # a file without a card: its own hash counts
    elif change == "source":
        monkeypatch.setattr(store, "_source_hash", lambda: "changed")
    else:
        (graph,) = cache_dir().glob("graphs/*/model.onnx")
        graph.write_bytes(b"gr4ph")
    load_graph(card)
    assert len(made) == 2
    assert load_graph(card) == b"graph" and len(made) == 2


def test_a_process_of_its_own_makes_the_graph_and_says_what_is_wrong(tmp_path):
    """As in a node, which has not imported torch."""
    code = (
        "import sys, pathlib; from dataclasses import replace; from rt_seg_ros.zoo import find_model; "
        "from rt_seg_ros.errors import UserError; from rt_seg_ros.graphs.store import load_graph\n"
        "card = find_model('cgnet'); graph = load_graph(card); assert len(graph) > 1_000_000\n"
        "try: load_graph(replace(card, network='frfnet'))\n"
        "except UserError as error: print(error)\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "do not fit network 'frfnet'" in done.stdout
    assert len(list(cache_dir().glob("graphs/cgnet-*/model.onnx"))) == 1


def test_without_torch_a_graph_that_is_not_there_yet_is_refused_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(UserError, match="pip install torch"):
        load_graph(find_model("cgnet"))
