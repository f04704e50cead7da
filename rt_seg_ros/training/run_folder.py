"""What a run leaves behind: recipe, metrics, curves, sample predictions, TensorBoard log, where it comes from."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.training.recipe import Recipe

METRICS, RECIPE, ABOUT, CURVES = "metrics.csv", "recipe.yaml", "about.yaml", "curves.png"
Row = Mapping[str, float]


class RunFolder:
    """The folder of one run.

    :raises UserError: it cannot be made or written, or (for a new run) it already holds one.
    """

    def __init__(self, path: Path, recipe: Recipe, continued_at: int | None = None) -> None:
        self.path = path
        self._rows: list[dict[str, float]] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".write-test"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
        except OSError as error:
            raise UserError(f"run folder {path} cannot be written: {error.strerror}; take another --out") from error
        if continued_at is None:
            if (path / METRICS).exists() or (path / "last.pt").exists():
                raise UserError(
                    f"run folder {path} already holds a run: continue it with --resume {path}, "
                    "or choose another with --out"
                )
        elif (path / METRICS).exists():
            # A run that is continued from an earlier checkpoint measures the rest again.
            self._rows = [row for row in read_metrics(path / METRICS) if row["step"] <= continued_at]
        _write(path / RECIPE, recipe.to_yaml())
        self._board = _tensorboard(path / "tensorboard", continued_at)

    @property
    def rows(self) -> Sequence[Row]:
        """The validations so far."""
        return self._rows

    def describe(self, about: Mapping[str, Any]) -> None:
        """Write what :func:`rt_seg_ros.training.about.describe_run` says of the run."""
        text = yaml.safe_dump(dict(about), sort_keys=False, width=110, allow_unicode=True)
        _write(self.path / ABOUT, text)

    def add(self, row: Row) -> None:
        """Write one validation's figures to metrics.csv, the curves and TensorBoard."""
        self._rows.append(dict(row))
        columns = list(dict.fromkeys(key for entry in self._rows for key in entry))
        aside = self.path / f".{METRICS}"
        try:
            with aside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                for entry in self._rows:
                    writer.writerow({key: _plain(value) for key, value in entry.items()})
            os.replace(aside, self.path / METRICS)
        except OSError as error:
            raise UserError(f"{self.path / METRICS} cannot be written: {error.strerror}") from error
        draw_curves(self._rows, self.path / CURVES)
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, value, int(row["step"]))
            self._board.flush()

    def add_samples(
        self,
        step: int,
        samples: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]],
        space: LabelSpace,
    ) -> None:
        """Write a picture of (BGR image, truth, prediction) rows, each uint8 of one height and width."""
        if not samples:
            return
        palette = space.palette[:, ::-1]
        rows = [np.concatenate([image, palette[truth], palette[guess]], axis=1) for image, truth, guess in samples]
        width = min(row.shape[1] for row in rows)
        picture = np.concatenate([row[:, :width] for row in rows])
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"step_{step:07d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])

    def close(self) -> None:
        """Finish the TensorBoard log."""
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a metrics.csv, one dict per validation."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw loss and mIoU over epochs, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows])
    left.set(xlabel="epoch", ylabel="training loss")
    for key in (key for key in rows[-1] if key.endswith("/miou")):
        points = [(row["epoch"], 100 * row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), label=f"{key.removesuffix('/miou')}: {points[-1][1]:.1f}")
    right.set(xlabel="epoch", ylabel="mIoU [%]")
    right.grid(alpha=0.3)
    if right.lines:
        right.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def commit() -> str:
    """Return the commit this package is at, with ``+changes`` where files differ; ``unknown`` outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _tensorboard(path: Path, continued_at: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path), purge_step=None if continued_at is None else continued_at + 1)
