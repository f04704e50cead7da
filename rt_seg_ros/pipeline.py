"""The pipeline: frame in, labels and confidence out, at the frame's own size.

The one object behind the node, replay, evaluation and benchmark, so that what is measured offline is what runs
on the robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends import create_backend, other_backends
from rt_seg_ros.backends.fallback import FallbackBackend
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame, Order, as_frame, blank_frame
from rt_seg_ros.log import get_logger
from rt_seg_ros.resampling import drop_uncertain
from rt_seg_ros.working_size import Size, check_side
from rt_seg_ros.zoo import find_model

_log = get_logger(__name__)

OUTPUT_RESOLUTIONS = ("input", "network")
MAX_THREADS = 1024  # runtimes crash on what no machine has
_SIZES_WARMED = 8
_TOO_LARGE = 2.0  # times the frames that a network learnt from: beyond, its labels are worth little (README.md)


@dataclass(frozen=True)
class SegmenterConfig:
    """What to run and how.

    Every field is a parameter of the node and, but for ``output_resolution``, an option of the command line, where one
    ``--size`` gives both sides.

    :param model: a network (``cgnet``) or weights (``cgnet_camvid11``) by name
    :param weights: a .safetensors file in place of the package's own
    :param label_space: name or YAML file; by default the weights' own
    :param backend: runtime, or ``auto``
    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``
    :param precision: ``fp32``, ``bf16``, ``fp16``, or ``int8`` of a file that ``rt-seg export`` made
    :param input_height: working height in pixels; 0: from the frame and ``downsampling_ratio``
    :param input_width: working width in pixels; 0 likewise (both or neither)
    :param downsampling_ratio: working size over the frame's, up to 1: the gamma of CSRNet and Cross-CBAM; 0: such that
        the network sees things about as large as it learnt them (:func:`rt_seg_ros.working_size.working_size`)
    :param confidence_threshold: labels below this probability, 0..1, become unlabelled
    :param output_resolution: ``input``: labels at the frame's size; ``network``: at the working size
    :param threads: CPU threads; 0: the runtime's own choice
    :param allow_random_weights: run a network that has no weights
    """

    model: str = "cgnet"
    weights: str = ""
    label_space: str = ""
    backend: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    input_height: int = 0
    input_width: int = 0
    downsampling_ratio: float = 0.0
    confidence_threshold: float = 0.0
    output_resolution: str = "input"
    threads: int = 0
    allow_random_weights: bool = False

    def check(self) -> None:
        """Check what can be checked without loading anything.

        :raises UserError: naming the field, its value, and what is allowed
        """
        self.check_sides()
        if bool(self.input_height) != bool(self.input_width):
            raise UserError(
                f"input_height is {self.input_height} and input_width {self.input_width}; give both, or neither (0)"
            )
        if not 0.0 <= self.downsampling_ratio <= 1.0:
            raise UserError(
                f"downsampling_ratio is {self.downsampling_ratio}; use 0 (as the network learnt), or up to 1"
            )
        if not 0.0 <= self.confidence_threshold <= 1.0:
            raise UserError(f"confidence_threshold is {self.confidence_threshold}; use 0 to 1")
        if self.output_resolution not in OUTPUT_RESOLUTIONS:
            raise UserError(f"output_resolution is '{self.output_resolution}'; use {' or '.join(OUTPUT_RESOLUTIONS)}")
        if not 0 <= self.threads <= MAX_THREADS:
            raise UserError(f"threads is {self.threads}; use 1 to {MAX_THREADS}, or 0 (the runtime's own choice)")

    def check_sides(self) -> None:
        """Check ``input_height`` and ``input_width``, each by itself.

        :raises UserError: naming the one that is out of range
        """
        for name in ("input_height", "input_width"):
            if value := getattr(self, name):
                check_side(name, value)

    def same_but_threshold(self, other: SegmenterConfig) -> bool:
        """Whether the two differ in nothing, or in their threshold of confidence alone."""
        return replace(self, confidence_threshold=other.confidence_threshold) == other

    def same_network(self, other: SegmenterConfig) -> bool:
        """Return whether the loaded network, its runtime and label space serve both: only their use differs."""
        return all(getattr(self, name) == getattr(other, name) for name in _LOADED)


#: Fields that need another network, runtime or label space; the rest only say how it is used.
_LOADED = ("model", "weights", "label_space", "backend", "device", "precision", "threads", "allow_random_weights")


@dataclass
class Segmentation:
    """One frame's result.

    ``labels``: uint8 (H, W), 255 where unlabelled; ``confidence``: uint8 (H, W), the label's probability in
    1/255, or None; ``working_size``: (height, width) the network saw; ``timings``: milliseconds by stage
    (``preprocess``, ``network``, ``postprocess``), shared equally among a batch.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    working_size: Size
    timings: dict[str, float] = field(default_factory=dict)


