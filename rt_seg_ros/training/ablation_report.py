"""What the rows of an ablation table came to, beside the paper's figures: as cells, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt_seg_ros.files import write_text
from rt_seg_ros.training.ablation import AblationTable, Cost, Row
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.zoo import ModelCard

MARKDOWN, CSV = "table.md", "table.csv"


@dataclass
class Outcome:
    """What a row came to. ``card`` is that of its weights once trained; ``state`` says why there is none."""

    row: Row
    recipe: Recipe
    cost: Cost
    state: str = ""
    card: ModelCard | None = None

    @property
    def measured_on(self) -> str:
        """The split that the score is of: the first that was measured, which also chose the weights."""
        return next(iter(self.card.scores), "") if self.card else ""

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent."""
        return float(self.card.scores[self.measured_on]["miou"]) if self.card and self.card.scores else None

    @property
    def steps(self) -> int | None:
        """Steps that the run took."""
        return int(self.card.details["training"]["steps"]) if self.card else None


@dataclass(frozen=True)
class _Column:
    """``cell`` gives text; a column whose cells are all empty is left out."""

    heading: str
    cell: Callable[[Outcome], str]
    number: bool = True


def cells(table: AblationTable, outcomes: Sequence[Outcome]) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Return (heading, whether it is a column of numbers) of each column, and the rows' cells."""
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    counted_apart = [o for o in outcomes if o.cost.parameters != o.cost.parameters_as_paper]
    operations_apart = [o for o in outcomes if o.cost.macs != o.cost.operations_as_paper]
    trained = any(outcome.card or outcome.state for outcome in outcomes)
    paper_rows = {row.name: row.paper for row in table.rows}

    def difference(outcome: Outcome) -> str:
        other = by_name.get(outcome.row.against or "")
        if other is None or outcome.miou is None or other.miou is None:
            return ""
        return f"{outcome.miou - other.miou:+.2f}"

    def paper_difference(outcome: Outcome) -> str:
        other = paper_rows.get(outcome.row.against or "")
        return "" if other is None else f"{outcome.row.paper.miou - other.miou:+.2f}"

    def score(outcome: Outcome) -> str:
        if outcome.miou is None:
            return outcome.state or ("not measured" if outcome.card else "-")
        return f"{outcome.miou:.2f}"

    def paper_figure(key: str) -> Callable[[Outcome], str]:
        decimals = max(_decimals(getattr(row.paper, key)) for row in table.rows)

        def figure(outcome: Outcome) -> str:
            value = getattr(outcome.row.paper, key)
            return "" if value is None else f"{value:.{decimals}f}"

        return figure

    columns = [
        _Column("name", lambda o: o.row.name, number=False),
        _Column("row", lambda o: o.row.label, number=False),
        _Column("params M", lambda o: f"{o.cost.parameters / 1e6:.3f}"),
        _Column("as paper counts", lambda o: f"{o.cost.parameters_as_paper / 1e6:.2f}" if counted_apart else ""),
        _Column("paper M", paper_figure("parameters")),
        _Column("MACs G", lambda o: f"{o.cost.macs / 1e9:.2f}"),
        _Column("as paper counts", lambda o: f"{o.cost.operations_as_paper / 1e9:.2f}" if operations_apart else ""),
        _Column("paper G", paper_figure("gflops")),
        _Column("mIoU %", lambda o: score(o) if trained else ""),
        _Column("against", lambda o: o.row.against or "", number=False),
        _Column("diff.", difference),
        _Column("paper mIoU %", paper_figure("miou")),
        _Column("paper diff.", paper_difference),
        _Column("paper fps", paper_figure("fps")),
        _Column("steps", lambda o: "" if o.steps is None else str(o.steps)),
    ]
    shown = [column for column in columns if any(column.cell(outcome) for outcome in outcomes)]
    return (
        [(column.heading, column.number) for column in shown],
        [[column.cell(outcome) for column in shown] for outcome in outcomes],
    )


