"""The same number of steps for every method, or of model rows."""

import pytest

from raymdm.config.schema import TrainConfig


@pytest.mark.parametrize(
    ("budget", "views", "eval_every", "expected"),
    [
        ("steps", 2, None, (12, 5, 4, 6)),  # an evaluation an epoch: 40 rows in batches of 8
        ("steps", 2, 4, (12, 4, 4, 6)),
        ("rows", 1, 4, (12, 4, 4, 6)),
        ("rows", 2, 4, (6, 2, 2, 3)),
        ("rows", 2, None, (6, 2, 2, 3)),
        ("rows", 2, 1, (6, 1, 2, 3)),
    ],
)
def test_a_method_of_two_views_takes_half_of_all_steps_at_equal_rows(
    budget: str, views: int, eval_every: int | None, expected: tuple[int, ...]
) -> None:
    settings = TrainConfig(
        budget=budget, max_steps=12, eval_every=eval_every, warmup_steps=4, refit_every=6, global_batch_size=8
    )  # type: ignore[arg-type]
    found = settings.share(views, 40)
    assert (found.max_steps, found.eval_every, found.warmup_steps, found.refit_every) == expected


def test_epochs_count_rows_too() -> None:
    # 2.5 epochs of 41 rows in batches of 8: 13 steps of 12.8
    settings = TrainConfig(epochs=2.5, global_batch_size=8)
    assert settings.share(2, 41).max_steps == 13
    assert settings.model_copy(update={"budget": "rows"}).share(2, 41).max_steps == 6


def test_a_run_takes_a_step_at_least() -> None:
    assert TrainConfig(budget="rows", max_steps=1).share(2, 40).max_steps == 1
