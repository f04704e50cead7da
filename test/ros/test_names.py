"""Names of nodes, of cameras and of classes' topics."""

import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.ros.names import camera_names, class_tokens, expanded, full_name, split_name, topic_token


@pytest.mark.parametrize(
    ("namespace", "name", "full"),
    [("/", "eye", "/eye"), ("/robot", "eye", "/robot/eye"), ("/robot/head", "eye", "/robot/head/eye")],
)
def test_a_full_name_comes_apart_as_it_was_put_together(namespace, name, full):
    assert full_name(namespace, name) == full
    assert split_name(full) == (namespace, name)


@pytest.mark.parametrize(("given", "full"), [("/a/x", "/a/x"), ("a/x", "/robot/a/x"), ("~/x", "/robot/eye/x")])
def test_a_topic_is_of_the_node_that_it_was_given_to(given, full):
    assert expanded(given, "/robot/eye") == full


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["/camera/image_raw"], ["camera"]),
        (["/front/image_raw", "/rear/image_raw"], ["front", "rear"]),
        (["/left/camera/image_raw", "/right/camera/image_raw"], ["left_camera", "right_camera"]),
        (["/robot/front/image_raw", "/robot/rear/color/image_raw"], ["front", "color"]),
        (["/stereo/left_image", "/stereo/right_image"], ["stereo_left_image", "stereo_right_image"]),
        (["/image_raw"], ["image_raw"]),
        (["/a/image_raw", "/a/image_rect"], ["a_image_raw", "a_image_rect"]),
        (["/9cam/image_raw"], ["_9cam"]),
        ([], []),
    ],
)
def test_cameras_are_named_by_their_topics(topics, expected):
    assert camera_names(topics) == expected


def test_names_that_are_given_hold():
    assert camera_names(["/a/image", "/b/image"], ["left", "right"]) == ["left", "right"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [(["one"], "1 names"), (["one", "one"], "twice"), (["one", "2"], "'2'"), (["one", "a/b"], "'a/b'")],
)
def test_names_that_cannot_be_are_refused(given, reason):
    with pytest.raises(UserError, match=reason):
        camera_names(["/a/image", "/b/image"], given)


def test_class_names_become_topics():
    assert topic_token("Traffic light") == "traffic_light"
    assert topic_token("2-wheeler") == "_2_wheeler"
    assert topic_token("--") == "unnamed"
    assert class_tokens(["road", "pole/sign", "pole sign"]) == {
        "road": "road",
        "pole/sign": "pole_sign_1",
        "pole sign": "pole_sign_2",
    }


def test_names_that_were_told_apart_stay_apart():
    assert list(class_tokens(["a", "a!", "a_1"]).values()) == ["a_0", "a_1_1", "a_1"]
    names = camera_names(["/a/b", "/a_b", "/a/b_0"])
    assert len(set(names)) == 3
