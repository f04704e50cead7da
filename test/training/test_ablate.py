"""The papers' ablation tables: every row is what it says, costs what the paper prints, and trains."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from rt_seg_ros import zoo
from rt_seg_ros.cli import main
from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import SegmentationNetwork, count_parameters, create_network
from rt_seg_ros.training import loop
from rt_seg_ros.training.ablation import Row, find_tables, list_tables, load_table, row_cost, row_recipe
from rt_seg_ros.training.ablation_report import Outcome, markdown
from rt_seg_ros.training.checkpoint import read_checkpoint
from rt_seg_ros.training.losses import HeadLosses, make_loss
from rt_seg_ros.training.recipe import LossSection, Recipe

TABLES = {name: find_tables(name)[0] for name in list_tables()}
ROWS = [(name, row.name) for name, table in TABLES.items() for row in table.rows]


def row_of(table: str, name: str) -> Row:
    return TABLES[table].choose([name])[0]


@cache
def recipe_of(table: str, name: str) -> Recipe:
    return row_recipe(TABLES[table], row_of(table, name))


def built(table: str, name: str, classes: int = 11) -> SegmentationNetwork:
    section = recipe_of(table, name).network
    return create_network(section.name, classes, **section.options)


@cache
def parameters(table: str, name: str) -> int:
    """Count those of the deployed network with the paper's number of classes."""
    with torch.device("meta"):
        return count_parameters(built(table, name, TABLES[table].counted.classes))


def test_every_table_of_the_papers_is_there():
    assert {name: len(table.rows) for name, table in TABLES.items()} == {
        **{"cgnet_table2": 3, "cgnet_table3": 2, "cgnet_table4": 2, "cgnet_table5": 2, "cgnet_table6": 7},
        **{"cgnet_table7": 2, "cgnet_table8": 2, "crosscbam_table4": 5, "crosscbam_table5": 5, "crosscbam_table6": 3},
        **{"csrnet_table3": 16, "frfnet_table2": 4, "frfnet_table3": 4},
    }


@cache  # tables share rows
def one_step(network: str, options: str, loss: str) -> tuple[float, bool]:
    """Return the loss of a random batch, and whether every parameter got a finite gradient from it."""
    torch.manual_seed(0)
    section = LossSection.model_validate_json(loss)
    net = create_network(network, 11, aux=bool(section.auxiliary_weights), **json.loads(options))
    losses = HeadLosses(
        make_loss(section.kind), make_loss(section.auxiliary_kind or section.kind), section.auxiliary_weights
    )
    value = losses(net.forward_train(torch.randn(2, 3, 32, 64)), torch.randint(0, 11, (2, 32, 64)))
    value.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    return float(value.detach()), all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_row_learns(table: str, name: str):
    recipe = recipe_of(table, name)
    loss, fine = one_step(recipe.network.name, json.dumps(recipe.network.options), recipe.loss.model_dump_json())
    assert 0 < loss < 100 and fine


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_differ_in_network_or_loss_and_in_nothing_else(table: str):
    recipes = [recipe_of(table, row.name) for row in TABLES[table].rows]
    own = [(r.network.name, json.dumps(r.network.options, sort_keys=True), r.loss.model_dump_json()) for r in recipes]
    assert len(set(own)) == len(own)
    common = {r.model_dump_json(exclude={"description", "network", "loss"}) for r in recipes}
    assert len(common) == 1


# -- structure: what each row leaves out is gone, and nothing else ---------------------------------------------------


def test_csrnet_table_3():
    def count(name: str) -> int:
        return parameters("csrnet_table3", name)

    assert [count(name) for name in ("heavy", "medium", "light")] == [12_817_863, 12_356_551, 12_125_895]
    attention = 3 * 128 * 128 + 2 * 128 + 2 * 128  # three layers, two biases, one norm: of one SRM
    pointwise = 128 * 128 + 2 * 128
    pyramids = 114_940 + 2 * 65_788 - (512 * 128 + 2 * 128) - 2 * (128 * 128 + 2 * 128)  # less what replaces them
    for variant, modules in (("heavy", 6), ("medium", 4), ("light", 3)):
        assert count(variant) - count(f"{variant}_no_attention") == modules * attention
        assert count(variant) - count(f"{variant}_no_pointwise") == modules * pointwise
        assert count(variant) - count(f"{variant}_no_spfm") == pyramids
    assert count("heavy_low") - count("heavy_low_no_attention") == 3 * attention
    assert count("heavy_mid") - count("heavy_mid_no_attention") == 5 * attention
    # A stage fewer is its SPFM and its SRMs fewer, whose skips have 128 channels.
    assert count("heavy") - count("heavy_mid") == 65_788 + 230_656
    assert count("heavy_mid") - count("heavy_low") == 65_788 + 2 * 230_656


