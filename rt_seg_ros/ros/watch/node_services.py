"""Asking another node, with patience: for a service that is not there yet, and for its answer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from rt_seg_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.node import Node

_ANSWER = 10.0  # s that a service may take to be there, and then to answer
_PATIENCE = 0.2  # s after which a wait looks whether it is still wanted


class NodeServices:
    """The services of a node, for whatever thread but the one that runs callbacks.

    :param node: asks
    :param name: full name of the node that is asked
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._name = name
        self._clients: dict[str, Any] = {}
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing is asked any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Ask nothing any more; a call under way ends within a moment."""
        self._closed.set()

    def call(self, kind: type, service: str, request: Any) -> Any:
        """Return a service's response.

        :param kind: the service's type
        :param service: its name below the node's
        :raises UserError: where there is no such service or no answer in time, and where this is closed meanwhile
        """
        name = f"{self._name}/{service}"
        end = time.monotonic() + _ANSWER
        try:
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = self._node.create_client(kind, name)
            while not client.wait_for_service(_PATIENCE):
                if self.closed or time.monotonic() >= end:
                    raise UserError(f"{self._name} does not answer: there is no service {name}")
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _: done.set())
            end = time.monotonic() + _ANSWER
            while not done.wait(_PATIENCE):
                if self.closed or time.monotonic() >= end:
                    client.remove_pending_request(future)
                    raise UserError(f"{self._name} does not answer within {_ANSWER:.0f} s")
            return future.result()
        except UserError:
            raise
        except Exception as error:  # the graph is being left: what a handle of it then raises has many names
            raise UserError(f"{self._name} cannot be asked: {type(error).__name__}: {error}") from error
