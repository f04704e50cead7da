"""The table of networks: what each is called, where it comes from, with which options it is built.

Nothing here imports torch, so that a node on another runtime can ask for names without paying for it.
A new network is one file beside this one and one row below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from rt_seg_ros.errors import UserError, did_you_mean

_CGNET = "CGNet: A Light-weight Context Guided Network for Semantic Segmentation, arXiv:1811.08201"
_CSRNET = "CSRNet: Cascaded Selective Resolution Network for Real-time Semantic Segmentation, arXiv:2106.04400"
_CROSSCBAM = "Cross-CBAM: A Lightweight network for Scene Segmentation, arXiv:2306.02306"
_FRFNET = "Feature Reuse and Fusion for Real-time Semantic segmentation, S. Tan et al., 2021"


@dataclass(frozen=True)
class NetworkInfo:
    """One row of the table.

    ``family`` is also the module of this package that holds ``constructor``, the network's class.
    """

    name: str
    family: str
    constructor: str
    paper: str
    summary: str
    default_options: Mapping[str, Any]


def _row(name: str, family: str, constructor: str, paper: str, summary: str, **options: Any) -> NetworkInfo:
    return NetworkInfo(name, family, constructor, paper, summary, MappingProxyType(options))


_ROWS = (
    _row("cgnet", "cgnet", "CGNet", _CGNET, "CGNet M3N21: half a million parameters, output at 1/8", m=3, n=21),
    _row("csrnet_light", "csrnet", "CSRNet", _CSRNET, "CSRNet-light on ResNet-18, output at 1/4", variant="light"),
    _row("csrnet_medium", "csrnet", "CSRNet", _CSRNET, "CSRNet-medium on ResNet-18, output at 1/4", variant="medium"),
    _row("csrnet_heavy", "csrnet", "CSRNet", _CSRNET, "CSRNet-heavy on ResNet-18, output at 1/4", variant="heavy"),
    _row("crosscbam_m", "crosscbam", "CrossCBAM", _CROSSCBAM, "Cross-CBAM-M on STDC1, output at 1/8", backbone="stdc1"),
    _row("crosscbam_l", "crosscbam", "CrossCBAM", _CROSSCBAM, "Cross-CBAM-L on STDC2, output at 1/8", backbone="stdc2"),
    _row("frfnet", "frfnet", "FRFNet", _FRFNET, "FRFNet, no pre-training needed, output at 1/4", slim=False),
    _row("frfnet_slim", "frfnet", "FRFNet", _FRFNET, "FRFNet-slim, depth-wise aggregation, output at 1/4", slim=True),
)

NETWORKS: Mapping[str, NetworkInfo] = MappingProxyType({row.name: row for row in _ROWS})
NETWORK_NAMES: tuple[str, ...] = tuple(NETWORKS)


def list_networks(pattern: str = "*") -> list[str]:
    """List the networks whose names match a shell pattern (``"cg*"``), in the table's order."""
    return [name for name in NETWORK_NAMES if fnmatchcase(name, pattern)]


def network_info(name: str) -> NetworkInfo:
    """Return the table's row for a network.

    :raises UserError: no such network; the message names the nearest ones and all there are.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    near = did_you_mean(name, NETWORK_NAMES, 3)
    raise UserError(f"no network '{name}'{near}; there are: {', '.join(NETWORK_NAMES)}")
