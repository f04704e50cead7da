"""Parameters set while the node works: checked as a whole, prepared aside, swapped between two frames."""

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import numpy as np
from sensor_msgs.msg import Image

from ros_harness import HEIGHT, WIDTH, at_rate, picture, stamp_of
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import qos
from rt_seg_ros.zoo import list_models

pytestmark = pytest.mark.ros


@pytest.fixture
def stats(graph):
    return graph.collect(SegmentationStats, "/segmentation/stats")


@pytest.fixture
def camera(graph):
    return graph.camera(reliability=qos.RELIABLE)


def test_another_ratio_size_and_model_without_a_gap(graph, node, camera, stats):
    graph.feed(camera, lambda: stats[-1].working_height == HEIGHT, "the whole size")
    assert node.set(downsampling_ratio=0.75) == (True, "")
    graph.feed(camera, lambda: (stats[-1].working_height, stats[-1].working_width) == (72, 96), "0.75 of the size")
    assert (stats[-1].image_height, stats[-1].image_width) == (HEIGHT, WIDTH)

    # One by one, as `ros2 param set` does it: the size changes when both are there.
    assert node.set(input_height=64)[0]
    at_rate(camera, 0.5)
    assert stats[-1].working_height == 72
    assert node.set(input_width=80)[0]
    graph.feed(camera, lambda: (stats[-1].working_height, stats[-1].working_width) == (64, 80), "64x80")
    assert node.set(input_height=0, input_width=0, downsampling_ratio=1)[0], "a whole number does for a double"
    graph.feed(camera, lambda: stats[-1].working_height == HEIGHT, "the whole size again")

    # The old model serves until the new one is ready.
    del stats[:]
    assert node.set(model="frfnet_slim")[0]
    graph.feed(camera, lambda: stats[-1].model.startswith("frfnet_slim"), "another model", period=0.02)
    models = [s.model for s in stats]
    assert models == sorted(models), "no frame of the old model after the new one"
    assert node.get("model") == "frfnet_slim"
    node.wait_status(lambda level, text, facts: facts["model"].startswith("frfnet_slim"))

    # No frame was lost by it that the flood alone would not have lost.
    _, _, facts = node.wait_status(
        lambda level, text, facts: facts["waiting"] == facts["in hand"] == "0", "camera camera"
    )
    counts = {k: int(facts[k]) for k in ("received", "processed", "dropped", "rejected")}
    assert counts["received"] == counts["processed"] + counts["dropped"] + counts["rejected"]
    assert counts["rejected"] == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"downsampling_ratio": 1.5}, "ownsampling_ratio"),
        ({"downsampling_ratio": -0.5}, "Min: 0.0, Max: 1.0"),
        ({"downsampling_ratio": "half"}, "downsampling_ratio is 'half'; expected a number from 0 to 1"),
        ({"model": "cgnet2"}, "did you mean 'cgnet'"),
        ({"model": "csrnet"}, "did you mean 'csrnet_"),
        ({"model": 3}, "expected"),
        ({"weights": "/nowhere/at_all.safetensors"}, "there is no such file"),
        ({"weights": "/nowhere/at_all.pth"}, "only .safetensors files"),
        ({"label_space": "mars7"}, "mars7"),
        ({"backend": "abacus"}, "abacus"),
        ({"device": "gpu"}, "cuda:N"),
        ({"input_height": 16, "input_width": 16}, "input_height is 16"),
        ({"input_height": 10}, "value: 10, step: 8"),
        ({"input_height": 100, "input_width": 160}, "value: 100, step: 8"),
        (
            {"max_image_pixels": 10_000, "input_height": 96, "input_width": 128},
            "make 12288 pixels; max_image",
        ),
        ({"device": "cuda:97"}, "device 'cuda:97'"),
        ({"device": "cpu", "backend": "onnxruntime", "precision": "fp16"}, "fp16"),
        ({"mask_classes": ["road", "unicorn"]}, "no class 'unicorn'"),
        ({"camera_topics": ["/other/image_raw"]}, "deactivate first"),
        ({"camera_topics": [""]}, "camera_topics is empty"),
        ({"camera_topics": ["/a/image", "/a/image"]}, "'/a/image' twice"),
        ({"camera_topics": ["/a/{x}/image"]}, "which is no name of a topic"),
        ({"camera_names": ["1bad"]}, "'1bad'; use letters"),
        ({"image_transport": "compressed"}, "deactivate first"),
        ({"autostart": True}, "read-only"),
        ({"confidence_threshold": float("nan")}, "confidence_threshold"),
        ({"overlay_alpha": 0.25, "max_rate": -1.0}, "max_rate"),
        ({"downsampling_ratio": 0.5, "backend": "abacus"}, "abacus"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_bad_value_is_refused_with_the_reason_and_nothing_changes(graph, node, values, reason):
    before = {name: node.get(name) for name in values}
    done, told = node.set(**values)
    assert not done
    assert reason in told
    assert {name: node.get(name) for name in values} == before


def test_a_preparation_that_fails_is_taken_back(graph, node, camera, stats, tmp_path):
    graph.feed(camera, lambda: stats, "statistics")
    assert node.set(mask_classes=["road"])[0]
    # The values are good, the file is what it says; that it is damaged shows when it is loaded.
    (card,) = (c for c in list_models() if c.name == "cgnet_camvid11")
    damaged = bytearray(card.weights.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    (tmp_path / "damaged.yaml").write_text(card.weights.with_suffix(".yaml").read_text())
    names = yaml.safe_dump({"classes": [{"name": f"kind{i}", "color": [i, i, i]} for i in range(11)]})
    (tmp_path / "kinds.yaml").write_text(names)
    done, told = node.set(
        weights=str(tmp_path / "damaged.safetensors"),
        label_space=str(tmp_path / "kinds.yaml"),
        mask_classes=["kind3"],
        downsampling_ratio=0.75,
    )
    assert done, told
    graph.wait(lambda: node.get("weights") == "", "the old value")
    assert node.get("label_space") == ""
    assert list(node.get("mask_classes")) == ["road"]
    assert node.get("downsampling_ratio") == 0.0
    _, text, facts = node.wait_status(lambda level, text, facts: level == b"\x01")
    assert "a change failed" in text and facts["last error"]
    assert "the change failed" in node.log() and "mask_classes: ['road']" in node.log()
    del stats[:]
    graph.feed(camera, lambda: stats[-1].device == "cpu" and stats[-1].working_height == HEIGHT, "the old model")
    assert node.set(downsampling_ratio=0.75)[0]
    node.wait_status(lambda level, text, facts: level == b"\x00" and not facts["last error"])


def test_what_needs_no_preparation_takes_effect_at_once(graph, node, camera, stats):
    label = graph.collect(Image, "/segmentation/label")
    graph.feed(camera, lambda: label and 255 not in label[-1].data, "labels")
    assert node.set(confidence_threshold=0.9)[0]
    graph.feed(camera, lambda: 255 in label[-1].data, "labels without the doubtful")
    doubtful = (
        Segmenter(SegmenterConfig(allow_random_weights=True, threads=1)).segment(picture(), True).confidence < 230
    )
    assert np.array_equal(np.frombuffer(label[-1].data, np.uint8).reshape(HEIGHT, WIDTH) == 255, doubtful)
    assert node.set(confidence_threshold=0)[0]
    graph.feed(camera, lambda: 255 not in label[-1].data, "labels again")

    assert node.set(mask_classes=["road"])[0]
    road = graph.collect(Image, "/segmentation/mask/road")
    graph.feed(camera, lambda: road, "the mask of a class")
    assert node.set(mask_classes=["sky", "car"])[0]
    graph.wait(lambda: not road.matched(), "the end of the old topic")
    sky = graph.collect(Image, "/segmentation/mask/sky")
    graph.feed(camera, lambda: sky, "the mask of another class")

    assert node.set(max_rate=4)[0]
    del stats[:]
    at_rate(camera, 2.0, 0.02)
    assert 5 <= len(stats) <= 11
    counts = node.wait_status(lambda *s: True, "camera camera")[2]
    assert int(counts["dropped: max_rate"]) > 20


def test_the_latest_of_many_changes_holds(graph, node, camera, stats):
    graph.feed(camera, lambda: stats, "statistics")
    for n in range(40):
        ratio = (0.7, 0.75, 0.8, 0.92)[n % 4]
        assert node.set(downsampling_ratio=ratio)[0]
        if n % 3 == 0:
            assert not node.set(downsampling_ratio=2.0)[0]
            camera.send()
    graph.feed(camera, lambda: stats[-1].working_height == 88, "the last ratio")
    at_rate(camera, 0.5)
    assert stats[-1].working_height == 88  # 0.92 of 96, in steps of 8
    assert len({stamp_of(s) for s in stats}) == len(stats)
