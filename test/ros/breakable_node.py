"""The node itself, whose serving backend is broken behind its back on SIGUSR1."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from breaking import break_backend

from rt_seg_ros.backends import fallback
from rt_seg_ros.ros import node


class BreakableNode(node.SegmentationNode):
    def __init__(self, *arguments, **values) -> None:
        super().__init__(*arguments, **values)
        signal.signal(signal.SIGUSR1, self._break)

    def _break(self, *_) -> None:
        backend = self._segmenter.backend._serving
        break_backend(backend)
        self.get_logger().info(f"broken: {backend.name}")


if __name__ == "__main__":
    fallback._FIRST_PAUSE = 2.0
    node.SegmentationNode = BreakableNode
    sys.exit(node.main())
