"""Pre-trained backbones from files, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import create_network
from rt_seg_ros.networks.resnet import ResNet18
from rt_seg_ros.networks.stdc import STDC


def torchvision_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {**ResNet18().state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def stdc_state(prefix: str = "") -> dict[str, Tensor]:
    """Make tensors under the names of the STDC authors' checkpoints, classifier and second names included."""
    torch.manual_seed(1)
    state = {}
    for key, value in STDC("stdc1").state_dict().items():
        key = key.replace(".convs.", ".conv_list.")
        key = key.replace(".down.conv.", ".avd_layer.0.").replace(".down.norm.", ".avd_layer.1.")
        state[prefix + key.replace(".norm.", ".bn.")] = value
    for key in ("conv_last.conv.weight", "fc.weight", "bn.weight", "linear.weight", "x2.0.0.conv.weight"):
        state[prefix + key] = torch.zeros(1)
    return state


def test_torchvision_names_load(tmp_path: Path) -> None:
    state, net = torchvision_state(), create_network("csrnet_light", 11)
    torch.save(state, tmp_path / "resnet18.pth")
    net.load_backbone(tmp_path / "resnet18.pth", allow_pickle=True)
    loaded = net.backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("fc."))


def test_safetensors_load(tmp_path: Path) -> None:
    state, net = torchvision_state(), create_network("csrnet_light", 11)
    save_file(state, tmp_path / "resnet18.safetensors")
    net.load_backbone(str(tmp_path / "resnet18.safetensors"))
    assert torch.equal(net.backbone.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("prefix", ["", "module.", "cp.backbone."])
def test_stdc_names_load(tmp_path: Path, prefix: str) -> None:
    state, net = stdc_state(prefix), create_network("crosscbam_m", 11)
    state |= {"conv_out.conv.conv.weight": torch.zeros(1)} if prefix == "cp.backbone." else {}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "stdc1.tar")
    net.load_backbone(tmp_path / "stdc1.tar", allow_pickle=True)
    expected = state[prefix + "features.3.conv_list.2.conv.weight"]
    assert torch.equal(net.backbone.features[3].convs[2].conv.weight, expected)
    expected = state[prefix + "features.2.avd_layer.1.weight"]
    assert torch.equal(net.backbone.features[2].down.norm.weight, expected)


def test_mismatches_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state, net = torchvision_state(), create_network("csrnet_light", 11)
    before = net.backbone.conv1.weight.clone()
    del state["layer1.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["layer2.0.conv1.weight"] = torch.zeros(2, 3)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError) as error:
        net.load_backbone(tmp_path / "odd.pth", allow_pickle=True)
    for part in (
        "missing layer1.0.bn1.weight",
        "unknown layer9.weight",
        "layer2.0.conv1.weight is (2, 3), expected (128, 64, 3, 3)",
        "odd.pth",
    ):
        assert part in str(error.value)
    assert torch.equal(net.backbone.conv1.weight, before)


def test_weights_of_another_backbone_are_summed_up(tmp_path: Path) -> None:
    torch.save(torchvision_state(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"do not fit STDC: missing .*; and \d+ more"):
        create_network("crosscbam_m", 11).load_backbone(tmp_path / "resnet18.pth", allow_pickle=True)


class Harmful:
    """Something that a pickle would run when loaded without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(UserError, match="refused: the pickle holds '"):
        create_network("csrnet_light", 11).load_backbone(tmp_path / "harmful.pth", allow_pickle=True)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        create_network("csrnet_light", 11).load_backbone(tmp_path / name, allow_pickle=True)


def test_file_without_tensors(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        create_network("csrnet_light", 11).load_backbone(tmp_path / "list.pth", allow_pickle=True)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        create_network("csrnet_light", 11).load_backbone(tmp_path / "none.pth", allow_pickle=True)


@pytest.mark.parametrize("name", ["cgnet", "frfnet"])
def test_networks_without_a_backbone_say_so(name: str) -> None:
    with pytest.raises(UserError, match="has no backbone"):
        create_network(name, 11).load_backbone("resnet18.pth")
