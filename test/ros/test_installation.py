"""An environment that has a ROS 2 of its own, in a shell that has sourced another."""

import importlib
import sys

import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.ros import installation
from rt_seg_ros.ros.installation import check_one_ros


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Return the environment's packages, and another folder of packages that stands before them."""
    own, other = tmp_path / "own", tmp_path / "other"
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(own))
    monkeypatch.setattr(sys, "path", [str(other), str(own), *sys.path])
    monkeypatch.delitem(sys.modules, "rclpy", raising=False)
    return own, other


def install(place):
    (place / "rclpy").mkdir(parents=True)
    (place / "rclpy" / "__init__.py").touch()
    importlib.invalidate_caches()


def test_one_that_hides_the_environment_s_own_is_refused(places):
    install(places[0])
    check_one_ros()
    install(places[1])
    with pytest.raises(UserError, match="has sourced another, whose rclpy comes first"):
        check_one_ros()


def test_one_beside_an_environment_without_is_the_robot_s_own(places):
    install(places[1])
    check_one_ros()
