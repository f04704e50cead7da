"""The launch file and what lies beside it; with a whole ROS 2 the launch file is asked for its arguments, too."""

import ast
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock
from xml.etree import ElementTree

import pytest
import yaml

from rt_seg_ros.ros import rviz
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


def _displays(document):
    for display in document["Visualization Manager"]["Displays"]:
        yield from display.get("Displays", [display])


def test_rviz_shows_image_overlay_label_and_mask_with_sensor_datas_qos():
    document = yaml.safe_load((ROOT / "rviz" / "segment.rviz").read_text())
    topics = {d["Name"]: d["Topic"] for d in _displays(document)}
    assert {name: topic["Value"] for name, topic in topics.items()} == {
        "Image": "/camera/image_raw",
        "Overlay": "/segmentation/overlay",
        "Label": "/segmentation/label",
        "Mask": "/segmentation/mask/road",
    }
    assert all(topic["Reliability Policy"] == "Best Effort" for topic in topics.values())
    arranged = bytes.fromhex(document["Window Geometry"]["QMainWindow State"])
    assert all(name.encode("utf-16-be") in arranged for name in (*topics, "Displays", "Time"))


@pytest.mark.parametrize(
    "names", [["rear", "front"], ["a", "b", "c", "d", "e", "f"], ["front", "rear", "left", "right"]]
)
def test_rviz_shows_as_many_cameras_as_there_are(names):
    cameras = [
        rviz.CameraTopics(name, f"/{name}/image_raw", f"/robot/segmentation/{name}", "pedestrian") for name in names
    ]
    template = (ROOT / "rviz" / "segment_cameras.rviz").read_text()
    document = yaml.safe_load(rviz.for_cameras(template, cameras))
    groups = document["Visualization Manager"]["Displays"]
    assert [group["Name"] for group in groups] == names
    for group, name in zip(groups, names, strict=True):
        assert {d["Name"]: d["Topic"]["Value"] for d in group["Displays"]} == {
            f"{name} overlay": f"/robot/segmentation/{name}/overlay",
            f"{name} image": f"/{name}/image_raw",
            f"{name} label": f"/robot/segmentation/{name}/label",
            f"{name} mask": f"/robot/segmentation/{name}/mask/pedestrian",
        }
        assert [d["Enabled"] for d in group["Displays"]] == [True, False, False, False]
    arranged = bytes.fromhex(document["Window Geometry"]["QMainWindow State"])
    at = [arranged.index(f"{name} overlay".encode("utf-16-be")) for name in names[:4]]
    assert at == sorted(at)  # the first camera stands first
    for name in names[:4]:
        title = f"{name} overlay".encode("utf-16-be")
        assert arranged[: arranged.index(title)].endswith(len(title).to_bytes(4, "big"))
    assert names[0] in document["Panels"][1]["SyncSource"]


def test_the_template_of_several_cameras_is_made_into_itself():
    template = (ROOT / "rviz" / "segment_cameras.rviz").read_text()
    names = ("front", "rear", "left", "right")
    cameras = [rviz.CameraTopics(name, f"/{name}/image_raw", f"/segmentation/{name}") for name in names]
    assert yaml.safe_load(rviz.for_cameras(template, cameras)) == yaml.safe_load(template)


