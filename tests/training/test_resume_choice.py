"""Which checkpoint a run goes on from when another of its processes removes them meanwhile."""

import shutil
from pathlib import Path

import pytest

from raymdm.errors import UserError
from raymdm.storage import Storage, StorageError
from raymdm.training.checkpoints import write
from raymdm.training.resume import resumed
from raymdm.training.run import Worker


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


@pytest.mark.parametrize("name", ["PermissionError", "IsADirectoryError"])
def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(tmp_path: Path, name: str) -> None:
    _save(tmp_path, 4)

    def load(checkpoint: Path | None) -> None:
        raise {"PermissionError": PermissionError, "IsADirectoryError": IsADirectoryError}[name](13, "refused")

    with pytest.raises(StorageError, match="cannot read"):
        resumed(_worker(tmp_path), tmp_path / "copy", load)
