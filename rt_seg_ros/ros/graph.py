"""This process in the graph: joining it, running callbacks, and a node on a thread beside whatever else it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from rt_seg_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.node import Node


def join_graph(context: rclpy.Context | None = None) -> None:
    """Start ROS 2 in this process, whose signals stay its own.

    :param context: the default: the process's
    :raises UserError: where it does not start, as with an impossible ROS_DOMAIN_ID
    """
    try:
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise UserError(f"ROS 2 does not start: {error}") from error


def spin(
    executor: SingleThreadedExecutor, node: Node, look_up: float, wanted: Callable[[], bool] = lambda: True
) -> None:
    """Run a node's callbacks until ROS 2 is shut down; one that fails is logged, and the others go on.

    :param look_up: seconds after which it looks up whether it is to stop
    :param wanted: returns False to stop it, too
    """
    while wanted() and node.context.ok():
        try:
            executor.spin_once(look_up)
        except ExternalShutdownException:
            return
        except Exception as error:
            if node.context.ok():
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")


class GraphThread:
    """A node and the thread that runs its callbacks.

    :param name: the node's; the process's id is appended, since several may run
    """

    def __init__(self, name: str) -> None:
        self._context = rclpy.Context()
        join_graph(self._context)
        self.node = rclpy.create_node(f"{name}_{os.getpid()}", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def start(self) -> None:
        """Begin to run callbacks."""
        self._thread.start()

    def call_soon(self, action: Callable[[], object]) -> None:
        """Have ``action()`` run on that thread."""
        self._executor.create_task(action)

    def close(self) -> None:
        """Leave the graph."""
        self._closing = True
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._executor.shutdown(0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _spin(self) -> None:
        spin(self._executor, self.node, 0.2, lambda: not self._closing)
