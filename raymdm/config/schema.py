"""What a recipe may say: one model a concept, each field with its unit and where its default comes from.

"LLaDA" is Nie et al. 2025, "paper" is "Bringing Stability to Diffusion" (its appendix A.7 holds the settings).
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from raymdm.config.methods import METHODS, MethodSpec

__all__ = ["METHODS", "MethodSpec", "Recipe"]


class Section(BaseModel):
    # strict: `yes` is not 1.0 and "5" is not 5; a whole number is still taken where a fraction may stand
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


def _known_method(name: str) -> str:
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown method {name!r}{hint} Known methods: {', '.join(METHODS)}")
    return name


def _unique(values: list) -> list:
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"named more than once: {', '.join(twice)}. Name each once")
    return values


MethodName = Annotated[str, AfterValidator(_known_method)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SortingConfig(Section):
    digits: PositiveInt = 6
    """Digits to sort (tokens). Prompt: the digits; response: the same digits in ascending order."""


class ReasoningGymConfig(Section):
    name: str = "basic_arithmetic"
    """Any task name of the reasoning-gym package."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings passed on to the task, such as `{min_digits: 1}`."""


class DataConfig(Section):
    task: Literal["gsm8k", "sorting", "reasoning_gym", "sft"]
    """What a row means and how an answer is scored. `sft`: rows as they are, exact match of the whole response."""
    path: str | None = None
    """A folder with train/test files (.jsonl, .parquet), one file, or a `datasets` name. Generated tasks need none."""
    subset: str | None = None
    """Configuration of a `datasets` name, such as `main`."""
    train_split: str = "train"
    """File stem or split that trains."""
    test_split: str = "test"
    """File stem or split that is scored."""
    format: Literal["auto", "messages", "prompt_response", "question_answer"] = "auto"
    """Columns of a row; `auto` looks at each row's names."""
    num_train: PositiveInt = 5000
    """Rows made by a generated task for training and validation together."""
    num_test: PositiveInt = 500
    """Rows made by a generated task for the test set."""
    max_train_examples: PositiveInt | None = None
    """Keep only the first rows of the training split; null keeps all."""
    max_test_examples: PositiveInt | None = None
    """Keep only the first rows of the test split; null keeps all."""
    max_length: PositiveInt = 4096
    """Longest prompt + response (tokens); longer rows are counted and left out (paper)."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """A broken row ends the run with its file and line, or is counted and skipped."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Part of the training split kept for validation (paper: 9:1)."""
    seed: Seed = 0
    """Fixes split, order and generated rows; not part of a run's seed."""
    sorting: SortingConfig = SortingConfig()
    reasoning_gym: ReasoningGymConfig = ReasoningGymConfig()

    @model_validator(mode="after")
    def _path_given(self) -> "DataConfig":
        if self.task in ("gsm8k", "sft") and not self.path:
            raise ValueError(f"`path` is needed for task {self.task!r}: a folder, a file or a datasets name")
        return self


class TokenizerConfig(Section):
    kind: Literal["pretrained", "bpe", "chars"] = "pretrained"
    """`pretrained`: the model's own; `bpe`: byte-level BPE, and `chars`: one token a character, both learnt from the
    training split and saved with the run."""
    path: str | None = None
    """Name or folder of a pretrained tokenizer; null: the model's."""
    vocab_size: PositiveInt = 2000
    """Vocabulary of `bpe`, special tokens included."""


