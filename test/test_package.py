"""The package as it is installed: what belongs in it is in it, and its documents are true."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest

from rt_seg_ros import __version__, cli
from rt_seg_ros.ros import parameters


def test_versions_agree(root):
    manifest = ElementTree.parse(root / "package.xml").getroot()
    assert manifest.findtext("version") == __version__
    assert f"## {__version__}" in (root / "CHANGELOG.md").read_text()


def test_the_manifest_names_what_the_code_imports_of_ros(root):
    manifest = ElementTree.parse(root / "package.xml").getroot()
    named = {element.text for element in manifest if element.tag.endswith("depend")}
    assert {
        "rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs", "lifecycle_msgs", "rcl_interfaces", "vision_msgs",
        "cv_bridge", "launch", "launch_ros",
    } <= named  # fmt: skip
    assert manifest.find("export/build_type").text == "ament_cmake"


def test_every_message_is_built(root):
    cmake = (root / "CMakeLists.txt").read_text()
    names = [message.name for message in (root / "msg").glob("*.msg")]
    assert names
    for name in names:
        assert f'"msg/{name}"' in cmake


def test_a_wheel_has_code_and_data(root, tmp_path):
    shutil.rmtree(root / "build" / "lib", ignore_errors=True)  # of an earlier build: it would go into the wheel
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(root)], check=True, timeout=120)
    shutil.rmtree(root / "build" / "lib", ignore_errors=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = {name.split("/data/share/", 1)[1] for name in names if "/data/share/" in name}
    assert "rt_seg_ros/pipeline.py" in names and "rt_seg_ros/web/page/view.js" in names
    for folder in ("config", "launch", "models", "msg", "rviz"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.name[0] != ".":
                assert f"rt_seg_ros/{path.relative_to(root)}" in data
    assert not [name for name in names if name.startswith("test")]


def test_readme_has_the_parameters_as_they_are(root):
    readme = (root / "README.md").read_text()
    assert parameters.markdown() in readme, "put the output of `python -m rt_seg_ros.ros.parameters` into README.md"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_that_teaches(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"rt-seg {command}" in text and "example" in text


def test_a_wrong_command_is_met_with_a_hint(capsys):
    assert cli.main(["modles"]) == 2
    assert "did you mean 'models'" in capsys.readouterr().err
    assert cli.main([]) == 0


def test_torch_and_rclpy_are_imported_only_where_they_are_used():
    code = (
        "import sys, rt_seg_ros.pipeline, rt_seg_ros.drawing, rt_seg_ros.masks, rt_seg_ros.bags, rt_seg_ros.data.synth;"
        "import rt_seg_ros.networks;"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'rclpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
