"""From a run folder to a weight file with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.training.about import licence, repeat_command, split_name
from rt_seg_ros.training.checkpoint import BEST, read_checkpoint
from rt_seg_ros.training.recipe import Recipe, parse_recipe
from rt_seg_ros.training.run_folder import METRICS, label_space_of, read_about, read_metrics
from rt_seg_ros.training.start import describe_start
from rt_seg_ros.zoo import ModelCard, save_weights


def export_weights(run: Path, path: Path | None = None) -> ModelCard:
    """Write a run's best weights as fp16 safetensors, with a card that says where they come from.

    :param run: run folder
    :param path: the file; by default <network>_<label space>.safetensors in the run folder
    :raises UserError: no best checkpoint there, or a folder that cannot be written
    """
    if not (run / BEST).is_file():
        raise UserError(f"run folder {run} holds no {BEST}: it was not validated yet")
    content = read_checkpoint(run / BEST)
    recipe = parse_recipe(yaml.safe_load(content["recipe"]), f"recipe in {run / BEST}")
    space = label_space_of(run, recipe)
    path = path or run / f"{recipe.network.name}_{space.name}.safetensors"
    about = read_about(run)
    frame_size = about.pop("frame_size", None)
    start = about.pop("start", None) or describe_start(recipe)
    told = {
        "data": [],
        "protocol": "",
        "command": repeat_command(recipe),
        "licence": licence(recipe, start),
        "pretraining": Path(recipe.network.backbone_weights).name if recipe.network.backbone_weights else "none",
        **about,
    }
    return save_weights(
        path,
        content["weights"],
        network=recipe.network.name,
        options=recipe.network.options,
        num_classes=space.num_classes,
        label_space=space,
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_size=recipe.augment.crop,
        frame_size=recipe.data.size or frame_size,
        resized=recipe.data.size is not None,
        card={
            "recipe": recipe.name,
            "scores": _scores(recipe, space, content["metrics"]),
            **told,
            "training": _training(recipe, content["metrics"], run),
            **({"start": start} if start else {}),
        },
    )


def _scores(recipe: Recipe, space: LabelSpace, metrics: dict[str, float]) -> dict[str, Any]:
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


def _training(recipe: Recipe, metrics: dict[str, float], run: Path) -> dict[str, Any]:
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