@pytest.fixture
def launch_file(monkeypatch):
    """The launch file as a module, with stand-ins for what is not among the wheels."""
    for name in ("launch", "launch_ros", "ament_index_python"):
        for module in (name, f"{name}.actions", f"{name}.substitutions", f"{name}.packages", f"{name}.utilities"):
            monkeypatch.setitem(sys.modules, module, MagicMock())
    spec = importlib.util.spec_from_file_location("segment_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rvizs_configuration_is_written_once_and_not_at_every_launch(launch_file, tmp_path, monkeypatch):
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))
    template = ROOT / "rviz" / "segment_cameras.rviz"

    def written(*names):
        cameras = [rviz.CameraTopics(n, f"/{n}/image_raw", f"/segmentation/{n}") for n in names]
        text = rviz.for_cameras(template.read_text(), cameras)
        path = Path(launch_file.kept_layout(text))
        assert path.read_text() == text
        return path

    path = written("front", "rear")
    assert written("front", "rear") == path and path.is_relative_to(tmp_path / "cache")
    assert written("front", "left") != path
    assert not list(shared.iterdir())

    monkeypatch.setenv("RT_SEG_CACHE", "/dev/null/nowhere")
    at_the_end = []
    monkeypatch.setattr(launch_file.atexit, "register", lambda *call: at_the_end.append(call))
    again = written("front", "rear")
    assert again.read_text() == path.read_text() and list(shared.iterdir()) == [again]
    for call, *arguments in at_the_end:
        call(*arguments)
    assert not list(shared.iterdir())


@pytest.fixture
def launched(launch_file, monkeypatch, tmp_path):
    """Set the launch file up with arguments; return the keywords of the node, of RViz and of the playback."""
    made = {}
    for kind, what in (("LifecycleNode", "node"), ("Node", "rviz"), ("ExecuteProcess", "playback")):
        monkeypatch.setattr(launch_file, kind, lambda what=what, **keywords: made.__setitem__(what, keywords))
    monkeypatch.setattr(launch_file, "PackageNotFoundError", KeyError)
    monkeypatch.setattr(launch_file, "get_package_share_directory", lambda _: str(ROOT))
    monkeypatch.setattr(launch_file, "get_package_prefix", lambda _: "/opt/somewhere")
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))
    declared = {}
    monkeypatch.setattr(launch_file, "DeclareLaunchArgument", lambda n, **k: declared.update({n: k["default_value"]}))

    # As launch_ros has them.
    monkeypatch.setattr(launch_file, "prefix_namespace", lambda base, own: f"{base}/{own}".strip("/") if base else own)
    monkeypatch.setattr(launch_file, "make_namespace_absolute", lambda name: name if name[:1] == "/" else f"/{name}")

    def launch(around=None, **arguments):
        launch_file.arguments()
        values = {**declared, "params_file": "", **arguments}
        monkeypatch.setattr(launch_file, "LaunchConfiguration", lambda name: MagicMock(perform=lambda _: values[name]))
        launch_file.setup(MagicMock(launch_configurations=around or {}))
        return made

    return launch


def test_simulated_time_is_told_to_the_node_only_where_an_argument_says_so(launched, tmp_path):
    assert "use_sim_time" not in launched()["node"]["parameters"][-1]
    for told in ("true", "false"):
        assert launched(use_sim_time=told)["node"]["parameters"][-1]["use_sim_time"] is (told == "true")

    # The playback gives the time to who takes it, whoever said so.
    file = tmp_path / "simulated.yaml"
    file.write_text("/**: {ros__parameters: {use_sim_time: true}}")
    assert "--clock" in launched(bag=str(tmp_path), params_file=str(file))["playback"]["cmd"]
    assert "--clock" not in launched(bag=str(tmp_path), params_file=str(file), use_sim_time="false")["playback"]["cmd"]
    assert "--clock" not in launched(bag=str(tmp_path))["playback"]["cmd"]


@pytest.mark.parametrize(
    ("given", "told"), [("3.0", ["--delay", "3.0"]), ("0", []), ("0.0", []), ("0.5", ["--delay", "0.5"])]
)
def test_a_playback_may_begin_at_once(launched, tmp_path, given, told):
    command = launched(bag=str(tmp_path), bag_delay=given)["playback"]["cmd"]
    assert command[command.index("--rate") + 2 :] == told  # ros2 bag refuses a delay of 0


