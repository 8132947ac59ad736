"""Several workers with gloo between them: stopped and resumed bit for bit, and of one mind about what goes wrong."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interrupted import assert_same_run, events_of, poison, run_once, run_stopped, state, weights

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.storage import Storage
from raymdm.training import checkpoints, step
from raymdm.training.loop import Job, Worker, train

MakeRecipe = Callable[..., Recipe]


@contextmanager
def _together(rank: int, workers: int, folder: Path) -> Iterator[dict[str, int]]:
    """A group of the first workers."""
    store = folder / f"store-{workers}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    yield {"rank": rank, "world_size": workers}
    dist.destroy_process_group()


def _worker(rank: int, job: Job, folder: Path) -> None:
    with _together(rank, 4, folder) as four:
        run_once(job, folder / "four", **four)
        run_stopped(job, folder / "four-stopped", [2, 3, 1, 6], **four)
    if rank > 1:
        return
    with _together(rank, 2, folder) as two:
        run_once(job, folder / "two", **two)
        run_stopped(job, folder / "two-stopped", [2, 3, 1, 6], **two)
        if rank == 0:
            run_once(job, folder / "changing", stop=4)
            run_once(job, folder / "one")
        dist.barrier()
        run_once(job, folder / "changing", stop=5, **two)
        _told_to_leave(job, folder, two)
        _full(job, folder, two)
        _broken_loss(job, folder, two)
        _unshared(job, folder, two)
        _without_data(job, folder, two)
        _without_scratch(job, folder, two)
    if rank == 0:
        run_once(job, folder / "changing")


def _told_to_leave(job: Job, folder: Path, two: dict[str, int]) -> None:
    """The second worker is told in its sixth step, then both go on; every checkpoint is kept."""
    calls, reports, original = iter(range(100)), [], checkpoints._sync

    def report(metrics: dict[str, Any]) -> None:
        manifest = folder / "told" / checkpoints.folder_name(metrics["step"]) / checkpoints.MANIFEST
        reports.append(metrics | {"committed": manifest.exists()})

    def slow_sync(path: Path) -> None:
        time.sleep(0.02)  # a report that did not wait for the checkpoint would come first
        original(path)

    checkpoints._sync = slow_sync
    train_config = job.recipe.train.model_copy(update={"checkpoint_every": None, "keep_checkpoints": 9})
    recipe = job.recipe.model_copy(update={"train": train_config})
    told = Job(recipe, job.method, job.seed, job.data)
    notice = lambda: "node" if two["rank"] == 1 and next(calls) >= 5 else ""  # noqa: E731
    run_once(told, folder / "told", notice=notice, report=report, **two)
    checkpoints._sync = original
    _keep(folder / f"told-{two['rank']}.json", reports)
    run_once(told, folder / "told", **two)


def _full(job: Job, folder: Path, two: dict[str, int]) -> None:
    """There is no room for the checkpoint of step 6."""
    original = checkpoints._sync

    def sync(path: Path) -> None:
        if "00000006" in str(path):
            raise OSError(28, "No space left on device")
        original(path)

    checkpoints._sync = sync
    _keep(folder / f"full-{two['rank']}.json", _refused(job, folder / "full", two))
    checkpoints._sync = original
    dist.barrier()
    run_once(job, folder / "full", **two)


def _broken_loss(job: Job, folder: Path, two: dict[str, int]) -> None:
    """The second worker's last slot of 8 is NaN in the step of key 6; the stopped run meets it twice."""
    original, step._losses = step._losses, poison(7, [6], float("nan"))
    reports = run_once(job, folder / "nan", **two)
    _keep(folder / f"nan-{two['rank']}.json", reports)
    run_stopped(job, folder / "nan-stopped", [8], **two)
    step._losses = original


def _unshared(job: Job, folder: Path, two: dict[str, int]) -> None:
    """Storage that only the first worker has."""
    if two["rank"] == 0:
        run_once(job, folder / "unshared-0", stop=4)
    dist.barrier()
    _keep(folder / f"unshared-{two['rank']}.json", _refused(job, folder / f"unshared-{two['rank']}", two))


def _without_data(job: Job, folder: Path, two: dict[str, int]) -> None:
    """The second worker's node has no data."""
    if two["rank"] == 1:
        job = replace(job, data=folder / "nowhere")
    _keep(folder / f"dataless-{two['rank']}.json", _refused(job, folder / "dataless", two))


