"""The loop: learning rate, windows, early stopping, the best model."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.storage import Storage
from raymdm.training import loop, run
from raymdm.training.loop import Job, Worker, learning_rate, train
from raymdm.training.state import load_state

MakeRecipe = Callable[..., Recipe]


def _run(job: Job, folder: Path) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    train(job, Worker(report=reports.append, checkpoints=Storage(str(folder))))
    return reports


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.5), (9, 0.125)], ids=str)
def test_linear_schedule_with_warm_up(step: int, expected: float) -> None:
    assert learning_rate(step, 10, 1.0, 2, "linear") == pytest.approx(expected)


def test_constant_schedule() -> None:
    assert learning_rate(9, 10, 0.3, 0, "constant") == 0.3


def test_training_lowers_the_validation_nll(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    reports = _run(Job(make_recipe(train__max_steps=60, train__eval_every=20), "standard", 1, tiny_data), tmp_path)
    nll = [record["val/nll"] for report in reports for record in report["records"] if "val/nll" in record]
    assert nll[-1] < nll[0]


def test_records_cover_every_step_once(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    reports = _run(Job(make_recipe(), "mirror", 1, tiny_data), tmp_path)
    records = [record for report in reports for record in report["records"]]
    assert [r["step"] for r in records if "train/loss" in r] == [5, 10, 12]
    assert [r["step"] for r in records if "val/nll" in r] == [4, 8, 12]
    assert [r["train/model_rows"] for r in records if "train/loss" in r] == [5 * 16, 10 * 16, 12 * 16]


def test_an_equal_budget_of_rows_halves_the_steps_of_two_views(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    rows = {}
    for method in ("standard", "mirror"):
        records = [
            record
            for report in _run(Job(make_recipe(train__budget="rows"), method, 1, tiny_data), tmp_path / method)
            for record in report["records"]
        ]
        rows[method] = [r["train/model_rows"] for r in records if "train/loss" in r][-1]
        assert [r["step"] for r in records if "val/nll" in r] == ([4, 8, 12] if method == "standard" else [2, 4, 6])
    assert rows == {"standard": 12 * 8, "mirror": 6 * 16}


def test_early_stopping_keeps_the_best_model(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    monkeypatch.setattr(loop, "validation_sums", lambda *_: torch.tensor([next(scripted), 1.0, 0.0]).double())
    recipe = make_recipe(train__patience=2, train__max_steps=40, train__keep_checkpoints=9)
    _run(Job(recipe, "standard", 1, tiny_data), tmp_path)
    state = load_state(tmp_path / "step-00000016")
    assert (state.step, state.best_step, state.best_nll) == (16, 8, 2.0)
    best, then = (
        load_file(tmp_path / "step-00000016/best/model.safetensors"),
        load_file(tmp_path / "step-00000008/model/model.safetensors"),
    )
    assert all(torch.equal(best[name], then[name]) for name in best)
    last = load_file(tmp_path / "step-00000016/model/model.safetensors")
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert state.totals_steps == 16, "the window that early stopping cut short counts too"


def test_a_model_that_knows_nothing_has_the_nll_of_the_vocabulary(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero logits: the cross-entropy of every token is log N, whatever is masked, for an MDM and an ARM."""
    original = run.load_model

    def blank(*arguments: Any) -> Any:
        model = original(*arguments)
        torch.nn.init.zeros_(model.get_output_embeddings().weight)
        return model

    monkeypatch.setattr(run, "load_model", blank)
    size = len(loading.tokenizer(tiny_data))
    for method in ("fixed_size", "arm"):
        recipe = make_recipe(train__lr=1e-12, train__max_steps=1)
        records = [
            r for report in _run(Job(recipe, method, 1, tiny_data), tmp_path / method) for r in report["records"]
        ]
        nll = torch.log(torch.tensor(float(size))).item()
        assert records[0]["train/loss"] == pytest.approx(nll, rel=1e-5)
        assert records[1]["val/nll"] == pytest.approx(nll, rel=1e-5)


def test_a_density_of_another_mask_is_refused(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    density = tmp_path / "density.json"
    density.write_text('{"mask": "bernoulli"}')
    with pytest.raises(ValueError, match="bernoulli_mirrored"):
        _run(Job(make_recipe(), "p_pots_mirror", 1, tiny_data, density), tmp_path)


def test_gradient_norms_are_those_of_the_window_s_steps(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def spy(*arguments: Any) -> torch.Tensor:
        norms.append(float(clip(*arguments)))
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    reports = _run(Job(make_recipe(train__max_grad_norm=0.5), "standard", 1, tiny_data), tmp_path)
    records = [r for report in reports for r in report["records"] if "train/loss" in r]
    for record, window in zip(records, (norms[:5], norms[5:10], norms[10:]), strict=True):
        assert record["train/grad_norm"] == pytest.approx(statistics.mean(window))
        assert record["train/grad_norm_std"] == pytest.approx(statistics.stdev(window))
        assert record["train/grad_norm_max"] == pytest.approx(max(window))
        assert record["train/clipped_steps"] == pytest.approx(sum(norm > 0.5 for norm in window) / len(window))
