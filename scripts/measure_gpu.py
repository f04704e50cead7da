"""Measure what an NVIDIA GPU does with frames: ``python scripts/measure_gpu.py``, from the repository's top.

Of each network and size, in one process: PyTorch eager in fp32 for the network alone; the CUDA graph of the whole way
from a frame's pixels to its labels; the time until a frame in the host's memory has its labels, and frames a second
from one and two threads. Pixels are noise: none of it depends on them, or on weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from rt_seg_ros.backends.cuda_driver import find_gpu
from rt_seg_ros.backends.torch_cuda import TorchCudaBackend, _numerics
from rt_seg_ros.images import Frame
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard, build_network

MODELS = "cgnet,frfnet_slim,csrnet_light,crosscbam_m"
WHOLE: dict[str, Any] = {"backend": "torch", "device": "cuda", "downsampling_ratio": 1.0, "allow_random_weights": True}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODELS, help=f"default: {MODELS}")
    parser.add_argument("--size", default="512x1024,720x960", help="height x width; default: %(default)s")
    parser.add_argument("--precision", default="fp16", help="fp32, fp16, bf16, or several; default: %(default)s")
    options = parser.parse_args()
    find_gpu("cuda")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n")
    heads = [
        "model",
        "frame",
        "precision",
        "eager fp32 ms",
        "graph ms",
        "label ms",
        "p95",
        "frames/s",
        "by two threads",
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * 3}{'---:|' * 6}")
    for model in options.model.split(","):
        for text in options.size.split(","):
            height, width = map(int, text.split("x"))
            for precision in options.precision.split(","):
                segmenter = Segmenter(SegmenterConfig(model, precision=precision, **WHOLE))
                eager = measure_eager(segmenter.card, (height, width))
                figures = measure(segmenter, (height, width))
                print(f"| {model} | {text} | {precision} | {eager:.2f} | {' | '.join(figures)} |", flush=True)


@torch.inference_mode()
def measure_eager(card: ModelCard, size: Size) -> float:
    """Return the median milliseconds of the plain network in fp32, by events."""
    network = build_network(card).eval().cuda()
    x = torch.randn(1, 3, *size, device="cuda")
    with _numerics():
        return by_events(lambda: network.logits(x), 15)


def measure(segmenter: Segmenter, size: Size) -> list[str]:
    """Return a row's figures: graph, label, its 95th percentile, frames a second from one thread and from two."""
    backend = segmenter.backend
    assert isinstance(backend, TorchCudaBackend)
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(6)]

    def run(n: int) -> None:
        segmenter.segment(frames[n % len(frames)])

    for n in range(6):
        run(n)
    times = []
    for n in range(200):
        begin = time.perf_counter()
        run(n)
        times.append((time.perf_counter() - begin) * 1e3)
    rates = [rate(run, threads) for threads in (1, 2)]
    alone = "-"
    for graph in backend._graphs._graphs.values():  # one, unless capturing failed
        with torch.cuda.stream(backend._compute):
            alone = f"{by_events(graph._graph.replay, 50):.2f}"
    return [alone, f"{np.median(times):.2f}", f"{np.percentile(times, 95):.2f}", *(f"{r:.0f}" for r in rates)]


def rate(run: Callable[[int], None], threads: int, each: int = 150) -> float:
    """Return frames a second from some threads at once."""

    def work(_: int) -> None:
        for n in range(each):
            run(n)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))  # raises what one of them raised
    return threads * each / (time.perf_counter() - begin)


def by_events(call: Callable[[], object], times: int) -> float:
    """Return the median milliseconds of a call on the present stream."""
    for _ in range(3):
        call()
    found = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return float(np.median(found))


if __name__ == "__main__":
    main()
