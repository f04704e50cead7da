"""The launch file and what lies beside it; with a whole ROS 2 the launch file is asked for its arguments, too."""

import ast
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from rt_seg_ros.ros.parameters import TABLE

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch" / "segment.launch.py"


def test_its_arguments_are_parameters_of_the_node_in_their_types():
    tree = ast.parse(LAUNCH.read_text())
    (table,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "PARAMETERS")
    kinds = {"str": "string", "int": "int", "float": "float", "bool": "bool", "list": "strings"}
    for key, value in zip(table.keys, table.values, strict=True):
        assert TABLE[key.value].kind == kinds[value.elts[0].id], key.value


def test_each_argument_is_explained():
    pytest.importorskip("launch_ros", reason="needs launch_ros, which is not among the wheels")
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    try:
        get_package_share_directory("rt_seg_ros")
    except PackageNotFoundError:
        pytest.skip("needs this package in an ament index")
    arguments = get_launch_description_from_python_launch_file(str(LAUNCH)).get_launch_arguments()
    assert {"model", "camera_topics", "params_file", "bag", "rviz"} <= {a.name for a in arguments}
    assert all(a.description for a in arguments)


def test_rviz_shows_image_overlay_and_label_with_sensor_datas_qos():
    displays = yaml.safe_load((ROOT / "rviz" / "segment.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {d["Name"]: d["Topic"] for d in displays}
    assert {name: topic["Value"] for name, topic in topics.items()} == {
        "Image": "/camera/image_raw",
        "Overlay": "/segmentation/overlay",
        "Label": "/segmentation/label",
    }
    assert all(topic["Reliability Policy"] == "Best Effort" for topic in topics.values())


@pytest.mark.parametrize("name", ["fastdds.xml", "cyclonedds.xml"])
def test_the_middlewares_profiles_are_whole(name):
    assert len(ElementTree.parse(ROOT / "config" / "dds" / name).getroot())
