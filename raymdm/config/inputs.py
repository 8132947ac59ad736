"""What a recipe says of its data, tokenizer and model."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Section(BaseModel):
    # strict: `yes` is not 1.0 and "5" is not 5; a whole number is still taken where a fraction may stand
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]


def unique(values: list) -> list:
    """The values; raises ValueError naming those that come twice."""
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"named more than once: {', '.join(twice)}. Name each once")
    return values


def _expression(pattern: str) -> str:
    try:
        empty = re.compile(pattern).search("") is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}. Correct it, or leave it out for the default") from error
    if empty:
        raise ValueError("it matches the empty text, and so does not say what syntax is. Ask for a character or more")
    return pattern


def _not_blank(texts: list[str]) -> list[str]:
    if not all(text.strip() for text in texts):
        raise ValueError("a delimiter needs a character that is not whitespace. Remove the blank one")
    return texts


class SortingConfig(Section):
    digits: PositiveInt = 6
    """Digits to sort (tokens). Prompt: the digits; response: the same digits in ascending order."""


class ReasoningGymConfig(Section):
    name: str = "basic_arithmetic"
    """Any task name of the reasoning-gym package."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings passed on to the task, such as `{min_digits: 1}`."""


class DataConfig(Section):
    task: Literal["gsm8k", "hitab", "open_science", "sorting", "reasoning_gym", "sft"]
    """What a row means and how an answer is scored. `sft`: rows as they are, exact match of the whole response."""
    path: str | None = None
    """A folder with train/test files (.jsonl, .parquet), one file that holds both as parts, or a `datasets` name; for
    hitab a folder with *_samples.jsonl and tables/raw/. Generated tasks need none."""
    subset: str | None = None
    """Configuration of a `datasets` name, such as `main`."""
    train_split: str = "train"
    """File stem or split that trains; `NAME[START:STOP]` takes a part of its rows."""
    test_split: str = "test"
    """File stem or split that is scored, or a part of it."""
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
    """Longest prompt + response (tokens) of training and validation rows, and longest prompt of test rows; longer ones
    are counted and left out (paper)."""
    fill_response_to: PositiveInt | None = None
    """Repeat an MDM's end of sequence until a response has this many tokens: usually `evaluate.generation_length`, so
    that training's responses are as long as generation's. Longer ones stay and are counted. null: one end."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """A broken row ends the run with its file and line, or is counted and skipped."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Part of the training split kept for validation (paper: 9:1)."""
    seed: Seed = 0
    """Fixes split, order and generated rows; not part of a run's seed."""
    syntax_pattern: Annotated[str, AfterValidator(_expression)] | None = None
    """Regular expression (Python's) whose matches in the text of a prompt are syntax, which `syrm` masks too; null:
    HTML tags, and the pipes and |---| rows of Markdown tables."""
    delimiters: Annotated[list[str], AfterValidator(unique), AfterValidator(_not_blank)] | None = None
    """Texts that announce the answer in a response, whose tokens `isad` masks more often; null: the task's own
    (gsm8k: `####`; hitab, open_science: `\\boxed{`; sft: both; others: none)."""
    sorting: SortingConfig = SortingConfig()
    reasoning_gym: ReasoningGymConfig = ReasoningGymConfig()

    @model_validator(mode="after")
    def _path_given(self) -> "DataConfig":
        if self.task not in ("sorting", "reasoning_gym") and not self.path:
            raise ValueError(f"`path` is needed for task {self.task!r}: a folder, a file or a datasets name")
        return self

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> "DataConfig":
        if self.fill_response_to and self.fill_response_to >= self.max_length:
            raise ValueError(
                f"`fill_response_to` ({self.fill_response_to}) must be below `max_length` ({self.max_length}), which "
                "counts prompt and filled response together. Lower it, or raise `max_length`"
            )
        return self


class TokenizerConfig(Section):
    kind: Literal["pretrained", "bpe", "chars"] = "pretrained"
    """`pretrained`: the model's own; `bpe`: byte-level BPE, and `chars`: one token a character, both learnt from the
    training split and saved with the run."""
    path: str | None = None
    """Name, folder or address of a pretrained tokenizer; null: the model's."""
    vocab_size: PositiveInt = 2000
    """Vocabulary of `bpe`, special tokens included."""
    mask_token: str | None = None
    """Text of a pretrained tokenizer's mask token; null: its own, or the one that the model's config.json names by
    `mask_token_id`, or else a new `[MASK]`."""


class AdapterConfig(Section):
    kind: Literal["lora", "qlora"] = "lora"
    """`lora`: low-rank updates of frozen weights (peft); `qlora`: the frozen weights in 4 bits (NF4, bitsandbytes)."""
    r: PositiveInt = 32
    """Rank of the updates."""
    alpha: PositiveFloat = 64.0
    """Scale: an update counts alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the updates; another noise beside that which is measured, hence 0."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get updates; `all-linear`: all but the output layer."""


class ModelConfig(Section):
    kind: Literal["tiny", "pretrained"]
    """`tiny`: a small Llama from a fixed initialisation; `pretrained`: any transformers causal LM."""
    path: str | None = None
    """Name, folder or address (s3://, gs://) of a pretrained model; one on storage is fetched once a node."""
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
    right_shift_logits: bool | None = None
    """Whether an MDM predicts a token from the position before it, as Dream does; null: what the checkpoint says."""
    adapter: AdapterConfig | None = None
    """Train low-rank updates of a pretrained model; null: all its weights."""
    trust_remote_code: bool = False
    """Run code that a model repository ships. Off unless you read that code."""
    tokenizer: TokenizerConfig = TokenizerConfig()

    @model_validator(mode="after")
    def _source_given(self) -> "ModelConfig":
        if self.kind == "pretrained" and not self.path:
            raise ValueError("`path` is needed for kind 'pretrained': a transformers name or a folder")
        if self.kind == "tiny":
            if self.adapter:
                raise ValueError("`adapter`: a 'tiny' model has no weights worth keeping; use kind 'pretrained'")
            if self.tokenizer.kind == "pretrained" and not self.tokenizer.path:
                raise ValueError(
                    "`tokenizer`: a 'tiny' model has no tokenizer of its own; set its kind to 'chars' or 'bpe'"
                )
            if self.hidden_size % (2 * self.num_heads):
                raise ValueError("`hidden_size` must be an even multiple of `num_heads` (rotary embedding)")
        return self
