"""``rt-seg train``: a recipe in, a run folder and weights out."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from rt_seg_ros.cli.options import ALLOW_PICKLE
from rt_seg_ros.cli.output import Output
from rt_seg_ros.errors import UserError
from rt_seg_ros.pickles import SAFE_SUFFIX
from rt_seg_ros.training.watcher import Progress, Watcher

if TYPE_CHECKING:
    from rt_seg_ros.training.recipe import Recipe
    from rt_seg_ros.training.validation import SplitScore

SUMMARY = "train a network from a recipe"
EPILOG = """\
A recipe is a YAML document that decides everything: data, augmentation, network, loss, optimiser, schedule, run. It
may inherit another. Those of the package lie in config/train; NETWORK_camvid does best here, NETWORK_camvid_paper and
NETWORK_cityscapes_paper are what the network's paper says. Any value can be overridden: key.sub=value, checked before
anything is read.

examples:
  rt-seg train --list                                         the recipes, with what each is
  rt-seg train cgnet_camvid --data camvid                     train; writes runs/cgnet_camvid-<time>
  rt-seg train cgnet_camvid --data camvid schedule.epochs=50 run.device=cpu
  rt-seg train cgnet_camvid --data camvid data.train.1.weight=0.3 'augment.crop=[240, 320]'
  rt-seg train cgnet_camvid --data mine --weights cgnet       go on from weights: the package's, or a file's
  rt-seg train mine.yaml --data mine --weights cgnet --partial   classes of your own: all but the classifier goes on
  rt-seg train csrnet_light_camvid_paper --data camvid --backbone-weights resnet18.pth --allow-pickle
  rt-seg train mine.yaml --data pictures                      a recipe of your own; 'inherits: cgnet_camvid' in it
  rt-seg train --resume runs/cgnet_camvid-20260101-120000     continue after Ctrl-C, or a crash
  rt-seg train --resume RUN --export-weights my.safetensors   write a run's best weights, train no further
  rt-seg train cgnet_camvid --data camvid --time-steps 50     where a step's time goes; trains nothing

several GPUs, or machines: torchrun starts the processes, which share every batch (schedule.batch is that of all)
  torchrun --nproc-per-node 4 -m rt_seg_ros.cli train frfnet_cityscapes_paper --data cityscapes --out runs/frfnet

pictures are held in memory, on the device, where they fit data.memory_gib; else processes read them (run.workers)

the run folder holds:
  recipe.yaml, about.yaml     everything that decided the run; the command that repeats it, data, machine, commit
  metrics.csv, curves.png     loss, rate and scores of each validation; tensorboard/ has the same
  samples/                    picture | truth | prediction of a few frames, per validation
  last.pt, previous.pt        checkpoints to continue from; best.pt the best weights so far
  NETWORK_SPACE.safetensors   at the end: the best weights, with a card (.yaml); give it as --weights

