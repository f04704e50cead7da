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
from rt_seg_ros.export.formats import Product, format_of
from rt_seg_ros.export.runners import Runner, fit
from rt_seg_ros.export.samples import Sample, Samples
from rt_seg_ros.files import check_file, write_together
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.graphs.store import save_quantised
from rt_seg_ros.images import Frame
from rt_seg_ros.zoo import ModelCard

#: Is handed (the frames, what is done, their number) and passes them on, as a progress bar does.
Watch = Callable[[Iterable[Sample], str, int], Iterable[Sample]]

#: Share of pixels with PyTorch's labels below which something is wrong, and nothing is written.
_LEAST = {"fp32": 0.999, "fp16": 0.98, "int8": 0.9}
#: Names in the cache, by suffix.
_KEPT = {".onnx": "model.onnx", ".xml": "model.xml", ".bin": "model.bin"}


@dataclass
class Agreement:
    """How an export compares with PyTorch in fp32, on the same frames.

    ``share`` of the pixels have the same label. ``miou`` and ``reference_miou`` are there where truth is; ``pace`` is
    the export's time over that of the same in fp32 (int8 only), by medians of interleaved runs.
    """

    frames: int
    share: float
    miou: float | None = None
    reference_miou: float | None = None
    pace: float | None = None


@dataclass(frozen=True)
class Exported:
    """What was exported: the files written, the folder in the cache, how they compare, in which form."""

    files: list[Path]
    kept: Path | None
    agreement: Agreement
    about: str


def export_model(
    card: ModelCard,
    format_name: str,
    options: GraphOptions,
    precision: str,
    samples: Samples,
    out: Path | None = None,
    watch: Watch | None = None,
) -> Exported:
    """Export a model, check it, and write it.

    A model in int8 that takes any size and gives logits is also kept in the cache, where its backend finds it.

    :param out: the file; None: only the cache
    :raises UserError: what cannot be exported, agrees too little with PyTorch, or cannot be written
    """
    form = format_of(format_name, out)
    for_cache = precision == "int8" and options.size is None and options.outputs == "logits"
    if out is None and not for_cache:
        raise UserError("--out is missing; only int8 of any size that gives logits is of use without a file")
    product = form.make(card, options, precision, samples)
    agreement = compare(card, product, options, samples, watch)
    if agreement.share < _LEAST[precision]:
        raise UserError(
            f"the export has PyTorch's label on only {100 * agreement.share:.2f} % of the pixels of "
            f"{agreement.frames} frames ({samples.name}; {100 * _LEAST[precision]:g} % are expected of {precision}): "
            "not written"
        )
    kept = None
    if for_cache:
        kept = save_quantised(card, form.runtime, {_KEPT[suffix]: data for suffix, data in product.files.items()})
    files = _write(out, product) if out is not None else []
    return Exported(files, kept, agreement, f"{product.about}, {_form(options)}, {precision}")


def _form(options: GraphOptions) -> str:
    size = "any size" if options.size is None else f"{options.batch}x{options.size[0]}x{options.size[1]}"
    return f"{size}, {options.outputs}"


def compare(
    card: ModelCard, product: Product, options: GraphOptions, samples: Samples, watch: Watch | None = None
) -> Agreement:
    """Compare an export with PyTorch in fp32 on the frames to check on.

    :raises UserError: not one frame
    """
    reference = torch_backend.create(card, "cpu", "fp32", threads=0)
    same = pixels = frames = 0
    ours, theirs = ConfusionMatrix(card.num_classes), ConfusionMatrix(card.num_classes)
    times: list[tuple[float, float]] = []
    frames_to_see = samples.check()
    for sample in watch(frames_to_see, "check", samples.check_count) if watch else frames_to_see:
        image = fit(sample.image, options)
        size = (image.shape[0], image.shape[1])
        expected = reference.run([Frame(image)], size, [size], False).labels[0]
        labels, seconds = _timed(product.runner, image)
        same += int((labels == expected).sum())
        pixels += labels.size
        if product.baseline is not None:
            times.append((seconds, _timed(product.baseline, image)[1]))
        if sample.truth is not None:
            truth = fit(sample.truth, options)
            ours.update(truth, labels)
            theirs.update(truth, expected)
        frames += 1
    if not frames:
        raise UserError(f"{samples.name}: not one frame to check the export on")
    agreement = Agreement(frames, same / pixels)
    if ours.pixels:
        agreement.miou, agreement.reference_miou = ours.miou(), theirs.miou()
    if len(times) > 2:  # the first warms up
        fast, slow = np.median(np.array(times[1:]), axis=0)
        agreement.pace = float(fast / slow)
    return agreement


def _timed(runner: Runner, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
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


def _write(out: Path, product: Product) -> list[Path]:
    """Write the files.

    :raises UserError: where the disk does not take them
    """
    files = {out.with_suffix(suffix): content for suffix, content in product.files.items()}
    write_together(files)
    return list(files)
