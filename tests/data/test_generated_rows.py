"""Generated tasks: right rows, no prompt twice, the same rows for the same seed."""

import sys
from typing import Any

import pytest

from raymdm.config.schema import DataConfig
from raymdm.data.generated import generated_rows
from raymdm.errors import UserError

SUMS = {"min_terms": 2, "max_terms": 2, "operators": ["+"], "allow_parentheses": False, "allow_negation": False}


def made(source: Any, **fields: Any) -> list[dict[str, str]]:
    rows = generated_rows(DataConfig(**{"task": "sorting", "num_train": 300, "num_test": 100, **fields}), source)
    assert rows is not None
    return list(rows)


def gym(**fields: Any) -> dict[str, Any]:
    pytest.importorskip("reasoning_gym")
    return {"task": "reasoning_gym", "num_train": 30, "num_test": 10, **fields}


def test_sorting_responses_are_the_sorted_digits() -> None:
    for row in made("train"):
        digits = row["prompt"].removesuffix(">")
        assert len(digits) == 6
        assert [int(digit) for digit in row["response"]] == sorted(int(digit) for digit in digits)


@pytest.mark.parametrize("fields", [{}, {"digits": 3}])
def test_sorting_prompts_never_repeat(fields: dict[str, int]) -> None:
    prompts = [row["prompt"] for source in ("train", "test") for row in made(source, sorting=fields)]
    assert len(set(prompts)) == len(prompts) == 400


def test_every_prompt_can_be_used_up() -> None:
    prompts = {
        row["prompt"] for s in ("train", "test") for row in made(s, num_train=7, num_test=3, sorting={"digits": 1})
    }
    assert prompts == {f"{digit}>" for digit in range(10)}


def test_too_few_different_digits_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.sorting\.digits: 2 digits make 100 different prompts.* is 400"):
        made("test", sorting={"digits": 2})


def test_rows_depend_on_the_data_seed() -> None:
    assert made("train") == made("train")
    assert made("train") != made("train", seed=1)


def test_test_rows_do_not_change_with_the_number_of_training_rows() -> None:
    assert made("test") == made("test", num_train=5)


def test_long_digit_strings_work() -> None:
    assert len(made("test", sorting={"digits": 40})[0]["response"]) == 40


def test_path_of_a_generated_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.path has no effect"):
        made("train", path="somewhere")


def test_tasks_that_read_rows_make_none() -> None:
    assert generated_rows(DataConfig(task="sft", path="x"), "train") is None


def test_reasoning_gym_questions_never_repeat() -> None:
    questions = [row["question"] for source in ("train", "test") for row in made(source, **gym())]
    assert len(set(questions)) == len(questions) == 40


def test_reasoning_gym_rows_depend_on_the_data_seed() -> None:
    assert made("test", **gym()) == made("test", **gym())
    assert made("test", **gym()) != made("test", **gym(seed=1))


def test_reasoning_gym_test_rows_do_not_change_with_the_number_of_training_rows() -> None:
    assert made("test", **gym()) == made("test", **gym(num_train=3))


def test_reasoning_gym_answers_are_right() -> None:
    for row in made("train", **gym(reasoning_gym={"name": "basic_arithmetic", "config": SUMS})):
        left, right = row["question"].removeprefix("Calculate ").rstrip(".").split(" + ")
        assert int(row["answer"]) == int(left) + int(right)


def test_unknown_reasoning_gym_task_lists_near_ones() -> None:
    with pytest.raises(UserError, match=r"unknown task 'basic_aritmetic'\. Did you mean basic_arithmetic"):
        made("test", **gym(reasoning_gym={"name": "basic_aritmetic"}))


def test_task_name_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Known tasks: .*countdown"):
        made("test", **gym(reasoning_gym={"name": "zzzzqqqq"}))


@pytest.mark.parametrize("config", [{"no_such_setting": 1}, {"min_terms": -4}, {"seed": 3}])
def test_wrong_reasoning_gym_settings_are_named(config: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"data\.reasoning_gym\.config: 'basic_arithmetic' does not accept"):
        made("test", **gym(reasoning_gym={"name": "basic_arithmetic", "config": config}))


def test_too_few_different_questions_is_an_error() -> None:
    config = {**SUMS, "max_digits": 1}
    with pytest.raises(UserError, match=r"different questions in 20200 draws"):
        made("train", **gym(num_train=1000, reasoning_gym={"name": "basic_arithmetic", "config": config}))


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install raymdm\[reasoning\]"):
        made("test", task="reasoning_gym")
