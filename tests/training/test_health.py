"""Steps that are not finite are skipped and told; losses out of line are told."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.storage import Storage
from raymdm.training import health, loop, step
from raymdm.training.checkpoints import newest
from raymdm.training.draws import draw_rates
from raymdm.training.loop import Job, Run, Worker, build, train, train_step
from raymdm.training.state import RunState, load_state

MakeRecipe = Callable[..., Recipe]
NAN = math.nan


def _poison(monkeypatch: pytest.MonkeyPatch, steps: Sequence[int], slot: int = 2, value: float = NAN) -> None:
    """The loss of a slot is multiplied by `value` in the steps of some keys."""
    original = step._losses

    def losses(model: Any, batch: Any, inputs: Any, key: int, slots: np.ndarray, *rest: Any) -> torch.Tensor:
        factor = np.where((slots == slot) & (key in steps), value, 1.0)
        found = original(model, batch, inputs, key, slots, *rest)
        return found * torch.from_numpy(factor).to(found)

    monkeypatch.setattr(step, "_losses", losses)


def _build(recipe: Recipe, data: Path, folder: Path, method: str = "standard") -> Run:
    return build(Job(recipe, method, 42, data), Worker(lambda metrics: None, Storage(str(folder))), folder / "scratch")


def _train(recipe: Recipe, data: Path, folder: Path, method: str = "standard") -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    try:
        train(Job(recipe, method, 42, data), Worker(reports.append, Storage(str(folder))))
    finally:
        _train.reports = reports  # type: ignore[attr-defined]
    return reports


def _records(reports: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [record for report in reports for record in report["records"]]


def _events(reports: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for report in reports for event in report["events"] if event["event"] == kind]


def _state(folder: Path) -> RunState:
    found = newest(Storage(str(folder)), folder)
    assert found is not None
    return load_state(found.path)


@pytest.mark.parametrize("value", [NAN, math.inf, 1e38])
@pytest.mark.parametrize("method", ["standard", "ema", "mirror", "arm"])
def test_a_skipped_step_moves_nothing(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, value: float
) -> None:
    """Also where the losses are finite and the gradient overflows."""
    _poison(monkeypatch, [1], value=value)
    run = _build(make_recipe(), tiny_data, tmp_path, method)
    train_step(run)
    weights = {name: weight.clone() for name, weight in run.denoiser.state_dict().items()}
    moments, before = str(run.optimizer.state_dict()["state"]), dict(vars(run.state))
    train_step(run)
    assert all(torch.equal(weights[name], weight) for name, weight in run.denoiser.state_dict().items())
    assert str(run.optimizer.state_dict()["state"]) == moments
    after = vars(run.state)
    assert {name for name in before if before[name] != after[name]} == {
        "step", "model_rows", "seconds", "skipped_steps"
    }  # fmt: skip
    assert (run.state.step, run.state.skipped_steps) == (2, 1)
    train_step(run)
    assert all(torch.isfinite(weight).all() for weight in run.denoiser.state_dict().values())
    assert (run.state.step, run.state.skipped_steps) == (3, 1)


def test_a_skipped_step_is_recorded(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, [2, 6])
    records = _records(_train(make_recipe(), tiny_data, tmp_path))
    skipped = [(r["step"], r["train/skipped_steps"]) for r in records if "train/skipped_steps" in r]
    assert skipped == [(3, 1), (7, 2)]
    windows = [r for r in records if "train/loss" in r]
    assert [r["step"] for r in windows] == [5, 10, 12]
    assert all(math.isfinite(value) for record in windows for value in record.values())
    summary = _state(tmp_path).summary()
    assert (summary["skipped_steps"], summary["steps"]) == (2, 12)


def test_a_window_of_skipped_steps_has_no_record(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, [2, 3])
    records = _records(_train(make_recipe(train__log_every=2), tiny_data, tmp_path))
    assert [r["step"] for r in records if "train/loss" in r] == [2, 6, 8, 10, 12]


def test_the_event_tells_all_that_makes_the_step_again(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, [6])
    recipe = make_recipe()
    (event,) = _events(_train(recipe, tiny_data, tmp_path), "skipped_step")
    split = loading.load_split(tiny_data, "train")
    batch = split.example_ids[loading.batch_indices(len(split), 8, 6, recipe.data.seed)]
    run = _build(recipe, tiny_data, tmp_path / "other")
    t, _ = draw_rates(run.inputs.method, run.inputs.density, 42, 6, 8)
    assert (event["step"], event["key_step"], event["seed"], event["method"]) == (7, 6, 42, "standard")
    assert (event["slots"], event["slot_example_ids"]) == ([2], [batch[2]])
    assert event["example_ids"] == batch.tolist()
    assert event["rates"] == t.tolist()
    assert event["slot_losses"][2] == "nan" and event["grad_norm"] == "nan"
    assert all(isinstance(loss, float) for slot, loss in enumerate(event["slot_losses"]) if slot != 2)
    for told in (f"training example {batch[2]}", f"t = {t[0, 2]:.4f}", "slot 2", "method standard, seed 42", "step 6"):
        assert told in event["message"]
    json.dumps(event, allow_nan=False)


def test_an_overflowing_gradient_names_the_largest_loss(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, [6], value=1e38)
    (event,) = _events(_train(make_recipe(), tiny_data, tmp_path), "skipped_step")
    assert event["slots"] == []
    assert "all losses are finite" in event["message"]
    assert f"training example {event['example_ids'][2]}" in event["message"]


@pytest.mark.parametrize("allowed", [0, 2])
def test_one_more_than_allowed_ends_the_run(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    _poison(monkeypatch, range(5, 12))
    with pytest.raises(UserError) as error:
        _train(make_recipe(train__max_skipped_steps=allowed), tiny_data, tmp_path)
    events = _events(_train.reports, "skipped_step")  # type: ignore[attr-defined]
    assert [event["step"] for event in events] == list(range(6, 7 + allowed)), "told before the run ended"
    for told in (f"{allowed + 1} steps", f"train.max_skipped_steps={allowed}", events[-1]["message"], "train.lr"):
        assert told in str(error.value)


def test_what_happened_is_told_before_a_run_ends_for_another_reason(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, [1])
    monkeypatch.setattr(loop, "validation_sums", lambda *_: torch.tensor([NAN, 1.0, NAN], dtype=torch.float64))
    with pytest.raises(UserError, match="validation NLL is nan at step 4"):
        _train(make_recipe(), tiny_data, tmp_path)
    reports = _train.reports  # type: ignore[attr-defined]
    assert [event["step"] for event in _events(reports, "skipped_step")] == [2]
    assert [record["step"] for record in _records(reports)] == [2]


def test_the_run_goes_on_when_more_is_allowed(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint of step 4, with the count of then."""
    _poison(monkeypatch, [1, 6])
    with pytest.raises(UserError):
        _train(make_recipe(train__max_skipped_steps=1), tiny_data, tmp_path)
    _train(make_recipe(train__max_skipped_steps=2), tiny_data, tmp_path)
    assert _state(tmp_path).summary()["skipped_steps"] == 2


