"""What /diagnostics says, and when it is no longer OK."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("rt_seg_ros.msg", reason="needs this package's messages built")

import time

from rt_seg_ros.ros.diagnostics import ERROR, OK, WARN, Health, Limits, Throttle, camera_status, model_status
from rt_seg_ros.ros.mailbox import Counts

pytestmark = pytest.mark.ros


def status(health, active=True, limits=None, publishers=1, remarks=(), counts=None):
    return camera_status(
        "segmentation: camera front",
        "cpu",
        "/front/image_raw",
        health,
        counts or Counts(),
        limits or Limits(),
        active=active,
        reliability="reliable",
        publishers=publishers,
        remarks=remarks,
    )


def facts(message) -> dict[str, str]:
    return {value.key: value.value for value in message.values}


def served(health, age=10.0, total=8.0) -> None:
    health.arrived(time.monotonic())
    health.processed(360, 480, "bgr8", 6.0, total, age)


def test_all_is_well():
    health = Health()
    served(health)
    served(health, total=12.0)
    counts = Counts(9, 2, {"newer_frame": 5}, {"step": 1}, 1, 0)
    message = status(health, limits=Limits(2.0, 1.0), counts=counts)
    assert (message.level, message.message, message.hardware_id) == (OK, "segmenting", "cpu")
    values = facts(message)
    assert values["latency mean (ms)"] == "10.0" and values["latency max (ms)"] == "12.0"
    assert values["image"] == "480x360 bgr8" and values["publishers"] == "1"
    assert [values[k] for k in ("received", "processed", "dropped", "rejected", "waiting")] == ["9", "2", "5", "1", "1"]
    assert values["dropped: newer_frame"] == "5" and values["rejected: step"] == "1"


def test_rates_and_ages_are_of_what_they_say():
    health = Health()
    health._window.begin -= 10.0
    for age in (10.0, 50.0):
        served(health, age=age)
    for _ in range(18):
        health.arrived(time.monotonic())
    values = facts(status(health))
    assert (values["input rate (Hz)"], values["output rate (Hz)"]) == ("2.0", "0.2")
    assert (values["age mean (ms)"], values["age max (ms)"]) == ("30.0", "50.0")


def test_each_report_tells_of_its_own_time():
    health = Health()
    served(health, age=5000.0)
    assert status(health, limits=Limits(0.0, 1.0)).level == WARN
    served(health, age=5.0)
    assert status(health, limits=Limits(0.0, 1.0)).level == OK


@pytest.mark.parametrize(("total", "reason"), [(1900.0, "1.90 s of that in this node"), (20.0, "see use_sim_time")])
def test_what_made_labels_old_is_told(total, reason):
    health = Health()
    served(health, age=2000.0, total=total)
    message = status(health, limits=Limits(0.0, 1.0))
    assert message.level == WARN and reason in message.message


def test_silence_is_an_error_and_ends_by_itself():
    health = Health()
    limits = Limits(0.05, 0.0)
    assert status(health, limits=limits).level == OK
    time.sleep(0.06)
    message = status(health, limits=limits, publishers=0)
    assert message.level == ERROR and "no image on /front/image_raw yet (it has no publisher)" in message.message
    served(health)
    assert status(health, limits=limits).level == OK
    time.sleep(0.06)
    assert "publishers: 1, silent, or their messages are lost" in status(health, limits=limits).message
    assert status(health, limits=Limits()).level == OK
    assert status(health, limits=limits, active=False).level == OK


def test_a_clock_that_is_ahead_is_told():
    health = Health()
    served(health, age=-500.0)
    message = status(health, limits=Limits(0.0, 1.0))
    assert message.level == WARN and "0.50 s ahead" in message.message and "use_sim_time" in message.message
    served(health, age=-500.0)
    assert status(health, limits=Limits(0.0, 0.0)).level == OK
    served(health, age=-20.0)
    assert status(health, limits=Limits(0.0, 1.0)).level == OK, "clocks that are kept together differ by more"


def test_why_nothing_was_segmented_is_told_as_it_is():
    health = Health()

    def now(**dropped) -> str:
        health.arrived(time.monotonic())
        return status(health, counts=Counts(received=9, dropped=dropped)).message

    assert now(no_subscriber=3) == "nobody subscribes"
    assert now(no_subscriber=3) == "waiting for the network"
    assert now(no_subscriber=3, max_rate=2) == "held back by max_rate"
    assert now(no_subscriber=4, max_rate=3) == "nobody subscribes"
    assert status(health, counts=Counts(received=9, in_hand=1, busy_since=time.monotonic())).message == (
        "waiting for the network"
    )
    assert status(health).message == "waiting for an image"


def test_a_remark_does_not_hide_what_is_wrong_with_the_images():
    health = Health()
    served(health, age=5000.0)
    message = status(health, limits=Limits(0.0, 1.0), remarks=["the topic carries something else"]).message
    assert message.startswith("the topic carries something else; labels were up to 5.00 s old")


def test_what_is_odd_about_usable_images_is_told_until_it_passes():
    health = Health()
    assert health.remark("nearly black") and not health.remark("nearly black")
    served(health, age=float("nan"))
    message = status(health, remarks=["the topic carries something else"])
    assert message.level == WARN
    assert message.message.startswith("the topic carries something else; nearly black; the images have no stamp")
    served(health)
    assert (status(health).level, status(health).message) == (WARN, "nearly black")
    assert status(health, active=False).level == OK
    assert health.remark("") and not health.remark("")
    served(health)
    assert status(health).level == OK


def test_bad_images_missing_stamps_and_remarks_are_told():
    health = Health()
    health.rejected("step", "step is 3 bytes")
    message = status(health)
    assert message.level == WARN and "step: step is 3 bytes" in message.message
    served(health, age=float("nan"))
    assert "no stamp" in status(health).message
    assert status(health, remarks=["the topic carries something else"]).level == WARN


def test_a_frame_that_stays_in_the_network_shows():
    health = Health()
    health.arrived(time.monotonic())
    stuck = Counts(received=1, in_hand=1, busy_since=time.monotonic() - 3.0)
    message = status(health, limits=Limits(0.0, 1.0), counts=stuck)
    assert message.level == WARN and "one frame has been in the network for 3.0 s" in message.message
    assert status(health, limits=Limits(0.0, 0.0), counts=stuck).level == OK
    busy = Counts(received=1, in_hand=1, busy_since=time.monotonic())
    assert status(health, limits=Limits(0.0, 1.0), counts=busy).level == OK


def test_the_models_status_tells_what_failed():
    assert model_status("n", "", "active", []).level == OK
    assert "preparing model 'frfnet'" in model_status("n", "", "active", [], preparing="model 'frfnet'").message
    assert model_status("n", "", "active", [], failed_change="no weights").level == WARN
    fallen_back = model_status("n", "", "active", [], trouble="openvino failed", preparing="model 'frfnet'")
    assert fallen_back.level == WARN and fallen_back.message == "active; preparing model 'frfnet'; openvino failed"
    message = model_status("n", "", "unconfigured", [("model", "cgnet")], error="no weights")
    assert (message.level, message.message) == (ERROR, "unconfigured: no weights")
    assert facts(message) == {"state": "unconfigured", "model": "cgnet", "preparing": "", "last error": "no weights"}


def test_a_throttle_counts_what_it_holds_back():
    throttle = Throttle(5.0)
    assert throttle.passes("a", 0.0) == 0
    assert [throttle.passes("a", t) for t in (1.0, 2.0, 4.9)] == [None] * 3
    assert throttle.passes("b", 2.0) == 0
    assert throttle.passes("a", 5.0) == 3
    assert throttle.passes("a", 10.0) == 0
