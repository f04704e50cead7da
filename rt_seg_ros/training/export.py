"""From a run folder to a weight file with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.training.about import repeat_command, split_name
from rt_seg_ros.training.checkpoint import BEST, read_checkpoint
from rt_seg_ros.training.recipe import Recipe, parse_recipe
from rt_seg_ros.training.run_folder import ABOUT, METRICS, read_metrics
from rt_seg_ros.training.start import start_card
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
    path = path or run / f"{recipe.network.name}_{recipe.label_space}.safetensors"
    about = {
        "data": [],
        "protocol": "",
        "command": repeat_command(recipe),
        "licence": recipe.data.licence or "that of the data",
        "pretraining": Path(recipe.network.backbone_weights).name if recipe.network.backbone_weights else "none",
        **_about(run),
    }
    return save_weights(
        path,
        content["weights"],
        network=recipe.network.name,
        options=recipe.network.options,
        num_classes=load_label_space(recipe.label_space).num_classes,
        label_space=recipe.label_space,
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_size=recipe.data.size or recipe.augment.crop,
        card={
            "recipe": recipe.name,
            "scores": _scores(recipe, content["metrics"]),
            **about,
            "training": _training(recipe, content["metrics"], run),
            **_start(recipe),
        },
    )


def _start(recipe: Recipe) -> dict[str, Any]:
    """Return what the card tells of the weights that the run went on from: all that their own card does."""
    if not recipe.network.weights:
        return {}
    card = start_card(recipe.network.weights, recipe.network.name)
    return {"start": {"model": card.name, "sha256": card.sha256, "scores": dict(card.scores), **card.details}}


def _about(run: Path) -> dict[str, Any]:
    path = run / ABOUT
    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _scores(recipe: Recipe, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the best validation's figures in percent: ``{'camvid val': {'miou': 61.2, ...}}``."""
    names = [key.removesuffix("/miou") for key in metrics if key.endswith("/miou")]
    classes = load_label_space(recipe.label_space).names
    return {
        split_name(section, name): {
            "miou": _percent(metrics[f"{name}/miou"]),
            "pixel_accuracy": _percent(metrics[f"{name}/pixel_accuracy"]),
            "per_class_iou": {label: _percent(metrics[f"{name}/{label}"]) for label in classes},
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
