"""The thread that segments: the executor stays free to answer while the network runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rt_seg_ros.ros.camera import Camera, Service
from rt_seg_ros.ros.mailbox import RoundRobin


class Worker:
    """Takes the cameras' frames in turn, one after another.

    :param condition: shared by the cameras' mailboxes
    :param service: returns what the next frame is served with
    """

    def __init__(
        self, cameras: Sequence[Camera], condition: threading.Condition, service: Callable[[], Service]
    ) -> None:
        self._cameras = list(cameras)
        self._robin = RoundRobin(condition, [camera.mailbox for camera in cameras])
        self._service = service
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the frame in hand be finished, and end the thread."""
        self._robin.stop()
        self._thread.join()

    def _run(self) -> None:
        while (taken := self._robin.take()) is not None:
            place, letter = taken
            self._cameras[place].process(letter, self._service())
            del taken, letter  # a message is not to be kept while the next is waited for
