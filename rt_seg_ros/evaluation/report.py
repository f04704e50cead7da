"""What an evaluation leaves on the disk: its figures as JSON, and the confusion matrix as a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.offline import Evaluation

METRICS, CONFUSION = "metrics.json", "confusion.png"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON aside and move it into place.

    :raises UserError: the file cannot be written
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_report(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write metrics.json and, where matplotlib is installed, confusion.png.

    :return: the files
    :raises UserError: the folder cannot be written
    """
    write_json(folder / METRICS, evaluation.to_dict())
    drawn = draw_confusion(evaluation, folder / CONFUSION)
    return [folder / METRICS, *([folder / CONFUSION] if drawn else [])]


def draw_confusion(evaluation: Evaluation, path: Path) -> bool:
    """Draw the confusion matrix, each true class's row in percent of its pixels.

    :return: whether matplotlib was there to do it
    :raises UserError: the file cannot be written
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = evaluation.segmenter.label_space.names
    matrix = evaluation.matrix
    truth = matrix.matrix.sum(axis=1, keepdims=True) + matrix.missed[:, None]
    shares = 100.0 * matrix.matrix / np.maximum(truth, 1)
    side = 2.5 + 0.5 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 0.5):
        share = shares[row, column]
        colour = "white" if share > 60 else "black"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="truth", title=f"{evaluation.name}: percent of each true class")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return True
