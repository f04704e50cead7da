"""The frames that a report shows: the worst, the median, the best, each as image, truth, prediction and errors."""

from __future__ import annotations

import base64
import csv
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.drawing import error_map, overlay
from rt_seg_ros.evaluation.frames import Frames
from rt_seg_ros.evaluation.stored import LabelStream
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.resampling import resize_labels

Image = NDArray[np.uint8]

_ALPHA = 0.7
_WIDEST = 720  # pixels; a page with twenty pictures is still a megabyte or two
_HIGHEST = 4 * _WIDEST
_QUALITY = 84


@dataclass
class Rows:
    """One model's columns of the table of frames, float32 (N,), NaN where a field is empty; ``frame`` is int64."""

    frame: NDArray[np.int64]
    columns: dict[str, NDArray[np.float32]]


def read_rows(table: Path, columns: Sequence[str]) -> dict[str, Rows]:
    """Read columns of a table of frames, by model; four bytes a number are kept."""
    frames: dict[str, array[int]] = {}
    values: dict[str, dict[str, array[float]]] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            model = row["model"]
            if model not in frames:
                frames[model] = array("q")
                values[model] = {name: array("f") for name in columns}
            try:
                numbers = [float(row[name]) if row.get(name) else float("nan") for name in columns]
                frames[model].append(int(row["frame"]))
            except (TypeError, ValueError):  # the last line of a table that ends early
                continue
            for name, number in zip(columns, numbers, strict=True):
                values[model][name].append(number)
    return {
        model: Rows(
            np.array(frames[model], np.int64),
            {name: np.array(column, np.float32) for name, column in values[model].items()},
        )
        for model in frames
    }


@dataclass(frozen=True)
class Choice:
    """A frame to show: its index, and why."""

    index: int
    why: str


def choose(indices: NDArray[np.int64], scores: NDArray[np.floating], worst: int = 3) -> list[Choice]:
    """Choose the worst frames, the median one and the best; without scores some at equal distances.

    The worst ones keep a twentieth of the frames between them: three of the same moment would tell no more than one.

    :param indices: (N,) of the frames
    :param scores: (N,); NaN where a frame has none
    """
    known = np.flatnonzero(~np.isnan(scores))
    if not len(known):
        count = len(indices)
        places = sorted({count // 8, count // 2, count - 1 - count // 8}) if count else []
        return [Choice(int(indices[p]), "") for p in places]
    order = known[np.argsort(scores[known], kind="stable")]
    apart = max(1, len(indices) // 20)
    worst_places: list[int] = []
    for place in order:
        if len(worst_places) < worst and all(abs(int(place) - p) >= apart for p in worst_places):
            worst_places.append(int(place))
    wanted = [("worst", p) for p in worst_places]
    wanted += [("median", int(order[len(order) // 2])), ("best", int(order[-1]))]
    chosen: dict[int, str] = {}
    for why, place in wanted:
        chosen.setdefault(place, why)
    return [Choice(int(indices[place]), why) for place, why in chosen.items()]


@dataclass
class Picture:
    """One frame as the report shows it: images as data URIs, predictions and error maps by model."""

    name: str
    image: str
    truth: str | None
    predictions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Shown:
    """One frame read again: image BGR, truth (None without one) and each model's labels, all of the image's size."""

    index: int
    name: str
    image: Image
    truth: Image | None
    predictions: dict[str, Image]


def read_frames_again(
    frames: Frames,
    labels: Mapping[str, Path],
    rows: Mapping[str, Rows],
    wanted: Mapping[str, Collection[int]],
) -> Iterator[Shown]:
    """Yield frames with what models made of them; one that cannot be read again is left out.

    :param labels: where each model's labels were stored
    :param rows: each model's rows: the n-th stored labels belong to the n-th row
    :param wanted: indices of the frames, by model
    """
    found: dict[int, dict[str, Image]] = {}
    for model, indices in wanted.items():
        places = {int(p): int(rows[model].frame[p]) for p in np.flatnonzero(np.isin(rows[model].frame, list(indices)))}
        last = max(places, default=-1)
        for place, stored in enumerate(LabelStream(labels[model])):
            if place in places:
                found.setdefault(places[place], {})[model] = stored.load()
            if place >= last:
                break
    for item in frames.pick(set(found)):
        try:
            image = item.frame().bgr()
        except ImageRejected:
            continue
        size = (image.shape[0], image.shape[1])
        predictions = {model: resize_labels(one, size) for model, one in found[item.index].items()}
        yield Shown(item.index, item.name, image, item.truth(size), predictions)


def make_pictures(
    frames: Frames,
    space: LabelSpace,
    labels: Mapping[str, Path],
    rows: Mapping[str, Rows],
    wanted: Mapping[str, Collection[int]],
) -> dict[int, Picture]:
    """Draw frames, by index: see :func:`read_frames_again`."""
    pictures: dict[int, Picture] = {}
    for shown in read_frames_again(frames, labels, rows, wanted):
        image, truth = shown.image, shown.truth
        picture = pictures[shown.index] = Picture(shown.name, encode(image), None)
        if truth is not None:
            picture.truth = encode(overlay(image, truth, space, _ALPHA, legend=False))
            picture.classes |= set(np.unique(truth).tolist())
        for model, prediction in shown.predictions.items():
            picture.predictions[model] = encode(overlay(image, prediction, space, _ALPHA, legend=False))
            picture.classes |= set(np.unique(prediction).tolist())
            if truth is not None:
                picture.errors[model] = encode(error_map(prediction, truth, image))
    return pictures


def encode(image: Image) -> str:
    """Return an image as a data URI: JPEG, no larger than a page needs."""
    height, width = image.shape[:2]
    scale = min(_WIDEST / width, _HIGHEST / height)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