def test_crosscbam_table_4():
    def count(name: str) -> int:
        return parameters("crosscbam_table4", name)

    plain = 9 * 1024 * 256 + 2 * 256  # the 3x3 convolution in place of SE-ASPP
    with torch.device("meta"):
        net = create_network("crosscbam_m", 19)
    assert count("both") == count("both_auxiliary") == 11_615_095 + 768 + 1032  # 8 more classes of 129
    assert count("both") - count("ccbam") == count("se_aspp") - count("baseline")
    assert count("both") - count("ccbam") == count_parameters(net.bottom) - plain
    assert count("both") - count("se_aspp") == count_parameters(net.decoder)
    for name, heads in (("baseline", []), ("se_aspp", []), ("ccbam", []), ("both", []), ("both_auxiliary", [1.0])):
        loss = recipe_of("crosscbam_table4", name).loss
        assert loss.auxiliary_weights == heads
        assert name != "both_auxiliary" or loss.auxiliary_kind == "sigmoid_focal"


def test_crosscbam_tables_5_and_6():
    for row in TABLES["crosscbam_table5"].rows:
        with torch.device("meta"):
            branches = built("crosscbam_table5", row.name).bottom.branches
        assert f"({', '.join(str(branch.conv.dilation[0]) for branch in branches)})" == row.label
    for row in TABLES["crosscbam_table6"].rows:
        with torch.device("meta"):
            assert built("crosscbam_table6", row.name).bottom.join.conv.out_channels == int(row.label)


