"""``rt-seg ablate``: rebuild, count and train the rows of the papers' ablation tables."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from rt_seg_ros.cli.console import TableConsole
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space

if TYPE_CHECKING:
    from rt_seg_ros.training.ablation import AblationTable
    from rt_seg_ros.training.ablation_report import Outcome
    from rt_seg_ros.training.recipe import Recipe
    from rt_seg_ros.zoo import ModelCard

SUMMARY = "train the papers' ablation tables, row by row"
EPILOG = """\
TABLE is a name from --list, a pattern of names ('cgnet*'), or the path of a .yaml file of your own, in the manner of
config/ablations. All rows of a table train under one budget: one recipe, the same number of steps, the same seed.

examples:
  rt-seg ablate --list                                             the tables there are
  rt-seg ablate --list csrnet_table3                               its rows
  rt-seg ablate crosscbam_table5 --dry                             parameters and MACs beside the paper's
  rt-seg ablate cgnet_table2 --data camvid schedule.max_steps=3000
  rt-seg ablate csrnet_table3 --rows light,light_no_spfm --data camvid network.backbone_weights=r18.safetensors
  rt-seg ablate 'frfnet*' --recipe frfnet_camvid_cpu --minutes-per-row 30 --data camvid --out runs/frfnet

the folder (--out) holds for every table:
  TABLE/ROW/                 the row's run folder, as rt-seg train leaves it, with its weights
  TABLE/table.md, table.csv  figures here and in the paper, written anew as each row ends
The same command again continues: finished rows are kept, also those that another table in the folder shares, and an
interrupted row goes on from its checkpoint.

exit status: 0 every row is trained; 2 something to correct, or a row whose loss became NaN (the others are trained all
the same); 3 stopped by Ctrl-C or SIGTERM, after writing a checkpoint
"""
_USAGE = """rt-seg ablate TABLE ... [KEY=VALUE ...] [--rows NAME,...] [--data DIR] [--out DIR]
       rt-seg ablate [TABLE ...] --dry [--markdown]
       rt-seg ablate --list [TABLE ...]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = _USAGE
    parser.add_argument(
        "words",
        nargs="*",
        metavar="TABLE KEY=VALUE",
        help="tables; then values to override in the recipe of every row, such as schedule.max_steps=3000",
    )
    parser.add_argument("--rows", metavar="NAME,...", help="only these rows of the table (default: all)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set folder that the recipe's paths start at")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/ablations"),
        metavar="DIR",
        help="where run folders and results go, and where to continue from (default: %(default)s)",
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="train by this one (default: the table's, the paper's)")
    parser.add_argument(
        "--minutes-per-row",
        type=float,
        metavar="N",
        help="end each row after so many minutes; rows then differ in steps, for what is slow gets fewer",
    )
    parser.add_argument("--dry", action="store_true", help="print parameters and MACs, train nothing")
    parser.add_argument("--markdown", action="store_true", help="with --dry: print Markdown")
    parser.add_argument("--list", action="store_true", help="list the tables, or the rows of those named, and exit")


def run(args: argparse.Namespace) -> int:
    """List, count or train; return the exit status."""
    from rt_seg_ros.training.ablation import find_tables, list_tables

    overrides = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word]
    if not names and not (args.list or args.dry):
        raise UserError(f"name a table: {', '.join(list_tables())}, or the path of a .yaml file")
    tables = {table.name: table for name in names or ["*"] for table in find_tables(name)}
    if args.list:
        for table in tables.values():
            _list(table, rows=bool(names))
        return 0
    if args.rows is not None and len(tables) != 1:
        raise UserError(f"--rows chooses from one table; named are {', '.join(tables)}")
    if args.minutes_per_row is not None:
        overrides.append(f"schedule.max_minutes={args.minutes_per_row}")

    wanted = [name.strip() for name in args.rows.split(",") if name.strip()] if args.rows is not None else []
    chosen = {(table.name, row.name) for table in tables.values() for row in table.choose(wanted)}
    # Everything that can be wrong with any row is found before the first one trains.
    plan = _plan(list(tables.values()), args.recipe, overrides)
    if args.dry:
        for table, outcomes in plan:
            _print(table, [o for o in outcomes if (table.name, o.row.name) in chosen], args.markdown)
        return 0
    return _train(plan, chosen, args.data, args.out)


Plan = list[tuple["AblationTable", list["Outcome"]]]


def _plan(tables: list[AblationTable], base: str | None, overrides: list[str]) -> Plan:
    """Make every row's recipe, and build every network once to count it."""
    from rt_seg_ros.training.ablation import row_cost, row_recipe
    from rt_seg_ros.training.ablation_report import Outcome

    rows = [(table, row, row_recipe(table, row, base, overrides)) for table in tables for row in table.rows]
    plan: dict[str, tuple[AblationTable, list[Outcome]]] = {table.name: (table, []) for table in tables}
    for table, row, recipe in progress(rows, "counting"):
        plan[table.name][1].append(Outcome(row, recipe, row_cost(table, row, recipe)))
    return list(plan.values())


