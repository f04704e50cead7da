"""The node itself, whose network never returns once SIGUSR1 has come."""

import signal
import sys
import time

from rt_seg_ros.ros import node


class HangingNode(node.SegmentationNode):
    def __init__(self, *arguments, **values) -> None:
        super().__init__(*arguments, **values)
        signal.signal(signal.SIGUSR1, self._hang)

    def _hang(self, *_) -> None:
        def run(*_, **__):
            print("the network hangs", flush=True)
            time.sleep(3600)

        self._segmenter.backend.run = run
        print("the next frame will hang", flush=True)


if __name__ == "__main__":
    node.SegmentationNode = HangingNode
    sys.exit(node.main())
