"""What a recipe holds: everything that decides how a training run comes out, as one checked document.

How recipes are found, inherit and are overridden stands in ``recipe_files``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Jitter = Annotated[float, Field(ge=0.0, lt=1.0)]
Triple = tuple[float, float, float]
Size = tuple[Positive, Positive]


def _in_order(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0.05 <= scale[0] <= scale[1] <= 20.0:
        raise ValueError("two numbers from 0.05 to 20, the smaller first")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_in_order)]


class Section(BaseModel):
    """What every part of a document has in common: no key but those that it names, and no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NetworkSection(Section):
    """Which network is trained."""

    name: str = Field(description="a network of rt-seg models")
    options: dict[str, Any] = Field(default={}, description="its options")
    weights: str | None = Field(default=None, description="start from these: a model's name or a .safetensors file")
    partial: bool = Field(
        default=False,
        description="take of weights what fits by name and shape, also of another network or other classes",
    )
    backbone_weights: str | None = Field(default=None, description="pre-trained backbone, a local file")
    allow_pickle: bool = Field(default=False, description="take these two from pickles too, of which tensors are read")

    @model_validator(mode="after")
    def _part_of_something(self) -> NetworkSection:
        if self.partial and not self.weights:
            raise ValueError("partial says how weights are taken: name them (network.weights, --weights)")
        return self


class SynthSection(Section):
    """A rendered drive."""

    seeds: list[int] = Field(min_length=1, description="one drive per seed")
    frames: Positive = Field(default=40, description="frames of each drive")
    every: Positive = Field(default=1, description="take every n-th frame: neighbours look alike")
    size: Size = Field(default=(360, 480), description="height, width")


class SourceSection(Section):
    """One source of pictures with labels: a folder or a rendered drive."""

    path: str | None = Field(default=None, description="data set folder, relative to --data; '.' is that folder itself")
    split: str | None = Field(default=None, description="train, val, ...")
    synth: SynthSection | None = Field(default=None, description="rendered drives instead of a folder")
    weight: float = Field(default=1.0, gt=0.0, description="share of the samples, relative to the other sources")
    name: str | None = Field(default=None, description="what it is called in the metrics")
    licence: str | None = Field(default=None, description="of the pictures, which the weights' card repeats")

    @model_validator(mode="after")
    def _one_kind(self) -> SourceSection:
        if (self.path is None) == (self.synth is None):
            raise ValueError("give either path (a folder) or synth (rendered drives)")
        return self


class DataSection(Section):
    """What is learnt from, and what is measured on."""

    train: list[SourceSection] = Field(min_length=1, description="sources, mixed by weight")
    val: list[SourceSection] = Field(
        default=[], description="splits to measure on; the first chooses the best checkpoint"
    )
    size: Size | None = Field(
        default=None, description="resize all pictures to this height, width (multiples of 8) when they are read"
    )
    mean: Triple = Field(default=(105.03, 108.41, 110.33), description="RGB, 0..255")
    std: Triple = Field(default=(58.395, 57.12, 57.375), description="RGB, 0..255")
    licence: str = Field(default="", description="of what comes out; none: those of the training sources")
    loading: Literal["auto", "memory", "workers"] = Field(
        default="auto",
        description="memory: hold all pictures, on the device; workers: processes read them batch by batch; "
        "auto: hold those sources, the smallest first, that fit memory_gib together",
    )
    memory_gib: float = Field(default=4.0, ge=0.0, description="auto: what training sources may take, in GiB")

    @field_validator("std")
    @classmethod
    def _above_zero(cls, value: Triple) -> Triple:
        if min(value) <= 0:
            raise ValueError("each must be above 0")
        return value


class BeginSection(Section):
    """Smaller views for the first part of a run: more of the scene in each sample, and more samples an hour."""

    share: float = Field(gt=0.0, lt=1.0, description="of the run")
    scale: Scale = Field(description="from, to; drawn by scale_law")
    crop: Size = Field(description="height, width the network sees: multiples of 8")


class AugmentSection(Section):
    """What varies from one view to the next."""

    scale: Scale = Field(default=(0.5, 2.0), description="from, to")
    scale_law: Literal["log", "uniform"] = Field(
        default="log", description="how it is drawn; log: as many views halved as doubled"
    )
    scales: list[float] = Field(default=[], description="draw from these alone, instead of from the range")
    crop: Size = Field(default=(360, 480), description="height, width the network sees: multiples of 8")
    flip: Share = Field(default=0.5, description="share of mirror images")
    brightness: Jitter = 0.5
    contrast: Jitter = 0.5
    saturation: Jitter = 0.5
    begin: BeginSection | None = Field(default=None, description="other views at the beginning of the run")

    @field_validator("scales")
    @classmethod
    def _in_range(cls, value: list[float]) -> list[float]:
        if not all(0.05 <= scale <= 20.0 for scale in value):
            raise ValueError("numbers from 0.05 to 20")
        return value


