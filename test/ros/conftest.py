"""Fixtures of the tests over real DDS, in a domain of their own on this machine alone."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def graph_domain():
    """A domain of our own, on this machine alone."""
    import rclpy

    from rt_seg_ros.ros.domains import take_domain

    domain, lock = take_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    # Humble knows the one, Jazzy the other and warns of the former.
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ.pop("ROS_LOCALHOST_ONLY", None)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init()
    yield domain
    rclpy.try_shutdown()
    lock.close()


@pytest.fixture(scope="session")
def session_graph(graph_domain):
    """This process in the graph, once: the first words between two participants take seconds."""
    from ros_harness import Graph

    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def graph(session_graph):
    """This process in the graph, without publishers and subscriptions of tests before."""
    yield session_graph
    session_graph.clear()


@pytest.fixture(scope="session")
def shared_process(session_graph):
    """The node that most tests use in turn: to start one takes longer than most tests."""
    from ros_harness import NodeProcess

    node = NodeProcess(session_graph)
    try:
        node.wait_state("active")
        yield node
        assert node.stop() == 0, node.last_log
        assert "Traceback" not in node.last_log, node.last_log
    finally:
        node.kill()


@pytest.fixture
def node(graph, shared_process):
    """The shared node: active, its parameters as at its start, its counts at zero."""
    shared_process.reset()
    return shared_process


@pytest.fixture
def start_node(graph):
    """Start nodes of the test's own; none outlives it. They say goodbye: of killed ones the graph tells for 20 s."""
    from ros_harness import NodeProcess

    started = []

    def start(*arguments, **values) -> NodeProcess:
        started.append(NodeProcess(graph, *arguments, **values))
        return started[-1]

    yield start
    for one in started:
        one.ask_to_end()
    for one in started:
        one.kill(patience=10.0)


@pytest.fixture
def looking(graph):
    """A node of the view's own."""
    from rt_seg_ros.ros.graph import GraphThread

    thread = GraphThread("view_test")
    yield thread
    thread.close()
