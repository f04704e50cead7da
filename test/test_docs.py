"""What the documents tell people to type can be typed: checked by the real parsers; what is cheap is run."""

import argparse
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from doc_commands import DOCUMENTS, ROOT, Command, anchors, commands_in, documented, links, mentioned

from rt_seg_ros.cli import COMMANDS, command_parser, main
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.label_images import read_label_image
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks.names import NETWORK_NAMES
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.training.ablation import find_tables
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.zoo import list_models

ALL = documented()
OF_RT_SEG = [c for c in ALL if "rt-seg" in c.words]
#: What stands for a name of the user's own: COMMAND, RECIPE, and a file that is made up.
PLACEHOLDER = re.compile(r"[A-Z_]+|mine\.yaml|NETWORK_\w+|RECIPE")


def parsed(command: Command) -> argparse.Namespace | None:
    """Return what the real parser makes of it; None for a command that a placeholder stands for, or only help."""
    name, *words = command.words[command.words.index("rt-seg") + 1 :]
    if PLACEHOLDER.fullmatch(name):
        return None
    assert name in COMMANDS, f"{command}: no such command"
    if "--help" in words:
        return None
    _, parser = command_parser(name)

    def refuse(message: str) -> None:
        raise AssertionError(f"{command}: {message}")

    parser.error = refuse
    return parser.parse_intermixed_args([re.sub(r"\$\w+", "1", word) for word in words])


def check_names(command: Command, args: argparse.Namespace) -> None:
    """Check that models, recipes, tables, keys and files of this repository exist."""
    name = command.words[command.words.index("rt-seg") + 1]
    known = {"all", *NETWORK_NAMES, *(card.name for card in list_models())}
    models = {model for model in str(getattr(args, "model", "")).split(",") if model}
    assert models <= known, f"{command}: no model {models - known}"
    if name in ("train", "ablate"):
        overrides = [word for word in args.words if "=" in word and not word.startswith("key.sub")]
        names = [word for word in args.words if "=" not in word and not PLACEHOLDER.fullmatch(word)]
        if name == "ablate":
            names, tables = [args.recipe] if args.recipe else [], [t for n in names for t in find_tables(n)]
            rows = set(args.rows.split(",")) if args.rows else set()
            assert rows <= {row.name for table in tables for row in table.rows}, command
        for recipe in names or ["cgnet_camvid"]:
            load_recipe(recipe, overrides)
    for word in command.words:
        top = word.split("/")[0]
        if "/" in word and top in {"config", "docs", "launch", "models", "rviz", "test"}:
            assert (ROOT / word).exists(), f"{command}: there is no {word}"


@pytest.mark.parametrize("command", OF_RT_SEG, ids=str)
def test_a_documented_command_is_one_that_the_parser_takes(command):
    args = parsed(command)
    if args is not None:
        check_names(command, args)


@pytest.mark.parametrize("command", [c for c in mentioned() if len(c.words) > 2], ids=str)
def test_a_command_in_running_text_too(command):
    numbered = Command(command.document, tuple("4" if word == "N" else word for word in command.words))
    args = parsed(numbered)
    if args is not None:
        check_names(numbered, args)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_a_commands_help_too(name):
    module, _ = command_parser(name)
    lines = [line for line in getattr(module, "EPILOG", "").splitlines() if line.startswith(f"  rt-seg {name}")]
    examples = [c for line in lines for c in commands_in(re.split(r"  +", line.strip())[0], f"{name} --help")]
    if "examples:" in getattr(module, "EPILOG", ""):
        assert examples
    for example in (c for c in examples if c.words[0] == "rt-seg"):
        args = parsed(example)
        if args is not None:
            check_names(example, args)


def test_targets_and_settings_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    settings = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    used = [c for c in ALL if c.words[0] == "make"]
    assert len(used) >= 4
    for command in used:
        for word in command.words[1:]:
            name, is_setting, _ = word.partition("=")
            assert name in (settings if is_setting else targets), command
    assert set(re.findall(r'^\t@echo "make (\w+)', makefile, re.MULTILINE)) == targets - {"help"}


