"""What a run says of itself in its folder and on its weights' card: the command that repeats it, data, machine."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rt_seg_ros import __version__
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.usage import cpu_name
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.training.distributed import World
from rt_seg_ros.training.recipe import Recipe, SourceSection
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.run_folder import METRICS, RECIPE, label_space_of, read_about, read_metrics
from rt_seg_ros.training.sources import PictureSource
from rt_seg_ros.working_size import Size

_SCORING = (
    "single scale, labels at their own size; one confusion matrix over all frames, void ignored, a class without a "
    "true positive counts 0"
)


def describe_run(
    recipe: Recipe,
    root: Path | None,
    train: Sequence[PictureSource],
    val: Sequence[PictureSource],
    world: World,
    space: LabelSpace,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what is worth knowing of a run, as plain values for YAML.

    :param root: the folder that --data names
    :param train: the training sources, in the recipe's order
    :param val: the splits that are measured, in the recipe's order
    :param space: the label space that is learnt
    :param start: what the card of the weights tells that it goes on from
    """
    return {
        "command": repeat_command(recipe, root),
        "data": described_sources(recipe.data.train, train),
        "validation": described_sources(recipe.data.val, val, shares=False),
        "protocol": _protocol(recipe, val, space),
        "frame_size": list(frame_size(recipe, train)),
        "licence": licence(recipe, start),
        "hardware": _hardware(world),
        "versions": {"rt_seg_ros": __version__, "torch": str(torch.__version__)},
        "commit": _commit(),
        **({"start": dict(start)} if start else {}),
    }


