"""What a run leaves behind: recipe, metrics, curves, sample predictions, TensorBoard log, where it comes from."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from rt_seg_ros.documents import NO_YAML
from rt_seg_ros.drawing import colourise, panel
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import check_folder, write_aside, write_text
from rt_seg_ros.labels import LabelSpace, is_label_file, load_label_space
from rt_seg_ros.training.checkpoint import checkpoint_in
from rt_seg_ros.training.recipe import Recipe

METRICS, RECIPE, ABOUT, CURVES, DATA = "metrics.csv", "recipe.yaml", "about.yaml", "curves.png", "data.txt"
LABELS = "labels.yaml"  # the label space, where it is one of the user's own
Row = Mapping[str, float]
_LARGEST_SAMPLE = 2048  # pixels a side: JPEG has an end, and a disk too


class RunFolder:
    """The folder of one run.

    Making one checks that it can be written and leaves nothing in it; :meth:`begin` writes the first file. Until it is
    closed no other process can make one of the same folder.

    :param continued_at: the step that a run continues from; none: a new run
    :param needed: bytes that there must be room for
    :raises UserError: it cannot be made or written, its disk is full, another process trains in it, or (for a new run)
        it already holds one.
    """

    def __init__(self, path: Path, continued_at: int | None = None, needed: int = 0) -> None:
        self.path = path
        self._continued_at = continued_at
        self._rows: list[dict[str, float]] = []
        self._board: Any = None
        self._made: list[Path] = []
        self._let_go: Callable[[], Any] = lambda: None
        try:
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            if continued_at is None and checkpoint_in(path) is not None:
                raise UserError(
                    f"run folder {path} already holds a run: continue it with --resume {path}, "
                    "or choose another with --out"
                )
            if continued_at is None and (path / METRICS).exists():
                raise UserError(
                    f"run folder {path} holds what is left of a run that has no checkpoint: remove it, or choose "
                    "another with --out"
                )
            check_folder(path, needed)
            self._let_go = weakref.finalize(self, _let_go, _hold(path))
        except UserError:
            self.discard()
            raise
        if continued_at is not None and (path / METRICS).exists():
            # A run that is continued from an earlier checkpoint measures the rest again.
            self._rows = [row for row in read_metrics(path / METRICS) if row["step"] <= continued_at]

    def begin(self, recipe: Recipe, space: LabelSpace, about: Mapping[str, Any], root: Path | None) -> None:
        """Write down what the run is.

        :param space: the label space that is learnt
        :param about: what :func:`rt_seg_ros.training.about.describe_run` says of it
        :param root: the folder that --data names
        :raises UserError: a file cannot be written
        """
        write_text(self.path / RECIPE, recipe.to_yaml())
        if is_label_file(recipe.label_space):
            document = space.to_document()
            write_text(self.path / LABELS, yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True))
        write_text(self.path / ABOUT, yaml.safe_dump(dict(about), sort_keys=False, width=110, allow_unicode=True))
        if root is not None:
            write_text(self.path / DATA, f"{root.expanduser().resolve()}\n")
        self._board = _tensorboard(self.path / "tensorboard", self._continued_at)
        self._made = []

    def discard(self) -> None:
        """Remove the folders that were made for a run that did not begin, and let others have what was there."""
        self._let_go()
        for folder in self._made:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return

    @property
    def rows(self) -> Sequence[Row]:
        """The validations so far."""
        return self._rows

    def add(self, row: Row) -> None:
        """Write one validation's figures to metrics.csv, the curves and TensorBoard."""
        self._rows.append(dict(row))
        columns = list(dict.fromkeys(key for entry in self._rows for key in entry))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns, restval="")
        writer.writeheader()
        for entry in self._rows:
            writer.writerow({key: _plain(value) for key, value in entry.items()})
        write_text(self.path / METRICS, table.getvalue())
        draw_curves(self._rows, self.path / CURVES)
        if self._board is not None:
            with _told(self.path / "tensorboard"):
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
        rows = [[image, colourise(truth, space), colourise(guess, space)] for image, truth, guess in samples]
        height, width = (min(_LARGEST_SAMPLE, max(image.shape[axis] for image, *_ in rows)) for axis in (0, 1))
        picture = panel(rows, ("picture", "truth", "prediction"), cell=(height, width))
        folder = self.path / "samples"
        with _told(folder):
            folder.mkdir(exist_ok=True)
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
        write_aside(folder / f"step_{step:07d}.jpg", lambda file: file.write(coded.tobytes()))

    def close(self) -> None:
        """Finish the TensorBoard log, and let others have the folder."""
        try:
            if self._board is not None:
                with _told(self.path / "tensorboard"):
                    self._board.close()
        finally:
            self._board = None
            self._let_go()


def _hold(folder: Path) -> int:
    """Return an open file that keeps a folder from others until it is closed, also by the end of the process.

    :raises UserError: another has it
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise UserError(f"another process trains in run folder {folder}: wait for its end") from None
    except OSError:  # a network's file system without such locks
        pass
    _held.add(held)
    return held


def _let_go(held: int) -> None:
    if held in _held:
        _held.discard(held)
        os.close(held)


def _let_go_of_all() -> None:
    for held in tuple(_held):
        _let_go(held)


_held: set[int] = set()
os.register_at_fork(after_in_child=_let_go_of_all)  # processes that read pictures outlive a run that is killed


def remembered_data(run: Path) -> Path | None:
    """Return the data set folder that a run was given; none where it was given none."""
    path = run / DATA
    return Path(path.read_text(encoding="utf-8").strip()) if path.is_file() else None


def label_space_of(run: Path, recipe: Recipe) -> LabelSpace:
    """Return the label space that a run learnt, also where its file has changed or gone since.

    :raises UserError: it cannot be loaded
    """
    kept = is_label_file(recipe.label_space) and (run / LABELS).is_file()
    return load_label_space(run / LABELS if kept else recipe.label_space)


def read_about(run: Path) -> dict[str, Any]:
    """Read a run folder's about.yaml; nothing where there is none.

    :raises UserError: it cannot be read
    """
    path = run / ABOUT
    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, *NO_YAML) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a metrics.csv, one dict per validation.

    :raises UserError: it cannot be read, or was changed into something else
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if any("step" not in row for row in rows):
        raise UserError(f"{path} cannot be read: it is no table of validations")
    return rows


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw loss and mIoU over epochs, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    for key in (key for key in rows[-1] if key.endswith("/miou")):
        points = [(row["epoch"], 100 * row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), marker=".", label=f"{key.removesuffix('/miou')}: {points[-1][1]:.1f}")
    right.set(xlabel="epoch", ylabel="mIoU [%]")
    right.grid(alpha=0.3)
    if right.lines:
        right.legend(loc="lower right")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_aside(path, lambda file: file.write(drawn.getvalue()))


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn a failure to write into one that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _tensorboard(path: Path, continued_at: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with _told(path):
        return SummaryWriter(str(path), purge_step=None if continued_at is None else continued_at + 1)
