"""Write one graph, as another process asks for it (JSON on standard input)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rt_seg_ros.errors import UserError
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.graphs.store import card_from_json, lacking
from rt_seg_ros.processes import end_with_parent


def main() -> int:
    """Return the exit status; the last line on standard error is the reason of a failure."""
    os.nice(5)  # something may be serving beside it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    order = json.loads(sys.stdin.readline())
    end_with_parent()
    options = order["options"]
    options["size"] = tuple(options["size"]) if options["size"] else None
    try:
        try:
            from rt_seg_ros.graphs.build import build_graph

            graph = build_graph(card_from_json(order["card"]), GraphOptions(**options))
        except ModuleNotFoundError as error:
            raise lacking(error) from error
        Path(order["out"]).write_bytes(graph.SerializeToString())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
