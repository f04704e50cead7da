"""The node itself, with little patience, that is slow to configure, and stands still for good on SIGUSR1."""

import ctypes
import signal
import sys
import time

from rt_seg_ros.ros import node, watchdog


class StandingNode(node.SegmentationNode):
    def __init__(self, *arguments, **values) -> None:
        super().__init__(*arguments, **values)
        # Holds the interpreter's lock: no thread and no other handler runs any more.
        signal.signal(signal.SIGUSR1, lambda *_: ctypes.PyDLL(None).sleep(3600))

    def _configure(self) -> None:
        time.sleep(2 * watchdog.PATIENCE)
        super()._configure()


if __name__ == "__main__":
    watchdog.PATIENCE = 3.0
    node.SegmentationNode = StandingNode
    sys.exit(node.main())
