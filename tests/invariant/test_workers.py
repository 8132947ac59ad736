"""Two workers with gloo between them do what one does: moving averages, refit, search, and the norms they log."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interrupted import density, state, without_times

from raymdm.config.schema import Recipe
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, build, train, train_step

MakeRecipe = Callable[..., Recipe]
NAMES = ["ema", "refitted", "clipped_search"]


def _train(jobs: list[Job], folder: Path, **worker: Any) -> None:
    """Train all jobs; checkpoints go to folder/<method>, and every rank's records beside it."""
    for job in jobs:
        records: list[dict[str, float]] = []

        def report(metrics: dict[str, Any], records: list[dict[str, float]] = records) -> None:
            records.extend(metrics["records"])

        train(job, Worker(report, Storage(str(folder / job.method)), **worker))
        (folder / f"{job.method}-{worker.get('rank', 0)}.json").write_text(json.dumps(without_times(records)))


def _worker(rank: int, jobs: list[Job], folder: Path, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    _train(jobs, folder, rank=rank, world_size=2)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tiny_data: Path, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the jobs done by one worker and by two."""
    folder = tmp_path_factory.mktemp("workers")
    recipe = make_recipe(
        train__max_steps=6, train__eval_every=3, train__refit_every=2, calibrate__gradient_sequences=2,
        methods={"refitted": {"extends": "fixed_size_g_pots", "fit": "histogram"}},
    )  # fmt: skip
    jobs = [Job(recipe, name, 42, tiny_data, density(folder, recipe.spec(name))) for name in NAMES]
    one, two = folder / "one", folder / "two"
    one.mkdir()
    two.mkdir()
    _train(jobs, one)
    mp.spawn(_worker, (jobs, two, str(folder / "store")), nprocs=2)
    return one, two


def _records(folder: Path, name: str, rank: int = 0) -> list[dict[str, float]]:
    records: list[dict[str, float]] = json.loads((folder / f"{name}-{rank}.json").read_text())
    return records


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_report_what_one_does(runs: tuple[Path, Path], name: str) -> None:
    one, two = (_records(folder, name) for folder in runs)
    assert [sorted(record) for record in one] == [sorted(record) for record in two]
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_both_workers_know_the_same(runs: tuple[Path, Path], name: str) -> None:
    assert _records(runs[1], name, 0) == _records(runs[1], name, 1)


def test_moving_averages_agree(runs: tuple[Path, Path]) -> None:
    one, two = (state(folder / "ema").ema for folder in runs)
    assert np.any(one)
    np.testing.assert_allclose(np.array(two), np.array(one), rtol=1e-4)


def test_intervals_agree(runs: tuple[Path, Path]) -> None:
    one, two = (state(folder / "clipped_search").interval for folder in runs)
    assert one == two is not None


def test_refits_agree(runs: tuple[Path, Path]) -> None:
    """Two refits, at 2 and 4, of 70 rates, 2 sequences and 1 mask each."""
    one, two = (state(folder / "refitted") for folder in runs)
    assert one.measured_rows == two.measured_rows == 2 * 70 * 2
    assert one.fit is not None
    assert two.fit is not None
    assert two.fit["params"]["values"] == pytest.approx(one.fit["params"]["values"], rel=1e-3)


def test_two_ranks_seed_their_dropout_apart(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    monkeypatch.setattr(Worker, "sum", lambda self, values: values)
    for rank in range(2):
        worker = Worker(lambda metrics: None, Storage(str(tmp_path)))
        run = build(Job(make_recipe(), "standard", 42, tiny_data), worker, tmp_path)
        run.worker = dataclasses.replace(worker, rank=rank, world_size=2)
        for _ in range(3):
            train_step(run)
    assert len(seeds) == len(set(seeds)) == 6
