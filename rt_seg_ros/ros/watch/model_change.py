"""Changing another node over to another model: it is asked, agrees, and succeeds or fails while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter

from rt_seg_ros.errors import UserError
from rt_seg_ros.ros import names
from rt_seg_ros.ros.watch.node_services import NodeServices

if TYPE_CHECKING:
    from rclpy.node import Node


class ModelChange:
    """A node's change-over to another model, until it has succeeded or failed; asked on one thread, heard on another.

    :param node: looks at the graph
    :param name: full name of the node that is asked
    """

    def __init__(self, node: Node, name: str, services: NodeServices) -> None:
        self._node = node
        self._name = name
        self._services = services
        self._asked: tuple[str, str] | None = None  # model and its weights, until the node has changed over
        self._asked_of: set[bytes] = set()  # who was asked, as soon as it has agreed

    def ask(self, model: str, card: str) -> None:
        """Set the node's parameter ``model``, with the package's own weights and their label space.

        :param card: name of those weights, by which the node's statistics call the model
        :raises UserError: where the node does not answer or refuses
        """
        values = {"model": model, "weights": "", "label_space": ""}
        request = SetParametersAtomically.Request(
            parameters=[Parameter(key, value=value).to_parameter_msg() for key, value in values.items()]
        )
        self._asked_of = set()
        self._asked = asked = model, card
        try:
            answer = self._services.call(SetParametersAtomically, "set_parameters_atomically", request)
            if not answer.result.successful:
                raise UserError(f"{self._name} refuses: {answer.result.reason}")
            self._asked_of = self._identities()
        except Exception:  # the graph may be left meanwhile, too
            if self._asked is asked:  # no other was asked for meanwhile
                self._asked = None
            raise

    def heard_of_weights(self, card: str) -> str:
        """Take note of which weights the node's statistics are; return why the change has failed, or ""."""
        asked = self._asked
        if asked is not None and card == asked[1]:
            self._asked = None
        elif asked is not None and self._asked_of and self._identities() - self._asked_of:
            self._asked = None
            return f"{self._name} was started anew, without '{asked[0]}'"
        return ""

    def heard_of_model(self, model: str) -> str:
        """Take note of what the node's parameter ``model`` was set to; return why the change has failed, or ""."""
        asked = self._asked
        if asked is None or model == asked[0]:
            return ""
        self._asked = None  # the node went back, because the one asked for could not be loaded
        return f"{self._name} could not change over to '{asked[0]}' and went back to '{model}'; its log says why"

    def end(self) -> bool:
        """Expect it no longer, because the node is gone; return whether it was expected."""
        was_expected, self._asked = self._asked is not None, None
        return was_expected

    def _identities(self) -> set[bytes]:
        """Return what tells the node from one of its name that is started later; of both, while the graph has both."""
        publishers = self._node.get_publishers_info_by_topic("/parameter_events")
        return {
            bytes(one.endpoint_gid)
            for one in publishers
            if names.full_name(one.node_namespace, one.node_name) == self._name
        }
