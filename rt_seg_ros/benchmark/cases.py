"""What is to be measured: configurations, each with the naive node that it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rt_seg_ros.backends import check_backend
from rt_seg_ros.errors import UserError
from rt_seg_ros.pipeline import SegmenterConfig
from rt_seg_ros.working_size import MAX_SIDE, MIN_SIDE, Size
from rt_seg_ros.zoo import ModelCard, find_model

Mode = Literal["pipeline", "network", "node"]
Input = Literal["jpeg", "raw"]
Output = Literal["labels", "mask", "overlay"]

INPUTS = ("jpeg", "raw")
OUTPUTS = ("labels", "mask", "overlay")
MAX_BATCH = 64
MAX_CAMERAS = 8


@dataclass(frozen=True)
class Case:
    """One configuration.

    ``mode``: what is measured; ``size``: (height, width) of the frames; ``batch``: frames that the network takes at
    once; ``cameras`` of a node; ``input``: what a frame comes as; ``outputs``: what is made of it: its labels, besides
    them the mask of one class, or an overlay; ``naive``: as :mod:`rt_seg_ros.benchmark.naive` does it, not as this
    package does. ``ratio`` is the ``downsampling_ratio`` of :class:`rt_seg_ros.pipeline.SegmenterConfig`, and the
    other fields are its own.
    """

    mode: Mode
    model: str
    size: Size
    ratio: float = 1.0
    backend: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    batch: int = 1
    threads: int = 0
    cameras: int = 1
    input: Input = "jpeg"
    outputs: Output = "overlay"
    weights: str = ""
    label_space: str = ""
    allow_random_weights: bool = False
    naive: bool = False

    def counterpart(self) -> Case:
        """Return the naive node at the same work: frames, working size, model, threads."""
        return replace(self, backend="torch", precision="fp32", batch=1, naive=True)

    def config(self) -> SegmenterConfig:
        """Return the configuration as the pipeline takes it."""
        return SegmenterConfig(
            model=self.model,
            weights=self.weights,
            label_space=self.label_space,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            downsampling_ratio=self.ratio,
            threads=self.threads,
            allow_random_weights=self.allow_random_weights,
        )

    def card(self) -> ModelCard:
        """Return the model's card.

        :raises UserError: see :func:`rt_seg_ros.zoo.find_model`
        """
        return find_model(self.model, self.label_space, self.weights, self.allow_random_weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        """Make a case of :meth:`to_dict`'s values."""
        return cls(**{**values, "size": tuple(values["size"])})


@dataclass(frozen=True)
class Grid:
    """Every combination of these is a case."""

    mode: Mode
    models: Sequence[str]
    sizes: Sequence[Size]
    ratios: Sequence[float] = (1.0,)
    backends: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ("fp32",)
    batches: Sequence[int] = (1,)
    threads: Sequence[int] = (0,)
    cameras: Sequence[int] = (1,)
    device: str = "auto"
    input: Input = "jpeg"
    outputs: Output = "overlay"
    weights: str = ""
    label_space: str = ""
    allow_random_weights: bool = False
    naive: bool = True


@dataclass
class Plan:
    """What is measured: ``cases`` in their order, and ``left_out``, combinations that are not to be had here."""

    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def plan(grid: Grid) -> Plan:
    """Check every value and make the cases, each followed by those that it is compared with, none of them twice.

    :raises UserError: a value that cannot be, or no combination that can be had on this machine
    """
    _check_values(grid)
    made = Plan()
    reasons: dict[tuple[str, str], str | None] = {}
    for backend, precision in itertools.product(grid.backends, grid.precisions):
        try:
            check_backend(backend, grid.device, precision)
            reasons[backend, precision] = None
        except UserError as error:
            if len(grid.backends) * len(grid.precisions) == 1:
                raise
            reasons[backend, precision] = str(error)
            made.left_out.append(f"{backend} {precision}: {error}")
    if all(reasons.values()):
        raise UserError("nothing of this can be had here: " + "; ".join(made.left_out))

    cases: dict[Case, None] = {}  # in their order
    for model, size, ratio, cameras in itertools.product(grid.models, grid.sizes, grid.ratios, grid.cameras):
        for threads, backend, precision, batch in itertools.product(
            grid.threads, grid.backends, grid.precisions, grid.batches
        ):
            if reasons[backend, precision] is not None:
                continue
            case = Case(
                mode=grid.mode,
                model=model,
                size=size,
                ratio=ratio,
                backend=backend,
                device=grid.device,
                precision=precision,
                batch=batch,
                threads=threads,
                cameras=cameras,
                input="raw" if grid.mode == "node" else grid.input,
                outputs="mask" if grid.mode == "node" else grid.outputs,
                weights=grid.weights,
                label_space=grid.label_space,
                allow_random_weights=grid.allow_random_weights,
            )
            case.config().check()
            case.card()
            cases[case] = None
            if grid.mode == "node" and cameras == 1:
                cases[replace(case, mode="pipeline")] = None
            if grid.naive:
                cases[case.counterpart()] = None
    made.cases = list(cases)
    return made


def _check_values(grid: Grid) -> None:
    for name in ("models", "sizes", "ratios", "backends", "precisions", "batches", "threads", "cameras"):
        if not getattr(grid, name):
            raise UserError(f"there is nothing to measure: the list of {name} is empty")
    for height, width in grid.sizes:
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
            raise UserError(f"size is {height}x{width}; use {MIN_SIDE} to {MAX_SIDE} pixels each way")
    for batch in grid.batches:
        if not 1 <= batch <= MAX_BATCH:
            raise UserError(f"batch is {batch}; use 1 to {MAX_BATCH}")
        if batch > 1 and grid.mode == "node":
            raise UserError(f"batch is {batch}, but the node decides itself which frames it takes together; use 1")
    for cameras in grid.cameras:
        if not 1 <= cameras <= MAX_CAMERAS:
            raise UserError(f"cameras is {cameras}; use 1 to {MAX_CAMERAS}")
        if cameras > 1 and grid.mode != "node":
            raise UserError(f"cameras is {cameras}, but only the node has several; leave it at 1")
    if grid.input not in INPUTS:
        raise UserError(f"input is '{grid.input}'; use {' or '.join(INPUTS)}")
    if grid.outputs not in OUTPUTS:
        raise UserError(f"outputs is '{grid.outputs}'; use one of: {', '.join(OUTPUTS)}")
