"""How a run begins: weights it is given, what is refused before any data are read, and that refusals leave nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rt_seg_ros.cli import main
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import create_network
from rt_seg_ros.networks.resnet import ResNet18
from rt_seg_ros.training import loop
from rt_seg_ros.training.checkpoint import BEST, LAST, read_checkpoint, write_checkpoint
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.losses import class_weights
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.run_folder import read_about, read_metrics
from rt_seg_ros.training.start import start_remarks
from rt_seg_ros.training.validation import SplitScore
from rt_seg_ros.training.watcher import Watcher
from rt_seg_ros.training.weights import export_weights
from rt_seg_ros.zoo import build_network, find_model, read_card

SMALL = [
    "network={name: cgnet, options: {m: 2, n: 2}}",
    "augment.crop=[32, 48]",
    "schedule={batch: 2, max_steps: 2, warm_up_steps: 0}",
    "run={device: cpu, precision: fp32, ema: 0.9, validate_every: 1000, threads: 1}",
]

TRAIN_ALONE = ["data.train=[{path: ., split: train}]", "data.val=[]"]
STANDING_STILL = ("optimiser.lr=1.0e-12", "run.ema=0")


def small(*overrides: str) -> Recipe:
    return load_recipe("cgnet_camvid_paper", [*SMALL, *overrides])


class Told(Watcher):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_message(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(scope="module")
def ended(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that came to its end, with weights."""
    out = tmp_path_factory.mktemp("ended") / "run"
    assert Trainer(small(), streets, out).run()
    export_weights(out)
    return out


def resnet(path: Path) -> dict[str, torch.Tensor]:
    """Write what torchvision's ResNet-18 checkpoint holds: these keys, and the classifier's."""
    torch.manual_seed(7)
    state = ResNet18().state_dict()
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, path)
    return state


# -- weights to begin with -----------------------------------------------------------------------------------


def test_backbone_weights_of_torchvision_load_in_csrnet(streets, tmp_path):
    state = resnet(tmp_path / "resnet18.pth")
    recipe = load_recipe(
        "csrnet_light_camvid",
        [
            *SMALL[1:],
            *TRAIN_ALONE,
            f"network.backbone_weights={tmp_path / 'resnet18.pth'}",
            "network.allow_pickle=true",
        ],
    )
    trainer = Trainer(recipe, streets, tmp_path / "run")
    loaded = trainer.network.backbone.state_dict()
    assert loaded and all(torch.equal(value, state[key]) for key, value in loaded.items())
    about = read_about(tmp_path / "run")
    assert "resnet18.pth" in about["licence"] and str(tmp_path) not in about["command"]


def test_backbone_weights_that_do_not_fit_are_told_by_name_before_data_are_read(tmp_path, capsys):
    state = resnet(tmp_path / "bad.pth")
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    del state["bn1.bias"]
    torch.save(state, tmp_path / "bad.pth")
    nowhere = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"), "--allow-pickle"]
    assert main(["train", "csrnet_light_camvid", *nowhere, "--backbone-weights", str(tmp_path / "bad.pth")]) == 2
    told = capsys.readouterr().err
    assert "missing bn1.bias" in told and "layer1.0.conv1.weight is (64, 64, 1, 1), expected (64, 64, 3, 3)" in told
    assert main(["train", "cgnet_camvid", *nowhere, "--backbone-weights", str(tmp_path / "bad.pth")]) == 2
    assert "has no backbone" in capsys.readouterr().err
    assert main(["train", "csrnet_light_camvid", *nowhere, "--backbone-weights", str(tmp_path / "none.pth")]) == 2
    assert "none.pth: no such file" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_weights_are_gone_on_from_and_the_card_tells(streets, ended, tmp_path, capsys):
    weights = ended / "cgnet_camvid11.safetensors"
    out = tmp_path / "run"
    words = ["train", "cgnet_camvid_paper", *SMALL, "--data", str(streets), "--out", str(out)]
    assert main([*words, "--weights", str(weights), *STANDING_STILL]) == 0
    begun = load_file(weights)
    for key, value in read_checkpoint(out)["network"].items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, begun[key].float(), rtol=0, atol=1e-6, msg=key)
    card = read_card(out / "cgnet_camvid11.yaml")
    first = read_card(weights.with_suffix(".yaml"))
    assert card.details["start"]["sha256"] == first.sha256 and card.details["licence"] == "CC BY-NC 4.0 (CamVid)"
    assert "network.weights" in card.details["command"] and str(tmp_path.parent) not in card.details["command"]
    # The file is needed no more when the run is continued, nor when it is written out again.
    moved = weights.rename(tmp_path / "elsewhere.safetensors")
    try:
        assert main(["train", "--resume", str(out), "schedule.max_steps=3"]) == 0
        assert read_card(out / "cgnet_camvid11.yaml").details["start"]["sha256"] == first.sha256
    finally:
        moved.rename(weights)


