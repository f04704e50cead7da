"""Two sets of labels of the same frames: how far they agree, where they differ, which classes flip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.data.datasets import ids_outside
from rt_seg_ros.drawing import colourise
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.confusion import ConfusionMatrix
from rt_seg_ros.evaluation.matching import DEFAULT_TOLERANCE, Matcher, Matching, Truth, Window
from rt_seg_ros.evaluation.stored import LabelStream, StoredLabels
from rt_seg_ros.evaluation.timeline import Timeline
from rt_seg_ros.images import ImageRejected
from rt_seg_ros.labels import (
    UNLABELLED,
    LabelSpace,
    in_short,
    label_space_of_names,
    list_label_spaces,
    load_label_space,
)
from rt_seg_ros.resampling import resize_labels
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE

Labels = NDArray[np.uint8]

METRICS = "metrics.json"
_WORST = 3
_NANO = 1_000_000_000

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


class Figure(NamedTuple):
    """How a figure of a result is shown; ``by_truth``: it is over the frames with ground truth, not over all."""

    title: str
    unit: str
    scale: float
    by_truth: bool


#: Figures of two results that are set beside each other.
FIGURES = {
    "miou": Figure("mIoU", "%", 100.0, by_truth=True),
    "pixel_accuracy": Figure("pixel accuracy", "%", 100.0, by_truth=True),
    "class_accuracy": Figure("class accuracy", "%", 100.0, by_truth=True),
    "boundary_f": Figure("boundary F", "%", 100.0, by_truth=True),
    "flicker": Figure("flicker", "%", 100.0, by_truth=False),
    "coverage": Figure("coverage", "%", 100.0, by_truth=False),
    "frames_per_second": Figure("frames", "/s", 1.0, by_truth=False),
}


@dataclass
class Side:
    """One of the two: its labels, what to call it, and its figures where it is a result's folder."""

    name: str
    title: str
    stream: LabelStream
    figures: dict[str, Any] = field(default_factory=dict)

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by id, as the labels or the result tell them; empty where neither does."""
        if self.stream.class_names:
            return self.stream.class_names
        if self.figures.get("classes"):
            return tuple(self.figures["classes"])
        said = str(self.figures.get("label_space") or "")
        return load_label_space(said).names if said in list_label_spaces() else ()

    def frames_of(self, figure: str) -> int | None:
        """Return the number of frames that one of its figures is over, where that is told."""
        count = self.figures.get("frames_scored" if FIGURES[figure].by_truth else "frames")
        return count if isinstance(count, int) else None


def open_side(path: Path, model: str = "", topic: str = "") -> Side:
    """Open a result's folder, a recording with a topic of labels, or a folder of label images.

    :param model: of a result of several models
    :param topic: of a recording with several topics of labels
    :raises UserError: nothing there, or no labels in it
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"there is nothing at {path}")
    metrics = path / METRICS
    if path.is_dir() and metrics.is_file() and not (path / "metadata.yaml").is_file():
        return _result(path, metrics, model)
    if model:
        raise UserError(f"model '{model}' was given, but {path} is no result's folder: it has no {METRICS}")
    return Side(str(path), path.name, LabelStream(path, topic))


def _result(path: Path, metrics: Path, model: str) -> Side:
    try:
        document = json.loads(metrics.read_text(encoding="utf-8"))
        every = document.get("models", [document])
        names = [str(one["name"]) for one in every]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{metrics} cannot be read: {error}") from error
    if not names:
        raise UserError(f"{metrics} tells of no model")
    if not model and len(names) > 1:
        raise UserError(f"{path} is the result of several models ({', '.join(names)}): name one (--models)")
    if model and model not in names:
        raise UserError(f"{path} has no model '{model}'; it has: {', '.join(names)}")
    name = model or names[0]
    figures = every[names.index(name)]
    stored = Path(str(figures.get("labels") or "")).name
    if not stored or not (path / stored).exists():
        missing = stored or "its report was written without"
        raise UserError(f"{path} has no labels of '{name}' ({missing}): evaluate again with --report {path}")
    return Side(f"{name} ({path})", name, LabelStream(path / stored), figures)


