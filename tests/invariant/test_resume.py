"""A run that stops and goes on ends where the uninterrupted one does, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raymdm.config.schema import METHODS, Recipe
from raymdm.training.loop import Job, Worker, train
from raymdm.training.state import load_state

MakeRecipe = Callable[..., Recipe]


class _Stopped(Exception):
    pass


def _train(job: Job, folder: Path, resume: Path | None = None, stop_after: int | None = None) -> list[dict[str, float]]:
    """Train, keep every checkpoint as folder/<step>, and return the records; stop after some checkpoints."""
    records: list[dict[str, float]] = []
    kept = 0

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        nonlocal kept
        records.extend(metrics["records"])
        if checkpoint:
            shutil.copytree(checkpoint, folder / str(metrics["step"]))
            kept += 1
            if kept == stop_after:
                raise _Stopped

    train(job, Worker(report=report, resume=resume))
    return records


def _without_times(records: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def _density(folder: Path, method: str) -> Path | None:
    if METHODS[method].density == "uniform":
        return None
    path = folder / "density.json"
    params = {"a": 0.8, "b": 0.3, "A": 0.5, "kappa": 0.9, "m": 2.5, "q": 6.0, "r": 0.9}
    path.write_text(json.dumps({"params": params, "eps": 1e-3, "uniform_mix": 0.0, "mask": METHODS[method].mask_name}))
    return path


@pytest.mark.parametrize("method", ["standard", "p_pots_mirror", "strats", "fixed_size", "arm"])
def test_resumed_run_equals_the_uninterrupted_one(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, method: str
) -> None:
    job = Job(make_recipe(), method, 42, tiny_data, _density(tmp_path, method))
    whole = _train(job, tmp_path / "whole")
    with pytest.raises(_Stopped):
        _train(job, tmp_path / "first", stop_after=1)
    rest = _train(job, tmp_path / "rest", resume=tmp_path / "first" / "4")

    final, resumed = (load_file(tmp_path / name / "12" / "model" / "model.safetensors") for name in ("whole", "rest"))
    assert all(torch.equal(final[name], resumed[name]) for name in final)
    assert _without_times(rest)[0]["step"] == 4, "reports before the stop may be lost, so all are sent again"
    assert [r for r in _without_times(rest) if r["step"] > 4] == [r for r in _without_times(whole) if r["step"] > 4]
    expected, found = (load_state(tmp_path / name / "12").summary() for name in ("whole", "rest"))
    assert {k: v for k, v in found.items() if k != "train_seconds"} == {
        k: v for k, v in expected.items() if k != "train_seconds"
    }


def test_a_finished_run_resumes_to_nothing(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    job = Job(make_recipe(), "standard", 42, tiny_data)
    _train(job, tmp_path / "whole")
    assert {r["step"] for r in _train(job, tmp_path / "again", resume=tmp_path / "whole" / "12")} == {4, 5, 8, 10, 12}
    assert not (tmp_path / "again").exists()


def test_seed_and_method_decide_a_run_and_nothing_else(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    runs = {
        name: _without_times(_train(Job(make_recipe(), method, seed, tiny_data), tmp_path / name))
        for name, method, seed in [("a", "standard", 1), ("b", "standard", 1), ("c", "standard", 2)]
    }
    assert json.dumps(runs["a"]) == json.dumps(runs["b"])
    assert runs["a"] != runs["c"]