data set layouts: <split>/ with <split>annot/ (CamVid), leftImg8bit/ with gtFine/ (Cityscapes), images/ with labels/
exit status: 0 the run came to its end; 2 something to correct, said before any epoch, or a file that could not be
written; 3 stopped by Ctrl-C or SIGTERM, after writing a checkpoint; 130 stopped before there was anything to keep
a terminal that closes counts as Ctrl-C; where only what is printed finds no reader, the run goes on to its end
to score what came out: rt-seg evaluate
"""
_USAGE = """rt-seg train RECIPE [KEY=VALUE ...] [--data DIR] [--out DIR] [--weights NAME|FILE [--partial]]
       rt-seg train --resume RUN [KEY=VALUE ...] [--data DIR] [--export-weights FILE]
       rt-seg train --list"""
_LINE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = _USAGE
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE KEY=VALUE",
        help="a recipe's name or .yaml file; then values to override, such as schedule.epochs=50",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set folder that the recipe's paths start at")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/<recipe>-<time>)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run folder or checkpoint to continue from")
    parser.add_argument(
        "--weights", metavar="NAME|FILE", help="begin with these: a model of rt-seg models, or a .safetensors file"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="take of --weights what fits by name and shape: also of another network, or for other classes",
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="begin with this backbone: torchvision's ResNet-18 for CSRNet, the authors' STDC for Cross-CBAM",
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help=f"{ALLOW_PICKLE}; also of --backbone-weights; not with --partial"
    )
    parser.add_argument("--export-weights", type=Path, metavar="FILE", help="write the best weights here, with a card")
    parser.add_argument(
        "--time-steps",
        type=int,
        metavar="N",
        help="time N steps beside the bare forward and backward passes, write nothing, and exit",
    )
    parser.add_argument("--list", action="store_true", help="list the recipes and exit")


def run(args: argparse.Namespace) -> int:
    """Train; return the exit status: 0 at the end of the run, 3 where it was asked to stop before."""
    from rt_seg_ros.training.recipe_files import list_recipes, load_recipe
    from rt_seg_ros.training.run_folder import LABELS, RECIPE

    if args.list:
        recipes = {name: load_recipe(name) for name in list_recipes()}
        width = max(map(len, recipes))
        for name, recipe in recipes.items():
            print(f"{name:<{width}}  {recipe.description}")
        return 0
    _check_export(args.export_weights)
    overrides = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"one recipe at a time, not {' and '.join(names)}; overrides are written key=value")
    if args.time_steps is not None:
        if args.resume is not None or args.export_weights is not None or args.out is not None:
            raise UserError(
                "--time-steps times a RECIPE and writes nothing: leave --resume, --export-weights and --out away"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("--time-steps times one process: start it without torchrun")
    if args.resume is not None:
        if names or args.out:
            raise UserError("--resume takes recipe and folder from the run: leave RECIPE and --out away")
        if args.weights or args.partial or args.backbone_weights:
            raise UserError(
                "--resume takes the weights of the run: leave --weights, --partial and --backbone-weights away"
            )
        return _continue(args.resume, args.data, overrides, args.export_weights)
    if not names:
        raise UserError(f"name a recipe: {', '.join(list_recipes())}, or the path of a .yaml file")
    if args.weights:
        overrides.append(f"network.weights={json.dumps(args.weights)}")  # JSON is YAML on one line
    if args.partial:
        overrides.append("network.partial=true")
    if args.backbone_weights:
        overrides.append(f"network.backbone_weights={json.dumps(str(args.backbone_weights))}")
    if args.allow_pickle:
        overrides.append("network.allow_pickle=true")
    recipe = load_recipe(names[0], overrides)
    if args.time_steps is not None:
        return _time_steps(recipe, args.data, args.time_steps)
    if args.out is not None and Path(names[0]).resolve() == (args.out / RECIPE).resolve():
        raise UserError(f"--out {args.out} holds the recipe itself, which the run's would replace: choose another")
    if args.out is not None and Path(recipe.label_space).resolve() == (args.out / LABELS).resolve():
        raise UserError(f"--out {args.out} holds the label space, which the run's would replace: choose another")
    out = args.out or Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return _train(recipe, args.data, out, None, args.export_weights)


def _continue(run_path: Path, data: Path | None, overrides: list[str], export: Path | None) -> int:
    import yaml

    from rt_seg_ros.training.checkpoint import read_checkpoint
    from rt_seg_ros.training.recipe_files import override_document, parse_recipe, resolve_label_space
    from rt_seg_ros.training.run_folder import remembered_data

    folder = run_path if run_path.is_dir() else run_path.parent
    if export is not None and not overrides:
        return _finish(folder, True, export)
    checkpoint = read_checkpoint(run_path)
    if "network" not in checkpoint:
        raise UserError(
            f"{run_path} holds the best weights alone: continue the run with --resume {folder}, or begin another "
            "from its weights with --weights"
        )
    document = yaml.safe_load(checkpoint["recipe"])
    for override in overrides:
        override_document(document, override)
    resolve_label_space(document, Path.cwd())
    recipe = parse_recipe(document, f"recipe of {run_path}")
    if data is None:
        data = remembered_data(folder)
        _check_in_its_place(recipe, data)
    return _train(recipe, data, folder, checkpoint, export)


def _check_in_its_place(recipe: Recipe, data: Path | None) -> None:
    """Refuse to continue where the data set was moved since: only the user knows where to.

    :raises UserError: naming the folder that is gone
    """
    if data is None:
        return
    paths = [Path(s.path).expanduser() for s in (*recipe.data.train, *recipe.data.val) if s.path is not None]
    for path in paths:
        if not path.is_absolute() and not (data / path).exists():  # of full paths --data decides nothing
            raise UserError(f"data set folder {data / path} does not exist: give its new place by --data")


def _train(recipe: Recipe, data: Path | None, out: Path, checkpoint: dict[str, Any] | None, export: Path | None) -> int:
    """Train alone, or as one of the processes that torchrun started, of which the first tells of it."""
    from rt_seg_ros.training.distributed import FailedElsewhere, join_world
    from rt_seg_ros.training.loop import Trainer

    try:
        with join_world(recipe.run.device) as world:
            if not world.leads:
                return 0 if Trainer(recipe, data, out, None, checkpoint, world).run() else 3
            with Display() as display:
                ended = Trainer(recipe, data, out, display, checkpoint, world).run()
    except FailedElsewhere:
        return 2  # where it failed it is said
    return _finish(out, ended, export)


def _time_steps(recipe: Recipe, data: Path | None, steps: int) -> int:
    from rt_seg_ros.training.timing import time_steps

    if steps < 1:
        raise UserError(f"--time-steps {steps}: at least 1 is needed")
    with Display() as display:
        timing = time_steps(recipe, data, steps, display)
    print(timing.told())
    return 0


def _check_export(path: Path | None) -> None:
    """Refuse to write weights, or the card beside them, over something, or under a name that nothing would load.

    :raises UserError: naming what is in the way
    """
    if path is not None and path.suffix != SAFE_SUFFIX:
        raise UserError(f"--export-weights {path}: weights are called NAME{SAFE_SUFFIX}")
    for target in (path, path.with_suffix(".yaml")) if path is not None else ():
        if target.exists():
            raise UserError(f"--export-weights {path}: {target} exists already; choose another name, or move it away")


def _finish(out: Path, ended: bool, export: Path | None) -> int:
    from rt_seg_ros.training.weights import export_weights

    output = Output(sys.stdout)
    if not ended:
        output.line(f"stopped; continue with: {shlex.join(['rt-seg', 'train', '--resume', str(out)])}")
        return 3
    if export is not None:
        export_weights(out)  # the run folder's own
    card = export_weights(out, export)
    scores = ", ".join(f"{name} {score['miou']:.1f} %" for name, score in card.scores.items())
    output.line(f"best mIoU: {scores or 'not measured'}\nweights {card.weights}; run folder {out}")
    use = shlex.join(["rt-seg", "segment", "photo.jpg", "--model", card.network, "--weights", str(card.weights)])
    output.line(f"to use them: {use}")
    return 0


class Display(Watcher):
    """Shows a run: a bar on a terminal, a line now and then elsewhere. Use as a context manager.

    It never fails: where nobody can be shown anything, it keeps silent.
    """

    def __init__(self) -> None:
        self._output = Output(sys.stdout)
        self._console = Console(file=Output(sys.stderr))  # type: ignore[arg-type]
        self._live = self._console.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=self._console, disable=not self._live)
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def on_preparing(self, what: str, done: int, total: int) -> None:
        """Show data being read or rendered."""
        self._show(what, done, total, f"{done}/{total}")
        if done == total:
            if self._live:
                self._bars.remove_task(self._tasks.pop(what))
            else:
                self._output.line(f"{what}: {total} frames")

    def on_step(self, progress: Progress) -> None:
        """Show the loss, the rate, the speed and the time left."""
        state = (
            f"step {progress.step} epoch {progress.epoch:.1f} loss {progress.loss:.3f} lr {progress.rate:.2e} "
            f"{progress.images_per_second:.1f} images/s, {_clock(progress.seconds_left)} left"
        )
        self._show("training", round(1000 * progress.share), 1000, state)
        if not self._live and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._output.line(state)

    def on_validation(self, progress: Progress, scores: list[SplitScore], best: bool) -> None:
        """Print the scores."""
        figures = ", ".join(f"{s.name} {100 * s.matrix.miou():.2f}" for s in scores)
        mark = " (best)" if best else ""
        self.on_message(f"epoch {progress.epoch:.1f}: loss {progress.loss:.3f}, mIoU {figures or 'not measured'}{mark}")

    def on_message(self, text: str) -> None:
        """Print a line."""
        if self._live:
            self._bars.console.print(text, highlight=False)
        else:
            self._output.line(text)

    def _show(self, what: str, done: int, total: int, state: str) -> None:
        if not self._live:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, state=state)
        self._bars.update(self._tasks[what], completed=done, state=state)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
