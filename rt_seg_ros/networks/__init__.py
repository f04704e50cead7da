"""The networks: a registry, what they share, and one file for each architecture and backbone.

``list_networks`` and ``network_info`` do without torch; the rest imports it when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rt_seg_ros.networks.names import NetworkInfo, list_networks, network_info
from rt_seg_ros.networks.registry import create_network

if TYPE_CHECKING:
    from rt_seg_ros.networks.base import SegmentationNetwork
    from rt_seg_ros.networks.complexity import count_macs, count_parameters

__all__ = [
    "NetworkInfo",
    "SegmentationNetwork",
    "count_macs",
    "count_parameters",
    "create_network",
    "list_networks",
    "network_info",
]


def __getattr__(name: str) -> Any:
    if name == "SegmentationNetwork":
        from rt_seg_ros.networks.base import SegmentationNetwork

        return SegmentationNetwork
    if name in ("count_macs", "count_parameters"):
        from rt_seg_ros.networks import complexity

        return getattr(complexity, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
