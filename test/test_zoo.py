import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rt_seg_ros import zoo
from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.store import card_from_json, card_to_json
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import create_network
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.resources import config_dir

MEAN, STD = (101.0, 102.0, 103.0), (60.0, 61.0, 62.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights of a small CGNet, with their card."""
    torch.manual_seed(1)
    network = create_network("cgnet", num_classes=11, m=2, n=2).eval()
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    card = zoo.save_weights(
        path,
        network.state_dict(),
        network="cgnet",
        options={"m": 2, "n": 2},
        num_classes=11,
        label_space="camvid11",
        mean=MEAN,
        std=STD,
        input_size=(360, 480),
        card={"data": "none", "licence": "none", "scores": {"camvid val": 0.0}},
    )
    return network, path, card


def test_what_was_saved_is_what_is_loaded(saved):
    network, path, card = saved
    found = zoo.find_model("cgnet", weights=path)
    assert found == card
    assert (found.mean, found.std, found.input_size, dict(found.options)) == (MEAN, STD, (360, 480), {"m": 2, "n": 2})
    loaded = zoo.build_network(found).state_dict()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(loaded[key], value, rtol=1e-3, atol=1e-3), key
    assert not loaded["head.weight" if "head.weight" in loaded else next(iter(loaded))].isnan().any()


def test_a_file_without_its_card_still_tells_what_it_is(saved, tmp_path):
    _, path, card = saved
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(path.read_bytes())
    found = zoo.find_model("cgnet", weights=alone)
    assert (found.network, found.label_space, found.mean) == ("cgnet", "camvid11", card.mean)
    assert found.sha256 == card.sha256  # it is told from the weights of others, and from random ones
    labels = Segmenter(SegmenterConfig(weights=str(alone))).segment(np.zeros((64, 80, 3), np.uint8)).labels
    assert labels.shape == (64, 80)


def test_another_document_of_the_same_name_is_no_card(saved, tmp_path):
    _, path, card = saved
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(path.read_bytes())
    weights.with_suffix(".yaml").write_text("inherits: cgnet_camvid\nnetwork: {partial: true}\n")
    assert zoo.find_model("cgnet", weights=weights).mean == card.mean


def test_a_changed_file_is_refused_by_its_hash(saved, tmp_path):
    _, path, _ = saved
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "tiny.safetensors").write_bytes(data)
    (tmp_path / "tiny.yaml").write_text(path.with_suffix(".yaml").read_text())
    with pytest.raises(UserError, match="SHA-256"):
        zoo.build_network(zoo.find_model("cgnet", weights=tmp_path / "tiny.safetensors"))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_by_name(saved, tmp_path, keep):
    _, path, _ = saved
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        zoo.build_network(zoo.find_model("cgnet", weights=cut))


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    for name in ("weights.pth", "weights.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            zoo.find_model("cgnet", weights=path)


def test_weights_of_another_network_or_label_space_are_refused(saved, monkeypatch):
    _, path, card = saved
    monkeypatch.setenv("HOME", str(path.parent))
    assert zoo.find_model("cgnet", weights=f"~/{path.name}").weights == path
    with pytest.raises(UserError, match="are of network 'cgnet', but model is 'frfnet'"):
        zoo.find_model("frfnet", weights=path)
    with pytest.raises(UserError, match="11 classes"):
        zoo.find_model("cgnet", label_space="cityscapes19", weights=path)
    with pytest.raises(UserError, match=r"expected \("):
        zoo.build_network(replace(card, num_classes=19))
    with pytest.raises(UserError, match="do not fit network 'cgnet': missing"):
        zoo.build_network(replace(card, options={"m": 3, "n": 2}))


def test_weights_that_are_no_numbers_are_refused(saved, tmp_path):
    """They would give the first class everywhere."""
    state = {key: value.clone() for key, value in load_file(saved[1]).items()}
    name = next(key for key, value in state.items() if value.is_floating_point() and value.numel() > 3)
    state[name].view(-1)[3] = float("nan")
    path = tmp_path / "broken.safetensors"
    with safe_open(saved[1], "pt") as file:
        save_file(state, path, metadata=file.metadata())
    with pytest.raises(UserError, match=f"{name} has values that are no numbers"):
        zoo.build_network(zoo.find_model("cgnet", weights=path))
    state[name] = torch.zeros_like(state[name]).to(torch.float8_e4m3fn)
    with safe_open(saved[1], "pt") as file:
        save_file(state, path, metadata=file.metadata())
    with pytest.raises(UserError, match=f"{name} is of torch.float8_e4m3fn"):
        zoo.build_network(zoo.find_model("cgnet", weights=path))


def renamed(folder, count=11):
    """Write a label space file: camvid11 with one class renamed, or as many other classes."""
    document = yaml.safe_load((config_dir() / "labels/camvid11.yaml").read_text())
    document["name"] = "my11"
    classes = (document["classes"] * 2)[:count]
    document["classes"] = [{**c, "name": f"{c['name']}{i if i >= 10 else ''}"} for i, c in enumerate(classes)]
    document["void_ids"] = [count]
    (folder / "my11.yaml").write_text(yaml.safe_dump(document))
    return str(folder / "my11.yaml")


def test_a_plain_name_takes_new_names_for_its_classes(tmp_path):
    for random in (False, True):
        card = zoo.find_model("cgnet", renamed(tmp_path), allow_random_weights=random)
        assert card.name == "cgnet_camvid11" and card.weights
        assert card.load_label_space().names[10] == "bicyclist10"
    own = zoo.find_model("cgnet", str(config_dir() / "labels/camvid11.yaml"))
    assert own == zoo.find_model("cgnet")
    for space in (renamed(tmp_path, 12), "cityscapes19", str(config_dir() / "labels/cityscapes19.yaml")):
        with pytest.raises(UserError, match="has no weights for label space"):
            zoo.find_model("cgnet", space)
        assert zoo.find_model("cgnet", space, allow_random_weights=True).weights is None


def test_a_label_space_of_ones_own_travels_with_the_weights(saved, tmp_path):
    network, _, _ = saved
    path, file = tmp_path / "mine.safetensors", renamed(tmp_path)
    space = load_label_space(file)
    card = zoo.save_weights(
        path,
        network.state_dict(),
        network="cgnet",
        options={"m": 2, "n": 2},
        num_classes=11,
        label_space=file,
        mean=MEAN,
        std=STD,
        input_size=(360, 480),
        card={},
    )
    assert card_from_json(card_to_json(card)).load_label_space() == space  # as other processes get it
    assert str(tmp_path) not in path.with_suffix(".yaml").read_text()
    for change in ("there", "another", "gone"):
        if change == "another":
            renamed(tmp_path, 12)
        elif change == "gone":
            (tmp_path / "my11.yaml").unlink()
        assert card.label_space == "my11" and card.load_label_space() == space
        assert zoo.find_model("cgnet", weights=path).load_label_space() == space
    short = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert short.pop("space")
    path.with_suffix(".yaml").write_text(yaml.safe_dump(short))  # only named in a card that somebody shortened
    assert zoo.find_model("cgnet", weights=path).load_label_space() == space
    path.with_suffix(".yaml").unlink()
    assert zoo.find_model("cgnet", weights=path).load_label_space() == space
    assert zoo.find_model("cgnet", "my11", weights=path).load_label_space() == space  # by the name that they bring
    told = Segmenter(SegmenterConfig(weights=str(path))).label_space
    assert told.names[10] == "bicyclist10" and told.void_ids == {11}
    given = zoo.find_model("cgnet", "camvid11", weights=path)  # what is asked for wins
    assert given.load_label_space() == load_label_space("camvid11")


def test_a_card_that_names_only_a_file_still_works(saved, tmp_path):
    _, path, _ = saved
    (tmp_path / "old.safetensors").write_bytes(path.read_bytes())
    text = path.with_suffix(".yaml").read_text()
    (tmp_path / "old.yaml").write_text(text.replace("label_space: camvid11", f"label_space: {renamed(tmp_path)}"))
    card = zoo.find_model("cgnet", weights=tmp_path / "old.safetensors")
    assert card.load_label_space().name == "my11"


def test_shipped_weights_are_what_their_cards_say():
    cards = zoo.list_models()
    assert cards, "no weights in models/"
    for card in cards:
        zoo.check_hash(card)
        card.load_label_space()
        assert card.sha256 and card.weights is not None and card.space is None
        assert {"data", "protocol", "command", "licence"} <= set(card.details), card.name
        header = zoo.read_weights_header(card.weights)
        assert header.network == card.network


def test_cards_are_plain_yaml_and_the_header_plain_json(saved):
    _, path, card = saved
    document = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert document["sha256"] == card.sha256
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert {tensor["dtype"] for key, tensor in header.items() if key != "__metadata__"} == {"F16"}


def test_a_headline_is_never_that_of_another_network(saved):
    card = replace(saved[2], scores={"rendered drive 7": {"miou": 61.0}})
    whole = {"start": {"scores": {"camvid val": {"miou": 70.0}}, "protocol": "single scale"}}
    for details in (whole, {"start": {"scores": {"rendered drive 7": {"miou": 60.0}}, **whole}}):
        found = zoo.card_score(replace(card, details=details))
        assert (found.miou, found.data, found.protocol) == (70.0, "camvid val", "single scale")
        assert found.of_start and found.on_validation_split
    # Nor is a score on what an earlier part had learnt from, whatever was measured on it since.
    again = {"start": {"data": ["camvid train, 367 frames", "camvid val, 101 frames"], **whole}}
    found = zoo.card_score(replace(card, scores={"camvid val": {"miou": 83.0}}, details=again))
    assert (found.miou, found.of_start) == (70.0, True)
    # What went on from parts of another network was not measured before val's frames came in.
    whole["start"]["begun_anew"] = ["stages.0.1.pointwise.conv"]
    found = zoo.card_score(replace(card, details=whole))
    assert (found.miou, found.data) == (61.0, "rendered drive 7")
    assert not found.of_start and not found.on_validation_split