def notes(table: AblationTable, outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a reader of the cells must know, a sentence or two to the line."""
    counted = table.counted
    height, width = counted.size
    lines = [f"Paper: {table.paper}; measured on {table.measured_on}."]
    scored = next((outcome for outcome in outcomes if outcome.miou is not None), None)
    if scored is not None:
        kept = scored.recipe.run.keep
        lines.append(f"Here: mIoU on {scored.measured_on} of each run's {kept} weights; {_budget(scored.recipe)}.")
    lines.append(
        f"Parameters and MACs are of the deployed network with {counted.classes} classes, at {width}x{height}."
    )
    apart = [
        "with " + ", ".join(f"{key}={value}" for key, value in counted.options.items()) if counted.options else "",
        "with the auxiliary heads" if counted.auxiliary else "",
        "with layers that are built but not run" if any(o.row.paper.unused_parameters for o in outcomes) else "",
        "operations as mmcv counts them" if counted.operations == "mmcv" else "",
    ]
    if any(apart):
        lines.append(f"As the paper counts: {', '.join(part for part in apart if part)}.")
    return [*lines, table.note.strip()] if table.note else lines


def markdown(table: AblationTable, outcomes: Sequence[Outcome]) -> str:
    """Return the table as Markdown, under a heading and with its notes."""
    headings, rows = cells(table, outcomes)

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"

    lines = [
        f"### {table.name}: {table.title}",
        "",
        line([heading for heading, _ in headings]),
        f"|{'|'.join('--:' if number else '---' for _, number in headings)}|",
        *map(line, rows),
        "",
        "\n".join(notes(table, outcomes)),
    ]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, table: AblationTable, outcomes: Sequence[Outcome]) -> tuple[Path, Path]:
    """Write table.md and table.csv, each aside and then moved into place; return their paths.

    :raises UserError: the folder cannot be written
    """
    write_text(folder / MARKDOWN, markdown(table, outcomes))
    write_text(folder / CSV, _csv(table, outcomes))
    return folder / MARKDOWN, folder / CSV


def _csv(table: AblationTable, outcomes: Sequence[Outcome]) -> str:
    height, width = table.counted.size
    lines = [
        {
            "table": table.name,
            "row": outcome.row.name,
            "label": outcome.row.label,
            "network": outcome.recipe.network.name,
            "options": json.dumps(outcome.recipe.network.options),
            "state": "trained" if outcome.card else outcome.state or "not trained",
            "parameters": outcome.cost.parameters,
            "macs": outcome.cost.macs,
            "parameters_as_paper": outcome.cost.parameters_as_paper,
            "operations_as_paper": outcome.cost.operations_as_paper,
            "counted_classes": table.counted.classes,
            "counted_height": height,
            "counted_width": width,
            "miou": outcome.miou,
            "measured_on": outcome.measured_on,
            "recipe": outcome.recipe.name,
            "seed": outcome.recipe.run.seed,
            "batch": outcome.recipe.schedule.batch,
            "steps": outcome.steps,
            "minutes": outcome.card.details["training"]["minutes"] if outcome.card else None,
            "against": outcome.row.against,
            **{
                f"paper_{key}": value
                for key, value in outcome.row.paper.model_dump(exclude={"unused_parameters"}).items()
            },
            "paper_measured_on": table.measured_on,
        }
        for outcome in outcomes
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _budget(recipe: Recipe) -> str:
    """Say what every row was given."""
    schedule = recipe.schedule
    steps = f"{schedule.max_steps} steps at most" if schedule.max_steps else f"{schedule.epochs:g} epochs"
    minutes = f", {schedule.max_minutes:g} minutes at most" if schedule.max_minutes else ""
    return f"recipe {recipe.name}, {steps}{minutes}, {schedule.batch} images a step, seed {recipe.run.seed}"


def _decimals(value: float | None) -> int:
    return 0 if value is None else len(str(value).partition(".")[2].rstrip("0"))