class Segmenter:
    """A loaded model and the way frames take through it.

    :param fall_back: where the backend fails in the middle of a run, go on with the next one that works, and tell it in
        ``backend.trouble``; otherwise the failure is raised
    :raises UserError: a config that cannot be had: see :meth:`SegmenterConfig.check`,
        :func:`rt_seg_ros.zoo.find_model` and :func:`rt_seg_ros.backends.create_backend`
    """

    def __init__(self, config: SegmenterConfig | None = None, fall_back: bool = False) -> None:
        config = config or SegmenterConfig()
        config.check()
        card = find_model(config.model, config.label_space, config.weights, config.allow_random_weights)
        space = card.load_label_space()
        backend = create_backend(card, config.backend, config.device, config.precision, config.threads)
        if fall_back:
            others = partial(other_backends, card, config.device, config.precision, config.threads)
            backend = FallbackBackend(backend, others, config.backend == "auto")
        self.config = config
        self.card = card
        self.label_space = space
        self.backend = backend
        self._fall_back = fall_back
        self._remarked = False
        self._warmed: set[Size] = set()

    def reconfigured(self, config: SegmenterConfig) -> Segmenter:
        """Return a segmenter for another config; the loaded network is shared where only its use changes.

        What then fails in one of them has failed for both, and both are served by what takes over.

        :raises UserError: as the constructor does; this segmenter is untouched by it
        """
        if not config.same_network(self.config):
            return Segmenter(config, self._fall_back)
        config.check()
        other = copy(self)
        other.config = config
        other._remarked = self._remarked and config.same_but_threshold(self.config)
        other._warmed = set()
        return other

    @property
    def backend_name(self) -> str:
        """The runtime in use."""
        return self.backend.name

    @property
    def device(self) -> str:
        """The device in use."""
        return self.backend.device

    @property
    def precision(self) -> str:
        """The precision in use."""
        return self.backend.precision

    def working_size(self, height: int, width: int) -> Size:
        """Return the (height, width) at which the network sees a frame of this size."""
        if self.config.input_height:
            return self.config.input_height, self.config.input_width
        return self.card.working_size((height, width), self.config.downsampling_ratio)

    def is_ready_for(self, frame: Frame) -> bool:
        """Tell whether a frame is segmented at once, or something that takes long is made for its size first."""
        return self.backend.is_ready(self.working_size(frame.height, frame.width))

    def size_remark(self, height: int, width: int) -> str:
        """Say that the network sees frames of this size much larger than what it learnt from; "" where it does not."""
        learnt, working = self.card.frame_size, self.working_size(height, width)
        if learnt is None or working[0] * working[1] <= _TOO_LARGE**2 * learnt[0] * learnt[1]:
            return ""
        way = "without a size given" if self.config.input_height else "with a downsampling ratio of 0"
        return (
            f"the network works at {working[1]}x{working[0]} and learnt from frames of {learnt[1]}x{learnt[0]}: it is "
            f"slow so, and often wrong; {way} it sees things about as large as it knows them"
        )

    def warm_up(
        self,
        height: int,
        width: int,
        order: Order = "bgr",
        confidence: bool = False,
        most_together: int = 1,
        hand_over: bool = True,
    ) -> None:
        """Run as often at this frame size as the backend needs, so that no real frame pays for it.

        :param order: channels of the frames to come
        :param confidence: whether that will be asked for
        :param most_together: so many of them, and any fewer, may come as one batch
        :param hand_over: a backend that fails gives way to another, as it does to frames
        :raises Exception: what the runtime raises, where no other is to take over, or none can
        """
        frame = blank_frame(height, width, order)
        working = self.working_size(height, width)
        size, run = self._label_size(frame, working), self.backend.run if hand_over else self.backend.rehearse
        for count in range(1, most_together + 1):
            if count > 1 and not self.backend.warms_up_by_batch:
                break
            for _ in range(self.backend.warm_up_calls):
                run([frame] * count, working, [size] * count, self._needs_confidence(confidence))

    def warm_up_for(self, frame: Frame, confidence: bool = False) -> bool:
        """Warm up for a frame whose working size is one of the first few that come.

        For runs that are timed: a runtime makes itself ready for each of them, and then for all others at once.

        :return: whether there was anything to do
        """
        working = self.working_size(frame.height, frame.width)
        if working in self._warmed or len(self._warmed) == _SIZES_WARMED:
            return False
        self._warmed.add(working)
        self.warm_up(frame.height, frame.width, frame.order, confidence)
        return True

    def segment(self, image: Frame | NDArray[np.uint8], confidence: bool = False) -> Segmentation:
        """Segment one frame.

        :param image: a frame, or uint8: (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1) mono
        :param confidence: also give the confidence
        :raises ImageRejected: for an array that is no image
        :raises Exception: what the runtime raises, where no other is to take over, or none can
        """
        return self.segment_batch([image], confidence)[0]

    def segment_batch(
        self, images: Sequence[Frame | NDArray[np.uint8]], confidence: bool = False
    ) -> list[Segmentation]:
        """Segment several frames, as :meth:`segment` does, those of the same working size together.

        :raises ImageRejected: for an array that is no image
        :raises Exception: see :meth:`segment`
        """
        frames = [as_frame(image) for image in images]
        groups: dict[Size, list[int]] = {}
        for i, frame in enumerate(frames):
            groups.setdefault(self.working_size(frame.height, frame.width), []).append(i)
            if not self._remarked and (remark := self.size_remark(frame.height, frame.width)):
                self._remarked = True
                _log.warning("%s", remark)
        results: dict[int, Segmentation] = {}
        threshold = self.config.confidence_threshold
        for working, members in groups.items():
            sizes = [self._label_size(frames[i], working) for i in members]
            batch = self.backend.run([frames[i] for i in members], working, sizes, self._needs_confidence(confidence))
            timings = {stage: ms / len(members) for stage, ms in batch.timings.items()}
            for n, i in enumerate(members):
                certainty = batch.confidences[n] if batch.confidences is not None else None
                if threshold > 0 and certainty is not None:
                    drop_uncertain(batch.labels[n], certainty, threshold)
                results[i] = Segmentation(batch.labels[n], certainty if confidence else None, working, dict(timings))
        return [results[i] for i in range(len(frames))]

    def _label_size(self, frame: Frame, working: Size) -> Size:
        return (frame.height, frame.width) if self.config.output_resolution == "input" else working

    def _needs_confidence(self, asked_for: bool) -> bool:
        return asked_for or self.config.confidence_threshold > 0
