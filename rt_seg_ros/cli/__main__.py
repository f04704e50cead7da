"""``python -m rt_seg_ros.cli`` is ``rt-seg``."""

import sys

from rt_seg_ros.cli import main

sys.exit(main())