def test_what_is_around_it_counts(launched, tmp_path):
    file = tmp_path / "around.yaml"
    file.write_text("/robot7/*: {ros__parameters: {camera_topics: [image]}}")
    around = {"ros_namespace": "/robot7", "global_params": [("use_sim_time", True), str(file)]}
    made = launched(around, bag=str(tmp_path), rviz="true")
    assert made["playback"]["cmd"][1] == "/robot7/segmentation" and "--clock" in made["playback"]["cmd"]
    assert ("/segmentation/overlay", "/robot7/segmentation/overlay") in made["rviz"]["remappings"]
    assert ("/camera/image_raw", "/robot7/image") in made["rviz"]["remappings"]
    assert "--clock" not in launched(around, bag=str(tmp_path), use_sim_time="false")["playback"]["cmd"]


@pytest.mark.parametrize(
    ("pushed", "own", "told"),
    [("/robot1", "robot1", True), ("/fleet/robot1", "robot1", True), ("/robot1", "", False), ("/robot1", "arm", False),
     ("/robot1", "/robot1", False)],
)  # fmt: skip
def test_a_namespace_that_is_there_twice_is_told(launched, launch_file, monkeypatch, pushed, own, told):
    said = []
    monkeypatch.setattr(launch_file, "LogInfo", lambda msg: said.append(msg))
    launched({"ros_namespace": pushed}, namespace=own)
    assert bool(said) == told and all("pass namespace:='' here" in one for one in said)


def test_what_cannot_be_is_told_by_the_argument_s_name(launched, tmp_path):
    for arguments, said in (
        ({"camera_topics": "[/a, /b"}, r"camera_topics:=\[/a, /b: expected a YAML list"),
        ({"camera_topics": "/a", "camera_topic": "/b"}, "camera_topic and camera_topics are both given"),
        ({"input_height": "tall"}, "input_height:=tall: expected an int"),
        ({"fastdds_profile": "/nowhere.xml"}, "fastdds_profile:=/nowhere.xml: there is no such file"),
        ({"bag": "/nowhere.mcap"}, "bag:=/nowhere.mcap: there is no such recording"),
        ({"params_file": "/nowhere.yaml"}, "params_file:=/nowhere.yaml: there is no such file"),
    ):
        with pytest.raises(RuntimeError, match=said):
            launched(**arguments)
    file = tmp_path / "five.yaml"
    file.write_text("/**: {ros__parameters: 5}")
    with pytest.raises(RuntimeError, match=r"five.yaml: ros__parameters is 5"):
        launched(params_file=str(file))
    made = launched(mask_classes="[]", fastdds_profile="none")["node"]
    assert made["parameters"][-1]["mask_classes"] == [""] and made["additional_env"] == {}


