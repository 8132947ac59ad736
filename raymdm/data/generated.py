"""Rows that are made rather than read: all prompts of one recipe differ, so training and test sets are disjoint."""

import difflib
import importlib.metadata
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

from raymdm.config.schema import DataConfig
from raymdm.data.splits import Source
from raymdm.errors import UserError
from raymdm.keys import generator

GENERATED_TASKS = ("sorting", "reasoning_gym")

_CHUNK = 500
_DRAWS_PER_ROW = 20


def generated_rows(data: DataConfig, source: Source) -> Iterator[dict[str, str]] | None:
    """The rows of a source of a generated task, or None for a task that reads its rows.

    The test set comes first in the stream of different prompts, so it does not change with `data.num_train`.
    Raises UserError when the settings leave too few different prompts.
    """
    if data.task not in GENERATED_TASKS:
        return None
    if data.path is not None:
        raise UserError(f"data.path has no effect: task {data.task!r} makes its own rows. Remove it")
    rows = _sorting(data) if data.task == "sorting" else _reasoning_gym(data)
    if source == "test":
        return islice(rows, data.num_test)
    return islice(rows, data.num_test, data.num_test + data.num_train)


def generator_version(data: DataConfig) -> str:
    """What made the rows, besides raymdm: the reasoning-gym version, or an empty text."""
    if data.task != "reasoning_gym":
        return ""
    _reasoning_gym_module()
    return importlib.metadata.version("reasoning-gym")


def _sorting(data: DataConfig) -> Iterator[dict[str, str]]:
    """Prompts such as `314159>` with the response `113459`, uniform over digit strings, without repeats."""
    digits, needed = data.sorting.digits, data.num_train + data.num_test
    if 10**digits < needed:
        raise UserError(
            f"data.sorting.digits: {digits} digits make {10**digits} different prompts, but data.num_train + "
            f"data.num_test is {needed}. Use more digits or fewer rows"
        )
    return _sorting_rows(data.seed, digits)


def _sorting_rows(seed: int, digits: int) -> Iterator[dict[str, str]]:
    rng = generator(seed, "sorting", digits)
    seen: set[str] = set()
    while len(seen) < 10**digits:
        for row in rng.integers(0, 10, size=(_CHUNK, digits)):
            text = "".join(map(str, row))
            if text not in seen:
                seen.add(text)
                yield {"prompt": f"{text}>", "response": "".join(sorted(text))}


def _reasoning_gym_module() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            "data.task: 'reasoning_gym' needs the reasoning-gym package: pip install raymdm[reasoning]"
        ) from error
    return reasoning_gym


def _reasoning_gym(data: DataConfig) -> Iterator[dict[str, str]]:
    """Questions of a reasoning-gym task with its own answers, without repeats."""
    gym, settings = _reasoning_gym_module(), data.reasoning_gym
    known = sorted(gym.factory.DATASETS)
    if settings.name not in known:
        near = difflib.get_close_matches(settings.name, known, n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else f"Known tasks: {', '.join(known)}"
        raise UserError(f"data.reasoning_gym.name: unknown task {settings.name!r}. {hint}")
    return _different_questions(data, _datasets(data, gym))


def _datasets(data: DataConfig, gym: Any) -> Iterator[Any]:
    """Endless small datasets of a reasoning-gym task, as some tasks make all their entries at once."""
    settings = data.reasoning_gym
    for number in count():
        seed = int(generator(data.seed, "reasoning_gym", settings.name, number).integers(2**31))
        try:
            yield gym.create_dataset(settings.name, seed=seed, size=_CHUNK, **settings.config)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(
                f"data.reasoning_gym.config: {settings.name!r} does not accept {settings.config}: {error}"
            ) from error


def _different_questions(data: DataConfig, datasets: Iterator[Any]) -> Iterator[dict[str, str]]:
    needed = data.num_train + data.num_test
    draws = max(_DRAWS_PER_ROW * needed, _CHUNK)
    seen: set[str] = set()
    for entry in islice(chain.from_iterable(datasets), draws):
        question, answer = entry["question"], str(entry["answer"])
        if question not in seen and answer.strip():
            seen.add(question)
            yield {"question": question, "answer": answer}
    # Whoever needs no more rows has stopped reading before this line.
    raise UserError(
        f"data.reasoning_gym: {data.reasoning_gym.name!r} gave {len(seen)} different questions in {draws} draws, but "
        f"data.num_train + data.num_test is {needed}. Ask for fewer rows, or widen data.reasoning_gym.config"
    )