def test_cgnet_tables_2_to_8():
    def network(table: str, name: str) -> SegmentationNetwork:
        with torch.device("meta"):
            return built(table, name)

    full = 496_306  # M3N21
    block = 12_104  # of stage 3
    assert parameters("cgnet_table6", "m3n21") == full
    for n in (9, 12, 15, 18):
        assert parameters("cgnet_table6", f"m3n{n}") == full - (21 - n) * block
    for n in (12, 15):
        assert parameters("cgnet_table6", f"m6n{n}") - parameters("cgnet_table6", f"m3n{n}") == 12_024

    dilated = {"none": 0, "single": 1, "full": 18}
    for name, blocks in dilated.items():
        assert parameters("cgnet_table2", name) == full - 6 * block
        convs = [m for m in network("cgnet_table2", name).modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
        assert len(convs) == blocks
    last = network("cgnet_table2", "single").stage3[-1]
    assert (last.local.dilation, last.surround.dilation) == ((1, 1), (4, 4))

    gates = 3 * (2 * 64 * 8 + 64 + 8) + 15 * (2 * 128 * 8 + 128 + 8)
    assert parameters("cgnet_table3", "with") - parameters("cgnet_table3", "without") == gates
    # Three image channels fewer: of two norms and their slopes, and of the two 3x3 convolutions behind them.
    injected = 2 * 3 * 3 + 3 * 9 * 64 + 3 * 9 * 128
    assert parameters("cgnet_table4", "with") - parameters("cgnet_table4", "without") == injected
    slopes = [m.weight.numel() for m in network("cgnet_table5", "prelu").modules() if isinstance(m, nn.PReLU)]
    assert parameters("cgnet_table5", "prelu") - parameters("cgnet_table5", "relu") == sum(slopes)
    assert parameters("cgnet_table7", "local") == parameters("cgnet_table7", "global") == full
    for name in ("local", "global"):
        net = network("cgnet_table7", name)
        assert {b.residual for b in [*net.stage2, *net.stage3]} == {"none", name}  # none: the down-sampling blocks
    mixing = 2 * (64**2 + 2 * 32**2 + 128**2 + 20 * 64**2)
    assert parameters("cgnet_table8", "with") - parameters("cgnet_table8", "without") == mixing


def test_frfnet_tables_2_and_3():
    assert parameters("frfnet_table2", "msc") == 3_959_319 and parameters("frfnet_table2", "slim_msc") == 3_357_431
    dual = 2 * (2 * (128 * 16 + 16) + 128 * 128 + 128 + 2)  # on two maps: query, key, value, two scales
    spectral = 2 * (8 * 32 + 32 + 2 * (32 * 32 + 32) + 96 * 8 + 8 * 128)
    for slim in ("", "slim_"):
        assert (
            parameters("frfnet_table2", f"{slim}danet") - parameters("frfnet_table2", f"{slim}msc") == dual - spectral
        )
    assert parameters("frfnet_table3", "msc_ffm_sfm") == 3_958_799
    assert parameters("frfnet_table3", "msc") - parameters("frfnet_table3", "baseline") == spectral
    # FFM's masks and SFM have no parameters: the same weights give other scores.
    outputs, state = {}, None
    for name in ("msc", "msc_ffm", "msc_ffm_sfm"):
        torch.manual_seed(1)
        net = built("frfnet_table3", name).eval()
        net.load_state_dict(state := state or net.state_dict())
        with torch.inference_mode():
            outputs[name] = net.logits(4 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    assert not torch.equal(outputs["msc"], outputs["msc_ffm"])
    assert not torch.equal(outputs["msc_ffm"], outputs["msc_ffm_sfm"])


# -- the papers' figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crosscbam_table5", "crosscbam_table6"])
def test_costs_that_crosscbams_paper_prints_are_met_to_the_last_digit(name: str):
    table = TABLES[name]
    for row in table.rows:
        cost = row_cost(table, row, recipe_of(table.name, row.name))
        printed = (row.paper.parameters, row.paper.gflops)
        assert (round(cost.parameters_as_paper / 1e6, 2), round(cost.operations_as_paper / 1e9, 2)) == printed, row.name


def test_other_costs_that_the_papers_print():
    table = TABLES["frfnet_table2"]
    for row in table.rows:
        cost = row_cost(table, row, recipe_of(table.name, row.name))
        assert cost.operations_as_paper / 1e9 == pytest.approx(row.paper.gflops, rel=0.005), row.name
    # Each about a hundredth of a million above the printed one; M6N15's printed one is its M3N15's.
    for row in TABLES["cgnet_table6"].rows:
        above = parameters("cgnet_table6", row.name) / 1e6 - row.paper.parameters
        assert 0 < above < (0.03 if row.name == "m6n15" else 0.015), row.name


def test_csrnets_times_and_rates_were_read_off_the_same_rows():
    for row in TABLES["csrnet_table3"].rows:
        assert row.paper.fps == pytest.approx(1000 / row.paper.milliseconds, rel=0.005), row.name


def test_page_shows_the_rows_as_they_are(root):
    page = (root / "docs" / "ablations.md").read_text()
    for name, table in TABLES.items():
        for row in table.rows:
            start = f"| {row.name} | {row.label} | {parameters(name, row.name) / 1e6:.3f} |"
            assert start in page, f"{name}: put the output of `rt-seg ablate --dry --markdown` into docs/ablations.md"
    for name, table in TABLES.items():
        recipes = [(row, recipe_of(name, row.name)) for row in table.rows]
        outcomes = [Outcome(row, recipe, row_cost(table, row, recipe)) for row, recipe in recipes]
        assert markdown(table, outcomes) in page


# -- documents -------------------------------------------------------------------------------------------------------

DOCUMENT = """\
title: depth
paper: none
measured_on: nothing
recipe: {recipe}
counted: {{size: [48, 64], classes: 11}}
rows:
  - name: deep
    label: N3
    network: {{name: cgnet, options: {{m: 2, n: 3}}}}
    paper: {{miou: 60.0}}
  - name: shallow
    label: N2
    network: {{name: cgnet, options: {{m: 2, n: 2}}}}
    against: deep
    paper: {{miou: 58.5}}
"""
RECIPE = """\
inherits: cgnet_camvid_paper
data:
  train: [{name: drives, synth: {seeds: [1], frames: 3, every: 4, size: [48, 64]}}]
  val: [{name: unseen, synth: {seeds: [5], frames: 2, every: 9, size: [48, 64]}}]
  licence: none
augment: {crop: [48, 64]}
loss: {class_weights: none}
schedule: {batch: 2, max_steps: 4}
run: {device: cpu, threads: 1, validate_every: 2}
"""


@pytest.fixture(scope="module")
def table_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "depth.yaml").write_text(DOCUMENT.format(recipe=folder / "small.yaml"))
    return folder / "depth.yaml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("measured_on", "measured", ["measured: no such key (did you mean 'measured_on'?)", "measured_on: is missing"]),
        ("miou: 60.0", "miuo: 60.0", ["rows.0.paper.miuo: no such key (did you mean 'miou'?)"]),
        ("label: N3", "label: N3\n    overides: {}", ["rows.0.overides: no such key (did you mean 'overrides'?)"]),
        ("miou: 58.5", "miou: -1", ["rows.1.paper.miou is -1: input should be greater than 0"]),
        ("name: shallow", "name: deep", ["two rows are called deep"]),
        ("against: deep", "against: dep", ["row shallow is against 'dep'"]),
        ("rows:", "rows: [", ["is not valid YAML"]),
    ],
)
def test_documents_that_are_no_tables_are_refused(table_file, tmp_path, old, new, said):
    path = tmp_path / "bad.yaml"
    path.write_text(table_file.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_table(path)
    assert all(text in str(error.value) for text in [*said, "bad.yaml"])


def test_rows_take_the_budget_that_is_given_and_keep_what_makes_them(table_file):
    table = load_table(table_file)
    words = ["schedule.max_steps=9", "network.options.activation=relu"]
    first, second = (row_recipe(table, row, overrides=words) for row in table.rows)
    assert first.schedule == second.schedule and first.schedule.max_steps == 9
    assert second.network.options == {"m": 2, "n": 2, "activation": "relu"}
    assert row_recipe(table, table.rows[0], "frfnet_camvid_cpu").network.name == "cgnet"
    with pytest.raises(UserError, match="the rows of table 'depth' say which network they are"):
        row_recipe(table, table.rows[0], overrides=["network.name=frfnet"])


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted_once(monkeypatch) -> Iterator[list[int]]:
    """Press Ctrl-C in the second step of the first run; collect the steps that are taken."""
    steps: list[int] = []
    plain = loop.Trainer.train_step

    def train_step(trainer: loop.Trainer) -> torch.Tensor:
        loss = plain(trainer)
        steps.append(trainer.step)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    yield steps


def figures(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file)}