def test_weights_tell_how_large_the_frames_were_that_they_learnt_from(ended):
    card = read_card(ended / "cgnet_camvid11.yaml")
    assert card.frame_size == (48, 64) and not card.resized and card.input_size == (32, 48)


def test_weights_that_do_not_fit_are_refused(ended, tmp_path, capsys):
    weights = str(ended / "cgnet_camvid11.safetensors")
    nowhere = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]

    def refused(*words: str) -> str:
        assert main(["train", *words, *nowhere]) == 2
        return capsys.readouterr().err

    assert "of network 'cgnet'" in refused("frfnet_camvid", "--weights", weights)
    cityscapes = ("label_space=cityscapes19", "loss.class_weights=none")
    told = refused("cgnet_camvid_paper", *SMALL, "--weights", weights, *cityscapes)
    assert "do not fit" in told and "with 19 classes" in told and "classifier" in told
    assert "no model 'cgnett' (did you mean 'cgnet'?)" in refused("cgnet_camvid", "--weights", "cgnett")
    assert "no such file" in refused("cgnet_camvid", "--weights", str(tmp_path / "none.safetensors"))
    assert "fit only" in refused("frfnet_camvid", "--weights", weights, "--partial")
    assert "partial says how weights are taken" in refused("cgnet_camvid", "--partial")
    for given in (["--weights", weights], ["--partial"]):
        assert main(["train", "--resume", str(ended), *given]) == 2
        assert "--resume takes the weights of the run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_classifier_of_as_many_other_classes_begins_anew_where_part_is_taken(streets, ended, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\nvoid_ids: [11, 255]\nclasses:\n"
        + "".join(f"  - {{name: c{i}, color: [{i}, 0, 0]}}\n" for i in range(11))
    )
    begun = load_file(ended / "cgnet_camvid11.safetensors")["classifier.weight"].float()

    def trained(*words: str) -> Trainer:
        given = f"network.weights={ended / 'cgnet_camvid11.safetensors'}"
        return Trainer(small(given, f"label_space={own}", *words), streets, tmp_path / f"run{len(words)}", watcher)

    watcher = Told()
    assert torch.equal(trained().network.state_dict()["classifier.weight"], begun)
    assert any("network.weights know sky, building, pole...: the classifier goes on" in text for text in watcher.told)
    assert not torch.equal(trained("network.partial=true").network.state_dict()["classifier.weight"], begun)
    assert any("nothing in network.weights fits classifier" in text for text in watcher.told)


def test_of_weights_for_other_classes_all_but_the_classifier_goes_on(streets, ended, tmp_path):
    weights = ended / "cgnet_camvid11.safetensors"
    out = tmp_path / "run"
    (tmp_path / "twelve.yaml").write_text(
        "name: twelve\nvoid_ids: [255]\nclasses:\n"
        + "".join(f"  - {{name: c{i}, color: [{i}, 0, 0]}}\n" for i in range(12))
    )
    words = ["train", "cgnet_camvid_paper", *SMALL, "--data", str(streets), "--out", str(out), *STANDING_STILL]
    words += ["--weights", str(weights), f"label_space={tmp_path / 'twelve.yaml'}", "loss.class_weights=none"]
    assert main([*words, "--partial"]) == 0
    begun, now = load_file(weights), read_checkpoint(out)["network"]
    for key, value in now.items():
        if "classifier" in key:
            assert value.shape[0] == 12
        elif "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, begun[key].float(), rtol=0, atol=1e-6, msg=key)
    (tmp_path / "twelve.yaml").write_text("classes: [{name: changed, color: [0, 0, 0]}]\n")
    for path in (None, tmp_path / "twelve.yaml"):  # changed, then gone: the weights bring what they learnt
        if path:
            path.unlink()
        assert export_weights(out).load_label_space().names[11] == "c11"
    card = read_card(out / "cgnet_twelve.yaml")
    assert card.details["start"]["begun_anew"] == ["classifier"] and "network.partial=true" in card.details["command"]


