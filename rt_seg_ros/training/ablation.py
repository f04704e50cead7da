"""The papers' ablation tables: which network each row is, how it is trained, what the paper measured.

A table is a YAML document in ``config/ablations``, or anywhere else. All its rows share one recipe; a row says which
network takes the place of the recipe's, and which values of the recipe are others for it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from rt_seg_ros.documents import read_yaml
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.networks import create_network
from rt_seg_ros.resources import config_dir
from rt_seg_ros.training.recipe import Positive, Recipe, Section
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.schema_errors import explained

Figure = Annotated[float, Field(gt=0.0)]


class RowNetwork(Section):
    """Which network a row is."""

    name: str = Field(description="a network of rt-seg models")
    options: dict[str, Any] = Field(default={}, description="its options")


class PaperFigures(Section):
    """What the paper prints for a row."""

    miou: Figure = Field(description="percent")
    fps: Figure | None = None
    milliseconds: Figure | None = None
    gflops: Figure | None = Field(default=None, description="counted as the table's `counted` says")
    parameters: Figure | None = Field(default=None, description="millions, counted as the table's `counted` says")
    unused_parameters: int = Field(
        default=0, ge=0, description="contained in `parameters`, but of a layer that the authors' program never runs"
    )


class Counted(Section):
    """What parameters and operations are counted of: the paper's image size and classes, and how it counted."""

    size: tuple[Positive, Positive] = Field(description="height, width")
    classes: Positive
    operations: Literal["macs", "mmcv"] = Field(default="macs", description="what the paper's FLOPs are")
    auxiliary: bool = Field(default=False, description="whether the paper's parameters contain the auxiliary heads")
    options: dict[str, Any] = Field(default={}, description="of the network that the paper counted, over the row's")


class Row(Section):
    """One row of a table."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="short: for --rows, and the run folder")
    label: str = Field(description="what the row is, as the paper says it")
    network: RowNetwork
    overrides: dict[str, Any] = Field(default={}, description="key.sub: value, over the recipe and the table's")
    against: str | None = Field(default=None, description="name of the row that this one is compared with")
    paper: PaperFigures


class AblationTable(Section):
    """A whole table."""

    name: str
    title: str
    paper: str = Field(description="title, where it appeared, number of the table")
    measured_on: str = Field(description="what the paper's figures were measured on")
    recipe: str = Field(description="what every row is trained by, unless another is given")
    counted: Counted
    overrides: dict[str, Any] = Field(default={}, description="key.sub: value, over the recipe, for every row")
    note: str = Field(default="", description="what a reader should know of rows and figures")
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> AblationTable:
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rows are called {' and '.join(twice)}")
        for row in self.rows:
            if row.against is not None and (row.against not in names or row.against == row.name):
                raise ValueError(f"row {row.name} is against '{row.against}', which is no other row of the table")
        return self

    def choose(self, names: Sequence[str]) -> list[Row]:
        """Return the rows of these names, in the table's order; all of them where none are given.

        :raises UserError: no row of that name; the message names those there are
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(
                    f"table '{self.name}' has no row '{name}'{did_you_mean(name, known)}; its rows: {', '.join(known)}"
                )
        return [row for row in self.rows if not names or row.name in names]


def list_tables() -> list[str]:
    """Return the names of the package's tables."""
    return sorted(path.stem for path in (config_dir() / "ablations").glob("*.yaml"))


def find_tables(word: str) -> list[AblationTable]:
    """Return the tables that a word means: a name, a pattern of names (``cgnet*``), or the path of a YAML file.

    :raises UserError: there is none; or a document that is not a table
    """
    path = Path(word).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"ablation table {path} does not exist")
        return [load_table(path)]
    known = list_tables()
    found = [name for name in known if fnmatchcase(name, word)]
    if not found:
        raise UserError(
            f"no ablation table '{word}'{did_you_mean(word, known)}; there are: {', '.join(known)}; "
            "for one of your own give the path of its .yaml file"
        )
    return [load_table(config_dir() / "ablations" / f"{name}.yaml") for name in found]


def load_table(path: Path) -> AblationTable:
    """Read a table.

    :raises UserError: unreadable, or keys and values that the schema refuses, each by its place
    """
    document = read_yaml(path, "ablation table")
    if not isinstance(document, dict):
        raise UserError(f"ablation table {path}: a mapping of keys to values is needed")
    try:
        return AblationTable.model_validate({"name": path.stem, **document})
    except ValidationError as error:
        raise UserError("\n".join([f"ablation table {path}:", *explained(error, AblationTable)])) from error


def row_recipe(table: AblationTable, row: Row, base: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe that trains a row.

    :param base: recipe by name or path, instead of the table's own
    :param overrides: ``key.sub=value``, over everything else, the same for every row
    :raises UserError: what :func:`load_recipe` refuses; an override of what makes the row
    """
    overrides = list(overrides)
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("network", "network.name", "network.options"):
            raise UserError(
                f"override '{override}': the rows of table '{table.name}' say which network they are; "
                "one option of all of them is changed by network.options.NAME=VALUE"
            )
    values: dict[str, Any] = {
        "description": f"{table.title}: {row.label}",
        "network.name": row.network.name,
        "network.options": row.network.options,
        **table.overrides,
        **row.overrides,
    }
    # JSON is YAML on one line.
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return load_recipe(base or table.recipe, [*words, *overrides])


@dataclass(frozen=True)
class Cost:
    """What a row's network costs, at the image size and number of classes that the table is counted at.

    ``parameters`` and ``macs`` are those of the network as deployed: without auxiliary heads. The other two are counted
    as the paper counted.
    """

    parameters: int
    macs: int
    parameters_as_paper: int
    operations_as_paper: int


def row_cost(table: AblationTable, row: Row, recipe: Recipe) -> Cost:
    """Count a row's network; only shapes are computed.

    :param recipe: of :func:`row_recipe`, whose network it is
    :raises UserError: an option or value that the network does not have
    """
    counted, network = table.counted, recipe.network
    options = json.dumps(network.options)
    parameters, macs = _count(network.name, options, counted.classes, counted.size, "macs", False)
    options = json.dumps({**network.options, **counted.options})
    printed, operations = _count(
        network.name, options, counted.classes, counted.size, counted.operations, counted.auxiliary
    )
    return Cost(parameters, macs, printed + row.paper.unused_parameters, operations)


@lru_cache(maxsize=256)
def _count(
    network: str, options: str, classes: int, size: tuple[int, int], operations: str, auxiliary: bool
) -> tuple[int, int]:
    """Count parameters and operations; ``options`` is JSON. Tables share rows, so what was counted is remembered."""
    import torch  # takes a second, and listing tables does without

    from rt_seg_ros.networks.complexity import count_flops_mmcv, count_macs, count_parameters

    with torch.device("meta"):
        built = create_network(network, classes, aux=auxiliary, **json.loads(options))
    count = {"macs": count_macs, "mmcv": count_flops_mmcv}[operations]
    return count_parameters(built), count(built, *size)
