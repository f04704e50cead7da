"""The layers worth looking at: for each network, where a stage of its paper ends."""

from __future__ import annotations

from torch import nn

from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.explain.score_cam import INPUT_MARK
from rt_seg_ros.networks import network_info

#: Of CGNet (table 1), Cross-CBAM (section 3.4) and FRFNet, by family: layer and what it is.
_STAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "cgnet": (
        ("stem", "stem, 1/2"),
        ("stage2.-1", "CG stage 2, 1/4"),
        ("stage3.0", "CG stage 3, first block"),
        ("stage3.-1", "CG stage 3, last block"),
    ),
    "crosscbam": (
        ("bottom", "SE-ASPP, 1/32"),
        ("decoder.fuse16", "CCBAM, 1/16"),
        ("decoder.fuse8", "CCBAM, 1/8"),
    ),
    "frfnet": (
        ("stages.3", "stage 4, 1/32"),
        ("refine16", "decoder, 1/16"),
        ("refine8", "decoder, 1/8"),
        ("fusion", "FFM, 1/8"),
        (f"head{INPUT_MARK}", "SFM, 1/4"),
    ),
}


def default_layers(network_name: str, network: nn.Module) -> dict[str, str]:
    """Return the layers where a network's stages end, each with what it is.

    CSRNet-heavy's are the maps of the paper's figures 10 and 11: low-, mid- and high-refined, what its three stages
    give out. The stages of light and medium are others, and end at other resolutions.
    """
    modules = dict(network.named_modules())
    family = network_info(network_name).family
    if family == "csrnet":
        stages = modules["stages"]
        assert isinstance(stages, nn.ModuleList)
        refined = ("low-refined, ", "mid-refined, ", "high-refined, ") if network_name == "csrnet_heavy" else ("",) * 3
        return {
            f"stages.{i}.{len(stage) - 1}": f"{refined[i]}stage {i + 1}"  # type: ignore[arg-type]
            for i, stage in enumerate(stages)
        }
    found = {}
    for name, words in _STAGES.get(family, ()):
        layer = _counted_from_the_end(name, modules)
        if layer.removesuffix(INPUT_MARK) in modules:
            found[layer] = words
    return found


def _counted_from_the_end(name: str, modules: dict[str, nn.Module]) -> str:
    parent, _, last = name.rpartition(".")
    if last != "-1":
        return name
    return f"{parent}.{len(modules[parent]) - 1}"  # type: ignore[arg-type]


def check_layers(wanted: list[str], shapes: dict[str, tuple[int, int, int]], network_name: str) -> None:
    """Check names of layers.

    :param shapes: of the layers there are: see :func:`rt_seg_ros.explain.score_cam.layer_shapes`
    :raises UserError: for a layer that the network does not have; the message names the nearest
    """
    for name in wanted:
        if name.removesuffix(INPUT_MARK) in shapes:
            continue
        near = did_you_mean(name, shapes, 3)
        raise UserError(
            f"network '{network_name}' has no layer '{name}' with a map to show{near}; --list-layers lists all "
            f"{len(shapes)}, the first are: {', '.join(list(shapes)[:6])}"
        )