def test_of_a_kindred_networks_weights_what_fits_goes_on(streets, tmp_path):
    few = ["augment.crop=[64, 64]", *SMALL[2:], *TRAIN_ALONE, *STANDING_STILL]
    trainer = Trainer(
        load_recipe(
            "csrnet_medium_camvid_paper", [*few, "network={name: csrnet_medium, weights: csrnet_light, partial: true}"]
        ),
        streets,
        tmp_path / "run",
    )
    begun, now = build_network(find_model("csrnet_light")).state_dict(), trainer.network.state_dict()
    anew = {key for key in now if key not in begun}
    assert anew and all(key.startswith("stages.0.1.") for key in anew)
    assert all(torch.equal(now[key], value) for key, value in begun.items())
    told = read_about(tmp_path / "run")["start"]
    assert told["model"] == "csrnet_light_camvid11" and told["begun_anew"][0] == "stages.0.1.pointwise.conv"


def test_weights_that_lack_a_part_of_the_network_are_refused(streets, ended, tmp_path, capsys):
    weights = ended / "cgnet_camvid11.safetensors"  # M2N2
    words = ["train", "cgnet_camvid_paper", *SMALL[1:], *TRAIN_ALONE, "--data", str(streets), "--weights", str(weights)]
    options = "network.options={m: 3, n: 2}"
    assert main([*words, options, "--out", str(tmp_path / "a")]) == 2
    assert re.search(
        r"do not fit network 'cgnet' with 11 classes: .*no stage2\S+.* and \d+ more", capsys.readouterr().err
    )
    assert main([*words, options, "--partial", "--out", str(tmp_path / "b"), *STANDING_STILL]) == 0


def test_another_normalisation_than_the_weights_learnt_with_is_told(streets, ended, tmp_path):
    begun = f"network.weights={ended / 'cgnet_camvid11.safetensors'}"
    for mean, told in (("[1, 2, 3]", True), (str(list(small().data.mean)), False)):
        watcher = Told()
        Trainer(small(begun, f"data.mean={mean}"), streets, tmp_path / mean, watcher)
        assert any("learnt with data.mean=" in text for text in watcher.told) is told


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_pictures_without_a_label_are_refused(streets, tmp_path, capsys, loading):
    shutil.copytree(streets, tmp_path / "data")
    for path in (tmp_path / "data/trainannot").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 11, np.uint8))
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), f"data.loading={loading}"]
    assert main(["train", "cgnet_camvid_paper", *SMALL, *TRAIN_ALONE, *words]) == 2
    assert "data/train cannot be used: no pixel of its 6 label images has a class" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["", "train/"])
