"""This process as a node in the graph, spinning on a thread of its own, beside whatever else the process does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from rt_seg_ros.errors import UserError


def join_graph(context: rclpy.Context | None = None) -> None:
    """Start ROS 2 in this process, whose signals stay its own.

    :param context: the default: the process's
    :raises UserError: where it does not start, as with an impossible ROS_DOMAIN_ID
    """
    try:
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise UserError(f"ROS 2 does not start: {error}") from error


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
        while not self._closing and self._context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except ExternalShutdownException:
                return
            except Exception as error:  # one callback failed; the others go on
                self.node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