def common_space(a: Side, b: Side, wanted: str = "") -> LabelSpace:
    """Return the label space that both speak; of one that does not come with the package, what they tell of it.

    :param wanted: name or YAML file, where neither tells
    :raises UserError: two different ones, another than wanted, or none that is known
    """
    said = [str(side.figures["label_space"]) for side in (a, b) if side.figures.get("label_space")]
    told = {side.classes(): side for side in (a, b) if side.classes()}
    if len(set(said)) > 1 or len(told) > 1:
        raise UserError(f"{a.name} and {b.name} speak different label spaces: their labels cannot be compared")
    if wanted:
        space = load_label_space(wanted)
        for names, side in told.items():
            if names != space.names:
                raise UserError(
                    f"--label-space {wanted} is not what {side.name} tells: it has {len(names)} classes "
                    f"({in_short(names)}), '{space.name}' has {space.num_classes} ({in_short(space.names)})"
                )
        return space
    for names in told:
        for known in map(load_label_space, list_label_spaces()):
            if known.names == names:
                return known
        return label_space_of_names(said[0] if said else "unnamed", names)
    if said:
        raise UserError(
            f"label space '{said[0]}' is none that comes with the package: give its file (--label-space FILE)"
        )
    return load_label_space(DEFAULT_LABEL_SPACE)


@dataclass(eq=False)
class Difference:
    """A frame on which the two differ: its key, the share of pixels that do, both labels, uint8 (H, W), its place."""

    key: int | str
    share: float
    a: Labels
    b: Labels
    place: int