def test_the_way_in_the_guide_works(streets, tmp_path, monkeypatch, split):
    for kind, theirs in (("images", "train"), ("labels", "trainannot")):
        shutil.copytree(streets / theirs, tmp_path / kind / split)
    (tmp_path / "labels.yaml").write_text(
        "name: ground\nvoid_ids: [11]\nclasses:\n"
        + "".join(f"- {{id: {i}, name: c{i}, color: [{i}, 0, 0]}}\n" for i in reversed(range(11)))
    )
    source = "{path: ., split: train}" if split else "{path: .}"
    (tmp_path / "mine.yaml").write_text(
        f"inherits: cgnet_camvid_paper\nlabel_space: labels.yaml\ndata: {{train: [{source}], val: [{source}]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    few = [word for word in SMALL if "data" not in word]
    assert main(["train", "mine.yaml", *few, "loss.class_weights=none", "--data", ".", "--out", "run"]) == 0
    card = read_card(tmp_path / "run/cgnet_ground.yaml")
    assert card.load_label_space().names[3] == "c3"
    assert list(card.scores) == [f"{tmp_path.name} train" if split else tmp_path.name]
    (tmp_path / "labels.yaml").unlink()  # the run folder has its own
    assert main(["train", "--resume", "run", "schedule.epochs=2"]) == 0
    assert read_card(tmp_path / "run/cgnet_ground.yaml").load_label_space().names[3] == "c3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.options={rates: 3}", "no option 'rates'"),
        ("network.options={m: many}", "network 'cgnet' cannot be built with m='many'"),
        ("augment.crop=[36, 48]", r"augment.crop is \[36, 48\]; use multiples of 8, such as \[32, 48\]"),
        ("data.size=[353, 470]", r"data.size is \[353, 470\]; use multiples of 8, such as \[352, 472\]"),
        ("loss.auxiliary_weights=[1.0]", "network 'cgnet' has 0 auxiliary heads"),
        ("loss.class_weights=[1, 2]", "class_weights has 2 numbers"),
        ("network={name: csrnet_light}\x00schedule.batch=1", "at least 2 images per batch"),
        ("network.name=cgnett", "no network 'cgnett'"),
        ("label_space=camvid12", "no label space 'camvid12'"),
        ("run.device=warp", "run.device is 'warp'"),
        ("data.val=[{name: a, path: ., split: val}, {name: a, path: ., split: small}]", "two splits of one name"),
        ("data.train=[{path: ., split: trane}]", "no split 'trane'"),
    ],
)
def test_what_cannot_be_is_refused_before_pictures_are_read_and_leaves_no_folder(
    streets, tmp_path, monkeypatch, override, message
):
    monkeypatch.setattr("rt_seg_ros.training.loop.load_sources", lambda *_: pytest.fail("pictures were read"))
    with pytest.raises(UserError, match=message):
        Trainer(small(*override.split("\x00")), streets, tmp_path / "runs" / "run")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_pictures_are_read(streets, tmp_path, monkeypatch):
    monkeypatch.setattr("rt_seg_ros.training.loop.load_sources", lambda *_: pytest.fail("pictures were read"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be made"):
        Trainer(small(), streets, tmp_path / "file" / "run")


def test_a_disk_without_room_for_checkpoints_is_refused_before_pictures_are_read(streets, tmp_path, monkeypatch):
    monkeypatch.setattr("rt_seg_ros.training.loop.load_sources", lambda *_: pytest.fail("pictures were read"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=500_000))
    with pytest.raises(UserError, match=r"has 0 MB left, and about \d+ MB will be written"):
        Trainer(small(), streets, tmp_path / "runs" / "run")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_there_before_stays(streets, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(UserError, match="no split"):
        Trainer(small("data.val.0.split=vall"), streets, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network={name: frfnet}", "network.name was 'cgnet', now 'frfnet'"),
        ("network.options={m: 2, n: 3}", r"network.options was .*'n': 2.*'n': 3"),
        ("label_space=cityscapes19", "label_space was 'camvid11', now 'cityscapes19'"),
        ("optimiser.kind=sgd", "optimiser.kind was 'adam', now 'sgd'"),
        ("run.ema=0", "use of run.ema was True, now False"),
    ],
)
def test_a_run_is_not_continued_as_another(ended, capsys, override, message):
    assert main(["train", "--resume", str(ended), override]) == 2
    told = capsys.readouterr().err
    assert "cannot be continued as another" in told and "--weights" in told and re.search(message, told)


def test_a_run_is_not_continued_at_a_size_that_shifts_labels(ended, tmp_path, monkeypatch, capsys):
    assert main(["train", "--resume", str(ended), "augment.crop=[33, 48]", "schedule.max_steps=3"]) == 2
    assert "augment.crop is [33, 48]; use multiples of 8" in capsys.readouterr().err


def test_overrides_of_a_continued_run_count(streets, ended):
    recipe = small("optimiser.weight_decay=0.25", "optimiser.betas=[0.5, 0.9]", "schedule.max_steps=3")
    trainer = Trainer(recipe, streets, ended, checkpoint=read_checkpoint(ended))
    assert {group["weight_decay"] for group in trainer.learner.optimiser.param_groups} == {0.25}
    assert all(group["betas"] == (0.5, 0.9) for group in trainer.learner.optimiser.param_groups)
    assert trainer.step == 2 and trainer.steps == 3


def test_interrupt_while_data_are_read_leaves_nothing(tmp_path):
    out = tmp_path / "runs" / "run"
    drives = "data.train=[{synth: {seeds: [1, 2, 3], frames: 2000, size: [96, 128]}}]"
    words = ["cgnet_camvid_paper", *SMALL]
    run = subprocess.Popen(
        [sys.executable, "-m", "rt_seg_ros.cli", "train", *words, drives, "data.val=[]", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 120
        while not out.exists() and run.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        told = run.communicate(timeout=60)[0]
    finally:
        run.kill()
    assert run.returncode == 130 and "interrupted" in told and "Traceback" not in told, told
    assert not (tmp_path / "runs").exists()


# -- a full disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new-last.pt", "best.pt", "metrics.csv"])
def test_a_full_disk_ends_the_run_by_name_and_keeps_what_was_good(streets, tmp_path, name):
    out = tmp_path / "run"
    assert Trainer(small(), streets, out).run()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    aside = out / f".{name}.{os.getpid()}.part"
    aside.symlink_to("/dev/full")
    longer = small("schedule.max_steps=3", "run.keep=last")
    with pytest.raises(UserError, match=rf"{name} cannot be written: No space left on device"):
        Trainer(longer, streets, out, checkpoint=read_checkpoint(out)).run()
    assert not aside.is_symlink()
    kept = {LAST, "previous.pt", name} & set(before)
    assert kept and all((out / key).read_bytes() == before[key] for key in kept)
    assert Trainer(longer, streets, out, checkpoint=read_checkpoint(out)).run()  # there is room again
    assert read_checkpoint(out)["step"] == 3


def test_a_checkpoint_that_may_not_grow_so_large_is_told_by_its_reason(tmp_path):
    """PyTorch's writer hides what the system said behind a position in its archive."""
    write_checkpoint(tmp_path / "a.pt", {"step": 1})
    program = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from rt_seg_ros.errors import UserError\n"
        "from rt_seg_ros.training.checkpoint import write_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_checkpoint(Path(sys.argv[1]), {'weights': torch.zeros(1_000_000)})\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.pt")], capture_output=True, text=True, timeout=120
    )
    assert "a.pt cannot be written: File too large" in done.stdout, done.stderr
    assert read_checkpoint(tmp_path / "a.pt")["step"] == 1 and [p.name for p in tmp_path.iterdir()] == ["a.pt"]


# -- keys that change how a run goes -------------------------------------------------------------------------


def test_the_last_weights_are_kept_where_the_recipe_says(streets, tmp_path):
    for keep in ("best", "last"):
        out = tmp_path / keep
        assert Trainer(small("schedule.max_steps=9", "run.validate_every=0.5", f"run.keep={keep}"), streets, out).run()
        rows = read_metrics(out / "metrics.csv")
        assert len(rows) >= 5
        wanted = max(rows, key=lambda row: row["camvid/miou"]) if keep == "best" else rows[-1]  # the first of equals
        kept = read_checkpoint(out / "best.pt")
        assert kept["step"] == wanted["step"]
        assert kept["metrics"]["camvid/miou"] == pytest.approx(wanted["camvid/miou"], abs=1e-5)


def test_the_first_of_several_validations_says_which_weights_are_best(streets, tmp_path, monkeypatch):
    right = {"val": iter([30, 20]), "small": iter([10, 90])}

    def validate(network, source, *_):
        matrix = ConfusionMatrix(11)
        share = next(right[source.name])
        matrix.matrix[0, 0], matrix.matrix[0, 1] = share, 100 - share
        return SplitScore(source.name, matrix)

    monkeypatch.setattr(loop, "validate", validate)
    two = "data.val=[{name: val, path: ., split: val}, {name: small, path: ., split: small}]"
    trainer = Trainer(small(two), streets, tmp_path / "run")
    for trainer.step in (1, 2):
        trainer._validate(1.0, 1.0)
    assert read_checkpoint(tmp_path / "run" / BEST)["step"] == 1 and trainer.best == pytest.approx(0.3 / 11)


def test_computed_class_weights_count_a_source_by_its_share(streets, tmp_path):
    train = "data.train=[{path: ., split: train}, {name: small, path: ., split: small, weight: 0.2}]"
    trainer = Trainer(small(train, "loss.class_weights=computed"), streets, tmp_path / "run")
    one, two = (np.asarray(source.class_pixels(11)) for source in trainer.mixture.sources)
    expected = class_weights(one + 0.2 * two)
    np.testing.assert_allclose(trainer.learner.loss.main.weights.numpy(), expected, rtol=1e-6)
    assert not np.allclose(expected, class_weights(one + two), rtol=1e-3)


@pytest.mark.parametrize(("scale", "expected"), [("null", 1.0), ("1.0", 1.0), ("0.1", 0.1)])
def test_the_backbones_rate_and_decay_are_scaled(streets, tmp_path, scale, expected):
    recipe = load_recipe(
        "csrnet_light_camvid",
        [
            *SMALL[1:],
            *TRAIN_ALONE,
            "schedule.kind=constant",
            f"optimiser={{kind: adamw, lr: 0.01, weight_decay: 0.1, backbone_scale: {scale}}}",
        ],
    )
    trainer = Trainer(recipe, streets, tmp_path / "run")
    trainer.train_step()
    backbone = {id(p) for p in trainer.network.backbone.parameters()}
    seen = set()
    for group in trainer.learner.optimiser.param_groups:
        factor = expected if id(group["params"][0]) in backbone else 1.0
        assert group["lr"] == pytest.approx(0.01 * factor)
        assert group["weight_decay"] == pytest.approx(0.1 * factor) or group["weight_decay"] == 0.0
        seen.add((factor, group["weight_decay"] > 0))
    assert len(seen) >= 2 + 2 * (expected != 1.0)


def test_a_run_begins_with_other_views(streets, tmp_path):
    begin = "augment.begin={share: 0.5, scale: [0.3, 0.6], crop: [16, 24]}"
    trainer = Trainer(small(begin, "schedule.max_steps=4"), streets, tmp_path / "run")
    plain = Trainer(small("schedule.max_steps=4"), streets, tmp_path / "plain")
    shapes = [tuple(trainer.batch(step)[0].shape) for step in range(4)]
    assert shapes == [(2, 3, 16, 24)] * 2 + [(2, 3, 32, 48)] * 2
    assert torch.equal(trainer.batch(2)[0], plain.batch(2)[0])


def test_auxiliary_heads_begin_anew_on_given_weights(tmp_path):
    from rt_seg_ros.training.start import make_networks

    recipe = load_recipe("crosscbam_m_camvid")
    assert recipe.loss.auxiliary_weights
    network, deployed = make_networks(recipe, load_label_space("camvid11"))
    alone = create_network("crosscbam_m", 11)
    assert set(deployed.state_dict()) == set(alone.state_dict()) < set(network.state_dict())


def test_weights_that_learnt_from_what_they_are_measured_on_are_told():
    space, val = load_label_space("camvid11"), "camvid val, 101 frames of 480x360"

    def remarks(weights: str, measured_on: str) -> str:
        return "\n".join(start_remarks(small(f"network.weights={weights}"), space, (360, 480), [measured_on]))

    assert "network.weights learnt from camvid val: scores on it will flatter" in remarks("cgnet", val)
    assert "learnt from" not in remarks("cgnet_camvid11_train", val)
    assert "learnt from" not in remarks("cgnet", "mine val, 101 frames of 480x360")


def test_what_a_recipe_says_reaches_what_trains(streets: Path, tmp_path: Path) -> None:
    words = [
        "optimiser={kind: sgd, momentum: 0.5}",
        "schedule={kind: poly, power: 2.0, final: 0.1, warm_up_steps: 2, warm_up_start: 0.5, max_steps: 4, batch: 2}",
        "loss.auxiliary_kind=sigmoid_focal",
        "augment.flip=0.25",
        "augment.scale_law=uniform",
    ]
    trainer = Trainer(small(*words), streets, tmp_path / "run")
    assert trainer.learner.optimiser.param_groups[0]["momentum"] == 0.5
    assert trainer.learner.loss.auxiliary.sigmoid
    options = trainer.batches._augmenter.options
    assert (options.flip, options.scale_law) == (0.25, "uniform")
    assert trainer.rate_factor() == pytest.approx(0.5)
    trainer.step = 1
    assert trainer.rate_factor() == pytest.approx((0.1 + 0.9 * 0.75**2) * 0.75)


def test_the_moving_average_counts_every_step(streets: Path, tmp_path: Path) -> None:
    trainer = Trainer(small("schedule.max_steps=24"), streets, tmp_path / "run")
    assert trainer.run()
    assert trainer.learner._average.steps == 24  # also of those, later, after which it does not move


def test_another_round_is_in_another_order(streets: Path, tmp_path: Path) -> None:
    mixture = Trainer(small(*TRAIN_ALONE), streets, tmp_path / "run").mixture
    rounds = [[int(i) for _, i in mixture.samples(start, 6)] for start in (0, 6, 12)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 3
    seen = [mixture.sources[0].names[i] for i in rounds[1]]
    assert mixture.names(6, 6) == seen
