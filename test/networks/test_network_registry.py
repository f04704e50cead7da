"""Networks by name: what there is, and what is said of what there is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import create_network, list_networks, network_info

ALL = [
    "cgnet",
    "csrnet_light",
    "csrnet_medium",
    "csrnet_heavy",
    "crosscbam_m",
    "crosscbam_l",
    "frfnet",
    "frfnet_slim",
]


def test_list_networks() -> None:
    assert list_networks() == ALL
    assert list_networks("cg*") == ["cgnet"]
    assert list_networks("*_slim") == ["frfnet_slim"]
    assert list_networks("nothing*") == []


def test_network_info() -> None:
    info = network_info("cgnet")
    assert (info.family, info.default_options["m"], info.default_options["n"]) == ("cgnet", 3, 21)
    assert "Context Guided" in info.paper


def test_unknown_name_lists_near_matches() -> None:
    with pytest.raises(UserError, match=r"no network 'csrnet_midium' \(did you mean 'csrnet_medium'.*there are: cgnet"):
        create_network("csrnet_midium")
    with pytest.raises(UserError, match=r"no network 'zzz'; there are"):
        create_network("zzz")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"network 'cgnet' cannot be built with m='many': "):
        create_network("cgnet", m="many")
    with pytest.raises(UserError, match=r"'cgnet' has no option 'resdual' \(did you mean 'residual'\?\)"):
        create_network("cgnet", resdual="local")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cgnet", {"m": 1}, "m=1"),
        ("cgnet", {"surrounding": "half"}, "half"),
        ("cgnet", {"residual": "both"}, "both"),
        ("cgnet", {"activation": "gelu"}, "gelu"),
        ("csrnet_light", {"variant": "tiny"}, "tiny"),
        ("csrnet_light", {"head": "fcn"}, "fcn"),
        ("csrnet_light", {"stages": 2}, "stages is 2"),
        ("crosscbam_m", {"backbone": "resnet"}, "resnet"),
        ("crosscbam_m", {"channels": 100}, "channels is 100"),
        ("crosscbam_m", {"rates": ()}, "rates"),
        ("crosscbam_m", {"aspp_norm": "some"}, "some"),
        ("frfnet", {"context": "se"}, "'se'"),
    ],
)
def test_values_that_do_not_exist_are_refused(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_network(name, **options)


@pytest.mark.parametrize("num_classes", [0, -1, 256])
def test_numbers_of_classes_that_a_byte_cannot_hold_are_refused(num_classes: int) -> None:
    with pytest.raises(UserError, match=f"num_classes is {num_classes}"):
        create_network("cgnet", num_classes)


def test_names_do_without_torch() -> None:
    code = (
        "import sys; from rt_seg_ros.networks import list_networks, network_info, create_network;"
        "network_info(list_networks()[0]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
