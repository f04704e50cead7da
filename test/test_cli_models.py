"""rt-seg models."""

import json

import pytest
import torch
import yaml

from rt_seg_ros import zoo
from rt_seg_ros.cli import main
from rt_seg_ros.networks import count_macs, count_parameters, create_network, list_networks
from rt_seg_ros.zoo import list_models


def listed(capsys, *arguments):
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_every_network_and_every_weight_file_is_listed(capsys):
    entries = json.loads(listed(capsys, "--json"))
    assert {e["network"] for e in entries} == set(list_networks())
    assert {e["model"] for e in entries if e["weights"]} == {card.name for card in list_models()}
    table = listed(capsys)
    for entry in entries:
        assert f"\n{entry['model']} " in table


def test_the_cost_is_that_of_the_network(capsys):
    (entry,) = [e for e in json.loads(listed(capsys, "cgnet*", "--json")) if e["num_classes"] == 11][:1]
    network = create_network("cgnet", num_classes=11)
    assert entry["parameters"] == count_parameters(network)
    assert entry["macs"] == count_macs(network, 360, 480)
    assert f"{entry['parameters'] / 1e6:.2f} M" in listed(capsys, "cgnet*")


def test_a_pattern_chooses(capsys):
    entries = json.loads(listed(capsys, "csrnet_*", "--json"))
    assert {e["network"] for e in entries} == {"csrnet_light", "csrnet_medium", "csrnet_heavy"}


def test_a_pattern_that_matches_nothing_is_the_users_error(capsys):
    assert main(["models", "resnet*"]) == 2
    error = capsys.readouterr().err
    assert "resnet*" in error and "cgnet" in error and "Traceback" not in error


@pytest.fixture(name="shelf")
def _shelf(tmp_path, monkeypatch):
    """A folder of models with one in it, in place of the package's own."""
    monkeypatch.setattr("rt_seg_ros.zoo.finding.models_dir", lambda: tmp_path)
    torch.manual_seed(0)
    zoo.save_weights(
        tmp_path / "cgnet_camvid11.safetensors",
        create_network("cgnet", num_classes=11).state_dict(),
        network="cgnet",
        options={},
        num_classes=11,
        label_space="camvid11",
        mean=(105.0, 108.0, 110.0),
        std=(1.0, 1.0, 1.0),
        input_size=(360, 480),
        card={
            "scores": {"camvid_val": {"miou": 51.23}, "drive": {"miou": 70.0}},
            "protocol": "CamVid val, 480x360",
            "licence": "CC BY-NC 4.0",
        },
    )
    return tmp_path


def test_weights_are_shown_with_size_score_and_licence(capsys, shelf):
    entries = {e["model"]: e for e in json.loads(listed(capsys, "--json"))}
    assert "cgnet" not in entries
    entry = entries["cgnet_camvid11"]
    assert entry["weights"] == str(shelf / "cgnet_camvid11.safetensors")
    assert entry["weights_bytes"] == (shelf / "cgnet_camvid11.safetensors").stat().st_size
    assert (entry["score"], entry["score_on"]) == (51.23, "camvid_val")
    assert (entry["protocol"], entry["licence"]) == ("CamVid val, 480x360", "CC BY-NC 4.0")
    assert entries["frfnet"]["weights"] is None
    table = listed(capsys)
    assert "51.2 %" in table and "MB" in table and "CC BY-NC 4.0" in table and "none yet" in table
    assert "CamVid val, 480x360" in table


def test_a_score_that_is_not_on_val_does_not_stand_under_val(capsys, shelf):
    card = shelf / "cgnet_camvid11.yaml"
    document = yaml.safe_load(card.read_text())
    document["scores"] = {f"rendered drive {seed}": {"miou": miou} for seed, miou in ((1, 72.0), (2, 76.1), (3, 73.5))}
    card.write_text(yaml.safe_dump(document))
    entry = next(e for e in json.loads(listed(capsys, "--json")) if e["model"] == "cgnet_camvid11")
    assert (entry["score"], entry["score_on"]) == (72.0, "rendered drive 1")
    assert not entry["score_on_validation_split"]
    header, _, line, *_ = listed(capsys, "cgnet*").splitlines()
    assert line[header.index("weights") :].split()[2:7] == ["-", "72.0", "to", "76.1", "%"]
    assert "| - | 72.0 to 76.1 % |" in listed(capsys, "cgnet*", "--markdown")


def test_a_card_without_its_file_counts_as_none(capsys, shelf):
    (shelf / "cgnet_camvid11.safetensors").unlink()
    (entry,) = json.loads(listed(capsys, "cgnet*", "--json"))
    assert entry["weights"] is None


def test_the_help_explains_the_columns(capsys):
    with pytest.raises(SystemExit) as end:
        main(["models", "--help"])
    assert end.value.code == 0
    assert "multiply-adds" in capsys.readouterr().out
