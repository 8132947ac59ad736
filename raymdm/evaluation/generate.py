"""Generate answers for test rows and score them."""

from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raymdm.config.schema import EvaluateConfig
from raymdm.data.loading import Split
from raymdm.evaluation.scoring import extract, score
from raymdm.generation.greedy import decode, generate_arm
from raymdm.generation.unmask import generate_mdm
from raymdm.models.precision import precision


def generate_and_score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    family: Literal["mdm", "arm"],
    split: Split,
    rows: np.ndarray,
    task: str,
    settings: EvaluateConfig,
) -> dict[str, list[Any]]:
    """Score some rows of the test split at temperature 0; returns the columns of `scores.parquet`, one entry a row."""
    prompts = [split.input_ids[i][: split.prompt_lengths[i]] for i in rows]
    with precision(model.device):
        if family == "mdm":
            generated = generate_mdm(
                model, prompts, mask_id=tokenizer.mask_token_id, pad_id=tokenizer.pad_token_id,
                generation_length=settings.generation_length, steps=settings.steps, block_length=settings.block_length,
            )  # fmt: skip
        else:
            generated = generate_arm(
                model, prompts, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id,
                max_new_tokens=settings.max_new_tokens or settings.generation_length,
            )  # fmt: skip
    columns: dict[str, list[Any]] = {
        name: [] for name in ("example_id", "score", "prediction", "reference", "output", "new_tokens")
    }
    for i, ids in zip(rows, generated, strict=True):
        text, count = decode(tokenizer, ids, tokenizer.eos_token_id)
        prediction, reference = extract(task, text), split.answers[i]
        values = (int(split.example_ids[i]), score(task, text, reference), prediction or "", reference, text, count)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns
