"""One export from beginning to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.backends import torch_backend
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.export.formats import Format
from rt_seg_ros.export.runners import Labeller, fit, size_for
from rt_seg_ros.export.samples import Sample, Samples
from rt_seg_ros.files import check_file, write_together
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.graphs.store import save_quantised
from rt_seg_ros.images import Frame
from rt_seg_ros.working_size import Size
from rt_seg_ros.zoo import ModelCard

#: Is handed (the frames, what is done, their number) and passes them on, as a progress bar does.
Watch = Callable[[Iterable[Sample], str, int], Iterable[Sample]]

#: Share of pixels with PyTorch's labels below which something is wrong, and nothing is written.
_LEAST = {"fp32": 0.999, "fp16": 0.98, "bf16": 0.95, "int8": 0.9}


@dataclass
class Agreement:
    """How an export compares with PyTorch in fp32, on the same frames.

    ``share`` of the pixels have the same label. ``miou`` and ``reference_miou`` are there where truth is; ``pace`` is
    the export's time over that of the same in fp32 (int8 only), by medians of interleaved runs.
    """

    name: str  # of the frames
    frames: int
    share: float
    miou: float | None = None
    reference_miou: float | None = None
    pace: float | None = None

    @property
    def extent(self) -> str:
        """The share and what it is of, for people to read."""
        frames = f"{self.frames} frame{'s' if self.frames != 1 else ''}"
        return f"{100 * self.share:.3f} % of the pixels of {frames} ({self.name})"

    def __str__(self) -> str:
        lines = [f"PyTorch's label (fp32) on {self.extent}"]
        if self.miou is not None and self.reference_miou is not None:
            cost = round(100 * (self.miou - self.reference_miou), 2) + 0.0  # never -0.00
            lines.append(
                f"mIoU on them: {100 * self.miou:.2f} %, PyTorch in fp32 {100 * self.reference_miou:.2f} % "
                f"({cost:+.2f} points)"
            )
        if self.pace is not None:
            lines.append(f"time of a frame, next to the same in fp32 on this machine: {self.pace:.2f}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Exported:
    """What was exported: the files written, the folder in the cache, how they compare, in which form."""

    files: list[Path]
    kept: Path | None
    agreement: Agreement
    about: str


def export_model(
    card: ModelCard,
    form: Format,
    options: GraphOptions,
    precision: str,
    samples: Samples,
    out: Path,
    watch: Watch | None = None,
) -> Exported:
    """Export a model, check it, and write it.

    A model in int8 that takes any size and gives logits is also kept in the cache, where its backend finds it.

    :param out: the file; what lies beside it has its name
    :raises UserError: what cannot be exported, agrees too little with PyTorch, or cannot be written
    """
    product = form.make(card, options, precision, samples)
    agreement = check(card, product.runner, precision, samples, watch, size=options.size, baseline=product.baseline)
    files = {out.with_suffix(suffix): content for suffix, content in product.files.items()}
    write_together(files)
    kept = None
    if precision == "int8" and options.size is None and options.outputs == "logits":
        kept = save_quantised(card, form.runtime, {f"model{suffix}": data for suffix, data in product.files.items()})
    return Exported(list(files), kept, agreement, f"{product.about}, {_form(options)}, {precision}")


def _form(options: GraphOptions) -> str:
    size = "any size" if options.size is None else f"{options.batch}x{options.size[0]}x{options.size[1]}"
    return f"{size}, {options.outputs}"


def check(
    card: ModelCard,
    runner: Labeller,
    precision: str,
    samples: Samples,
    watch: Watch | None = None,
    *,
    what: str = "export",
    size: Size | None = None,
    label_size: Size | None = None,
    baseline: Labeller | None = None,
) -> Agreement:
    """Compare what was made with PyTorch in fp32 on the frames to check on.

    :param what: names it
    :param size: (height, width) of the images that it takes; None: any, and it is given them as the pipeline would
    :param label_size: (height, width) of its labels; None: that of the image
    :param baseline: the same in fp32, whose time is taken too
    :raises UserError: not one frame, or too little agreement for its precision
    """
    reference = torch_backend.create(card, "cpu", "fp32", threads=0)
    same = pixels = frames = 0
    ours, theirs = ConfusionMatrix(card.num_classes), ConfusionMatrix(card.num_classes)
    times: list[tuple[float, float]] = []
    frames_to_see = samples.check()
    for sample in watch(frames_to_see, f"check the {what}", samples.check_count) if watch else frames_to_see:
        working = size_for(sample.image, card, size)
        image = fit(sample.image, working)
        expected = reference.run([Frame(image)], working, [label_size or working], False).labels[0]
        labels, seconds = _timed(runner, image)
        same += int((labels == expected).sum())
        pixels += labels.size
        if baseline is not None:
            times.append((seconds, _timed(baseline, image)[1]))
        if sample.truth is not None:
            truth = fit(sample.truth, label_size or working)
            ours.update(truth, labels)
            theirs.update(truth, expected)
        frames += 1
    if not frames:
        raise UserError(f"{samples.name}: not one frame to check the {what} on")
    agreement = Agreement(samples.name, frames, same / pixels)
    if agreement.share < _LEAST[precision]:
        raise UserError(
            f"the {what} has PyTorch's label on only {agreement.extent}; {100 * _LEAST[precision]:g} % are expected "
            f"of {precision}: not written"
        )
    if ours.pixels:
        agreement.miou, agreement.reference_miou = ours.miou(), theirs.miou()
    if len(times) > 2:  # the first warms up
        fast, slow = np.median(np.array(times[1:]), axis=0)
        agreement.pace = float(fast / slow)
    return agreement


def _timed(runner: Labeller, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    begin = time.perf_counter()
    labels = runner(image)
    return labels, time.perf_counter() - begin


def check_out(out: Path, overwrite: bool) -> None:
    """Check that a file can be written, before any work is done.

    :param out: of OpenVINO's .xml the .bin beside it as well
    :raises UserError: it is there already, or its folder cannot be written to
    """
    files = [out, out.with_suffix(".bin")] if out.suffix == ".xml" else [out]
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists: add --overwrite to replace it, or choose another name")
    for file in files:
        check_file(file)
