"""Recipes: each of the package's builds its network; errors name the key, the value and what is allowed."""

from __future__ import annotations

import pytest
import torch

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import create_network, list_networks
from rt_seg_ros.training.about import licence, repeat_command
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_parses_and_builds_its_network(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description
    weights = recipe.loss.auxiliary_weights
    with torch.device("meta"):
        classes = load_label_space(recipe.label_space).num_classes
        options = recipe.network.options
        network = create_network(recipe.network.name, num_classes=classes, aux=bool(weights), **options).eval()
        assert len(network.maps(torch.zeros(1, 3, 64, 96), auxiliary=True)) == 1 + len(weights)
    if isinstance(recipe.loss.class_weights, list):
        assert len(recipe.loss.class_weights) == classes
    assert licence(recipe).startswith("CC BY-NC 4.0 (CamVid)" if recipe.label_space == "camvid11" else "Cityscapes")


def test_every_network_has_its_recipe_and_its_papers():
    kinds = ("camvid", "camvid_paper", "cityscapes_paper")
    assert {f"{network}_{kind}" for network in list_networks() for kind in kinds} <= set(list_recipes())
    assert not any(name.startswith("base") for name in list_recipes())


def test_a_resolved_recipe_loads_to_an_equal_one(tmp_path):
    recipe = load_recipe("frfnet_camvid_paper", ["schedule.epochs=3"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_recipes_inherit_key_by_key(tmp_path):
    (tmp_path / "mine.yaml").write_text("inherits: cgnet_camvid\nschedule: {batch: 3}\naugment: {crop: [64, 96]}\n")
    (tmp_path / "deeper.yaml").write_text("inherits: mine\nnetwork: {name: frfnet}\n")
    base, recipe = load_recipe("cgnet_camvid"), load_recipe(tmp_path / "deeper.yaml")
    assert (recipe.name, recipe.network.name, recipe.schedule.batch) == ("deeper", "frfnet", 3)
    assert recipe.schedule.epochs == base.schedule.epochs and recipe.augment.crop == (64, 96)
    (tmp_path / "part.yaml").write_text("inherits: deeper\nnetwork: {weights: frfnet, partial: true}\n")
    part = load_recipe(tmp_path / "part.yaml").network
    assert (part.name, part.weights, part.partial) == ("frfnet", "frfnet", True)  # the name need not be repeated
    (tmp_path / "mine.yaml").write_text("inherits: deeper\n")
    with pytest.raises(UserError, match="inherits from itself: deeper -> mine -> deeper"):
        load_recipe(tmp_path / "deeper.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=5", r"schedule\.epoch: no such key \(did you mean 'epochs'\?\)"),
        ("scheduel.epochs=5", r"scheduel: no such key \(did you mean 'schedule'\?\)"),
        ("data.train.0.spilt=val", r"data\.train\.0\.spilt: no such key \(did you mean 'split'\?\)"),
        ("schedule.epochs=many", r"schedule\.epochs is 'many': .*number"),
        ("schedule.batch=2.5", r"schedule\.batch is 2\.5: .*integer"),
        ("optimiser.lr=-1", r"optimiser\.lr is -1: .*greater than 0"),
        ("optimiser.lr=.inf", r"optimiser\.lr is inf: .*finite"),
        ("augment.flip=1.5", r"augment\.flip is 1\.5: .*less than or equal to 1"),
        ("augment.scale=[2, 0.5]", r"augment\.scale is \[2, 0\.5\]: .*the smaller first"),
        ("augment.scales=[0]", r"augment\.scales is \[0\]: numbers from 0\.05 to 20"),
        ("augment.crop=[0, 5]", r"augment\.crop\.0 is 0: .*greater than 0"),
        ("optimiser.betas=[1.5, 0.9]", r"optimiser\.betas\.0 is 1\.5: .*less than 1"),
        ("loss={kind: focal, label_smoothing: 0.1}", r"loss: label_smoothing is of cross_entropy; focal has none"),
        (
            "loss={kind: ohem, auxiliary_kind: cross_entropy, auxiliary_weights: [], label_smoothing: 0.1}",
            r"loss: label_smoothing is of cross_entropy; ohem has none",
        ),
        ("loss.class_weights=[0, 0]", r"loss\.class_weights is \[0.*: numbers from 0, and not all of them 0"),
        ("loss.auxiliary_weights=[-1]", r"loss\.auxiliary_weights is \[-1.*: numbers from 0"),
        ("loss.kind=dice", r"loss\.kind is 'dice': .*'ohem'"),
        ("data.std=[1, 0, 1]", r"data\.std .*above 0"),
        ("data.train=[]", r"data\.train is \[\]: .*at least 1"),
        ("data.train.0={split: train}", r"data\.train\.0: .*either path .* or synth"),
        ("data.train.7.split=val", r"'7' is not an index of a list"),
        ("data.train.\u00b2={}", r"'\u00b2' is not an index of a list"),
        ("augment.begin.share=0.2", r"augment\.begin\.scale: is missing"),  # of a section that is null
        ("network={}", r"network\.name: is missing"),
        ("augment.crop.x.y=3", r"not an index"),
        ("name.x=3", r"'name' has no keys below it"),
        ("schedule.epochs", r"write it as key\.sub=value"),
        ("loss=[1", r"not valid YAML"),
        ("description=2020-13-45", r"not valid YAML"),
        ("description=!!timestamp x", r"not valid YAML"),
    ],
)
def test_what_a_recipe_refuses(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("cgnet_camvid", [override])


def test_unknown_recipes(tmp_path):
    with pytest.raises(UserError, match=r"no recipe 'cgnet_camvit' \(did you mean 'cgnet_camvid"):
        load_recipe("cgnet_camvit")
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"bad\.yaml is not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_all_problems_come_at_once():
    with pytest.raises(UserError) as raised:
        load_recipe("cgnet_camvid", ["schedule.batch=0", "run.seed=-1"])
    assert "schedule.batch is 0" in str(raised.value) and "run.seed is -1" in str(raised.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["schedule.epochs=2.5", "augment.crop=[64, 96]", "data.train.1.weight=0.5"],
        ["network.options={n: 3}", "data.val=[]", "data.train.0.name=a b", "loss.class_weights=none"],
    ],
)
def test_the_command_that_repeats_a_run_gives_the_same_recipe(overrides):
    import shlex

    recipe = load_recipe("cgnet_camvid", overrides)
    words = shlex.split(repeat_command(recipe))
    assert words[:3] == ["rt-seg", "train", "cgnet_camvid"] and len(words) == 3 + len(overrides)
    assert load_recipe(words[2], words[3:]) == recipe


def test_the_command_of_a_recipe_of_ones_own_names_the_run_folders(tmp_path):
    recipe = Recipe.model_validate({**load_recipe("cgnet_camvid").model_dump(), "name": "mine"})
    assert repeat_command(recipe, tmp_path) == f"rt-seg train recipe.yaml --data {tmp_path.name}"


def test_the_licence_is_that_of_what_is_learnt_from(tmp_path):
    def of(*overrides: str) -> str:
        return licence(load_recipe("cgnet_camvid", overrides))

    (tmp_path / "mine.yaml").write_text(
        "inherits: cgnet_camvid\ndata: {train: [{path: pictures/of/mine, split: train}]}\n"
    )
    assert licence(load_recipe(tmp_path / "mine.yaml")) == "that of mine"  # not CamVid's, which it does not see
    assert of("data.train.0.licence=CC0") == "CC0" and of("data.licence=all mine") == "all mine"
    both = of("data.train=[{path: a, licence: X}, {path: b}, {path: c, licence: X}, {synth: {seeds: [1]}}]")
    assert both == "X; that of b"
    assert of("data.train=[{synth: {seeds: [1]}}]").startswith("Apache-2.0")
    assert of("network.backbone_weights=/where/resnet18.pth").endswith("; that of resnet18.pth")
    went_on = load_recipe("cgnet_camvid", ["network.weights=a/b.safetensors", "data.licence=mine"])
    assert licence(went_on) == "mine; that of b.safetensors"
    assert licence(went_on, {"licence": "theirs", "model": "b"}) == "mine; theirs"


def test_a_label_space_is_found_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "mine.yaml").write_text("inherits: cgnet_camvid\nlabel_space: labels.yaml\n")
    (tmp_path / "deep/deeper.yaml").write_text("inherits: ../mine.yaml\n")
    for recipe in ("mine.yaml", "deep/deeper.yaml"):
        assert load_recipe(tmp_path / recipe).label_space == str(tmp_path / "labels.yaml")
    monkeypatch.chdir(tmp_path / "deep")
    assert load_recipe("../mine.yaml", ["label_space=other.yml"]).label_space == str(tmp_path / "deep/other.yml")
    assert load_recipe("../mine.yaml", ["label_space=cityscapes19"]).label_space == "cityscapes19"
