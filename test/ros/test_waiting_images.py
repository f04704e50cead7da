"""Images that wait for their labels: which are kept, and for how long. What decodes them is a word here."""

from rt_seg_ros.ros.watch import waiting_images
from rt_seg_ros.ros.watch.waiting_images import WaitingImages


def kept(waiting, stamps=range(1001)):
    """Take them one after the other; return those that are there."""
    return [read for read in map(waiting.take, stamps) if read is not None]


def fill(waiting, nbytes=30_000):
    for stamp in range(1, 1000):
        waiting.put(stamp, str(stamp), nbytes)


def test_what_came_before_an_image_that_is_taken_is_let_go():
    waiting = WaitingImages()
    for stamp in (1, 2, 3, 4):
        waiting.put(stamp, str(stamp), 0)
    assert waiting.take(5) is None  # labels of none of these
    assert waiting.take(3) == "3"
    assert kept(waiting, (1, 2, 3, 4)) == ["4"]
    waiting.put(2, "2", 0)  # in the order in which they come, whatever their stamps
    waiting.put(1, "1", 0)
    assert kept(waiting, (2, 1)) == ["2", "1"]


def test_they_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(waiting_images, "_KEPT", 100_000)
    waiting = WaitingImages()
    for _ in range(3):  # what goes is no longer counted
        fill(waiting)
        assert kept(waiting) == ["997", "998", "999"]
    fill(waiting)
    waiting.put(999, "999 anew", 20_000)  # in its place, so that they are 80 000
    waiting.put(1000, "1000", 20_000)
    assert kept(waiting) == ["997", "998", "999 anew", "1000"]
    fill(waiting)
    waiting.put(1000, "1000", 10_001)
    assert kept(waiting) == ["998", "999", "1000"]
    fill(waiting)
    waiting.put(1000, "1000", 500_000)  # larger than all that may be kept
    assert kept(waiting) == ["1000"]
    fill(waiting, 0)
    assert 10 < len(kept(waiting)) < 50  # also those without a byte
    fill(waiting)
    waiting.clear()
    assert kept(waiting) == []
    fill(waiting)
    assert kept(waiting) == ["997", "998", "999"]