def test_a_table_is_trained_continued_and_kept(table_file, tmp_path, interrupted_once, capsys):
    command = ["ablate", str(table_file), "--out", str(tmp_path / "broken")]
    folder = tmp_path / "broken" / "depth"
    assert main(command) == 3
    assert "the same command continues" in capsys.readouterr().out
    assert read_checkpoint(folder / "deep")["step"] == 2
    assert [figures(folder)[row]["state"] for row in ("deep", "shallow")] == ["stopped", "not trained"]

    assert main(command) == 0
    told = capsys.readouterr().out
    assert "continuing at step 2" in told and "paper diff." in told and "-1.50" in told
    assert interrupted_once == [1, 2, 3, 4, 1, 2, 3, 4]
    broken = figures(folder)
    for row, m, n in (("deep", 2, 3), ("shallow", 2, 2)):
        assert (broken[row]["state"], broken[row]["steps"], broken[row]["measured_on"]) == ("trained", "4", "unseen")
        with torch.device("meta"):
            assert int(broken[row]["parameters"]) == count_parameters(create_network("cgnet", 11, m=m, n=n))
        card = zoo.read_card(folder / row / "cgnet_camvid11.yaml")
        assert card.scores["unseen"]["miou"] == float(broken[row]["miou"])
        assert zoo.build_network(card).logits(torch.zeros(1, 3, 32, 32)).shape == (1, 11, 4, 4)
    assert "| deep | N3 |" in (folder / "table.md").read_text()

    # Rows that are finished are kept; an unbroken run comes to the same figures.
    assert main(command) == 0 and len(interrupted_once) == 8
    assert capsys.readouterr().out.count("trained already") == 2
    assert main([*command[:-1], str(tmp_path / "whole"), "--rows", "deep"]) == 0
    whole = figures(tmp_path / "whole" / "depth")
    assert whole["deep"]["miou"] == broken["deep"]["miou"] and whole["shallow"]["state"] == "not trained"
    ours, theirs = (read_checkpoint(tmp_path / name / "depth" / "deep")["network"] for name in ("whole", "broken"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    # Another budget does not mix with this one; another table takes over what it shares.
    assert main([*command, "schedule.max_steps=5"]) == 2
    assert "schedule.max_steps was 4, now 5" in capsys.readouterr().err
    other = tmp_path / "again.yaml"
    other.write_text(table_file.read_text())
    assert main(["ablate", str(other), *command[2:]]) == 0 and len(interrupted_once) == 12
    assert figures(tmp_path / "broken" / "again")["deep"]["miou"] == broken["deep"]["miou"]


def test_a_row_that_diverges_leaves_the_others_their_turn(table_file, tmp_path, capsys):
    path = tmp_path / "odd.yaml"
    wild = "label: N3\n    overrides: {optimiser.lr: 1.0e+30, optimiser.kind: sgd}"
    path.write_text(table_file.read_text().replace("label: N3", wild))
    assert main(["ablate", str(path), "--out", str(tmp_path), "schedule.max_steps=3"]) == 2
    assert "odd, deep: the loss became" in capsys.readouterr().err
    assert [figures(tmp_path / "odd")[row]["state"] for row in ("deep", "shallow")] == ["diverged", "trained"]


def test_what_cannot_be_done_is_said_before_anything_is_trained(table_file, tmp_path, capsys):
    def refused(*words: str) -> str:
        assert main(["ablate", *words]) == 2
        return capsys.readouterr().err

    assert "name a table: cgnet_table2, " in refused()
    said = refused("cgnet_tabel4")
    assert "no ablation table 'cgnet_tabel4' (did you mean 'cgnet_table4'?); there are: cgnet_table2, " in said
    assert "does not exist" in refused(str(tmp_path / "none.yaml"))
    assert "has no row 'wth' (did you mean 'with'?); its rows: without, with" in refused(
        "cgnet_table4", "--rows", "wth"
    )
    assert "--rows chooses from one table" in refused("cgnet_table4", "cgnet_table5", "--rows", "with")
    assert "no recipe 'cgnet_canvid'" in refused(str(table_file), "--recipe", "cgnet_canvid")
    assert "schedule.max_minutes is -1" in refused(str(table_file), "--minutes-per-row=-1")
    odd = tmp_path / "odd.yaml"
    odd.write_text(table_file.read_text().replace("n: 2", "k: 2"))
    assert "'cgnet' has no option 'k'" in refused(str(odd), "--out", str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    assert main(["ablate", str(table_file), "--out", str(tmp_path / "runs"), "loss.class_weights=[1, 2]"]) == 2
    told = capsys.readouterr()
    assert "loss.class_weights has 2 numbers" in told.err and "deep" not in told.out
    assert not (tmp_path / "runs").exists()
    said = refused("cgnet_table4", "--out", str(tmp_path / "runs"))
    assert "--data DIR" in said and not list((tmp_path / "runs").rglob("*.pt"))


def test_lists_and_costs_without_training(table_file, capsys):
    assert main(["ablate", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("frfnet_table3 ")
    assert main(["ablate", "--list", "crosscbam_table4"]) == 0
    assert "crosscbam_m (se_aspp=False, ccbam=False)" in capsys.readouterr().out
    assert main(["ablate", str(table_file), "--dry", "--rows", "shallow"]) == 0
    told = capsys.readouterr().out
    assert "N2" in told and "58.5" in told and "N3" not in told
