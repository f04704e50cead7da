"""The policies for SROS 2 give a running node all that it uses, and nothing else to publish or to answer."""

import os

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

from rt_seg_ros.ros import messages

pytestmark = pytest.mark.ros

FOLDER = Path(__file__).resolve().parents[2] / "config" / "sros2"


def rights(policy: str, node: str, right: str) -> list[str]:
    """Return the full names that the policy allows, were its node called thus; `*` is any text, as in DDS Security."""
    (profile,) = ElementTree.parse(FOLDER / policy).getroot().iter("profile")
    assert profile.attrib == {"ns": "/", "node": "segmentation"}
    assert not [e for e in profile if "DENY" in e.attrib.values() or "request" in e.attrib]
    names = [entry.text for group in profile if group.get(right) == "ALLOW" for entry in group]
    return [n.replace("~", f"/{node}", 1) if n[0] in "~/" else f"/{n}" for n in names]


def held_against(policy: str, graph, name: str, cameras: set[str]) -> None:
    """Compare what the policy allows with what the node has on the graph."""

    def has(what: str) -> set[str]:
        return {n for n, _ in getattr(graph.node, f"get_{what}_names_and_types_by_node")(name, "/")}

    graph.wait(lambda: name in graph.node.get_node_names(), "the node's name, which may come after its services")
    # Another output_resolution is prepared aside before calibration is subscribed to.
    graph.wait(lambda: has("subscriber") >= cameras, f"subscriptions to all of {cameras}")
    graph.wait(lambda: any("/mask/" in n for n in has("publisher")), "the mask's publisher")
    for what, right in (("publisher", "publish"), ("service", "reply")):
        allowed, used = rights(policy, name, right), has(what)
        assert len(used) > 10, used
        uncovered = [n for n in used if not any(fnmatchcase(n, a) for a in allowed)]
        assert not uncovered, f"{policy} does not allow to {right}: {uncovered}"
        unneeded = {a for a in allowed if not any(fnmatchcase(n, a) for n in used)}
        if messages.label_info_type() is None:
            unneeded = {a for a in unneeded if not a.endswith("/label_info")}
        if os.environ.get("ROS_DISTRO") == "humble":  # which describes no types
            unneeded = {a for a in unneeded if not a.endswith("/get_type_description")}
        assert not unneeded, f"{policy} allows to {right} what the node does not: {unneeded}"
        others = {*cameras, "/cmd_vel", "/other/label", "/other/set_parameters"}
        assert not [(n, a) for n in others for a in allowed if fnmatchcase(n, a)]
    compressed = {f"{camera}/compressed" for camera in cameras if camera.endswith("image_raw")}
    assert set(rights(policy, name, "subscribe")) == has("subscriber") | compressed
    assert not has("client"), "no requests are allowed"


def test_the_policy_of_one_camera_covers_the_node_and_no_more(graph, node):
    assert node.set(mask_classes=["road"], output_resolution="network", use_sim_time=True)[0]
    try:
        held_against(
            "segmentation.policy.xml", graph, "segmentation", {"/camera/image_raw", "/camera/camera_info", "/clock"}
        )
    finally:
        assert node.set(use_sim_time=False)[0]


def test_the_policy_of_several_cameras_covers_the_node_and_no_more(graph, start_node):
    node = start_node(
        "two_eyes",
        camera_topics="['/front/image_raw', '/rear/image_raw']",
        mask_classes="['road', 'car']",
        output_resolution="network",
        use_sim_time=True,
    )
    node.wait_state("active")
    cameras = {f"/{camera}/{topic}" for camera in ("front", "rear") for topic in ("image_raw", "camera_info")}
    held_against("segmentation_cameras.policy.xml", graph, "two_eyes", {*cameras, "/clock"})
