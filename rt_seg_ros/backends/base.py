"""What every runtime does: a batch of frames in, labels out."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.resampling import LabelUpsampler, Normaliser
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard


class Unavailable(UserError):
    """A runtime cannot serve here what is asked of it; another one may."""


def no_int8_model(card: ModelCard, runtime: str, file_format: str) -> Unavailable:
    """Return the error of a runtime for which nobody has quantised a model yet; it tells the command that does."""
    return Unavailable(
        f"there is no int8 model of '{card.name}' for {runtime} yet; make it of frames like those it will see: "
        f"rt-seg export --model {card.name} --format {file_format} --precision int8 --calibration FRAMES"
    )


@dataclass
class BatchResult:
    """Labels and, where asked for, confidences, one uint8 (H, W) per frame; milliseconds by stage for the batch."""

    labels: list[NDArray[np.uint8]]
    confidences: list[NDArray[np.uint8]] | None
    timings: dict[str, float] = field(default_factory=dict)


class Backend(ABC):
    """A network, loaded into a runtime.

    ``name``, ``device`` and ``precision`` say what it really runs on, not what was asked for.
    """

    name: str
    device: str
    precision: str
    #: Frames are waiting: no call may wait for what takes long, such as building an engine.
    live: bool = False
    #: Frames that wait at the same time are faster together than one by one: so on a GPU, and not on a CPU, where one
    #: frame keeps all cores busy.
    faster_in_batches: bool = False
    #: A batch of another number of frames takes its time when it first comes, and is warmed up for apart.
    warms_up_by_batch: bool = False
    #: Calls of a kind until the next of that kind is as fast as it gets.
    warm_up_calls: int = 1
    #: What failed, where another serves in its place.
    trouble: str = ""

    @abstractmethod
    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """Segment frames in one batch. May be called from several threads; what it returns is the caller's own.

        :param frames: any sizes and channel orders
        :param working: the size at which the network works
        :param sizes: for each frame, the size of its labels
        :param confidence: also give the winning class's probability, 0..255
        :raises Exception: what the runtime raises; ``FloatingPointError`` for scores that are not numbers
        """

    def is_ready(self, working: Size) -> bool:
        """Tell whether frames of a working size are segmented at once: nothing that takes long is made for it first."""
        return True

    def rehearse(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """Do what :meth:`run` does, and leave what serves as it is, even where this fails."""
        return self.run(frames, working, sizes, confidence)


def check_scores(logits: NDArray[np.float32], precision: str) -> None:
    """Check that scores are numbers: labels of others would look like those of the first class.

    :raises FloatingPointError: they are not
    """
    with np.errstate(all="ignore"):
        total = float(logits.sum())
    if not math.isfinite(total):
        raise FloatingPointError(f"the network's scores are not all numbers, in {precision}")


class HostBackend(Backend):
    """A runtime that takes normalised float planes and gives logits, all in the host's memory.

    A subclass sets ``name``, ``device`` and ``precision``, and writes :meth:`logits`.
    """

    def __init__(self, card: ModelCard) -> None:
        self._normaliser = Normaliser(card.mean, card.std)
        self._upsample = LabelUpsampler()
        self._input = np.empty(0, np.float32)
        self._lock = threading.Lock()

    @abstractmethod
    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        :param batch: float32 (N, 3, h, w), RGB, normalised; reused after the call
        :return: float32 (N, classes, h', w') at the network's own resolution; may be overwritten by the next call
        """

    def run(self, frames: Sequence[Frame], working: Size, sizes: Sequence[Size], confidence: bool) -> BatchResult:
        """See :meth:`Backend.run`.

        :raises FloatingPointError: the network's scores are not numbers
        """
        self.make_ready(working)
        with self._lock:
            begin = time.perf_counter()
            batch = self.prepared(frames, working)
            ready = time.perf_counter()
            logits = self.logits(batch)
            done = time.perf_counter()
            check_scores(logits, self.precision)
            results = [self._upsample(one, size, confidence) for one, size in zip(logits, sizes, strict=True)]
            end = time.perf_counter()
        return BatchResult(
            labels=[labels for labels, _ in results],
            confidences=[c for _, c in results if c is not None] if confidence else None,
            timings={
                "preprocess": (ready - begin) * 1e3,
                "network": (done - ready) * 1e3,
                "postprocess": (end - done) * 1e3,
            },
        )

    def make_ready(self, working: Size) -> None:
        """Do what takes long when a working size first comes; frames of other sizes are served meanwhile."""

    def prepared(self, frames: Sequence[Frame], working: Size) -> NDArray[np.float32]:
        """Return frames as :meth:`logits` takes them; overwritten by the next call. Not for several threads at once."""
        shape = len(frames), 3, *working
        count = math.prod(shape)
        if self._input.size < count:
            self._input = np.empty(count, np.float32)
        batch = self._input[:count].reshape(shape)
        for frame, planes in zip(frames, batch, strict=True):
            self._normaliser.write(frame, planes)
        return batch
