"""Scores of a network on a source's frames: single scale, whole frames, labels at their own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.networks import SegmentationNetwork
from rt_seg_ros.overlap import map_ahead, reading_threads
from rt_seg_ros.resampling import resize_pixels
from rt_seg_ros.training.sources import HeldPictures, PictureSource
from rt_seg_ros.working_size import Size, working_size

_BATCH = 4
_PIXELS = 4_000_000  # at most in a batch: a network's maps of large pictures would not fit the memory
Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]  # BGR picture, truth, prediction


@dataclass
class SplitScore:
    """What was measured on one split, and a few of its frames to look at."""

    name: str
    matrix: ConfusionMatrix
    samples: list[Sample] = field(default_factory=list)

    def figures(self, names: Sequence[str]) -> dict[str, float]:
        """Return mIoU, pixel accuracy and each class's IoU, 0 to 1, by their names in metrics.csv: ``camvid/miou``.

        :param names: of the classes
        """
        ious = zip(names, self.matrix.per_class_iou(), strict=True)
        return {
            f"{self.name}/miou": self.matrix.miou(),
            f"{self.name}/pixel_accuracy": self.matrix.pixel_accuracy(),
            **{f"{self.name}/{name}": float(iou) for name, iou in ious},
        }


@torch.inference_mode()
def validate(
    network: SegmentationNetwork,
    source: PictureSource,
    num_classes: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    working: Callable[[Size], Size] = working_size,
    precision: torch.dtype = torch.float32,
    samples: int = 0,
) -> SplitScore:
    """Score a network, in eval mode, on every frame.

    :param working: from a frame's (height, width) to that at which the network sees it
    :param samples: how many frames, evenly spread, to keep with their predictions
    """
    device = next(network.parameters()).device
    score = SplitScore(source.name, ConfusionMatrix(num_classes))
    shown = set(np.linspace(0, len(source) - 1, min(samples, len(source))).round().astype(int).tolist())
    offset = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=device).view(1, 3, 1, 1)
    runs = list(_runs_of_one_size(source.sizes))
    for index, (stored, labels) in zip(runs, _gathered(source, runs), strict=True):
        h, w = (int(v) for v in source.sizes[index[0]])
        images = stored[..., :h, :w]
        size = working((h, w))
        seen = images if size == (h, w) else _resized(images, size)
        x = (seen.to(device, torch.float32) - offset) / spread
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = network.logits(x)
        full = F.interpolate(logits.float(), (h, w), mode="bilinear", align_corners=False)
        guesses = full.argmax(1).to(torch.uint8).cpu().numpy()
        for i, guess, image, label in zip(index, guesses, images, labels, strict=True):
            truth = label[:h, :w].cpu().numpy()
            score.matrix.update(truth, guess)
            if i in shown:
                picture = image.cpu().numpy()[::-1].transpose(1, 2, 0)
                score.samples.append((np.ascontiguousarray(picture), truth, guess))
    return score


def _gathered(source: PictureSource, runs: list[list[int]]) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield the frames of each run and their labels; those of files are read ahead."""

    def gather(index: list[int]) -> tuple[Tensor, Tensor]:
        return source.gather(np.array(index))

    return map(gather, runs) if isinstance(source, HeldPictures) else map_ahead(gather, runs, min(4, reading_threads()))


def _runs_of_one_size(sizes: NDArray[np.int64]) -> Iterator[list[int]]:
    run: list[int] = []
    for i, size in enumerate(sizes):
        most = max(1, min(_BATCH, _PIXELS // int(size.prod())))
        if run and (len(run) >= most or tuple(size) != tuple(sizes[run[0]])):
            yield run
            run = []
        run.append(i)
    if run:
        yield run


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 3, H, W) as the training pictures are resized."""
    pictures = [resize_pixels(np.ascontiguousarray(i.transpose(1, 2, 0)), size) for i in images.cpu().numpy()]
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
