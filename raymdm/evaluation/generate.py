"""Generate answers for test rows and score them."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raymdm.config.schema import EvaluateConfig
from raymdm.data.loading import Split, load_split
from raymdm.data.tokenizer import stop_ids
from raymdm.evaluation.scoring import extract, score
from raymdm.generation.greedy import decode, generate_arm
from raymdm.generation.padding import Prompts
from raymdm.generation.unmask import generate_mdm
from raymdm.models.checks import check_tokens
from raymdm.models.denoiser import right_shifted
from raymdm.models.precision import precision


def generate_and_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    family: Literal["mdm", "arm"],
    split: Split,
    rows: np.ndarray,
    task: str,
    settings: EvaluateConfig,
    max_new_tokens: int,
) -> dict[str, list[Any]]:
    """Score some rows of the test split at temperature 0; returns the columns of `scores.parquet`, one entry a row.

    max_new_tokens: longest answer of an `arm` (tokens), see `longest_answer`. `new_tokens` is a text's length up to its
    end, `forward_passes` what it took.
    """
    prompts = [split.input_ids[i][: split.prompt_lengths[i]] for i in rows]
    stops = stop_ids(tokenizer)
    with precision(model.device):
        if family == "mdm":
            generated, passes = _unmasked(model, tokenizer, prompts, stops, settings)
        else:
            check_tokens(model, max(int(prompt.max()) for prompt in prompts))
            generated = generate_arm(
                model, prompts, stop_ids=stops, pad_id=tokenizer.pad_token_id, max_new_tokens=max_new_tokens
            )
            passes = None
    names = ("example_id", "score", "prediction", "reference", "output", "new_tokens", "forward_passes")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for place, (i, ids) in enumerate(zip(rows, generated, strict=True)):
        text, count = decode(tokenizer, ids, stops)
        prediction, reference = extract(task, text), split.answers[i]
        spent = min(count + 1, len(ids)) if passes is None else int(passes[place])  # an ARM's: one a token, and the end
        values = (int(split.example_ids[i]), score(task, text, reference), prediction or "", reference, text, count)
        for name, value in zip(names, (*values, spent), strict=True):
            columns[name].append(value)
    return columns


def _unmasked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    stops: list[int],
    settings: EvaluateConfig,
) -> tuple[Tensor, Tensor | None]:
    return generate_mdm(
        model,
        prompts,
        mask_id=tokenizer.mask_token_id,
        pad_id=tokenizer.pad_token_id,
        generation_length=settings.generation_length,
        steps=settings.steps,
        block_length=settings.block_length,
        stop_ids=stops,
        shift=right_shifted(model),
        confidence_threshold=settings.confidence_threshold,
        prefix_cache=settings.prefix_cache,
    )


def longest_answer(settings: EvaluateConfig, data: Path) -> int:
    """How many tokens an ARM may generate, as `evaluate.max_new_tokens` says.

    data: the prepared folder whose longest training response counts for `longest_response`, its end of sequence
    included: 1.1 times as much, rounded up to a multiple of 128 (paper, A.7).
    """
    if settings.max_new_tokens != "longest_response":
        return settings.max_new_tokens or settings.generation_length
    train = load_split(data, "train")
    longest = max(len(ids) - prompt for ids, prompt in zip(train.input_ids, train.prompt_lengths.tolist(), strict=True))
    return rounded_up(longest)


def rounded_up(longest: int) -> int:
    """1.1 times a length, rounded up to a multiple of 128 (tokens)."""
    return -(-11 * longest // 1280) * 128
