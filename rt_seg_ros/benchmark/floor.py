"""The time below which a network cannot be computed on a machine: its roofline.

A layer takes at least as long as its multiply-adds at the rate of a large product of matrices, and on a GPU at least
as long as moving once through memory what its cache does not hold of its values and weights. On a CPU, whose caches
hold what a layer moves, the multiply-adds alone are counted. Both rates are measured here, in a process of its own:
``python -m rt_seg_ros.benchmark.floor ORDER.json``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rt_seg_ros.backends.torch_backend import usual_threads
from rt_seg_ros.benchmark.cases import Case

if TYPE_CHECKING:
    from rt_seg_ros.networks.complexity import LayerCost

#: Bytes of a value by precision. There is no rate for int8: PyTorch has no product of matrices to measure it by.
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices
_MOVED = 1 << 30  # bytes
_TIMES = 5
_WARM_UP = 0.3  # seconds


@dataclass(frozen=True)
class Peak:
    """What a machine can do: multiply-adds a second, and bytes a second to or from memory (None: not counted).

    ``cache``: bytes that need not go there between two layers.
    """

    macs: float
    bytes: float | None
    cache: float = 0.0


def floor_ms(costs: list[LayerCost], batch: int, value_bytes: int, peak: Peak) -> float:
    """Return the least time for a batch by its images, in milliseconds."""
    seconds = 0.0
    for cost in costs:
        computing = cost.macs * batch / peak.macs
        beyond = max(0.0, (cost.activations * batch + cost.weights) * value_bytes - peak.cache)
        moving = beyond / peak.bytes if peak.bytes else 0.0
        seconds += max(computing, moving)
    return seconds * 1e3 / batch


def measure(device: str, precision: str, threads: int) -> Peak:
    """Measure what a device can do; on a GPU by events on the device."""
    import torch

    usual = usual_threads()  # asked for each time, as the first time nothing has been set yet
    torch.set_num_threads(threads or usual)
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device).index or 0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    kind = device.partition(":")[0]
    side = _SIDE[kind]
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    macs = side**3 / _least(lambda: torch.mm(a, b, out=product), kind)
    if kind == "cpu":
        return Peak(macs, None)
    source = torch.empty(_MOVED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return Peak(macs, 2 * _MOVED / _least(lambda: target.copy_(source), kind), cache)


def _least(call: Callable[[], object], kind: str) -> float:
    """Return the shortest of several runs, in seconds, once the clocks have risen."""
    import torch

    begun = time.perf_counter()
    while True:
        call()
        if kind == "cuda":
            torch.cuda.synchronize()
        if time.perf_counter() > begun + _WARM_UP:
            break
    times = []
    for _ in range(_TIMES):
        if kind == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return min(times)


def main(arguments: list[str]) -> int:
    """Answer an order: ``cases``, each with the device and precision it ran in and the size it worked at."""
    import torch

    from rt_seg_ros.networks import create_network
    from rt_seg_ros.networks.complexity import layer_costs

    order = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    peaks: dict[tuple[str, str, int], Peak] = {}
    floors: list[float | None] = []
    for item in order["cases"]:
        case, device, precision = Case.from_dict(item["case"]), item["device"], item["precision"]
        if precision not in BYTES:
            floors.append(None)
            continue
        key = device, precision, case.threads
        if key not in peaks:
            peaks[key] = measure(*key)
        card = case.card()
        with torch.device("meta"):
            network = create_network(card.network, num_classes=card.num_classes, **card.options)
        costs = layer_costs(network, *item["worked"])
        floors.append(floor_ms(costs, case.batch, BYTES[precision], peaks[key]))
    answer = {
        "floors": floors,
        "peaks": [
            {"device": device, "precision": precision, "threads": threads, **asdict(peak)}
            for (device, precision, threads), peak in peaks.items()
        ],
    }
    Path(order["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
