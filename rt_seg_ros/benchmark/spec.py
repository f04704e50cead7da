"""How a turn is ordered and answered: JSON files between the process that measures and the one that asked for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rt_seg_ros.benchmark.cases import Case
from rt_seg_ros.files import write_text

#: The class whose mask is made where masks are asked for; every label space has it.
MASK_CLASS = 0


@dataclass(frozen=True)
class Order:
    """One turn of one case, in a process of its own.

    ``frames``: JPEG files of the case's size; ``spawned``: ``time.monotonic()`` when the process was started;
    ``warm_up`` and ``seconds``: how long frames are processed before and while it is measured; ``least``: measured
    frames at the least; ``labels``: where the first frame's labels go (.npy).
    """

    case: Case
    frames: list[str]
    spawned: float
    warm_up: float
    seconds: float
    least: int
    answer: str
    labels: str | None = None

    def write(self, path: Path) -> None:
        """Write the order as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read an order."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "case": Case.from_dict(values["case"])})


@dataclass
class Answer:
    """What a turn found; times are milliseconds by frame.

    ``total``: from the input's bytes to the last output, of a node from publishing an image to receiving its label;
    ``network``: inside the network; ``node``: inside the node, from receiving an image to publishing; ``cpu``: CPU
    time a frame, of the node's process or of all; ``first``: seconds from the start of the process to the first
    label; ``memory``: largest resident size in MiB; ``lost``: frames whose label did not come; ``error``: why there
    is nothing of this.
    """

    total: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)
    node: list[float] = field(default_factory=list)
    cpu: float = 0.0
    first: float = 0.0
    memory: float = 0.0
    lost: int = 0
    backend: str = ""
    device: str = ""
    precision: str = ""
    working: list[int] = field(default_factory=list)
    error: str = ""

    def write(self, path: Path) -> None:
        """Write the answer as JSON, whole or not at all."""
        write_text(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Answer:
        """Read an answer."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values)


def peak_memory_mib(process: int | str = "self") -> float:
    """Largest resident size of a process so far, in MiB; 0 where the system does not tell.

    Not ``getrusage``: on Linux that counts what the process was before it was this program.
    """
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    return 0.0
