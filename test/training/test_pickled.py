"""Weights from pickles: refused unless asked for, and then only their tensors are taken."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rt_seg_ros import zoo
from rt_seg_ros.cli import main
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import create_network
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.pickled import weights_from_pickle
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.start import make_networks
from rt_seg_ros.training.weights import export_weights

SMALL = [
    "network={name: cgnet, options: {m: 2, n: 2}}",
    "augment.crop=[32, 48]",
    "schedule={batch: 2, max_steps: 1, warm_up_steps: 0}",
    "run={device: cpu, precision: fp32, ema: 0.9, validate_every: 1000, threads: 1}",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def ended(streets, tmp_path_factory) -> Path:
    """A run's folder, with best.pt and the weights that were exported of it."""
    out = tmp_path_factory.mktemp("ended") / "run"
    assert Trainer(load_recipe("cgnet_camvid_paper", SMALL), streets, out).run()
    export_weights(out)
    return out


def test_a_runs_checkpoint_gives_what_its_export_gives(ended, cache):
    exported = zoo.find_model("cgnet", weights=ended / "cgnet_camvid11.safetensors")
    converted = weights_from_pickle(ended / "best.pt", "cgnet")
    card = zoo.find_model("cgnet", weights=converted)
    same = replace(card, name=exported.name, weights=exported.weights, sha256="", scores={}, details={})
    assert same == replace(exported, sha256="", scores={}, details={}) and card.sha256
    history = ("licence", "data", "command", "commit", "protocol", "training")
    assert {key: card.details[key] for key in history} == {key: exported.details[key] for key in history}
    assert card.scores == exported.scores
    mine, theirs = load_file(converted), load_file(exported.weights)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert cache in converted.parents and converted.parent.stat().st_mode & 0o077 == 0
    made = converted.stat().st_mtime_ns
    assert weights_from_pickle(ended / "best.pt", "cgnet").stat().st_mtime_ns == made, "made once"


def test_a_label_file_that_only_lies_beside_a_checkpoint_is_none_of_its(ended, tmp_path):
    shutil.copy(ended / "best.pt", tmp_path / "best.pt")
    classes = "".join(f"- {{id: {i}, name: plant{i}, color: [{i}, 0, 0]}}\n" for i in range(11))
    (tmp_path / "labels.yaml").write_text(f"name: garden\nclasses:\n{classes}")
    card = zoo.find_model("cgnet", weights=weights_from_pickle(tmp_path / "best.pt", "cgnet"))
    assert card.label_space == "camvid11"


def test_segment_takes_a_checkpoint_only_when_told_to(ended, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "street.png"), np.random.default_rng(3).integers(0, 255, (64, 96, 3), np.uint8))
    words = ["segment", str(tmp_path / "street.png"), "--labels", "--no-overlay", "--backend", "torch", "--weights"]
    assert main([*words, str(ended / "best.pt"), "--out", str(tmp_path / "no")]) == 2
    said = capsys.readouterr().err
    assert "best.pt: only .safetensors" in said and "--allow-pickle" in said and said.count("\n") == 1
    assert not (tmp_path / "no").exists()
    assert main([*words, str(ended / "best.pt"), "--allow-pickle", "--out", str(tmp_path / "one")]) == 0
    assert main([*words, str(ended / "cgnet_camvid11.safetensors"), "--out", str(tmp_path / "other")]) == 0
    (one,), (other,) = (list((tmp_path / out).rglob("*_label.png")) for out in ("one", "other"))
    assert np.array_equal(cv2.imread(str(one), -1), cv2.imread(str(other), -1))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
@pytest.mark.parametrize(("classes", "space"), [(11, "camvid11"), (19, "cityscapes19")])
def test_a_state_dict_tells_its_classes(tmp_path, classes, space, wrap):
    network = create_network("cgnet", classes)
    torch.save(wrap(network.state_dict()), tmp_path / "mine.pth")
    card = zoo.find_model("cgnet", weights=weights_from_pickle(tmp_path / "mine.pth", "cgnet"))
    assert (card.num_classes, card.label_space, card.mean) == (classes, space, zoo.DEFAULT_MEAN)
    loaded = zoo.build_network(card).state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(loaded[key], value.half().float() if value.is_floating_point() else value), key


@pytest.mark.parametrize("recipe", ["m:\n- !EpochRange\n  end: 3", "- a", "[", "!!timestamp x", "plain words", 3, None])
def test_another_programs_recipe_is_told(tmp_path, recipe):
    torch.save({"recipe": recipe, "state_dict": {"a": torch.zeros(2)}}, tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"recipe in weights .*mine\.pth: not one of rt-seg train's"):
        weights_from_pickle(tmp_path / "mine.pth", "cgnet")


