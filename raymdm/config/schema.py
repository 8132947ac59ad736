"""What a recipe may say: one model a concept, each field with its unit and where its default comes from.

"LLaDA" is Nie et al. 2025, "paper" is "Bringing Stability to Diffusion" (its appendix A.7 holds the settings).
"""

import difflib
import re
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from raymdm.config.inputs import DataConfig, ModelConfig, Section, Seed, TokenizerConfig, unique
from raymdm.config.methods import METHODS, MethodSpec
from raymdm.config.seeds import PAPERS_SEEDS, AdaptiveSeeds, Seeds
from raymdm.config.training import TrainConfig

__all__ = [
    "METHODS",
    "AdaptiveSeeds",
    "DataConfig",
    "MethodSpec",
    "ModelConfig",
    "Recipe",
    "TokenizerConfig",
    "TrainConfig",
]


_COMPOSED: ContextVar[frozenset[str]] = ContextVar("names in the `methods` section of the recipe being read")


def _known_method(name: str) -> str:
    known = [*METHODS, *sorted(_COMPOSED.get(frozenset()))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown method {name!r}{hint} Known methods: {', '.join(known)}")
    return name


def _composed(parts: Any) -> Any:
    """The parts of the preset that `extends` names, with the given ones laid over them."""
    if not isinstance(parts, Mapping) or "extends" not in parts:
        return parts
    preset = parts["extends"]
    if not isinstance(preset, str) or preset not in METHODS:
        raise ValueError(f"`extends` must name a preset, not {preset!r}. Presets: {', '.join(METHODS)}")
    own = {name: value for name, value in parts.items() if name != "extends"}
    return METHODS[preset].model_dump(exclude_unset=True, exclude={"summary"}) | own


def _own_names(methods: dict[str, MethodSpec]) -> dict[str, MethodSpec]:
    for name in methods:
        if name in METHODS or not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
            raise ValueError(f"a composed method needs a name of its own, of a-z, 0-9 and _, not {name!r}")
    return methods


MethodName = Annotated[str, AfterValidator(_known_method)]


class CalibrateConfig(Section):
    grid: int = Field(default=80, ge=70)
    """Masking rates t_j: ten a fitted parameter or more (paper, 3.1.1)."""
    sequences: int = Field(default=32, ge=2)
    """Training sequences x0."""
    masks: int = Field(default=4, ge=2)
    """Masks a (x0, t_j)."""
    gradient_sequences: int = Field(default=16, ge=2)
    """Training sequences where gradients are measured (`g_pots`), one backward pass each rate and mask."""
    gradient_masks: PositiveInt = 1
    """Masks a (x0, t_j) where gradients are measured."""
    gradient_norm: Literal["exact", "head"] = "exact"
    """What `g_pots` measures: the norm of the whole gradient, or the bound that the output layer gives in a forward
    pass, on `sequences` and `masks`."""
    batch_size: PositiveInt = 512
    """Model rows a batch."""
    num_actors: PositiveInt = 1
    """Processes that hold the model at once: Ray tasks on CPUs, actors on GPUs. The result does not depend on it."""
    cpus_per_actor: PositiveFloat = 1.0
    gpus_per_actor: float = Field(default=0, ge=0)
    seed: Seed = 0
    """Draws sequences and masks, and starts the fit."""
    starts: PositiveInt = 24
    """Starting points of the EPR fit."""
    uniform_mix: float = Field(default=0.0, ge=0, lt=1)
    """Share of the uniform density mixed into one for the loss, which bounds the weights."""
    gradient_uniform_mix: Annotated[float, Field(ge=0, lt=1)] | Literal["held_out"] = "held_out"
    """The same for `g_pots`; `held_out`: the one of 0, 1/4, 1/2, 3/4, 0.9 that does best on held-out halves of the
    sequences, as gradients have heavy tails."""

    def effort(self, method: MethodSpec) -> tuple[Literal["none", "exact", "head"], int, int]:
        """The gradient that a method's p(t) is fitted to (`none`: the loss), and numbers of sequences and masks.

        A whole gradient takes a backward pass a draw: fewer of them.
        """
        gradient = self.gradient_norm if method.density == "g_pots" else "none"
        if gradient == "exact":
            return gradient, self.gradient_sequences, self.gradient_masks
        return gradient, self.sequences, self.masks


class DiagnoseConfig(Section):
    methods: Annotated[list[MethodName], AfterValidator(unique)] | None = Field(default=None, min_length=1)
    """Methods to set against `standard`; null: every preset that the data can be trained with, and `methods`."""
    sequences: int = Field(default=32, ge=2)
    """Training sequences whose losses are measured."""
    rates: int = Field(default=64, ge=8)
    """Masking rates of the losses' grid, or draws where a sequence has several rates."""
    masks: int = Field(default=4, ge=2)
    """Masks a (sequence, rate), for losses."""
    gradients: bool = True
    """Measure gradients too: a backward pass each sequence, rate and mask."""
    gradient_sequences: int = Field(default=16, ge=2)
    gradient_rates: int = Field(default=32, ge=8)
    gradient_masks: int = Field(default=2, ge=2)
    sketch: PositiveInt = 8192
    """Numbers that stand for a gradient, by a keyed random projection; gradients with fewer stay exact."""
    replicates: PositiveInt = 1000
    """Bootstrap replicates of the intervals."""
    batch_size: PositiveInt = 512
    """Model rows a batch."""
    num_actors: PositiveInt = 1
    cpus_per_actor: PositiveFloat = 1.0
    gpus_per_actor: float = Field(default=0, ge=0)
    seed: Seed = 0
    """Chooses sequences (none of the calibration's), draws masks and starts the bootstrap."""


class EvaluateConfig(Section):
    generation_length: PositiveInt = 128
    """Masked tokens an MDM starts from (paper, GSM8K: 128)."""
    steps: PositiveInt = 128
    """Denoising steps over the whole generation (paper, GSM8K: 128)."""
    block_length: PositiveInt = 32
    """Tokens unmasked before the next block starts (paper, GSM8K: 32)."""
    confidence_threshold: float | None = Field(default=None, gt=0, lt=1)
    """Unmask in each step every token whose probability exceeds it too, so that a block may take fewer steps than its
    share (with as many steps as tokens: Fast-dLLM's rule); null: equal shares alone, as LLaDA has it."""
    prefix_cache: bool = False
    """Compute keys and values of the prompt and of finished blocks once a block (Fast-dLLM): faster, and approximate,
    since they would change with each unmasked token."""
    max_new_tokens: PositiveInt | Literal["longest_response"] | None = None
    """Longest answer of an ARM (tokens); null: `generation_length`; `longest_response`: 1.1 times the longest training
    response, rounded up to a multiple of 128 (paper)."""
    nll_draws: PositiveInt = 128
    """Masks a sequence of `raymdm evaluate --nll` (LLaDA: 128)."""
    max_examples: PositiveInt | None = None
    """Score only the first test rows; null scores all."""
    batch_size: PositiveInt = 64
    """Prompts a forward pass."""
    num_actors: PositiveInt = 1
    cpus_per_actor: PositiveFloat = 0.98
    gpus_per_actor: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _blocks_fit(self) -> "EvaluateConfig":
        if self.generation_length % self.block_length:
            raise ValueError("`generation_length` must be a multiple of `block_length`")
        blocks = self.generation_length // self.block_length
        if self.steps % blocks:
            raise ValueError(f"`steps` must be a multiple of the number of blocks ({blocks})")
        if self.steps > self.generation_length:
            raise ValueError("`steps` must not exceed `generation_length`: a step unmasks a token or more")
        return self


class SweepConfig(Section):
    methods: Annotated[list[MethodName], AfterValidator(unique)] = Field(default=["standard"], min_length=1)
    """Methods of the grid."""
    seeds: Seeds = Field(default=list(PAPERS_SEEDS))
    """Seeds of the grid (paper: 42, 731, 20231); or `initial`, `max` and `stop_when`: seeds are added as needed."""
    max_concurrent: PositiveInt | None = None
    """Runs at once; null: what the cluster's resources hold."""
    baseline: MethodName = "standard"
    """The method that the others are compared to."""
    max_failures: NonNegativeInt = 1
    """Restarts of a run whose driver process was lost."""
    on_failure: Literal["continue", "fail_fast"] = "continue"
    """What a failed run does to the others: nothing, or they are stopped, to go on with `--resume`."""
    reuse_processes: bool = True
    """Train runs of one worker in the process that drives them, which then takes the next run: imports are paid once
    for each run at once. false: each run gets Ray Train workers of its own, as runs of several workers always do."""

    @property
    def first_seeds(self) -> list[int]:
        """The seeds that every method starts with: all of them, unless seeds are added as needed."""
        return self.seeds if isinstance(self.seeds, list) else self.seeds.order[: self.seeds.initial]

    @property
    def players(self) -> list[str]:
        """Methods whose seeds can settle an adaptive sweep's question, in the grid's order."""
        if isinstance(self.seeds, list):
            return []
        asked = [atom.methods for atom in self.seeds.criterion.atoms]
        named = {*chain.from_iterable(asked)} if all(asked) else {*self.methods}
        return [method for method in self.methods if method in named]

    @model_validator(mode="after")
    def _asks_of_its_own(self) -> "SweepConfig":
        if isinstance(self.seeds, list):
            return self
        for atom in self.seeds.criterion.atoms:
            for method in atom.methods:
                if method not in self.methods:
                    raise ValueError(
                        f"`seeds.stop_when` asks of {method!r}, which is not among `methods`: {', '.join(self.methods)}"
                    )
        if self.baseline not in self.methods:
            raise ValueError(f"`baseline` ({self.baseline}) must be among `methods` where seeds are added as needed")
        budget = len(self.players) * (self.seeds.max - self.seeds.initial)
        if self.seeds.looks and self.seeds.looks > budget + 1:
            raise ValueError(
                f"`seeds.looks` ({self.seeds.looks}): there are only {budget} seeds to add between them. Set it to "
                f"{budget + 1} or less, or leave it out"
            )
        return self


class TrackingConfig(Section):
    mlflow: bool = True
    """Log to MLflow; JSON lines are always written."""
    uri: str | None = None
    """MLflow tracking URI; null: SQLite in the output folder."""
    experiment: str | None = None
    """MLflow experiment; null: the recipe's name."""


class Recipe(Section):
    """One experiment: data, model, method, and the grid of methods and seeds to compare."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the output folder and the MLflow experiment."""
    description: str = ""
    """One line for `raymdm recipes`."""
    output: str = "runs"
    """Folder for results and caches; without `storage_path`, shared by all nodes of a cluster."""
    storage_path: str | None = None
    """Storage that all nodes reach where they share no `output`: a folder or a URI such as s3://bucket/folder. Runs
    keep their checkpoints and models there, and fetch data and models from there once a node."""
    data: DataConfig
    model: ModelConfig
    methods: Annotated[dict[str, Annotated[MethodSpec, BeforeValidator(_composed)]], AfterValidator(_own_names)] = (
        Field(default_factory=dict)
    )
    """Methods composed for this recipe: name -> parts, on top of a preset with `extends: NAME`."""
    arm_model: ModelConfig | None = None
    """Model of the `arm` method; null: the same as `model`, with causal attention."""
    method: MethodName = "standard"
    """Method of a single run (`raymdm train`)."""
    seed: Seed = 42
    """Seed of a single run: masking rates and masks."""
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sweep: SweepConfig = SweepConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _names_known(cls, value: Any, handler: ModelWrapValidatorHandler["Recipe"]) -> "Recipe":
        # the sections below check their methods' names and cannot see this one
        given = value.get("methods") if isinstance(value, Mapping) else None
        token = _COMPOSED.set(frozenset(map(str, given)) if isinstance(given, Mapping) else frozenset())
        try:
            return handler(value)
        finally:
            _COMPOSED.reset(token)

    def spec(self, method: str) -> MethodSpec:
        """The parts of a preset or composed method."""
        return self.methods[method] if method in self.methods else METHODS[method]

    @property
    def warnings(self) -> list[str]:
        """What is better not done, a line a method: combinations that the paper advises against, and several seeds of
        a method that ignores them."""
        names = dict.fromkeys([self.method, *self.sweep.methods, *(self.diagnose.methods or [])])
        stacked = [f"{name}: {warning}" for name in names if (warning := self.spec(name).warning)]
        return stacked + [
            f"{name}: nothing in its training depends on a run's seed, unless the model itself has dropout: its seeds "
            "repeat one run. Set train.order_seed: run, or give it a sweep with one seed"
            for name in self.sweep.methods
            if self.ignores_seed(name) and (not isinstance(self.sweep.seeds, list) or len(self.sweep.seeds) > 1)
        ]

    def ignores_seed(self, method: str) -> bool:
        """Whether all seeds of a method give one and the same run, rounding aside: an ARM has no masks.

        What a pretrained model drops out by its own config.json is not known here.
        """
        adapter = self.model_for(method).adapter
        drops = adapter is not None and adapter.dropout > 0
        return self.spec(method).family == "arm" and self.train.order_seed == "data" and not drops

    def model_for(self, method: str) -> ModelConfig:
        """The model a method trains."""
        return self.arm_model if self.spec(method).family == "arm" and self.arm_model else self.model

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Recipe":
        if self.train.global_batch_size < self.train.workers[1]:
            raise ValueError(
                f"train.global_batch_size ({self.train.global_batch_size}) must be at least train.num_workers "
                f"({self.train.workers[1]}): every worker needs a sequence in each step"
            )
        if self.train.parallel == "fsdp":
            for name in dict.fromkeys([self.method, *self.sweep.methods]):
                if self.spec(name).clip_search:
                    raise ValueError(f"{name} searches its interval of rates, which `train.parallel: fsdp` cannot")
            for section, model in (("model", self.model), ("arm_model", self.arm_model)):
                if model and model.adapter and model.adapter.kind == "qlora":
                    raise ValueError(f"`{section}.adapter.kind: qlora` cannot go with `train.parallel: fsdp`: use ddp")
        return self