def card_of_run(
    run: Path, recipe: Recipe, metrics: Mapping[str, float], start: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what the card of a run's weights tells of where they come from.

    :param run: run folder
    :param recipe: that of its best checkpoint
    :param metrics: that checkpoint's, a row of metrics.csv
    :param start: what the card of the weights tells that the run went on from
    :raises UserError: a label space or an about.yaml that cannot be read
    """
    about = read_about(run)
    for key in ("frame_size", "start"):  # what the weights need in use; and what stands last
        about.pop(key, None)
    return {
        "recipe": recipe.name,
        "scores": _scores(recipe, label_space_of(run, recipe), metrics),
        "data": [],
        "protocol": "",
        "command": repeat_command(recipe),
        "licence": licence(recipe, start),
        "pretraining": Path(recipe.network.backbone_weights).name if recipe.network.backbone_weights else "none",
        **about,
        "training": _training(recipe, metrics, run),
        **({"start": dict(start)} if start else {}),
    }


def needed_in_use(run: Path, recipe: Recipe) -> dict[str, Any]:
    """Return what a run's weights need in use, by the names that :func:`rt_seg_ros.zoo.save_weights` has for it.

    :raises UserError: a label space or an about.yaml that cannot be read
    """
    space = label_space_of(run, recipe)
    return {
        "network": recipe.network.name,
        "options": recipe.network.options,
        "num_classes": space.num_classes,
        "label_space": space,
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "input_size": recipe.augment.crop,
        "frame_size": recipe.data.size or read_about(run).get("frame_size"),
        "resized": recipe.data.size is not None,
    }


def parts_before(former: Mapping[str, Any], about: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """Return how a run that is continued went on until now: the command, hardware and commit of each part.

    :param former: what was told of it so far
    :param about: what is told of it from here on; a part with the same command, hardware and commit is not told apart
    :param step: from which it goes on
    """
    told = {key: former[key] for key in ("command", "hardware", "commit") if key in former}
    before = list(former.get("before") or [])
    if any(value != about.get(key) for key, value in told.items()):
        before.append({"until_step": step, **told})
    return before


def _scores(recipe: Recipe, space: LabelSpace, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the best validation's figures in percent: ``{'camvid val': {'miou': 61.2, ...}}``."""
    names = [key.removesuffix("/miou") for key in metrics if key.endswith("/miou")]
    return {
        split_name(section, name): {
            "miou": _percent(metrics[f"{name}/miou"]),
            "pixel_accuracy": _percent(metrics[f"{name}/pixel_accuracy"]),
            "per_class_iou": {label: _percent(metrics[f"{name}/{label}"]) for label in space.names},
        }
        for section, name in zip(recipe.data.val, names, strict=True)  # measured and written in the recipe's order
    }


def _training(recipe: Recipe, metrics: Mapping[str, float], run: Path) -> dict[str, Any]:
    """Return how the weights came about: the step they are of, and what the whole run took."""
    rows = read_metrics(run / METRICS) if (run / METRICS).is_file() else []
    last = rows[-1] if rows else metrics
    return {
        "best_step": int(metrics["step"]),
        "best_epoch": round(float(metrics["epoch"]), 1),
        "steps": int(last["step"]),
        "epochs": round(float(last["epoch"]), 1),
        "minutes": round(float(last["minutes"]), 1),
        "batch": recipe.schedule.batch,
        "crop": list(recipe.augment.crop),
        "precision": recipe.run.precision,
    }


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def frame_size(recipe: Recipe, train: Sequence[PictureSource]) -> Size:
    """Return the (height, width) of the frames learnt from: the first source's, or what all are resized to."""
    if recipe.data.size is not None:
        return recipe.data.size
    height, width = np.median(train[0].sizes, axis=0)
    return int(height), int(width)


def licence(recipe: Recipe, start: Mapping[str, Any] | None = None) -> str:
    """Return the licences that weights come under: those of the pictures, and of what the run begins with.

    ``data.licence`` says it for all pictures, else each training source's own does.

    :param start: what the card of the weights tells that the run goes on from
    """
    folders = [section for section in recipe.data.train if section.synth is None]
    terms = [
        section.licence or f"that of {section.name or Path(str(section.path)).name or 'the data'}"
        for section in folders
    ]
    if recipe.data.licence:
        terms = [recipe.data.licence]
    if start:
        terms.append(str(start.get("licence") or f"that of {start.get('model')}"))
    elif recipe.network.weights:
        terms.append(f"that of {Path(recipe.network.weights).name}")
    if recipe.network.backbone_weights:
        terms.append(f"that of {Path(recipe.network.backbone_weights).name}")
    return "; ".join(dict.fromkeys(terms)) or "Apache-2.0 (rendered drives alone)"


def repeat_command(recipe: Recipe, root: Path | None = None) -> str:
    """Return the command line that repeats a run: recipe, what differs from it, data set folder (its last name)."""
    try:
        plain = load_recipe(recipe.name).model_dump(mode="json")
        words = [recipe.name, *_differences(plain, _without_folders(recipe.model_dump(mode="json")))]
    except UserError:  # one of the user's own: its resolved form lies in the run folder
        words = [RECIPE]
    data = ["--data", root.expanduser().resolve().name] if root is not None else []
    return shlex.join(["rt-seg", "train", *words, *data])


def _without_folders(document: dict[str, Any]) -> dict[str, Any]:
    """Leave only the names of the files that a network starts from: their folders are this machine's alone."""
    network = document["network"]
    files = {key: Path(network[key]).name for key in ("weights", "backbone_weights") if network[key]}
    return {**document, "network": {**network, **files}}


def _differences(theirs: Any, mine: Any, key: str = "") -> Iterator[str]:
    """Yield ``key.sub=value`` for each value of ``mine`` that is another in ``theirs``."""
    if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
        parts: list[tuple[Any, Any, Any]] = [(name, theirs[name], mine[name]) for name in mine]
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        parts = [(i, theirs[i], mine[i]) for i in range(len(mine))]
    else:
        if mine != theirs:
            yield f"{key}={json.dumps(mine)}"  # JSON is YAML on one line
        return
    if any(isinstance(value, (dict, list)) for _, _, value in parts) or isinstance(mine, dict):
        for name, one, other in parts:
            yield from _differences(one, other, f"{key}.{name}" if key else str(name))
    elif mine != theirs:  # a crop, a list of weights: whole
        yield f"{key}={json.dumps(mine)}"


def described_sources(
    sections: Sequence[SourceSection], sources: Sequence[PictureSource], shares: bool = True
) -> list[str]:
    """Return a line per source: what it is, how many frames of which size, its share of the samples."""
    total = sum(section.weight for section in sections)
    lines = []
    for section, frames in zip(sections, sources, strict=True):
        line = f"{_what(section, frames)}, {len(frames)} frames of {_size(frames)}"
        if shares and len(sections) > 1:
            line += f", {100 * section.weight / total:.0f} % of the samples"
        lines.append(line)
    return lines


def split_name(section: SourceSection, name: str) -> str:
    """Return what a split is called on a card: ``camvid val``.

    :param name: its name in the metrics
    """
    return f"{name} {section.split}" if section.name and section.split else name.replace("/", " ")


def _what(section: SourceSection, frames: PictureSource) -> str:
    if section.synth is None:
        return split_name(section, frames.name)
    synth = section.synth
    every = f", 1 in {synth.every}" if synth.every > 1 else ""
    return f"rendered drives of seeds {_ranges(synth.seeds)} ({synth.frames} of each{every})"


def _ranges(numbers: Sequence[int]) -> str:
    """Write 1, 2, 3, 7 as ``1-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _size(frames: PictureSource) -> str:
    """Width x height, as the papers write it."""
    sizes = {(int(h), int(w)) for h, w in frames.sizes}
    if len(sizes) > 1:
        return f"{len(sizes)} sizes"
    height, width = sizes.pop()
    return f"{width}x{height}"


def _protocol(recipe: Recipe, val: Sequence[PictureSource], space: LabelSpace) -> str:
    if not val:
        return "not measured"
    first = recipe.data.val[0]
    classes = f"{space.num_classes} classes" + (f" ({space.description})" if space.description else "")
    return f"{_what(first, val[0])}, {len(val[0])} frames, {_size(val[0])}, {classes}, {_SCORING}"


def _commit() -> str:
    """Return the commit this package is at, with ``+changes`` where files differ; ``unknown`` outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)  # noqa: S603 - fixed words, no shell
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _hardware(world: World) -> str:
    if world.device.type == "cuda":
        name = str(torch.cuda.get_device_name(world.device))
    else:
        threads = torch.get_num_threads()
        name = f"{cpu_name()}, {threads} thread{'s' if threads != 1 else ''}"
    return name if world.size == 1 else f"{world.size} processes, each on {name}"
