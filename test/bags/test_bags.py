"""Recordings: written, read back, compressed, cut off, overwritten, refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rt_seg_ros.bags import BagWriter, open_bag, torn_mcap, torn_sqlite
from rt_seg_ros.bags.cdr import restamped
from rt_seg_ros.bags.results import ResultTopics
from rt_seg_ros.bags.torn_mcap import MAGIC
from rt_seg_ros.bags.types import CLASS_MASKS, IMAGE, LABEL_INFO, STATS, typestore
from rt_seg_ros.data.synth import Intrinsics
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import load_label_space

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGE_TOPIC, LABEL_TOPIC, INFO_TOPIC = "/camera/image_raw", "/camera/label", "/camera/camera_info"
CAMERA = Intrinsics(40.0, 41.0, 15.5, 11.5, 24, 32)
START = 1_700_000_000_000_000_123


def picture(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)


def labels(i: int) -> np.ndarray:
    return np.random.default_rng(100 + i).integers(0, 12, (24, 32), np.uint8)


def large(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (150, 200, 3), np.uint8)


def write(path: Path, storage: str = "mcap", frames: int = 5, **options: bool) -> Path:
    with BagWriter(path, storage, **options) as writer:  # type: ignore[arg-type]
        for i in range(frames):
            stamp = START + i * 10**8
            writer.add_image(IMAGE_TOPIC, stamp, "camera_optical_frame", picture(i))
            writer.add_label(LABEL_TOPIC, stamp, "camera_optical_frame", labels(i))
            writer.add_camera_info(INFO_TOPIC, stamp, "camera_optical_frame", CAMERA)
    return path


@pytest.mark.parametrize(
    ("name", "storage"),
    [(name, storage) for name in ("drive", "a.drive", "one.db3") for storage in ("mcap", "sqlite3")]
    + [("one.mcap", "mcap")],
)
def test_what_is_written_is_read(tmp_path: Path, name: str, storage: str) -> None:
    write(tmp_path / name, storage)
    with open_bag(tmp_path / name) as bag:
        assert {n: (t.type, t.count) for n, t in bag.topics.items()} == {
            IMAGE_TOPIC: ("sensor_msgs/msg/Image", 5),
            LABEL_TOPIC: ("sensor_msgs/msg/Image", 5),
            INFO_TOPIC: ("sensor_msgs/msg/CameraInfo", 5),
        }
        assert bag.damage == ""
        assert bag.image_topics() == [IMAGE_TOPIC] and bag.label_topics() == [LABEL_TOPIC]
        assert bag.start_ns == START and bag.duration_ns == 4 * 10**8
        for i, image in enumerate(bag.images()):
            assert (image.stamp_ns, image.frame_id) == (START + i * 10**8, "camera_optical_frame")
            np.testing.assert_array_equal(image.frame.bgr(), picture(i))
        assert i == 4
        for i, (stamp, _, read) in enumerate(bag.labels()):
            assert stamp == START + i * 10**8
            np.testing.assert_array_equal(read, labels(i))
        assert len(list(bag.images())) == 5  # as often as wanted
        _, _, info = next(bag.messages([INFO_TOPIC]))
        np.testing.assert_allclose(info.k, CAMERA.matrix.reshape(-1))
        assert (info.height, info.width, info.distortion_model, list(info.d)) == (24, 32, "plumb_bob", [0.0] * 5)
        np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
        np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:, :3], CAMERA.matrix)
    assert not list(tmp_path.glob(".*"))


def test_what_other_programs_need_is_in_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "drive")
    information = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["storage_identifier"] == "mcap"
    assert information["version"] == 8  # read by Humble and by Jazzy
    assert information["relative_file_paths"] == ["drive.mcap"]
    assert information["message_count"] == 15
    for entry in information["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        assert topic["serialization_format"] == "cdr"
        assert topic["type_description_hash"].startswith("RIHS01_")
        (qos,) = yaml.safe_load(topic["offered_qos_profiles"])
        assert (qos["reliability"], qos["durability"], qos["history"]) == (1, 2, 1)
        assert qos["lifespan"] == {"sec": 9223372036, "nsec": 854775807}  # for ever
    assert (folder / "drive.mcap").read_bytes().count(b"uint32 height") >= 1  # the definition itself


def test_encodings(tmp_path: Path) -> None:
    image = picture(1)
    alpha = np.dstack((image, np.full((24, 32), 7, np.uint8)))
    with BagWriter(tmp_path / "b") as writer:
        writer.add_image("/bgr", 1, "c", image, "bgr8")
        writer.add_image("/rgb", 2, "c", image[:, :, ::-1], "rgb8")
        writer.add_image("/bgra", 3, "c", alpha, "bgra8")
        writer.add_image("/mono", 4, "c", image[:, :, 0], "mono8")
        writer.add_image("/half", 5, "c", picture(2)[:, ::2], "bgr8")
        for form in ("png", "jpeg"):
            _, data = cv2.imencode(f".{form}", image)
            writer.add_compressed_image(f"/{form}/compressed", 6, "c", data.tobytes(), f"bgr8; {form} compressed bgr8")
        with pytest.raises(ValueError, match="mono8"):
            writer.add_image("/mono", 4, "c", image, "mono8")
        with pytest.raises(ValueError, match="float"):
            writer.add_image("/bgr", 4, "c", image.astype(float), "bgr8")
    bag = open_bag(tmp_path / "b")
    for topic in ("/bgr", "/rgb", "/bgra", "/png/compressed"):
        (read,) = bag.images(topic)
        np.testing.assert_array_equal(read.frame.bgr(), image, err_msg=topic)
    (read,) = bag.images("mono")  # the leading slash may be left out
    np.testing.assert_array_equal(read.frame.pixels, image[:, :, 0])
    (read,) = bag.images("/half")
    np.testing.assert_array_equal(read.frame.bgr(), picture(2)[:, ::2])
    (read,) = bag.images("/jpeg/compressed")
    assert read.frame.bgr().shape == image.shape


def test_16_bit_images_of_either_byte_order_are_read(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 65535 // 11, dtype=np.uint16)[:12].reshape(3, 4)
    with BagWriter(tmp_path / "b") as writer:
        for big in (0, 1):
            data = np.frombuffer(values.astype(">u2" if big else "<u2").tobytes(), np.uint8)
            fields = {"header": writer.header(START + big, "c"), "height": 3, "width": 4, "is_bigendian": big}
            message = writer.message(IMAGE, **fields, encoding="mono16", step=8, data=data)
            writer.write("/image", message, START + big)
    with open_bag(tmp_path / "b") as bag:
        little, big = (image.frame.pixels for image in bag.images())
    np.testing.assert_array_equal(little, big)
    assert little[0, 1] == 23


def test_an_image_without_a_stamp_has_the_time_of_its_recording(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "b") as writer:
        writer.add_image(IMAGE_TOPIC, 0, "c", picture(0), recorded_ns=START)
    with open_bag(tmp_path / "b") as bag:
        assert [image.stamp_ns for image in bag.images()] == [START]


def test_mosaics_are_demosaiced_compressed_too(tmp_path: Path) -> None:
    mosaic = cv2.resize(picture(3)[:, :, 0], (32, 24))
    packed = cv2.imencode(".png", mosaic)[1].tobytes()
    with BagWriter(tmp_path / "b") as writer:
        fields = {"header": writer.header(1, "c"), "height": 24, "width": 32, "is_bigendian": 0, "step": 32}
        raw = writer.message(IMAGE, **fields, encoding="bayer_gbrg8", data=mosaic.reshape(-1))
        writer.write("/raw", raw, 1)
        writer.add_compressed_image("/png/compressed", 1, "c", packed, "bayer_gbrg8; png compressed ")
        writer.add_compressed_image("/grey/compressed", 1, "c", packed, "mono8; png compressed ")
    with open_bag(tmp_path / "b") as bag:
        ((expected,), (read,), (grey,)) = (list(bag.images(t)) for t in ("/raw", "/png/compressed", "/grey/compressed"))
    np.testing.assert_array_equal(read.frame.bgr(), expected.frame.bgr())
    assert np.ptp(read.frame.bgr(), axis=2).max() > 0 == np.ptp(grey.frame.bgr(), axis=2).max()


def test_compressed_labels_keep_their_ids(tmp_path: Path) -> None:
    _, data = cv2.imencode(".png", labels(0))
    with BagWriter(tmp_path / "b") as writer:
        writer.add_compressed_image("/camera/label/compressed", 1, "c", data.tobytes(), "mono8; png compressed ")
        writer.add_image("/camera/image_raw", 1, "c", picture(0))
    bag = open_bag(tmp_path / "b")
    assert bag.image_topics() == ["/camera/image_raw"]
    ((_, _, read),) = bag.labels()
    np.testing.assert_array_equal(read, labels(0))


def test_colours_are_no_labels(tmp_path: Path) -> None:
    bag = open_bag(write(tmp_path / "b"))
    with pytest.raises(UserError, match="mono8"):
        next(bag.labels(IMAGE_TOPIC))


def test_what_would_change_ids_is_no_label_image(tmp_path: Path) -> None:
    """16 bits would be scaled to 8: class 0 everywhere; JPEG gives each edge ids of its own."""
    ids = labels(0)
    grey, deep = (cv2.imencode(*args)[1].tobytes() for args in ((".jpg", ids), (".png", ids.astype(np.uint16))))
    with BagWriter(tmp_path / "b") as writer:
        raw = {"header": writer.header(1, "c"), "height": 2, "width": 3, "is_bigendian": 0, "step": 6}
        for encoding in ("mono16", "16UC1"):
            image = writer.message(IMAGE, **raw, encoding=encoding, data=np.arange(12, dtype=np.uint8))
            writer.write(f"/{encoding}/label", image, 1)
        writer.add_compressed_image("/jpeg/label", 1, "c", grey, "mono8; jpeg compressed ")
        writer.add_compressed_image("/deep/label", 1, "c", deep, "mono16; png compressed ")
    with open_bag(tmp_path / "b") as bag:
        for topic, said in {"mono16": "mono16", "16UC1": "16UC1", "jpeg": "JPEG", "deep": "uint16"}.items():
            with pytest.raises(UserError, match=f"/{topic}/label' of .* holds no label images: .*{said}"):
                next(bag.labels(f"/{topic}/label"))


@pytest.mark.parametrize("name", ["b.mcap", "b.db3"])
def test_any_thread_may_write(tmp_path: Path, name: str) -> None:
    with BagWriter(tmp_path / name) as writer:
        for _ in range(2):  # the topic's first message, and another
            thread = threading.Thread(target=writer.add_label, args=("/label", 1, "c", labels(0)))
            thread.start()
            thread.join()
    with open_bag(tmp_path / name) as bag:
        assert bag.topics["/label"].count == 2


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    ],
)
def test_compressed_recordings(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    source = open_bag(write(tmp_path / "plain"))
    writer = Writer(tmp_path / "small", version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, stamp, data in source.raw_messages():
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(connections[topic], stamp, data)
    bag = open_bag(tmp_path / "small")
    for i, image in enumerate(bag.images()):
        np.testing.assert_array_equal(image.frame.bgr(), picture(i))
    assert i == 4 and len(list(bag.labels())) == 5


# ---- own and foreign types ---------------------------------------------------------------------------


def test_own_messages(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "b") as writer:
        box = writer.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=1, y_offset=2, height=3, width=4, do_rectify=False
        )
        runs = np.array([5, 7], np.uint32)
        mask = writer.message("rt_seg_ros/msg/ClassMask", id=8, name="car", pixel_count=7, bounding_box=box, runs=runs)
        header = writer.header(START, "camera")
        writer.write("/masks", writer.message(CLASS_MASKS, header=header, height=3, width=4, masks=[mask]), START)
        sky = writer.message("vision_msgs/msg/VisionClass", class_id=0, class_name="sky")
        info = writer.message(LABEL_INFO, header=header, class_map=[sky], threshold=0.5)
        writer.write("/label_info", info, START, latched=True)
    bag = open_bag(tmp_path / "b")
    read = {topic: message for topic, _, message in bag.messages()}
    assert read["/masks"].masks[0].name == "car"
    np.testing.assert_array_equal(read["/masks"].masks[0].runs, runs)
    assert read["/label_info"].class_map[0].class_name == "sky"
    assert bag.offered_qos("/label_info")[0].durability.name == "TRANSIENT_LOCAL"
    assert bag.offered_qos("/masks")[0].durability.name == "VOLATILE"
    assert STATS in typestore().fielddefs


def test_label_info_names_what_has_no_label_as_the_node_does(tmp_path: Path) -> None:
    space = load_label_space("camvid11")
    with BagWriter(tmp_path / "b") as writer:
        ResultTopics(writer, space).add(START, "camera", labels(0) % 11)
    ((_, _, info),) = open_bag(tmp_path / "b").messages(["/segmentation/label_info"])
    named = [(c.class_id, c.class_name) for c in info.class_map]
    assert named == [*((c.id, c.name) for c in space.classes), (255, "unlabelled")]


def test_results_tell_box_and_threshold_and_keep_the_time_of_recording(tmp_path: Path) -> None:
    found = np.full((24, 32), 255, np.uint8)
    found[3:8, 10:30] = 8
    with BagWriter(tmp_path / "b") as writer:
        results = ResultTopics(writer, load_label_space("camvid11"), threshold=0.25)
        results.add(START, "camera", found, recorded_ns=START + 7)
    with open_bag(tmp_path / "b") as bag:
        read = {topic.rpartition("/")[2]: (recorded, message) for topic, recorded, message in bag.messages()}
    assert {recorded for recorded, _ in read.values()} == {START + 7}
    (mask,) = read["class_masks"][1].masks
    box = mask.bounding_box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (10, 3, 20, 5)
    assert read["label_info"][1].threshold == 0.25


def _foreign_bag(path: Path, definition: str, kind: str, **fields: object) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(definition, kind))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/x", kind, typestore=store)
        writer.write(connection, 1, store.serialize_cdr(store.types[kind](**fields), kind))


def test_types_come_from_the_recording(tmp_path: Path) -> None:
    _foreign_bag(tmp_path / "foreign", "uint8 a\nstring b\n", "other_msgs/msg/Thing", a=3, b="four")
    ((_, _, message),) = open_bag(tmp_path / "foreign").messages()
    assert (message.a, message.b) == (3, "four")


def test_an_older_definition_of_our_own_wins(tmp_path: Path) -> None:
    _foreign_bag(tmp_path / "old", "uint32 height\n", CLASS_MASKS, height=9)
    ((_, _, message),) = open_bag(tmp_path / "old").messages()
    assert message.height == 9 and not hasattr(message, "masks")


# ---- what goes wrong in reading ----------------------------------------------------------------------


def test_wrong_topics_list_the_right_ones(tmp_path: Path) -> None:
    bag = open_bag(write(tmp_path / "b"))
    with pytest.raises(UserError) as missing:
        bag.image_topic("/front/image")
    said = str(missing.value)
    assert "'/front/image'" in said
    assert all(topic in said for topic in (IMAGE_TOPIC, LABEL_TOPIC, INFO_TOPIC))
    (line,) = [line for line in said.splitlines() if IMAGE_TOPIC in line]
    assert "5 messages" in line and "images" in line
    (line,) = [line for line in said.splitlines() if INFO_TOPIC in line]
    assert "images" not in line
    with pytest.raises(UserError, match="CameraInfo, not images"):
        bag.image_topic(INFO_TOPIC)


def test_several_image_topics_must_be_chosen_from(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "b") as writer:
        writer.add_image("/left", 1, "c", picture(0))
        writer.add_image("/right", 1, "c", picture(1))
    bag = open_bag(tmp_path / "b")
    with pytest.raises(UserError, match="/left, /right"):
        next(bag.images())
    assert len(list(bag.images("/right"))) == 1
    with pytest.raises(UserError, match="no label images"):
        bag.label_topic()


def test_what_a_node_made_of_a_camera_is_no_camera(tmp_path: Path) -> None:
    labels = np.zeros((4, 6), np.uint8)
    with BagWriter(tmp_path / "b") as writer:
        writer.add_image("/camera/image_raw", 1, "c", picture(0))
        writer.add_image("/rear/overlay", 1, "c", picture(0))
        for prefix in ("/segmentation", "/robot/eye/front"):
            writer.add_label(f"{prefix}/label", 1, "c", labels)
            writer.add_image(f"{prefix}/overlay", 1, "c", picture(1))
            writer.add_image(f"{prefix}/confidence", 1, "c", labels, "mono8")
            writer.add_image(f"{prefix}/mask/road", 1, "c", labels, "mono8")
            writer.add_label(f"{prefix}/mask/road/compressed", 1, "c", labels)
    bag = open_bag(tmp_path / "b")
    assert bag.image_topics() == ["/camera/image_raw", "/rear/overlay"]
    with pytest.raises(UserError, match=r"several topics of camera images \(.*\): choose one of them \(--topic\)"):
        bag.image_topic()
    assert bag.image_topic("/segmentation/overlay") == "/segmentation/overlay"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recording at"):
        open_bag(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"metadata\.yaml is missing"):
        open_bag(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("no bag")
    with pytest.raises(UserError, match=r"\.mcap or \.db3"):
        open_bag(tmp_path / "text.txt")
    for name in ("junk.mcap", "junk.db3", "void.mcap"):
        (tmp_path / name).write_bytes(b"" if name == "void.mcap" else b"nothing like a recording" * 10)
        with pytest.raises(UserError, match=name):
            open_bag(tmp_path / name)


def test_metadata_missing(tmp_path: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        folder = write(tmp_path / storage, storage)
        (folder / "metadata.yaml").unlink()
        bag = open_bag(folder)
        assert "metadata.yaml" in bag.damage
        assert len(list(bag.images())) == 5


def test_metadata_that_is_nonsense(tmp_path: Path) -> None:
    for text in ("", "rosbag2_bagfile_information: 3", ":::", "a: [1"):
        folder = write(tmp_path / "b", overwrite=True)
        (folder / "metadata.yaml").write_text(text)
        bag = open_bag(folder)
        assert bag.damage and len(list(bag.labels())) == 5


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_off_anywhere_reads_as_far_as_it_goes(tmp_path: Path, compressed: bool) -> None:
    writer = Writer(tmp_path / "whole", version=8, storage_plugin=StoragePlugin.MCAP)
    if compressed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    count = 40
    with BagWriter(tmp_path / "plain") as plain:
        for i in range(count):
            plain.add_image(IMAGE_TOPIC, START + i, "c", large(i))
    with writer:
        connection = writer.add_connection(IMAGE_TOPIC, IMAGE, typestore=typestore())
        for _, _, stamp, data in open_bag(tmp_path / "plain").raw_messages():
            writer.write(connection, stamp, data)
    whole = (tmp_path / "whole" / "whole.mcap").read_bytes()
    last = -1
    for share in (0.1, 0.33, 0.5, 0.77, 0.95, 0.9999):
        torn = tmp_path / "torn.mcap"
        torn.write_bytes(whole[: int(len(whole) * share)])
        bag = open_bag(torn)
        images = list(bag.images())
        for i, image in enumerate(images):
            np.testing.assert_array_equal(image.frame.bgr(), large(i))
        assert "cut off" in bag.damage and str(len(images)) in bag.damage
        assert bag.topics[IMAGE_TOPIC].count == len(images)
        assert last <= len(images) and len(images) >= int(count * share) - 14  # a chunk holds a dozen
        last = len(images)
    assert last == count


@pytest.mark.parametrize("name", ["drive.mcap", "drive.db3"])
def test_a_recording_of_one_moment_takes_no_time(tmp_path: Path, name: str) -> None:
    with BagWriter(tmp_path / name) as bag:
        for i in range(3):
            bag.add_image(IMAGE_TOPIC, START, "c", large(i))
    with open_bag(tmp_path / name) as read:
        assert (read.start_ns, read.duration_ns) == (START, 0)  # else its rate were one in a nanosecond


def test_a_damaged_length_asks_for_no_more_than_the_file_has(tmp_path: Path) -> None:
    asked = []

    class Watched(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    (tmp_path / "torn.mcap").write_bytes(struct.pack("<BQ", 0x06, 3_900_000_000) + b"the chunk")
    with Watched(tmp_path / "torn.mcap") as file:
        assert list(torn_mcap._records(file)) == [(0x06, b"the chunk")]
    assert max(asked) < 100


def test_a_file_beside_its_unfinished_compressed_self_is_read_once(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "drive") as bag:
        for i in range(5):
            bag.add_image(IMAGE_TOPIC, START + i, "c", large(i))
    (tmp_path / "drive" / "metadata.yaml").unlink()
    (file,) = (tmp_path / "drive").iterdir()
    file.with_name(f"{file.name}.zstd").write_bytes(zstd.compress(file.read_bytes()))
    assert len(list(open_bag(tmp_path / "drive").images())) == 5


def without_index(path: Path, source: Path, profile: str = "ros2", json: bool = False) -> Path:
    """Write a recording as a bare MCAP: without chunks or index, each label before its image but logged after it."""

    def record(kind: int, content: bytes) -> bytes:
        return struct.pack("<BQ", kind, len(content)) + content

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    content = MAGIC + record(0x01, text(profile) + text(""))
    with open_bag(source) as bag:
        numbers = {channel.topic: n for n, channel in enumerate(bag._channels(), 1)}
        for channel in bag._channels():
            number = struct.pack("<H", numbers[channel.topic])
            content += record(0x03, number + text(channel.type) + text("ros2msg") + text(channel.definition.data))
            content += record(0x04, 2 * number + text(channel.topic) + text("cdr") + bytes(4))
        if json:
            content += record(0x04, struct.pack("<HH", 99, 0) + text("/notes") + text("json") + bytes(4))
            content += record(0x05, struct.pack("<HIQQ", 99, 0, START, START) + b"{}")
        for topic, _, stamp, data in bag.raw_messages():
            stamp -= 1000 if topic == LABEL_TOPIC else 0
            content += record(0x05, struct.pack("<HIQQ", numbers[topic], 0, stamp, stamp) + data)
    path.write_bytes(content + record(0x0F, bytes(4)) + record(0x02, bytes(20)) + MAGIC)
    return path


@pytest.mark.parametrize("how", [{}, {"profile": ""}, {"json": True}])
def test_a_recording_without_index_is_whole(tmp_path: Path, how: dict) -> None:
    source = write(tmp_path / "b")
    file = without_index(tmp_path / "bare.mcap", source, **how)
    bag = open_bag(file)
    assert not bag.damage
    counts = {name: info.count for name, info in bag.topics.items() if info.count}
    assert counts == {IMAGE_TOPIC: 5, LABEL_TOPIC: 5, INFO_TOPIC: 5}
    assert len(list(bag.raw_messages())) == 15 and len(list(bag.raw_messages([IMAGE_TOPIC, LABEL_TOPIC]))) == 10
    for i, image in enumerate(bag.images()):
        np.testing.assert_array_equal(image.frame.bgr(), picture(i))
    if not how:
        shutil.copy(file, source / "b.mcap")
        assert len(list(open_bag(source).raw_messages())) == 15 and not open_bag(source).damage
    file.write_bytes(file.read_bytes()[:-60])
    assert "cut off" in open_bag(file).damage


def test_cut_off_before_anything(tmp_path: Path) -> None:
    whole = (write(tmp_path / "b") / "b.mcap").read_bytes()
    for length in (8, 20, 40):
        (tmp_path / "torn.mcap").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut off before"):
            open_bag(tmp_path / "torn.mcap")


@pytest.mark.parametrize("with_metadata", [False, True])
def test_a_torn_database_reads_as_far_as_it_goes(tmp_path: Path, with_metadata: bool) -> None:
    folder = tmp_path / "b"
    count = 40
    with BagWriter(folder, "sqlite3") as writer:
        for i in range(count):
            writer.add_image(IMAGE_TOPIC, START + i * 10**8, "c", large(i))
            writer.add_label(LABEL_TOPIC, START + i * 10**8, "c", labels(i))
    whole = (folder / "b.db3").read_bytes()
    if not with_metadata:
        (folder / "metadata.yaml").unlink()
    last = -1
    for share in (0.2, 0.4, 0.6, 0.95, 0.999):
        (folder / "b.db3").write_bytes(whole[: int(len(whole) * share)])
        bag = open_bag(folder)
        images = list(bag.images())
        for i, image in enumerate(images):
            assert image.stamp_ns == START + i * 10**8
            np.testing.assert_array_equal(image.frame.bgr(), large(i))
        for i, (_, _, read) in enumerate(bag.labels()):
            np.testing.assert_array_equal(read, labels(i))
        assert "b.db3 was cut off" in bag.damage
        assert bag.topics[IMAGE_TOPIC].count == len(images)
        assert last <= len(images) and len(images) >= int(count * share) - 4  # a leaf holds three of them
        last = len(images)
    assert last >= count - 3
    for rest in (whole[:5000], whole[:60000], b"nothing like a database" * 300):
        (folder / "b.db3").write_bytes(rest)
        with pytest.raises(UserError, match=r"b\.db3 cannot be read"):
            open_bag(folder)


def test_a_database_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "b.db3")
    plain = Path.open

    def forbidden(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", forbidden)
    assert not torn_sqlite.is_torn(path)  # as far as one can tell: the reader says what is wrong


def test_a_database_of_many_pages_is_read_without_the_inner_ones(tmp_path: Path) -> None:
    """SQLite reaches its rows through pages that lie anywhere in the file: here behind the break."""
    folder = tmp_path / "b"
    with BagWriter(folder, "sqlite3") as writer:
        for i in range(3000):
            writer.add_label(LABEL_TOPIC, START + i, "c", labels(i % 7))
    data = (folder / "b.db3").read_bytes()
    (folder / "b.db3").write_bytes(data[: len(data) // 3])
    bag = open_bag(folder)
    stamps = [stamp for stamp, _, _ in bag.labels()]
    assert stamps == list(range(START, START + len(stamps)))
    assert 900 <= len(stamps) <= 1000


def test_a_database_that_was_never_closed(tmp_path: Path) -> None:
    """A recorder that is killed leaves its last messages in SQLite's write-ahead log."""
    folder = write(tmp_path / "b", "sqlite3")
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA journal_mode=WAL')\n"
        "c.execute('INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + 900000000, data '\n"
        "          'FROM messages WHERE id <= 3')\n"
        "c.commit()\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "b.db3")], check=False)
    assert (folder / "b.db3-wal").stat().st_size > 0
    bag = open_bag(folder)
    assert "never closed" in bag.damage
    assert len(list(bag.images())) == 6