class Trap:
    """What a pickle would run when loaded without care."""

    def __init__(self, harm: Path) -> None:
        self.harm = harm

    def __reduce__(self):
        return os.system, (f"touch {self.harm}",)


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "{folder}", "--weights"],
        ["evaluate", "{folder}", "--weights"],
        ["export", "--format", "onnx", "--weights"],
        ["explain", "{folder}", "--class", "car", "--weights"],
        ["benchmark", "--weights"],
        ["train", "cgnet_camvid", "--data", "{folder}", "--weights"],
        ["train", "csrnet_light_camvid", "--data", "{folder}", "--backbone-weights"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_code_in_a_pickle_is_refused_in_one_line_and_never_run(streets, tmp_path, monkeypatch, capfd, words):
    monkeypatch.chdir(tmp_path)
    harm, trap = tmp_path / "harm", tmp_path / "trap.pt"
    torch.save({"state_dict": Trap(harm)}, trap)
    torch.load(trap, weights_only=False)
    assert harm.exists(), "this pickle does harm where it may"
    harm.unlink()
    words = [word.format(folder=streets / "val") if "val" not in word else word for word in words]
    assert main([*words, str(trap)]) == 2
    said = capfd.readouterr().err
    assert "trap.pt" in said and "--allow-pickle" in said and "Traceback" not in said
    assert main([*words, str(trap), "--allow-pickle"]) == 2
    said = capfd.readouterr().err
    assert "trap.pt: refused: the pickle holds 'posix.system'" in said and said.count("\n") == 1, said
    assert not harm.exists()


@pytest.mark.parametrize("key", ["weights", "backbone_weights"])
def test_training_begins_with_a_pickle_only_where_its_recipe_says_so(tmp_path, key):
    network = create_network("csrnet_light", 11)
    state = network.state_dict() if key == "weights" else network.backbone.state_dict()
    torch.save(state, tmp_path / "begin.pth")
    words = [f"network.{key}={tmp_path / 'begin.pth'}"]
    with pytest.raises(UserError, match=r"begin\.pth.*allow.pickle"):
        make_networks(load_recipe("csrnet_light_camvid", words), load_label_space("camvid11"))
    trained, _ = make_networks(
        load_recipe("csrnet_light_camvid", [*words, "network.allow_pickle=true"]), load_label_space("camvid11")
    )
    loaded = trained.state_dict() if key == "weights" else trained.backbone.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6, msg=name)


def last(folder: Path, ended: Path) -> tuple[Path, str]:
    return ended / "last.pt", "to go on from"


def cut(folder: Path, ended: Path) -> tuple[Path, str]:
    (folder / "cut.pt").write_bytes((ended / "best.pt").read_bytes()[:-2000])
    return folder / "cut.pt", "cannot be read"


def of_other_code(folder: Path, ended: Path) -> tuple[Path, str]:
    (folder / "plain.pt").write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    return folder / "plain.pt", "cannot be read|refused"


def a_list(folder: Path, ended: Path) -> tuple[Path, str]:
    torch.save([1, 2], folder / "list.pt")
    return folder / "list.pt", "holds a list"


def of_another_network(folder: Path, ended: Path) -> tuple[Path, str]:
    torch.save(create_network("frfnet", 11).state_dict(), folder / "frfnet.pt")
    return folder / "frfnet.pt", "are not those of network 'cgnet'"


def with_a_tensor_too_many(folder: Path, ended: Path) -> tuple[Path, str]:
    torch.save({**create_network("cgnet", 11).state_dict(), "more": torch.zeros(1)}, folder / "more.pt")
    return folder / "more.pt", "do not fit network 'cgnet': unknown more"


def of_seven_classes(folder: Path, ended: Path) -> tuple[Path, str]:
    torch.save(create_network("cgnet", 7).state_dict(), folder / "seven.pt")
    return folder / "seven.pt", "have 7 classes"


def beyond_fp16(folder: Path, ended: Path) -> tuple[Path, str]:
    state = create_network("cgnet", 11).state_dict()
    name = next(key for key in state if key.endswith("running_var"))
    torch.save({**state, name: state[name] + 1e6}, folder / "large.pt")
    return folder / "large.pt", f"{name} has values that fp16 cannot hold"


@pytest.mark.parametrize(
    "make",
    [last, cut, of_other_code, a_list, of_another_network, with_a_tensor_too_many, of_seven_classes, beyond_fp16],
)
def test_what_cannot_be_used_is_told_with_the_files_own_name(ended, tmp_path, make):
    path, reason = make(tmp_path, ended)
    with pytest.raises(UserError, match=reason) as error:
        weights_from_pickle(path, "cgnet")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