class ModelConfig(Section):
    kind: Literal["tiny", "pretrained"]
    """`tiny`: a small Llama from a fixed initialisation; `pretrained`: any transformers causal LM."""
    path: str | None = None
    """Name or folder of a pretrained model."""
    hidden_size: PositiveInt = 64
    """Width of `tiny`."""
    intermediate_size: PositiveInt = 192
    """MLP width of `tiny`."""
    num_layers: PositiveInt = 2
    """Layers of `tiny`."""
    num_heads: PositiveInt = 4
    """Attention heads of `tiny`."""
    init_seed: Seed = 0
    """Initialisation of `tiny`, the same for every run: it stands for a shared pretrained checkpoint."""
    attn_implementation: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters, in training too: bfloat16 halves their memory but rounds small updates away. The forward
    pass runs in bf16 on a GPU either way."""
    trust_remote_code: bool = False
    """Run code that a model repository ships. Off unless you read that code."""
    tokenizer: TokenizerConfig = TokenizerConfig()

    @model_validator(mode="after")
    def _source_given(self) -> "ModelConfig":
        if self.kind == "pretrained" and not self.path:
            raise ValueError("`path` is needed for kind 'pretrained': a transformers name or a folder")
        if self.kind == "tiny":
            if self.tokenizer.kind == "pretrained" and not self.tokenizer.path:
                raise ValueError(
                    "`tokenizer`: a 'tiny' model has no tokenizer of its own; set its kind to 'chars' or 'bpe'"
                )
            if self.hidden_size % (2 * self.num_heads):
                raise ValueError("`hidden_size` must be an even multiple of `num_heads` (rotary embedding)")
        return self


class TrainConfig(Section):
    num_workers: PositiveInt = 1
    """DDP workers of one run."""
    cpus_per_worker: PositiveFloat = 0.98
    """CPUs a worker reserves; just under one leaves room for the process that drives it."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs a worker reserves; 0 trains on CPU. Workers of one run cannot share a GPU."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["linear", "constant"] = "linear"
    """Decay to 0 over the run, or none (paper: linear)."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps of linear warm-up (paper: 0)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    epochs: PositiveFloat = 5.0
    """Passes over the training rows (paper: 5); `max_steps` overrules."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; null: from `epochs`."""
    global_batch_size: PositiveInt = 32
    """Sequences an optimiser step, over all workers (paper: 32)."""
    micro_batch_size: PositiveInt | None = None
    """Sequences a worker's forward pass; null: its whole share. Gradients do not depend on it."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations and checkpoints; null: once an epoch."""
    validation_draws: PositiveInt = 2
    """Fixed (t, mask) draws a validation sequence."""
    max_validation_examples: PositiveInt | None = None
    """Use only the first rows of the validation split; null uses all."""
    patience: PositiveInt | None = 3
    """Evaluations without a better validation NLL before a run stops (paper: 3); null never stops."""
    log_every: PositiveInt = 10
    """Steps a line of logged metrics covers."""
    max_failures: NonNegativeInt = 2
    """Restarts of a run's workers after a crash, each from the last checkpoint."""

    @model_validator(mode="after")
    def _gpus_unshared(self) -> "TrainConfig":
        if self.num_workers > 1 and self.gpus_per_worker % 1:
            raise ValueError("`gpus_per_worker` must be whole with several workers: they cannot share a GPU (NCCL)")
        return self


class CalibrateConfig(Section):
    grid: int = Field(default=80, ge=70)
    """Masking rates t_j: ten a fitted parameter or more (paper, 3.1.1)."""
    sequences: int = Field(default=32, ge=2)
    """Training sequences x0."""
    masks: int = Field(default=4, ge=2)
    """Masks a (x0, t_j)."""
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
    """Share of the uniform density mixed in, which bounds the weights."""


class EvaluateConfig(Section):
    generation_length: PositiveInt = 128
    """Masked tokens an MDM starts from (paper, GSM8K: 128)."""
    steps: PositiveInt = 128
    """Denoising steps over the whole generation (paper, GSM8K: 128)."""
    block_length: PositiveInt = 32
    """Tokens unmasked before the next block starts (paper, GSM8K: 32)."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer of an ARM (tokens); null: `generation_length`."""
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
    methods: Annotated[list[MethodName], AfterValidator(_unique)] = Field(default=["standard"], min_length=1)
    """Methods of the grid."""
    seeds: Annotated[list[Seed], AfterValidator(_unique)] = Field(default=[42, 731, 20231], min_length=1)
    """Seeds of the grid (paper: 42, 731, 20231)."""
    max_concurrent: PositiveInt | None = None
    """Runs at once; null: what the cluster's resources hold."""
    baseline: MethodName = "standard"
    """The method that the others are compared to."""
    max_failures: NonNegativeInt = 1
    """Restarts of a run whose driver process was lost."""


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
    """Folder for results and caches; shared by all nodes on a cluster."""
    data: DataConfig
    model: ModelConfig
    arm_model: ModelConfig | None = None
    """Model of the `arm` method; null: the same as `model`, with causal attention."""
    method: MethodName = "standard"
    """Method of a single run (`raymdm train`)."""
    seed: Seed = 42
    """Seed of a single run: masking rates and masks."""
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sweep: SweepConfig = SweepConfig()
    tracking: TrackingConfig = TrackingConfig()

    def model_for(self, method: str) -> ModelConfig:
        """The model a method trains."""
        return self.arm_model if METHODS[method].family == "arm" and self.arm_model else self.model

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Recipe":
        if self.train.global_batch_size < self.train.num_workers:
            raise ValueError(
                f"train.global_batch_size ({self.train.global_batch_size}) must be at least train.num_workers "
                f"({self.train.num_workers}): every worker needs a sequence in each step"
            )
        return self
