"""From a run folder to a weight file with its card."""

from __future__ import annotations

from pathlib import Path

from rt_seg_ros.errors import UserError
from rt_seg_ros.training.about import card_of_run, needed_in_use
from rt_seg_ros.training.checkpoint import BEST, read_checkpoint, recipe_in
from rt_seg_ros.training.run_folder import read_about
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
    recipe = recipe_in(content, str(run / BEST))
    needed = needed_in_use(run, recipe)
    path = path or run / f"{recipe.network.name}_{needed['label_space'].name}.safetensors"
    start = read_about(run).get("start") or describe_start(recipe)
    card = card_of_run(run, recipe, content["metrics"], start)
    return save_weights(path, content["weights"], **needed, card=card)