# Spikes


def _watched(tiny_data: Path, recipe: Recipe, folder: Path, losses: list[float]) -> Run:
    run = _build(recipe, tiny_data, folder)
    for loss in losses:
        run.state.step += 1
        health.watch(run, loss, np.arange(8))
    return run


def test_a_spike_by_hand(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Losses 1 to 32: median 16.5, absolute deviations 0.5 to 15.5 in pairs, their median 8."""
    line = [float(loss) for loss in range(1, 33)]
    limit = 16.5 + 8 * 1.4826 * 8
    below = _watched(tiny_data, make_recipe(), tmp_path / "a", [*line, limit - 1e-6])
    above = _watched(tiny_data, make_recipe(), tmp_path / "b", [*line, limit + 1e-6])
    assert (below.state.loss_spikes, below.events) == (0, [])
    assert (above.state.loss_spikes, above.state.window_spikes) == (1, 1)
    (event,) = above.events
    assert (event["event"], event["step"], event["median"], event["mad"]) == ("loss_spike", 33, 16.5, 8.0)
    assert event["loss"] == pytest.approx(limit)
    assert event["example_ids"] == above.train.example_ids[:8].tolist()


def test_few_losses_tell_no_spike(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = _watched(tiny_data, make_recipe(), tmp_path, [*[1.0, 2.0] * 15, 1.0, 1e6])
    assert run.state.loss_spikes == 0


def test_losses_that_are_mostly_the_same_tell_no_spike(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Such as 0, of batches in which nothing was masked."""
    run = _watched(tiny_data, make_recipe(), tmp_path, [*[0.0] * 40, 5.0])
    assert run.state.loss_spikes == 0


def test_only_the_latest_losses_count(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = _watched(tiny_data, make_recipe(), tmp_path, [*[1e6, 2e6] * 40, *[1.0, 2.0] * 32])
    assert run.state.recent_losses == [1.0, 2.0] * 32
    health.watch(run, 20.0, np.arange(8))
    assert run.state.loss_spikes == 1


def test_spikes_are_counted_in_their_window(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousandfold loss in step 38 of 40, windows of 5."""
    _poison(monkeypatch, [37], value=1e3)
    recipe = make_recipe(train__max_steps=40, train__eval_every=40)
    reports = _train(recipe, tiny_data, tmp_path)
    found = [r["train/loss_spikes"] for r in _records(reports) if "train/loss" in r]
    others = len(_events(reports, "loss_spike")) - 1
    assert sum(found) - found[-1] == others
    assert found[-1] == 1
    assert _events(reports, "loss_spike")[-1]["step"] == 38
    assert _state(tmp_path).summary()["loss_spikes"] == sum(found)


def test_the_loss_that_is_watched_is_the_step_s(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    reports = _train(make_recipe(train__log_every=4), tiny_data, tmp_path)
    means = [r["train/loss"] for r in _records(reports) if "train/loss" in r]
    kept = _state(tmp_path).recent_losses
    assert len(kept) == 12
    assert means == pytest.approx([statistics.mean(kept[i : i + 4]) for i in (0, 4, 8)])