@pytest.mark.parametrize(("name", "cut"), [("b.mcap", 200), ("b.db3", 4096), ("b.db3", 0)])
def test_what_was_latched_is_so_in_a_torn_recording(tmp_path: Path, name: str, cut: int) -> None:
    with BagWriter(tmp_path / name) as writer:
        writer.write("/tf_static", writer.message("tf2_msgs/msg/TFMessage", transforms=[]), START, latched=True)
        for i in range(3):
            writer.add_image(IMAGE_TOPIC, START + i, "c", large(i))
    if cut:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-cut])
    else:
        (tmp_path / f"{name}-wal").write_bytes(b"never closed")
    bag = open_bag(tmp_path / name)
    assert bag.damage and bag.topics["/tf_static"].count == 1
    assert bag.is_latched("/tf_static") and not bag.is_latched(IMAGE_TOPIC)
    assert [profile.durability.name for profile in bag.offered_qos(IMAGE_TOPIC)] == ["VOLATILE"]


def test_the_tenth_part_of_a_recording_comes_after_the_second(tmp_path: Path) -> None:
    for part in (0, 2, 10):
        with BagWriter(tmp_path / f"split_{part}.mcap") as writer:
            writer.add_image(IMAGE_TOPIC, START + part, "c", picture(part))
    with open_bag(tmp_path) as bag:
        assert [image.stamp_ns - START for image in bag.images()] == [0, 2, 10]