@dataclass
class Comparison:
    """How two sets of labels agree.

    ``matrix``: rows the labels of A, columns those of B, the last of both unlabelled, int64 (C + 1, C + 1);
    ``place``: share of frames that differ at each pixel, float64 (H, W) of the first frame's size; ``series``:
    (seconds or number of the frame, share that differs) of each frame; ``assumed``: nothing told the label space.
    """

    a: Side
    b: Side
    space: LabelSpace
    matrix: NDArray[np.int64]
    frames: int = 0
    only_a: int = 0
    only_b: int = 0
    resized: int = 0
    rejected: int = 0
    place: NDArray[np.float64] | None = None
    worst: list[Difference] = field(default_factory=list)
    series: list[tuple[float, float]] = field(default_factory=list)
    assumed: bool = False

    @property
    def agreement(self) -> float:
        """Share of all pixels whose label is the same, 0 to 1."""
        total = int(self.matrix.sum())
        return float(np.trace(self.matrix)) / total if total else 0.0

    def per_class(self) -> NDArray[np.float64]:
        """Return, by class id, the pixels that both call it over those that either does, float64 (C,); NaN: none."""
        c = self.space.num_classes
        both = np.diag(self.matrix)[:c].astype(np.float64)
        either = (self.matrix.sum(axis=1) + self.matrix.sum(axis=0))[:c] - both
        return np.divide(both, either, out=np.full(c, np.nan), where=either > 0)

    def flips(self) -> list[tuple[int, int, int]]:
        """Return (class in A, class in B, pixels) of all that differ, the most first; the class after all: no label."""
        off = self.matrix.copy()
        np.fill_diagonal(off, 0)
        order = np.argsort(off, axis=None, kind="stable")[::-1]
        return [(int(i) // len(off), int(i) % len(off), int(off.flat[i])) for i in order if off.flat[i]]

    def name_of(self, i: int) -> str:
        """Return a class's name."""
        return self.space.names[i] if i < self.space.num_classes else "unlabelled"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; shares from 0 to 1."""
        per_class = self.per_class()
        known = per_class[~np.isnan(per_class)]
        return {
            "a": self.a.name,
            "b": self.b.name,
            "label_space": self.space.name,
            "label_space_assumed": self.assumed,
            "frames": self.frames,
            "only_in_a": self.only_a,
            "only_in_b": self.only_b,
            "resized": self.resized,
            "rejected": self.rejected,
            "pixels": int(self.matrix.sum()),
            "agreement": self.agreement,
            "mean_class_agreement": float(known.mean()) if len(known) else None,
            "classes": {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(self.space.names, per_class, strict=True)
            },
            "matrix": {"rows": "a", "columns": "b", "counts": self.matrix.tolist()},
            "flips": [
                {"a": self.name_of(i), "b": self.name_of(j), "pixels": pixels} for i, j, pixels in self.flips()[:20]
            ],
            "worst": [{"frame": str(d.key), "differs": d.share} for d in self.worst],
            "figures": {
                name: {"a": self.a.figures.get(name), "b": self.b.figures.get(name)} for name in self._in_both()
            },
            "figures_frames": {
                name: {"a": self.a.frames_of(name), "b": self.b.frames_of(name)} for name in self._in_both()
            },
        }

    def figures(self) -> Iterator[tuple[str, float, float]]:
        """Yield (name, A's, B's) of the figures that both have."""
        for name in self._in_both():
            a, b = self.a.figures[name], self.b.figures[name]
            if isinstance(a, (int, float)) and isinstance(b, (int, float)):
                yield name, a, b

    def frames_of(self, figure: str) -> str:
        """Say over how many frames a figure of the two is: one number, or A's and B's; empty where none is told."""
        a, b = (side.frames_of(figure) for side in (self.a, self.b))
        if a is None or b is None:
            return ""
        return f"{a:,}" if a == b else f"{a:,} and {b:,}"

    def _in_both(self) -> list[str]:
        return [name for name in FIGURES if name in self.a.figures and name in self.b.figures]


def compare(
    a: Side,
    b: Side,
    space: LabelSpace,
    tolerance: float = DEFAULT_TOLERANCE,
    watch: Watch | None = None,
    assumed: bool = False,
) -> Comparison:
    """Compare two sets of labels frame by frame.

    Frames of recordings belong together by stamp, those of folders by name; what has no partner is counted. Labels of
    B that have another size are resized to A's.

    :param tolerance: seconds that stamps may differ
    :param watch: is handed (the frames, what is done, their number) and passes them on, as a progress bar does
    :param assumed: nothing told the label space
    :raises UserError: stamps against names, not one frame in common, or ids outside the label space
    """
    if a.stream.by_stamp != b.stream.by_stamp:
        raise UserError(
            f"{a.stream.path} and {b.stream.path} cannot be brought together: one is a recording, whose frames go by "
            "stamp, the other a folder of images, which go by name"
        )
    classes = space.num_classes
    result = Comparison(a, b, space, np.zeros((classes + 1, classes + 1), np.int64), assumed=assumed)
    every = np.arange(256, dtype=np.uint8)
    canonical, strange = space.from_raw(every), np.isin(every, ids_outside(every, space)).astype(np.uint8)
    pairs = _by_stamp(a, b, result, tolerance) if a.stream.by_stamp else _by_name(a, b, result)
    total = min(a.stream.count, b.stream.count)
    differing: NDArray[np.int64] | None = None
    apart = max(1, total // 20)
    timeline = Timeline(0.0)
    for key, one, other in watch(pairs, "compare", total) if watch else pairs:
        for side, labels in ((a, one), (b, other)):
            if cv2.countNonZero(cv2.LUT(labels, strange)):
                raise UserError(_outside(side, key, labels, space, assumed))
        one, other = cv2.LUT(one, canonical), cv2.LUT(other, canonical)
        if other.shape != one.shape:
            result.resized += 1
            other = resize_labels(other, one.shape)
        counted = ConfusionMatrix(classes + 1)
        counted.update(_folded(one, classes), _folded(other, classes))
        result.matrix += counted.matrix
        changed = cv2.compare(one, other, cv2.CMP_NE)
        share = cv2.countNonZero(changed) / one.size
        if differing is None:
            differing = np.zeros(one.shape, np.int64)
        differing += resize_labels(changed, differing.shape) > 0
        at = timeline.seconds(key) if isinstance(key, int) else float(result.frames)
        result.series.append((at, share))
        _keep_worst(result.worst, Difference(key, share, one, other, result.frames), apart)
        result.frames += 1
    if not result.frames or differing is None:
        how = f"stamps within {tolerance:g} s" if a.stream.by_stamp else "names"
        raise UserError(f"{a.name} and {b.name} have no frame in common ({how})")
    result.place = differing / result.frames
    return result


def _keep_worst(worst: list[Difference], new: Difference, apart: int) -> None:
    """Keep the frames that differ most, the most first, and of those close together the worst alone."""
    near = [one for one in worst if abs(one.place - new.place) < apart]
    if any(one.share >= new.share for one in near):
        return
    worst[:] = sorted([one for one in worst if one not in near] + [new], key=lambda one: -one.share)[:_WORST]


def _outside(side: Side, key: int | str, labels: Labels, space: LabelSpace, assumed: bool) -> str:
    ids = ids_outside(labels, space)
    why = ", which was assumed as nothing tells it" if assumed else ""
    return (
        f"{side.name}, frame {key}: labels hold ids outside label space '{space.name}' (0 to {space.num_classes - 1})"
        f"{why}: {', '.join(str(v) for v in ids[:10])}; name theirs (--label-space)"
    )


def _folded(labels: Labels, classes: int) -> Labels:
    """Return labels with everything that is no class as the one after them."""
    return np.minimum(labels, classes).astype(np.uint8)


def _by_name(a: Side, b: Side, result: Comparison) -> Iterator[tuple[int | str, Labels, Labels]]:
    others = {stored.key: stored for stored in b.stream}
    for stored in a.stream:
        other = others.pop(stored.key, None)
        if other is None:
            result.only_a += 1
            continue
        yield from _loaded(stored, other.load, result)
    result.only_b = len(others)


def _by_stamp(a: Side, b: Side, result: Comparison, tolerance: float) -> Iterator[tuple[int | str, Labels, Labels]]:
    matching = Matching()
    stamps = np.array([int(stored.key) for stored in b.stream], np.int64)
    others = Window(Truth(int(stored.key), "", stored.load) for stored in b.stream)
    matcher = Matcher(stamps, others, round(tolerance * _NANO), matching)
    stream = iter(a.stream)
    present = next(stream, None)
    while present is not None:
        following = next(stream, None)
        other = matcher.pair(int(present.key), int(following.key) if following is not None else None)
        if other is not None:
            yield from _loaded(present, other.load, result)
        present = following
    matcher.finish()
    result.only_a, result.only_b = matching.frames_without_truth, matching.truth_without_frame


def _loaded(
    stored: StoredLabels, load: Callable[[], Labels], result: Comparison
) -> Iterator[tuple[int | str, Labels, Labels]]:
    try:
        yield stored.key, stored.load(), load()
    except ImageRejected:
        result.rejected += 1


def difference_picture(comparison: Comparison) -> NDArray[np.uint8]:
    """Draw where the two differ: dark where they never do, the brighter the oftener; uint8 (H, W, 3), BGR."""
    assert comparison.place is not None
    # The square root lifts what differs now and then.
    scaled = np.rint(255 * np.sqrt(comparison.place / max(float(comparison.place.max()), 1e-9))).astype(np.uint8)
    return cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)  # type: ignore[return-value]


def changed_picture(difference: Difference, space: LabelSpace) -> NDArray[np.uint8]:
    """Draw B's labels where they differ from A's, in the classes' colours, on grey; uint8 (H, W, 3), BGR."""
    picture = np.full((*difference.a.shape, 3), 60, np.uint8)
    changed = difference.a != difference.b
    picture[changed] = colourise(difference.b, space)[changed]
    picture[changed & (difference.b == UNLABELLED)] = 255
    return picture