def _without_scratch(job: Job, folder: Path, two: dict[str, int]) -> None:
    """The first worker's node has no place for temporary files."""
    original = tempfile.tempdir
    if two["rank"] == 0:
        tempfile.tempdir = str(folder / "no-tmp")
    _keep(folder / f"scratchless-{two['rank']}.json", _refused(job, folder / "scratchless", two))
    tempfile.tempdir = original


def _refused(job: Job, folder: Path, two: dict[str, int]) -> list[Any]:
    """The error's type and message, and the steps at which was reported."""
    reports: list[int] = []
    try:
        train(job, Worker(lambda metrics: reports.append(metrics["step"]), Storage(str(folder)), **two))
    except UserError as error:
        return [type(error).__name__, str(error), reports]
    return []


def _keep(path: Path, what: Any) -> None:
    path.write_text(json.dumps(what))


@pytest.fixture(scope="module")
def runs(tiny_data: Path, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four, two and one worker left; see `_worker`. Evaluations at 4, 8 and 12, windows end at 5, 10 and 12."""
    folder = tmp_path_factory.mktemp("workers")
    recipe = make_recipe(train__checkpoint_every=1, train__max_skipped_steps=1)
    mp.spawn(_worker, (Job(recipe, "ema", 42, tiny_data), folder), nprocs=4)
    return folder


def _read(runs: Path, name: str) -> list[Any]:
    return [json.loads((runs / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("workers", ["two", "four"])
def test_stops_change_nothing(runs: Path, workers: str) -> None:
    assert_same_run(runs / f"{workers}-stopped", runs / workers)


def test_workers_that_come_and_go_change_rounding_alone(runs: Path) -> None:
    """One for 3 steps, two for 4, one for the rest."""
    one, changing = (weights(runs / name) for name in ("one", "changing"))
    for name, expected in one.items():
        torch.testing.assert_close(changing[name], expected, rtol=1e-3, atol=1e-5)
    found, expected = (state(runs / name).summary() for name in ("changing", "one"))
    for name in ("val_nll", "loss_variance", "backprop_variance", "grad_norm", "grad_norm_std"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name
    assert found["steps"] == expected["steps"]


def test_a_notice_to_one_worker_makes_all_leave_with_one_checkpoint(runs: Path) -> None:
    assert checkpoints.steps(Storage(str(runs / "told"))) == [4, 6, 8, 12]
    for reports in _read(runs, "told"):
        assert [(event["step"], event["event"], event["why"]) for event in events_of(reports)] == [(6, "left", "node")]
        assert [report["left"] for report in reports] == ["", "", "node"], "at the start, an evaluation and the end"
        assert reports[-1]["committed"], "told when it is kept"


def test_workers_that_left_together_go_on_bit_for_bit(runs: Path) -> None:
    assert_same_run(runs / "told", runs / "two")


def test_a_full_disk_is_told_by_all_workers(runs: Path) -> None:
    first, second = _read(runs, "full")
    assert first == second
    assert first[0] == "StorageError"
    assert "No space left on device" in first[1]
    assert first[2][-1] >= 6, "what happened since the last report is told before the run ends"


def test_a_run_goes_on_once_there_is_room(runs: Path) -> None:
    assert_same_run(runs / "full", runs / "two")


def test_a_loss_that_one_worker_has_is_skipped_by_all(runs: Path) -> None:
    (first, second) = (events_of(reports) for reports in _read(runs, "nan"))
    assert first == second
    assert [(event["step"], event["event"], event["slots"]) for event in first] == [(7, "skipped_step", [7])]
    assert state(runs / "nan").skipped_steps == 1


def test_a_skipped_step_survives_a_stop(runs: Path) -> None:
    assert_same_run(runs / "nan-stopped", runs / "nan")


def test_storage_that_is_not_shared_is_refused_by_all(runs: Path) -> None:
    first, second = _read(runs, "unshared")
    assert first[0] == second[0] == "StorageError"
    assert "all nodes share" in first[1]
    shutil.rmtree(runs / "unshared-0")


def test_data_that_one_node_lacks_is_told_by_all(runs: Path) -> None:
    first, second = _read(runs, "dataless")
    assert first == second
    assert first[0] == "UserError"
    assert "nowhere" in first[1] and "all nodes share" in first[1]


def test_a_node_without_room_for_temporary_files_is_told_by_all(runs: Path) -> None:
    first, second = _read(runs, "scratchless")
    assert first == second
    assert first[0] == "StorageError"
    assert "TMPDIR" in first[1]