@pytest.mark.parametrize("torn", [0, 1])
def test_parts_of_a_recording_keep_their_order_where_one_is_torn(tmp_path: Path, torn: int) -> None:
    for part in range(3):
        with BagWriter(tmp_path / f"split_{part}.mcap") as writer:
            for i in range(4):
                writer.add_image(IMAGE_TOPIC, START + 4 * part + i, "c", picture(i))
    file = tmp_path / f"split_{torn}.mcap"
    file.write_bytes(file.read_bytes()[:-200])
    bag = open_bag(tmp_path)
    assert bag.damage.startswith(f"split_{torn}.mcap was cut off; 4 messages")
    assert [stamp - START for _, _, stamp, _ in bag.raw_messages()] == list(range(12))
    assert (bag.start_ns, bag.topics[IMAGE_TOPIC].count) == (START, 12)


@pytest.mark.parametrize("suffix", [".mcap", ".mcap.zstd", ".db3"])
@pytest.mark.parametrize("content", [b"", b"\0" * 5000], ids=["empty", "zeros"])
def test_a_part_that_holds_nothing_costs_none_of_the_others(tmp_path: Path, suffix: str, content: bytes) -> None:
    """As a recorder that is killed leaves its last file."""
    kind = "db3" if suffix == ".db3" else "mcap"
    with BagWriter(tmp_path / f"split_0.{kind}") as writer:
        writer.add_image(IMAGE_TOPIC, START, "c", picture(0))
    last = tmp_path / f"split_1{suffix}"
    last.write_bytes(content)
    bag = open_bag(tmp_path)
    assert bag.damage == f"split_1{suffix} holds nothing that can be read"
    assert [stamp for _, _, stamp, _ in bag.raw_messages()] == [START]
    with pytest.raises(UserError, match="cannot be read"):
        open_bag(last)
    (tmp_path / f"split_0.{kind}").write_bytes(content)
    with pytest.raises(UserError, match=f"split_0.{kind} cannot be read"):
        open_bag(tmp_path)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_recordings_without_metadata(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    with BagWriter(tmp_path / "plain") as plain:
        for i in range(12):
            plain.add_image(IMAGE_TOPIC, START + i, "c", large(i))
    writer = Writer(tmp_path / "small", version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(IMAGE_TOPIC, IMAGE, typestore=typestore())
        for _, _, stamp, data in open_bag(tmp_path / "plain").raw_messages():
            writer.write(connection, stamp, data)
    (tmp_path / "small" / "metadata.yaml").unlink()
    with open_bag(tmp_path / "small") as bag:
        assert bag.damage == "metadata.yaml is missing"
        for i, image in enumerate(bag.images()):
            np.testing.assert_array_equal(image.frame.bgr(), large(i))
        assert i == 11
    if mode is CompressionMode.FILE:
        (packed,) = (tmp_path / "small").glob("*.zstd")
        data = packed.read_bytes()
        packed.write_bytes(data[: len(data) * 9 // 10])
        with open_bag(packed) as bag:
            assert "was cut off" in bag.damage and 6 <= len(list(bag.images())) <= 11


@pytest.mark.parametrize("name", ["b.mcap", "b.db3"])
def test_a_packed_file_without_its_last_byte_is_told_to_be_cut_off_though_no_message_is_lost(
    tmp_path: Path, name: str
) -> None:
    data = write(tmp_path / name).read_bytes()
    packed = zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})  # which stands at its end
    (tmp_path / f"{name}.zstd").write_bytes(packed[:-1])
    with open_bag(tmp_path / f"{name}.zstd") as bag:
        assert bag.damage == f"{name}.zstd was cut off; 15 messages before the break can be read"
        assert len(list(bag.images())) == 5


def test_a_bad_image_among_good_ones(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "b") as writer:
        writer.add_image("/i", 1, "c", picture(0))
        bad = writer.message(
            IMAGE, header=writer.header(2, "c"), height=24, width=32, encoding="bgr8", is_bigendian=0, step=5,
            data=np.zeros(10, np.uint8),
        )  # fmt: skip
        writer.write("/i", bad, 2)
        writer.write_raw("/i", IMAGE, b"\x00\x01\x00\x00\x05", 3)
        writer.add_image("/i", 4, "c", picture(1))
    bag = open_bag(tmp_path / "b")
    with pytest.raises(ImageRejected):
        list(bag.images())
    found: list[int | str] = []
    for topic, kind, recorded, data in bag.raw_messages():
        try:
            found.append(bag.decode_image(topic, kind, recorded, data).stamp_ns)
        except ImageRejected as error:
            found.append(error.reason)
    assert found == [1, "step", "corrupt", 4]
    with pytest.raises(UserError, match="cannot be decoded"):
        list(bag.messages())


# ---- what goes wrong in writing ----------------------------------------------------------------------


def test_an_existing_recording_is_kept_unless_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "b")
    before = (folder / "b.mcap").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        BagWriter(folder)
    assert (folder / "b.mcap").read_bytes() == before
    write(folder, frames=2, overwrite=True)
    assert open_bag(folder).topics[IMAGE_TOPIC].count == 2
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_is_no_recording_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"...")
    with pytest.raises(UserError, match="something else"):
        BagWriter(folder, overwrite=True)
    (tmp_path / "letter").write_text("Dear")
    with pytest.raises(UserError, match="something else"):
        BagWriter(tmp_path / "letter", overwrite=True)
    (tmp_path / "fresh").mkdir()  # an empty folder is no loss
    write(tmp_path / "fresh")