def _train(plan: Plan, chosen: set[tuple[str, str]], data: Path | None, out: Path) -> int:
    """Train the chosen rows; the tables tell of the others too, where they were trained before."""
    from rt_seg_ros.training.ablation_report import write_report
    from rt_seg_ros.training.checks import check_recipe
    from rt_seg_ros.training.loop import TrainingError

    for table, outcomes in plan:
        for outcome in outcomes:
            if (table.name, outcome.row.name) in chosen:
                check_recipe(outcome.recipe, load_label_space(outcome.recipe.label_space))
                _check_same(out / table.name / outcome.row.name, outcome.recipe, data)
    done = _finished_runs(out)
    failed = []
    for table, outcomes in plan:
        for outcome in outcomes:
            outcome.card = done.get(_identity(outcome.recipe, data))
        for outcome in outcomes:
            run = out / table.name / outcome.row.name
            if (table.name, outcome.row.name) not in chosen:
                continue
            print(f"{table.name}, {outcome.row.name}: {outcome.row.label}", flush=True)
            if outcome.card is not None:
                print("  trained already", flush=True)
                continue
            try:
                outcome.card = _train_row(run, outcome.recipe, data)
                outcome.state = "" if outcome.card else "stopped"
            except TrainingError as error:  # a row that diverges is a result; the others are worth their time
                outcome.state = "diverged"
                failed.append(f"{table.name}, {outcome.row.name}: {error}")
            if outcome.card is not None:
                done[_identity(outcome.recipe, data)] = outcome.card
            write_report(out / table.name, table, outcomes)
            if outcome.state == "stopped":
                print("stopped; the same command continues")
                return 3
        paths = write_report(out / table.name, table, outcomes)
        _print(table, outcomes)
        print(f"results: {', '.join(map(str, paths))}")
    if failed:
        raise UserError("\n".join(["rows that came to no end:", *failed]))
    return 0


def _train_row(run: Path, recipe: Recipe, data: Path | None) -> ModelCard | None:
    """Train a row, or go on with it; return its weights' card, or None where it was asked to stop."""
    from rt_seg_ros.cli.train import Display
    from rt_seg_ros.training.checkpoint import checkpoint_in, read_checkpoint
    from rt_seg_ros.training.loop import Trainer
    from rt_seg_ros.training.run_folder import METRICS
    from rt_seg_ros.training.weights import export_weights

    checkpoint = None
    if checkpoint_in(run) is not None:
        checkpoint = read_checkpoint(run)
        print(f"  continuing at step {checkpoint['step']}", flush=True)
    else:
        (run / METRICS).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
    with Display() as display:
        trainer = Trainer(recipe, data, run, display, checkpoint)
        ended = trainer.run()
    return export_weights(run) if ended else None


def _identity(recipe: Recipe, data: Path | None) -> str:
    """Write what decides a run as one line."""
    folder = str(data.expanduser().resolve()) if data is not None else ""
    return folder + recipe.model_copy(update={"description": ""}).model_dump_json()


def _check_same(run: Path, recipe: Recipe, data: Path | None) -> None:
    """Refuse to go on with a run of another recipe, or on other data.

    :raises UserError: naming what differs
    """
    from rt_seg_ros.training.checkpoint import checkpoint_in
    from rt_seg_ros.training.recipe_files import load_recipe
    from rt_seg_ros.training.run_folder import RECIPE, remembered_data

    if not (run / RECIPE).is_file() or checkpoint_in(run) is None:
        return  # nothing was learnt here yet
    there, before = load_recipe(run / RECIPE), remembered_data(run)
    if _identity(there, before) == _identity(recipe, data):
        return
    theirs, ours = _leaves(there.model_dump(mode="json")), _leaves(recipe.model_dump(mode="json"))
    keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key) and key != "description"]
    told = [f"{key} was {theirs.get(key)}, now {ours.get(key)}" for key in keys[:4]] + ["..."][: len(keys) > 4]
    told = told or [f"--data was {before}, now {data}"]
    raise UserError(
        f"{run} was trained otherwise ({'; '.join(told)}), and the rows of a table must be trained alike: "
        "give what was given before, or another --out"
    )


def _leaves(document: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return ``{'key.sub': value}`` of a nested document."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{above}{key}.")
        else:
            leaves[above + key] = value
    return leaves


def _finished_runs(out: Path) -> dict[str, ModelCard]:
    """Return the weights' cards of all finished rows under a folder, by what decided them."""
    from rt_seg_ros.training.recipe_files import load_recipe
    from rt_seg_ros.training.run_folder import RECIPE, label_space_of, remembered_data
    from rt_seg_ros.zoo import read_card

    found = {}
    for path in sorted(out.glob(f"*/*/{RECIPE}")):
        recipe = load_recipe(path)
        card = path.parent / f"{recipe.network.name}_{label_space_of(path.parent, recipe).name}.yaml"
        if card.is_file():
            found[_identity(recipe, remembered_data(path.parent))] = read_card(card)
    return found


def _list(table: AblationTable, rows: bool) -> None:
    print(f"{table.name:<18} {table.title} ({len(table.rows)} rows)")
    if not rows:
        return
    print(f"  {table.paper}\n  measured on {table.measured_on}; trained here by {table.recipe}")
    width = max(len(row.name) for row in table.rows)
    for row in table.rows:
        options = ", ".join(f"{key}={value}" for key, value in {**row.network.options, **row.overrides}.items())
        network = f"{row.network.name}{f' ({options})' if options else ''}"
        print(f"  {row.name:<{width}}  {row.paper.miou:g} %  {row.label}: {network}")


def _print(table: AblationTable, outcomes: list[Outcome], as_markdown: bool = False) -> None:
    from rt_seg_ros.training.ablation_report import cells, markdown, notes

    if as_markdown:
        print(markdown(table, outcomes))
        return
    headings, rows = cells(table, outcomes)
    title = f"{table.name}: {table.title}"
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for i, (heading, number) in enumerate(headings):
        width = max(len(row[i]) for row in rows) if number or heading in ("name", "against") else None
        shown.add_column(heading, justify="right" if number else "left", min_width=width)  # figures are never cut
    for row in rows:
        shown.add_row(*map(escape, row))
    console = TableConsole()
    if not console.is_terminal:
        console.width = 200  # a log or a pipe has no edge to wrap at
    console.print(shown, crop=False)
    console.print("\n".join(notes(table, outcomes)), highlight=False, markup=False, soft_wrap=True)
