"""Recordings published: all of it, in its rhythm, with stamps that match."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import csv
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from ros_harness import picture, stamp_of
from rt_seg_ros.bags.reader import open_bag
from rt_seg_ros.bags.writer import BagWriter
from rt_seg_ros.errors import UserError
from rt_seg_ros.ros import messages, player, qos
from rt_seg_ros.ros.player import Player

pytestmark = pytest.mark.ros

FRAMES = 12
KEEPS = 1000  # depth of the readers, which no stall fills
START = 1_600_000_000_000_000_000
PERIOD = 100_000_000


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags") / "drive"
    with BagWriter(folder) as bag:
        for n in range(FRAMES):
            stamp = START + n * PERIOD
            bag.add_image("/drive/image_raw", stamp, "optical", picture(24, 32, n), "bgr8")
            bag.add_label("/drive/label", stamp, "optical", picture(24, 32, n)[:, :, 0] % 11)
    return folder


def play(drive, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "rt_seg_ros.cli", "play", str(drive), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_all_is_published_in_its_rhythm_with_stamps_of_now_that_match(graph, drive, tmp_path):
    images = graph.collect(Image, "/drive/image_raw", KEEPS)
    labels = graph.collect(Image, "/drive/label", KEEPS)
    table = tmp_path / "stamps.csv"
    process = play(drive, "--stamps", str(table))
    graph.wait(lambda: len(images) == len(labels) == FRAMES, "all messages")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert f"/drive/image_raw: {FRAMES} messages" in output

    for n, image in enumerate(images):
        assert np.array_equal(np.frombuffer(image.data, np.uint8).reshape(24, 32, 3), picture(24, 32, n))
        assert image.header.frame_id == "optical"
    assert list(map(stamp_of, images)) == list(map(stamp_of, labels))
    stamps = [s * 10**9 + n for s, n in map(stamp_of, images)]
    assert set(np.diff(stamps)) == {PERIOD}
    ages = np.array(images.arrivals) - np.array(stamps) / 1e9
    assert np.median(ages) < 0.2 and ages.min() > -0.01, ages

    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["topic"] == "/drive/image_raw"]
    assert [int(row["recorded_ns"]) for row in rows] == [START + n * PERIOD for n in range(FRAMES)]
    assert [int(row["published_ns"]) for row in rows] == stamps


def test_stamps_are_kept_and_time_runs_faster_where_told(graph, drive):
    images = graph.collect(Image, "/drive/image_raw", KEEPS)
    process = play(drive, "--keep-stamps", "--rate", "4", "--topics", "/drive/image_raw")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "/drive/label" not in output, output
    graph.wait(lambda: len(images) == FRAMES, "all messages")
    assert [s * 10**9 + n for s, n in map(stamp_of, images)] == [START + n * PERIOD for n in range(FRAMES)]
    seconds = float(output.split(" in ")[-1].split(" s")[0])
    assert 0.25 <= seconds < 1.0


def test_it_loops_until_it_is_told_to_stop(graph, drive):
    images = graph.collect(Image, "/drive/image_raw", KEEPS)
    process = play(drive, "--loop", "--rate", "20")
    graph.wait(lambda: len(images) > 2 * FRAMES, "the third round")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "(interrupted)" in output and "Traceback" not in output
    stamps = [s * 10**9 + n for s, n in map(stamp_of, images)]
    assert stamps == sorted(stamps)


def test_nobody_need_listen(graph_domain, drive):
    process = play(drive, "--rate", "50", "--wait", "0.2")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "nobody subscribes" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--topics", "/nowhere"), "it has: /drive/image_raw, /drive/label"),
        (("--rate", "0"), "expected a number above 0"),
        (("--wait=-1",), "--wait is -1"),
        (("--stamps", "/proc/all.csv"), "cannot be written"),
        (("--stamps", __file__), "is not replaced"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(graph_domain, drive, arguments, reason):
    output, _ = (process := play(drive, *arguments)).communicate(timeout=30)
    assert process.returncode == 2 and reason in output and "Traceback" not in output


def test_a_type_that_is_not_installed_is_left_out(graph, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/text", bag.message("std_msgs/msg/String", data="hello"), START)
        kind = "vision_msgs/msg/LabelInfo"
        bag.write("/label_info", bag.message(kind, header=bag.header(START, ""), class_map=[], threshold=0.0), START)
    texts = graph.collect(String, "/text", 10)
    with open_bag(tmp_path / "bag") as bag:
        one = Player(graph.node, bag)
        if "/label_info" in one.left_out:
            assert one.left_out["/label_info"] == "vision_msgs/msg/LabelInfo is not installed"
        assert one.wait_for_subscribers(20)
        assert one.play().counts["/text"] == 1
        graph.wait(lambda: texts, "the text")
        one.close()
        if "/label_info" in one.left_out:
            with pytest.raises(UserError, match="nothing to publish"):
                Player(graph.node, bag, ["/label_info"])


def test_a_name_that_ros_does_not_allow_is_left_out(graph_domain, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for topic in ("/lidar/2d-scan", "/text"):
            bag.write(topic, bag.message("std_msgs/msg/String", data="hello"), START)
    output, _ = (process := play(tmp_path / "bag", "--wait", "0.2")).communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in output and "/text: 1 messages" in output, output
    assert "not published: /lidar/2d-scan (ROS 2 does not allow its name: Invalid topic name: " in output, output


def test_stop_ends_a_wait(graph, drive):
    stop = threading.Event()
    with open_bag(drive) as bag:
        one = Player(graph.node, bag, rate=0.001)
        threading.Timer(0.2, stop.set).start()
        begin = time.monotonic()
        result = one.play(stop=stop)
        assert time.monotonic() - begin < 5 and sum(result.counts.values()) <= 2
        one.close()


@pytest.fixture
def sparse(tmp_path):
    """A recording of 12 seconds: two single messages and three of a rhythm at its begin, another at its end."""
    with BagWriter(tmp_path / "sparse") as bag:
        for topic, times in {"/a": [0], "/b": [0], "/fast": [0, PERIOD, 2 * PERIOD], "/late": [12 * 10**9]}.items():
            for time_ns in times:
                bag.add_image(topic, START + time_ns, "optical", picture(4, 6), "bgr8")
    return tmp_path / "sparse"


def test_it_ends_with_its_last_message(graph, sparse):
    with open_bag(sparse) as bag:
        one = Player(graph.node, bag, ["/a", "/b"])
        result = one.play()
        one.close()
    assert result.counts == {"/a": 1, "/b": 1} and result.seconds < 3


@pytest.mark.parametrize(
    ("topics", "least", "most"),
    [(["/a", "/fast"], 2 * 3 * PERIOD / 1e9, 4.0), (["/a"], 2 * player._ALONE, 4 * player._ALONE)],
)
def test_rounds_follow_one_another_at_the_distance_of_what_is_played(graph, sparse, topics, least, most):
    stop = threading.Event()
    published = []

    def count(*of):
        published.append(of)
        if sum(topic == "/a" for topic, _, _ in published) == 3:
            stop.set()

    with open_bag(sparse) as bag:
        one = Player(graph.node, bag, topics)
        result = one.play(loop=True, stop=stop, on_published=count)
        one.close()
    assert least - 0.05 <= result.seconds < most
    assert result.counts["/a"] == 3


def test_it_stops_also_where_it_is_never_early(graph, drive):
    stop = threading.Event()
    with open_bag(drive) as bag:
        one = Player(graph.node, bag, rate=1e9)
        result = one.play(loop=True, stop=stop, on_published=lambda *_: stop.set())
        one.close()
    assert sum(result.counts.values()) == 1 and result.seconds < 3


def published(graph, bag_path, **options):
    """Play a recording; return (recorded stamp, published stamp) of each message by topic, and when it began (ns)."""
    found = {}
    begin = time.time_ns()
    with open_bag(bag_path) as bag:
        one = Player(graph.node, bag, **options)
        one.play(on_published=lambda topic, old, new: found.setdefault(topic, []).append((old, new)))
        one.close()
    return found, begin


def write_stamped(path, stamps, first=None):
    """Write images with these stamps, a rhythm apart; before them, where wanted, a headed message of another kind."""
    with BagWriter(path) as bag:
        if first is not None:
            point = bag.message("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
            header = bag.header(first, "map")
            goal = bag.message("geometry_msgs/msg/PointStamped", header=header, point=point)
            bag.write("/goal", goal, START - 2000, latched=True)
        for n, stamp in enumerate(stamps):
            bag.add_image("/drive/image_raw", stamp, "optical", picture(4, 6, n), recorded_ns=START + n * PERIOD)
            bag.add_label("/drive/label", stamp, "optical", picture(4, 6, n)[:, :, 0], START + n * PERIOD + 1000)
    return path


USUAL = [START + n * PERIOD for n in range(4)]
HOUR = 3600 * 10**9


@pytest.mark.parametrize("first", [0, START - HOUR, START + HOUR, 12345 * 10**9, -(10**9), (2**31 - 1) * 10**9])
def test_images_are_stamped_now_whatever_comes_first(graph, tmp_path, first):
    found, begin = published(graph, write_stamped(tmp_path / "b", USUAL, first))
    images = [new for _, new in found["/drive/image_raw"]]
    assert set(np.diff(images)) == {PERIOD} and 0 <= images[0] - begin < 10**9
    assert found["/drive/label"] == found["/drive/image_raw"]
    ((old, new),) = found["/goal"]
    assert old == (first or START - 2000) and abs(new - images[0]) < 10**9


def test_a_latched_message_is_as_old_as_it_was(graph, tmp_path):
    found, _ = published(graph, write_stamped(tmp_path / "b", USUAL, START - 30 * 10**9))
    assert found["/drive/image_raw"][0][1] - found["/goal"][0][1] == 30 * 10**9


@pytest.mark.parametrize("by", [HOUR, -HOUR, -START + 5 * 10**9])
def test_a_clock_that_is_set_on_the_way_is_followed(graph, tmp_path, by):
    stamps = USUAL + [stamp + len(USUAL) * PERIOD + by for stamp in USUAL]
    found, begin = published(graph, write_stamped(tmp_path / "b", stamps))
    images = [new for _, new in found["/drive/image_raw"]]
    assert set(np.diff(images)) == {PERIOD} and 0 <= images[0] - begin < 10**9
    assert found["/drive/label"] == found["/drive/image_raw"]
    assert [old for old, _ in found["/drive/image_raw"]] == stamps


def test_without_a_stamp_the_time_of_recording_counts(graph, tmp_path):
    stamps = [0, 0, *USUAL[2:]]
    found, begin = published(graph, write_stamped(tmp_path / "b", stamps), rate=2.0)
    assert [old for old, _ in found["/drive/image_raw"]] == USUAL
    images = [new for _, new in found["/drive/image_raw"]]
    assert set(np.diff(images)) == {PERIOD // 2} and 0 <= images[0] - begin < 10**9
    assert [new - old for (_, new), (_, old) in zip(found["/drive/label"], found["/drive/image_raw"], strict=True)] == [
        500, 500, 0, 0,
    ]  # fmt: skip


def test_no_two_frames_have_one_stamp_where_that_is_wanted(graph, tmp_path):
    drive = write_stamped(tmp_path / "b", [START] * 3 + USUAL[1:])
    found, _ = published(graph, drive, distinct=True)
    stamps = np.array([new for _, new in found["/drive/image_raw"]])
    assert (stamps - stamps[0]).tolist() == [0, 1, 2, PERIOD, 2 * PERIOD, 3 * PERIOD]
    assert found["/drive/label"] == found["/drive/image_raw"]
    found, _ = published(graph, drive)
    assert len({new for _, new in found["/drive/image_raw"]}) == 4


def test_messages_that_are_too_short_are_published_as_they_are(graph, tmp_path):
    with BagWriter(tmp_path / "b") as bag:
        for n, data in enumerate([b"", b"\0", b"\0\1\0\0\5"]):
            bag.write_raw("/i", "sensor_msgs/msg/Image", data, START + n)
    found, _ = published(graph, tmp_path / "b")
    assert len(found["/i"]) == 3


@pytest.mark.parametrize("torn", [False, True])
def test_what_was_latched_reaches_those_who_come_late(graph, tmp_path, torn):
    with BagWriter(tmp_path / "b.mcap") as bag:
        bag.write("/map_name", bag.message("std_msgs/msg/String", data="a map"), START, latched=True)
    if torn:
        (tmp_path / "b.mcap").write_bytes((tmp_path / "b.mcap").read_bytes()[:-100])
    with open_bag(tmp_path / "b.mcap") as bag:
        assert bool(bag.damage) == torn
        one = Player(graph.node, bag)
        one.play()
        names = graph.collect(String, "/map_name", qos.latched())
        graph.wait(lambda: names, "the name")
        one.close()


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_stamp_is_replaced_in_the_bytes(order):
    from rclpy.serialization import deserialize_message, serialize_message

    message = messages.image(Header(frame_id="x"), picture(4, 5), "bgr8")
    message.header.stamp.sec, message.header.stamp.nanosec = 5, 6
    data = serialize_message(message)
    if order == "little":
        assert player.stamp_of(data) == 5_000_000_006
        changed = deserialize_message(player.restamped(data, 7_000_000_008), Image)
        message.header.stamp.sec, message.header.stamp.nanosec = 7, 8
        assert changed == message
    else:
        big = b"\x00\x00\x00\x00" + (5).to_bytes(4, "big") + (6).to_bytes(4, "big") + data[12:]
        assert player.stamp_of(big) == 5_000_000_006
        assert player.stamp_of(player.restamped(big, 7_000_000_008)) == 7_000_000_008


def test_which_messages_begin_with_a_header():
    assert player.begins_with_header(Image)
    assert not player.begins_with_header(String)
    assert not player.begins_with_header(Header)


def test_stamps_by_a_clock_that_drifts_stay_with_it_and_garbage_is_not_kept():
    line = player._Timeline(first=START, begin=0.0, now=0, rate=1.0, clocks=[])
    for n in range(1000):  # 10 % faster: further from the recording's clock at the end than clocks of their own are
        recorded, old = START + n * 10**9, n * 11 * 10**8 + 1
        assert line.stamp(old, recorded) == n * 11 * 10**8
    assert len(line.clocks) == 1
    for n in range(1000):
        line.stamp(n * 10**15 + 7, START)
    assert len(line.clocks) == player._CLOCKS