def test_an_error_leaves_nothing_and_an_old_recording_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / "new") as writer:
        writer.add_image("/i", 1, "c", picture(0))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    folder = write(tmp_path / "old")
    with pytest.raises(ZeroDivisionError), BagWriter(folder, overwrite=True) as writer:
        writer.add_image("/i", 1, "c", picture(0))
        raise ZeroDivisionError
    assert len(list(open_bag(folder).images())) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["b", "b.mcap"])
@pytest.mark.parametrize("after", [1, 2])
def test_ctrl_c_while_it_is_moved_into_place_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    write(tmp_path / name)
    move = os.replace
    moves: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        move(source, target)
        if tmp_path / name in (source, target):  # the writer of the storage moves files, too
            moves.append(target)
        if len(moves) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        write(tmp_path / name, frames=2, overwrite=True)
    assert len(list(open_bag(tmp_path / name).images())) == (5 if after == 1 else 2)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_writer_leaves_no_recording_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from rt_seg_ros.bags import BagWriter\n"
        "with BagWriter(sys.argv[1]) as w:\n"
        "    for i in range(100):\n"
        "        w.add_image('/i', i, 'c', np.zeros((300, 300, 3), np.uint8))\n"
        "    print('half way', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "b")], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [p.name for p in tmp_path.iterdir()] == [f".b.{process.pid}.part"]
    write(tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), BagWriter(tmp_path / "file" / "bag"):
        pass
    with pytest.raises(UserError, match="unknown storage"):
        BagWriter(tmp_path / "b", "rosbag1")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("b", "File too large"), ("b.db3", "database or disk is full|disk I/O error")],
)
@pytest.mark.parametrize("room", [1000, 2_000_000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, name: str, reason: str, room: int) -> None:
    """A limit on the size of files stands in for the disk's end."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from rt_seg_ros.bags import BagWriter\n"
        "from rt_seg_ros.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[2]),))\n"
        "try:\n"
        "    with BagWriter(sys.argv[1]) as w:\n"
        "        for i in range(20):\n"
        "            w.add_image('/i', i, 'c', np.zeros((500, 500), np.uint8), 'mono8')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name), str(room)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(f"cannot be written: ({reason})", said.stdout), said.stdout
    assert not list(tmp_path.iterdir())


def test_two_types_on_one_topic_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not go there"), BagWriter(tmp_path / "b") as writer:
        writer.add_image("/i", 1, "c", picture(0))
        writer.add_camera_info("/i", 1, "c", CAMERA)


@pytest.mark.parametrize("length", range(0, 12, 3))
def test_a_message_too_short_for_a_stamp_gets_none(length: int) -> None:
    assert restamped(bytes(length), START) == bytes(length)


def test_needs_no_torch() -> None:
    code = "import sys, rt_seg_ros.bags; assert 'torch' not in sys.modules and 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
