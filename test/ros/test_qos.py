"""Quality of service: what a subscription asks for, of what its publishers offer."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from types import SimpleNamespace

from rt_seg_ros.ros import qos

pytestmark = pytest.mark.ros

RELIABLE, BEST_EFFORT = qos.sensor_data(qos.RELIABLE), qos.sensor_data(qos.BEST_EFFORT)


def publishers(*profiles):
    return [SimpleNamespace(qos_profile=profile) for profile in profiles]


def test_a_subscription_is_as_weak_as_the_weakest_publisher():
    assert qos.match([]) == (qos.BEST_EFFORT, "no publisher yet")
    assert qos.match(publishers(RELIABLE, RELIABLE)) == (qos.RELIABLE, "as 2 publishers")
    assert qos.match(publishers(RELIABLE, BEST_EFFORT)) == (qos.BEST_EFFORT, "as 1 of 2 publishers")


def test_what_was_published_before_is_asked_for_where_all_publishers_keep_it():
    kept = qos.latched()
    assert (kept.reliability, kept.durability, kept.depth) == (qos.RELIABLE, qos.TRANSIENT_LOCAL, 1)
    assert qos.match_durability(publishers(kept, kept)) == qos.TRANSIENT_LOCAL
    assert qos.match_durability(publishers(kept, RELIABLE)) == qos.VOLATILE  # it would send nothing to the other
    assert qos.match_durability([]) == qos.VOLATILE
    weak = qos.sensor_data(qos.BEST_EFFORT, qos.TRANSIENT_LOCAL)  # a subscription that is reliable would not match it
    assert qos.match_durability(publishers(weak)) == qos.VOLATILE
