"""The table of parameters, and what is held against it."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rt_seg_ros.errors import UserError
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.ros import parameters
from rt_seg_ros.ros.parameters import PARAMETERS, TABLE

ROOT = Path(__file__).resolve().parents[2]


def test_the_file_of_parameters_has_each_with_its_default():
    document = yaml.safe_load((ROOT / "config" / "segment.yaml").read_text())
    values = document["/**"]["ros__parameters"]
    assert list(values) == sorted(values, key=list(values).index)
    assert set(values) == set(TABLE)
    for name, value in values.items():
        # A double's default must be written as one: rclpy tells 1 from 1.0.
        assert type(value) is type(TABLE[name].default), name
        assert TABLE[name].check(value) == TABLE[name].default, name


def test_each_parameter_is_described_and_its_default_allowed():
    for parameter in PARAMETERS:
        assert parameter.description.endswith("."), parameter.name
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.expected()


def test_the_pipeline_finds_all_it_needs():
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert parameters.segmenter_config(values) == SegmenterConfig()
    assert set(parameters.config_values(SegmenterConfig())) == {f.name for f in fields(SegmenterConfig)} <= set(TABLE)


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("downsampling_ratio", 1, 1.0),
        ("max_rate", 5, 5.0),
        ("camera_topics", "/a/image, /b/image", ["/a/image", "/b/image"]),
        ("camera_topics", ("/a/image",), ["/a/image"]),
        ("mask_classes", [""], []),
        ("mask_classes", [], []),
        ("mask_classes", b"", []),
        ("input_height", 360, 360),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_what_people_write_is_understood(name, value, result):
    checked = TABLE[name].check(value)
    assert checked == result and type(checked) is type(result)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("downsampling_ratio", -0.1, "downsampling_ratio is -0.1; expected a number from 0 to 1"),
        ("downsampling_ratio", 1.5, "from 0 to 1"),
        ("downsampling_ratio", float("nan"), "nan"),
        ("downsampling_ratio", "half", "'half'"),
        ("downsampling_ratio", True, "expected a number"),
        ("confidence_threshold", float("inf"), "from 0 to 1"),
        ("input_height", -1, "from 0 to 8192"),
        ("input_height", 360.5, "a whole number"),
        ("input_height", 353, r"input_height is 353; expected a whole number \(a multiple of 8\) from 0 to 8192"),
        ("sample_bits", 7, "sample_bits is 7; expected a whole number from 8 to 16"),
        ("sample_bits", 17, "from 8 to 16"),
        ("sample_bits", 12.0, "a whole number"),
        ("image_transport", "compresed", r"did you mean 'compressed'\?\); expected raw or compressed"),
        ("device", "gpu", "auto, cpu, cuda"),
        ("mask_classes", [1, 2], "a list of texts"),
        ("mask_classes", None, "a list of texts"),
        ("mask_classes", b"road", "a list of texts"),
        ("lazy", 1, "true or false"),
        ("model", 3, "text"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name, value, reason):
    with pytest.raises(UserError, match=reason):
        TABLE[name].check(value)


def test_names_of_no_parameter_are_known():
    given = ["model", "mask_clases", "bogus", "use_sim_time", "qos_overrides./camera/image_raw.subscription.depth"]
    assert parameters.unknown(given) == ["mask_clases", "bogus"]