LossKind = Literal["cross_entropy", "ohem", "focal", "sigmoid_focal"]


class LossSection(Section):
    """What is minimised."""

    kind: LossKind = "cross_entropy"
    class_weights: Literal["none", "computed"] | list[float] = Field(
        default="none", description="by class, or computed as 1/ln(1.10+p) from the training sources"
    )
    label_smoothing: Jitter = 0.0
    threshold: float = Field(default=0.7, gt=0.0, lt=1.0, description="ohem: probability below which a pixel is kept")
    min_share: float = Field(default=1 / 16, gt=0.0, le=1.0, description="ohem: least share of pixels kept")
    gamma: float = Field(default=2.0, ge=0.0, description="focal: exponent")
    alpha: Share = Field(default=0.5, description="sigmoid_focal: weight of the true class")
    auxiliary_kind: LossKind | None = Field(default=None, description="loss of the auxiliary heads; none: the same")
    auxiliary_weights: list[float] = Field(
        default=[], description="by auxiliary head; none: the network is built without"
    )

    @field_validator("class_weights", "auxiliary_weights")
    @classmethod
    def _weigh(cls, value: Any) -> Any:
        if isinstance(value, list) and value and not (min(value) >= 0.0 < max(value) < math.inf):
            raise ValueError("numbers from 0, and not all of them 0")
        return value

    @model_validator(mode="after")
    def _smooths(self) -> LossSection:
        kinds = [self.kind, self.auxiliary_kind] if self.auxiliary_weights else [self.kind]
        if self.label_smoothing and "cross_entropy" not in kinds:
            raise ValueError(f"label_smoothing is of cross_entropy; {self.kind} has none")
        return self


class OptimiserSection(Section):
    """How it is minimised."""

    kind: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    decay: Literal["weights", "all"] = Field(
        default="weights", description="what decays; weights: not norms, biases and slopes of activations"
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="adam, adamw")
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    clip: float = Field(default=0.0, ge=0.0, description="largest norm of the gradient; 0: no limit")
    backbone_scale: float | None = Field(
        default=None,
        gt=0.0,
        description="factor on the backbone's rate and decay; none: the network's own, where the backbone is "
        "pre-trained, and else 1",
    )


class ScheduleSection(Section):
    """How long, and at what rate."""

    kind: Literal["poly", "cosine", "constant"] = "poly"
    power: float = Field(default=0.9, gt=0.0, description="poly")
    final: Share = Field(default=0.0, description="least factor on the rate")
    warm_up_steps: int = Field(default=500, ge=0)
    warm_up_start: Share = 0.0
    epochs: float = Field(default=1000.0, gt=0.0, description="passes over the first training source")
    max_steps: Positive | None = Field(default=None, description="end after so many steps, whatever epochs says")
    max_minutes: float | None = Field(
        default=None, gt=0.0, description="end after this time; the rate then follows the clock, where that is ahead"
    )
    batch: Positive = 16


class RunSection(Section):
    """How it is computed and what is written."""

    seed: int = Field(default=0, ge=0)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="autocast of the forward pass; on a GPU fp32 has convolutions in TF32, as PyTorch does",
    )
    channels_last: bool = True
    compile: bool = False
    threads: int = Field(default=0, ge=0, description="CPU threads; 0: torch's own choice")
    workers: int | None = Field(
        default=None, ge=0, description="processes that read pictures not held in memory; none: by the CPU, 8 at most"
    )
    ema: float = Field(default=0.999, ge=0.0, lt=1.0, description="decay of the weight average; 0: none")
    validate_every: float = Field(default=10.0, gt=0.0, description="epochs")
    keep: Literal["best", "last"] = Field(default="best", description="which weights are exported")
    checkpoint_minutes: float = Field(
        default=5.0, gt=0.0, description="between checkpoints; one is written per validation too"
    )


class Recipe(Section):
    """A whole recipe."""

    name: str
    description: str = ""
    label_space: str = "camvid11"
    network: NetworkSection
    data: DataSection
    augment: AugmentSection = AugmentSection()
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    schedule: ScheduleSection = ScheduleSection()
    run: RunSection = RunSection()

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML, which loads to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)
