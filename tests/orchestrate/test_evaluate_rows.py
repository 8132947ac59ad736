"""Which rows are scored together, how long an ARM's answers may grow, and what reaches an MDM's sampler."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.data.tokenizer import stop_ids
from raymdm.evaluation import generate
from raymdm.evaluation.generate import generate_and_score, longest_answer, rounded_up
from raymdm.models.load import load_model
from raymdm.orchestrate.evaluate import _blocks

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def split(tiny_data: Path) -> loading.Split:
    """12 rows: prompts of 1 to 4 tokens, and longer responses after shorter prompts."""
    lengths = np.array([2, 1, 4, 3, 1, 2, 4, 4, 3, 2, 1, 1])
    sequences = [np.zeros(20 - 2 * length, dtype=np.int32) for length in lengths]
    return replace(loading.load_split(tiny_data, "test"), input_ids=sequences, prompt_lengths=lengths)


def test_prompts_of_like_length_lie_side_by_side_the_longest_first(split: loading.Split) -> None:
    blocks = _blocks(split, 5, "generate")
    assert [block["row"].tolist() for block in blocks] == [[2, 6, 7, 3, 8], [0, 5, 9, 1, 4], [10, 11]]


def test_likelihoods_are_sorted_by_the_whole_length(split: loading.Split) -> None:
    rows = [block["row"].tolist() for block in _blocks(split, 6, "nll")]
    assert rows == [[1, 4, 10, 11, 0, 5], [9, 3, 8, 2, 6, 7]]


@pytest.mark.parametrize(
    ("longest", "limit"), [(444, 512), (3571, 3968), (4605, 5120), (1, 128), (116, 128), (117, 256)]
)
def test_1_1_times_the_longest_response_in_steps_of_128(longest: int, limit: int) -> None:
    """The first three are the paper's (A.7): GSM8K, HiTab, OpenScience."""
    assert rounded_up(longest) == limit


@pytest.mark.parametrize(("value", "limit"), [(None, 4), (7, 7), ("longest_response", 128)])
def test_an_arm_s_limit(make_recipe: MakeRecipe, tiny_data: Path, value: int | str | None, limit: int) -> None:
    assert longest_answer(make_recipe(evaluate__max_new_tokens=value).evaluate, tiny_data) == limit


def test_the_longest_response_counts_its_end_of_sequence(make_recipe: MakeRecipe, tiny_data: Path, monkeypatch) -> None:
    train = loading.load_split(tiny_data, "train")
    train.input_ids[3] = np.zeros(int(train.prompt_lengths[3]) + 117, dtype=np.int32)  # 116 tokens and the end
    monkeypatch.setattr("raymdm.evaluation.generate.load_split", lambda folder, name: train)
    recipe = make_recipe(evaluate__max_new_tokens="longest_response")
    assert longest_answer(recipe.evaluate, tiny_data) == 256


@pytest.mark.parametrize("shift", [True, None])
def test_the_sampler_is_told_what_the_recipe_and_the_model_say(
    make_recipe: MakeRecipe, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, shift: bool | None
) -> None:
    recipe = make_recipe(
        model__right_shift_logits=shift, evaluate__confidence_threshold=0.7, evaluate__prefix_cache=True
    )
    tokenizer, split = loading.tokenizer(tiny_data), loading.load_split(tiny_data, "test")
    model, told, sampler = load_model(recipe.model, tokenizer, "mdm"), [], generate.generate_mdm

    def heard(*args: Any, **kwargs: Any) -> Any:
        told.append(kwargs)
        return sampler(*args, **kwargs)

    monkeypatch.setattr(generate, "generate_mdm", heard)
    generate_and_score(model, tokenizer, "mdm", split, np.arange(3), "sorting", recipe.evaluate, 0)
    assert told[0] == {
        "mask_id": tokenizer.mask_token_id,
        "pad_id": tokenizer.pad_token_id,
        "generation_length": 4,
        "steps": 4,
        "block_length": 4,
        "stop_ids": stop_ids(tokenizer),
        "shift": bool(shift),
        "confidence_threshold": 0.7,
        "prefix_cache": True,
    }
