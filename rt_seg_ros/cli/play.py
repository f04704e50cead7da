"""``rt-seg play``: publish a recorded drive over ROS 2."""

from __future__ import annotations

import _thread
import argparse
import math
import signal
import sys
import threading
from pathlib import Path

from rt_seg_ros.bags.reader import BagReader, open_bag
from rt_seg_ros.cli.options import need_ros
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import check_file

SUMMARY = "publish a recorded drive (rosbag2) over ROS 2, in real time or at another rate"
EPILOG = """\
stamps
  A message with a header gets the time at which it is published as its stamp: subscribers see the age of labels as
  they would on a robot, and images, calibration and ground truth still match, since equal stamps stay equal.
  Without a recorded stamp the time of recording counts. A clock that is not the images', or is set on the way, counts
  from when the first of its messages is published.
  With --keep-stamps they stay as recorded: for nodes that run on recorded time, and to compare with the recording.

examples:
  rt-seg play drive
  rt-seg play drive.mcap --rate 0.5 --loop
  rt-seg play drive --topics /camera/image_raw /camera/camera_info
  rt-seg play drive & ros2 launch rt_seg_ros segment.launch.py model:=cgnet

exit status: 0 played; 2 nothing could be played
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bag", metavar="BAG", type=Path, help="recording: its folder, or an .mcap or .db3 file of it")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="R", help="times the recording's own speed (default: %(default)s)"
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="publish these alone (default: all)")
    parser.add_argument("--keep-stamps", action="store_true", help="leave stamps as recorded")
    parser.add_argument(
        "--wait",
        type=float,
        default=10.0,
        metavar="S",
        help="wait so many seconds at most for somebody to subscribe, then begin (default: %(default)s)",
    )
    parser.add_argument(
        "--stamps",
        type=Path,
        metavar="FILE",
        help="write a table of topic, recorded and published stamp (ns), to match results with the recording; no two "
        "messages of a topic are then published under one stamp",
    )


_HEAD = "topic,recorded_ns,published_ns\n"


def run(args: argparse.Namespace) -> int:
    """Play the recording; return the exit status."""
    if not 0 <= args.wait < math.inf:
        raise UserError(f"--wait is {args.wait:g}; use seconds, 0 or more")
    if args.stamps is not None and (args.stamps.is_file() or not args.stamps.exists()):  # else a pipe, or a terminal
        check_file(args.stamps, _is_a_table)
    need_ros("to play a recording")
    with open_bag(args.bag) as bag:
        if bag.damage:
            print(f"{args.bag}: {bag.damage}", file=sys.stderr)
        import rclpy

        from rt_seg_ros.ros.graph import join_graph

        join_graph()
        try:
            return _play(args, bag)
        finally:
            rclpy.try_shutdown()


def _is_a_table(path: Path) -> bool:
    """Return whether an earlier run wrote a file."""
    with path.open("rb") as file:
        return file.readline() == _HEAD.encode()


def _play(args: argparse.Namespace, bag: BagReader) -> int:
    import rclpy

    from rt_seg_ros.ros.player import Player

    stop = threading.Event()

    def hear(*_: object) -> None:
        # Another thread sets it: this one may hold the event's lock at the moment.
        _thread.start_new_thread(stop.set, ())

    former = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    node = rclpy.create_node("rt_seg_player")
    table = None
    try:
        player = Player(node, bag, args.topics, args.rate, args.keep_stamps, distinct=args.stamps is not None)
        for topic, reason in player.left_out.items():
            print(f"not published: {topic} ({reason})", file=sys.stderr)
        if args.stamps is not None:
            try:
                table = args.stamps.open("w", encoding="utf-8")
            except OSError as error:
                raise UserError(f"{args.stamps} cannot be written: {error.strerror}") from error
            table.write(_HEAD)
        if not player.wait_for_subscribers(args.wait, stop) and not stop.is_set():
            print(f"nobody subscribes to {', '.join(player.topics)}; playing all the same", file=sys.stderr)
        writer = None if table is None else lambda topic, old, new: table.write(f"{topic},{old},{new}\n")
        result = player.play(args.loop, stop, writer)
        player.wait_until_received(2.0)
        for topic in player.topics:
            print(f"{topic}: {result.counts[topic]} messages")
        late = f", at most {result.latest:.2f} s late" if result.latest > 0.05 else ""
        print(f"played {args.bag} in {result.seconds:.1f} s{late}{' (interrupted)' if stop.is_set() else ''}")
        return 0
    finally:
        if table is not None:
            table.close()
        node.destroy_node()
        for number, handler in former.items():
            signal.signal(number, handler)