def test_parameters_and_launch_arguments_exist():
    (parameters,) = (
        document["ros__parameters"]
        for document in yaml.safe_load((ROOT / "config" / "segment.yaml").read_text()).values()
    )
    launch = (ROOT / "launch" / "segment.launch.py").read_text()
    checked = 0
    for command in ALL:
        words = command.words
        if words[:3] == ("ros2", "param", "set"):
            assert words[4] in parameters, command
            checked += 1
        for word in words if words[:2] in (("ros2", "launch"), ("ros2", "run")) else ():
            name, assigned, _ = word.partition(":=")
            if assigned and not name.startswith("~"):
                given = f'"{name}"' in launch if words[1] == "launch" else name in parameters
                assert given, f"{command}: no {name}"
                checked += 1
    assert checked > 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(path):
    for target in links(path):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name} links to {target}"
        assert not found.is_relative_to(ROOT) or _tracked(found), f"{path.name} links to {target}, which git leaves out"
        if anchor:
            assert anchor in anchors(found), f"{path.name} links to {target}: {sorted(anchors(found))}"


def _tracked(path: Path) -> bool:
    if not (ROOT / ".git").exists():
        return True
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", str(path)], check=False)
    return ignored.returncode != 0


#: Documented commands that are run, in this order, each in the folder where the ones before it were: the first words,
#: what is changed to make it cheap, and what it leaves there.
RUN = [
    ("rt-seg models", {}, []),
    ("rt-seg drive synth drive --frames 200", {"200": "4", "+": "--size 96x128"}, ["drive"]),
    ("rt-seg segment photo.jpg", {}, ["photo_segmented/photo_overlay.jpg"]),
    ("rt-seg evaluate drive --report result", {}, ["result/report.html", "result/metrics.json"]),
    ("rt-seg compare result_a result_b --out difference", {}, ["difference/compare.html"]),
    ("rt-seg explain photo.jpg --list-layers", {}, []),
    ("rt-seg export --format onnx", {"+": "--check-frames 1"}, ["cgnet_camvid11.onnx"]),
    ("rt-seg ablate --list csrnet_table3", {}, []),
]


def test_the_cheap_ones_do_what_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", SyntheticDrive(3, 96, 128).render(0)[0])
    for first_words, changes, made in RUN:
        start = tuple(shlex.split(first_words))
        words = next((c.words for c in OF_RT_SEG if c.words[: len(start)] == start), None)
        assert words, f"no document has '{first_words}' any more"
        changed = [changes.get(word, word) for word in words[1:]] + changes.get("+", "").split()
        assert main(changed) == 0, f"{shlex.join(changed)}:\n{capsys.readouterr().err}"
        said = capsys.readouterr()
        assert said.out, changed
        assert "Traceback" not in said.err
        for file in made:
            assert Path(file).exists(), f"{changed} did not make {file}, but {sorted(Path.cwd().iterdir())}"
        if "result" in words:
            shutil.copytree("result", "result_a")
            shutil.copytree("result", "result_b")


def snippet(document: str, word: str) -> str:
    """Return the one block of Python in a document that has this word."""
    text = (ROOT / document).read_text()
    (found,) = (b for b in re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL) if word in b)
    return textwrap.dedent(found)


def test_networks_as_a_library_give_the_labels_of_segment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = SyntheticDrive(3, 96, 128).render(0)[0]
    cv2.imwrite("photo.png", picture)
    names: dict[str, Any] = {}
    exec(snippet("models/README.md", "create_network"), names)
    segmenter = Segmenter(SegmenterConfig(model="cgnet", downsampling_ratio=1.0))
    assert np.count_nonzero(names["labels"] != segmenter.segment(Frame(picture)).labels) <= 2  # rounding, at a border


def test_labels_with_void_as_0_are_renumbered_as_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels/train").mkdir(parents=True)
    for name, kind in (("grey", np.uint8), ("deep", np.uint16)):
        cv2.imwrite(f"labels/train/{name}.png", np.array([[0, 1], [11, 255]], kind))
    exec(snippet("docs/training.md", "a == 0"), {})
    for name in ("grey", "deep"):
        assert read_label_image(Path(f"labels/train/{name}.png")).tolist() == [[255, 0], [10, 255]]


def test_coloured_masks_become_ids_as_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "config/labels/camvid11.yaml", "labels.yaml")
    Path("labels/train").mkdir(parents=True)
    ids = np.array([[*range(11), 255]], np.uint8)
    colours = load_label_space("camvid11").palette[ids]  # of void black, which no class has
    cv2.imwrite("labels/train/1.png", np.ascontiguousarray(colours[:, :, ::-1]))
    with pytest.raises(UserError, match="it has colours"):
        read_label_image(Path("labels/train/1.png"))
    exec(snippet("docs/training.md", "c.color"), {})
    assert np.array_equal(read_label_image(Path("labels/train/1.png")), ids)
