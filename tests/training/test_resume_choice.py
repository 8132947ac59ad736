"""Which checkpoint a run goes on from when another of its processes removes them meanwhile."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.storage import Storage, StorageError
from raymdm.training.checkpoints import write
from raymdm.training.loop import Job, Worker, build, train
from raymdm.training.resume import resumed


def _worker(folder: Path) -> Worker:
    return Worker(lambda metrics: None, Storage(str(folder)))


def _save(folder: Path, step: int) -> None:
    write(Storage(str(folder)), step, lambda partial: (partial / "state.json").touch(), folder)


def test_a_newer_one_takes_the_place_of_one_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    _save(tmp_path, 4)

    def load(checkpoint: Path | None) -> str:
        assert checkpoint is not None
        if checkpoint.name == "step-00000004":
            _save(tmp_path, 8)
            shutil.rmtree(checkpoint)
            raise FileNotFoundError(checkpoint)
        return checkpoint.name

    found = resumed(_worker(tmp_path), tmp_path / "copy", load)
    assert found.loaded == "step-00000008"
    assert found.found is not None and found.found.step == 8


def test_a_run_with_checkpoints_that_keep_vanishing_does_not_start_anew(tmp_path: Path) -> None:
    def load(checkpoint: Path | None) -> None:
        assert checkpoint is not None
        step = int(checkpoint.name[-8:])
        _save(tmp_path, step + 1)
        shutil.rmtree(checkpoint)

    _save(tmp_path, 4)
    with pytest.raises(StorageError, match="not there for all workers"):
        resumed(_worker(tmp_path), tmp_path / "copy", load)


def test_what_is_wrong_with_a_model_is_told_as_it_is(tmp_path: Path) -> None:
    def load(checkpoint: Path | None) -> None:
        raise UserError("model.path: no such folder")

    with pytest.raises(UserError, match=r"model\.path: no such folder"):
        resumed(_worker(tmp_path), tmp_path / "copy", load)


def test_a_sound_checkpoint_that_cannot_be_read_is_not_passed_over(
    tiny_data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes were right a moment ago: the run goes on when the disk does."""
    job = Job(make_recipe(train__max_steps=4), "standard", 42, tiny_data)
    run_folder = tmp_path / "run"
    train(job, _worker(run_folder))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Input/output error (os error 5)")

    monkeypatch.setattr("transformers.modeling_utils.safe_open", refuse)
    with pytest.raises(StorageError, match=r"step-00000004.*Input/output error"):
        build(job, _worker(run_folder), tmp_path)
