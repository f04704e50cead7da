"""The thread that segments: the executor stays free to answer while the network runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rt_seg_ros.ros.camera import Camera, Ready, Serving
from rt_seg_ros.ros.mailbox import RoundRobin

#: Frames that go through the network in one batch; more would make the first wait too long for the last.
MOST_TOGETHER = 8


class Worker:
    """Takes the cameras' frames in turn, one after another.

    Those that wait at the same time go through the network together, where the backend is faster so. A frame of a size
    that the backend has to make itself ready for holds up its own camera alone.

    :param condition: shared by the cameras' mailboxes
    :param serving: returns what the next frame is served with
    """

    def __init__(
        self, cameras: Sequence[Camera], condition: threading.Condition, serving: Callable[[], Serving]
    ) -> None:
        self._cameras = list(cameras)
        self._robin = RoundRobin(condition, [camera.mailbox for camera in cameras])
        self._serving = serving
        self._aside: dict[int, threading.Thread] = {}  # by the camera's place
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the frames in hand be finished, and end the thread."""
        self._robin.stop()
        self._thread.join()
        for thread in self._aside.values():
            thread.join()

    def _run(self) -> None:
        # In a call of its own: what is taken is not to be kept while the next is waited for.
        while self._take_and_segment():
            pass

    def _take_and_segment(self) -> bool:
        taken = self._robin.take()
        if taken is None:
            return False
        serving = self._serving()
        letters = [taken]
        if serving.segmenter.backend.faster_in_batches:
            letters += self._robin.take_waiting(MOST_TOGETHER - 1, taken[0])
        ready = []
        for place, letter in letters:
            camera = self._cameras[place]
            frame = camera.begin(letter, serving)
            if frame is None:
                continue
            if len(self._cameras) > 1 and not serving.segmenter.is_ready_for(frame.frame):
                self._segment_aside(place, frame, serving)
            else:
                ready.append((camera, frame))
        _segment(ready, serving)
        return True

    def _segment_aside(self, place: int, frame: Ready, serving: Serving) -> None:
        """Segment a frame in a thread of its own; its camera's next is taken after it."""

        def segment() -> None:
            try:
                _segment([(self._cameras[place], frame)], serving)
            finally:
                self._robin.release(place)

        self._robin.hold(place)
        self._aside[place] = threading.Thread(target=segment, name="segmentation of a new size", daemon=True)
        self._aside[place].start()


def _segment(ready: Sequence[tuple[Camera, Ready]], serving: Serving) -> None:
    """Segment frames together; where that fails, one by one, so that only what cannot be segmented is lost."""
    if not ready:
        return
    try:
        results = serving.segmenter.segment_batch(
            [one.frame for _, one in ready], confidence=any("confidence" in one.wanted for _, one in ready)
        )
    except Exception as error:
        if len(ready) == 1:
            camera, _ = ready[0]
            camera.fail("inference_failed", error)
        else:
            for pair in ready:
                _segment([pair], serving)
        return
    for (camera, one), result in zip(ready, results, strict=True):
        camera.finish(one, result, serving)