def test_transports_that_the_user_chose_stay(launched, monkeypatch):
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ROS_LOCALHOST_ONLY", raising=False)
    profile = launched()["node"]["additional_env"]["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert Path(profile) == ROOT / "config" / "dds" / "fastdds.xml"
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    profile = launched()["node"]["additional_env"]["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert Path(profile) == ROOT / "config" / "dds" / "fastdds_localhost.xml"
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    assert launched()["node"]["additional_env"] == {}


def test_a_parameter_file_for_another_node_is_told(launched, launch_file, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(launch_file, "LogInfo", lambda msg: said.append(msg))
    launched()
    file = tmp_path / "mine.yaml"
    file.write_text("segmentation: {ros__parameters: {model: frfnet}}")
    launched(params_file=str(file))
    assert not said
    file.write_text("segmentation_node: {ros__parameters: {model: frfnet}}")
    launched(params_file=str(file))
    assert "has no parameters for /segmentation: its key must be the node's name" in said[0]


def test_rviz_shows_what_the_parameter_file_says(launched, tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text(
        """/**:
  ros__parameters: {use_sim_time: true, camera_topics: [/left/image_raw, right/image_raw], mask_classes: 'car, road'}
/robot/eye:
  ros__parameters: {camera_names: [port, starboard]}
/*/other:
  ros__parameters: {mask_classes: [sky]}
"""
    )
    made = launched(rviz="true", params_file=str(file), namespace="robot", name="eye")["rviz"]
    groups = yaml.safe_load(Path(made["arguments"][1]).read_text())["Visualization Manager"]["Displays"]
    assert [group["Name"] for group in groups] == ["port", "starboard"]
    shown = [{d["Name"].split()[-1]: d["Topic"]["Value"] for d in group["Displays"]} for group in groups]
    assert [topics["image"] for topics in shown] == ["/left/image_raw", "/robot/right/image_raw"]
    assert shown[0]["mask"] == "/robot/eye/port/mask/car" and made["parameters"] == [{"use_sim_time": True}]

    # Arguments go before the file, and without either nothing is told.
    made = launched(rviz="true", params_file=str(file), namespace="robot", name="other", camera_topics="/a/image_raw")
    assert ("/camera/image_raw", "/a/image_raw") in made["rviz"]["remappings"]
    assert ("/segmentation/mask/road", "/robot/other/mask/sky") in made["rviz"]["remappings"]
    made = launched(rviz="true", params_file=str(ROOT / "config" / "segment.yaml"))["rviz"]
    assert ("/camera/image_raw", "/camera/image_raw") in made["remappings"] and made["parameters"] == []
    made = launched(rviz="true", name="eye", namespace="robot", camera_topics="~/image_raw")["rviz"]
    assert ("/camera/image_raw", "/robot/eye/image_raw") in made["remappings"]


def test_rviz_shows_what_a_camera_publishes_compressed(launched, monkeypatch, tmp_path):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path))
    made = launched(rviz="true", camera_topics="/a/image_raw", image_transport="compressed")["rviz"]
    displays = yaml.safe_load(Path(made["arguments"][1]).read_text())["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in displays if "Topic" in display]
    assert "/a/image_raw/compressed" in topics and "/camera/image_raw" not in topics  # RViz chooses by this name
    assert ("/segmentation/overlay", "/segmentation/overlay") in made["remappings"]
    made = launched(rviz="true", camera_topics="/a/image,/b/image", image_transport="compressed")["rviz"]
    groups = yaml.safe_load(Path(made["arguments"][1]).read_text())["Visualization Manager"]["Displays"]
    images = [d["Topic"]["Value"] for group in groups for d in group["Displays"] if d["Name"].endswith(" image")]
    assert images == ["/a/image/compressed", "/b/image/compressed"]


@pytest.mark.parametrize("name", ["fastdds.xml", "fastdds_localhost.xml", "cyclonedds.xml"])
def test_the_middlewares_profiles_are_whole(name):
    assert len(ElementTree.parse(ROOT / "config" / "dds" / name).getroot())


def panels(node):
    """Yield the panels of a layout's tree."""
    if isinstance(node, str):
        yield node
    else:
        yield from panels(node["first"])
        yield from panels(node["second"])


def test_foxgloves_layout_shows_what_the_node_publishes():
    layout = json.loads((ROOT / "config" / "foxglove" / "segment.json").read_text())
    configs = layout["configById"]
    tabs = configs[layout["layout"]]["tabs"]
    shown = [panel for tab in tabs for panel in panels(tab["layout"])]
    assert len(tabs) == 2 and sorted([*shown, layout["layout"]]) == sorted(configs)
    images = {config["imageMode"]["imageTopic"] for config in configs.values() if "imageMode" in config}
    assert {"/camera/image_raw", *(f"/segmentation/{o}" for o in ("overlay", "label", "mask/road"))} <= images
    assert {f"/segmentation/{camera}/overlay" for camera in ("front", "rear", "left", "right")} <= images
    fields = (ROOT / "msg" / "SegmentationStats.msg").read_text()
    paths = [path["value"] for config in configs.values() for path in config.get("paths", [])]
    assert len(paths) > 8
    for path in paths:
        topic, field = path.split(".")
        assert topic.endswith("/stats") and re.search(rf"^\w+ {field}$", fields, re.MULTILINE), path
