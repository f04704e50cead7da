"""A node as a process of its own: its command line, the signals that stop it, its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.utilities import remove_ros_args

from rt_seg_ros.errors import UserError
from rt_seg_ros.ros.graph import spin
from rt_seg_ros.ros.installation import check_one_ros
from rt_seg_ros.ros.watchdog import watchdog

if TYPE_CHECKING:
    from rclpy.node import Node

#: Seconds after which the executor looks up whether it is to stop, should it have missed the call.
_LOOK_UP = 1.0
#: Signals that ask the node to stop.
_STOPPING = (signal.SIGINT, signal.SIGTERM)
#: So many of them are heard in peace: ros2 launch sends up to three.
_PATIENCE = 4


def run(program: str, make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run a node until it is told to stop.

    :param program: what a word on stderr begins with
    :param make_node: called once ROS 2 has started
    :param args: the command line, the program first; by default the process's
    :return: exit status: 0 once it was told to stop, 2 where it cannot start, for which stderr has the reason
    """
    asked = _keep_signals_from_ending_the_process()
    given = list(args) if args is not None else sys.argv
    try:
        check_one_ros()
        rest = remove_ros_args(args=given)[1:]
        if rest:
            raise UserError(
                f"{' '.join(rest)}: not understood; parameters and remappings stand behind --ros-args, as in: "
                "--ros-args -p autostart:=true -r image:=/camera/image_raw"
            )
        rclpy.init(args=given)
    except Exception as error:  # a params file that is not there, or is no YAML, too
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    node = executor = None
    try:
        if asked:  # before rclpy listened
            return 0
        try:
            executor = SingleThreadedExecutor()
            node = make_node()
        except Exception as error:  # a params file that says the impossible
            if asked:
                return 0
            print(f"{program}: {error}", file=sys.stderr)
            return 2
        executor.add_node(node)
        spin(executor, node, _LOOK_UP, watchdog.look)
    finally:
        watchdog.stop()
        if node is not None:
            node.destroy_node()
        if executor is not None:
            executor.shutdown(0)
        rclpy.try_shutdown()
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)  # while it ends, Python would put the deadly default back
    return 0


def _keep_signals_from_ending_the_process() -> list[int]:
    """Let SIGINT and SIGTERM do no more than rclpy's handlers, which shut its context down and then call these.

    Of two signals, as ``ros2 launch`` without a terminal sends them, the second would else break off what the first
    began. Who goes on asking is heard: a network that hangs would else keep the node from ending.

    :return: what has come so far, also before rclpy had its handlers in place
    """
    asked: list[int] = []  # no Event: its lock would be waited for by the signal that comes while one is being heard

    def hear(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) > _PATIENCE:
            os._exit(128 + number)

    for number in _STOPPING:
        signal.signal(number, hear)
    return asked
