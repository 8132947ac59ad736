"""Checkpoints in an object store: a folder is a checkpoint from the moment that its manifest is there."""

from pathlib import Path

import pytest

from raymdm.storage import Storage, StorageError
from raymdm.training.checkpoints import newest, prune, search, steps, write

NAMES = ["model/model.safetensors", "optimizer.pt", "state.json"]


def _fill(folder: Path) -> None:
    (folder / "model").mkdir()
    for name in NAMES:
        (folder / name).write_text(name)


def _refuse_put(remote: Storage, number: int) -> None:
    """The put of this number, from 1, fails, and those that follow."""
    puts = iter(range(1, 100))

    def before(path: str) -> None:
        if next(puts) >= number:
            raise OSError("the connection was lost")

    remote._fs.before_put = before


def _cut_short(remote: Storage, step: int, scratch: Path, puts: int = 2) -> None:
    """An upload that ended after some files."""
    _refuse_put(remote, puts + 1)
    with pytest.raises(StorageError):
        write(remote, step, _fill, scratch)
    remote._fs.before_put = lambda path: None


@pytest.mark.parametrize("puts", range(len(NAMES) + 1))
def test_the_manifest_is_written_last(remote: Storage, tmp_path: Path, puts: int) -> None:
    """Wherever an upload ends, the checkpoint before is the newest, and nothing is broken."""
    write(remote, 4, _fill, tmp_path / "scratch")
    _cut_short(remote, 8, tmp_path / "scratch", puts)
    found = newest(remote, tmp_path / "copy")
    assert found is not None
    assert (found.step, found.broken) == (4, [])


def test_an_upload_that_was_cut_short_is_finished_by_the_next_writer(remote: Storage, tmp_path: Path) -> None:
    _cut_short(remote, 8, tmp_path / "scratch")
    write(remote, 8, _fill, tmp_path / "scratch")
    found = newest(remote, tmp_path / "copy")
    assert found is not None and found.step == 8
    assert {name: (found.path / name).read_text() for name in NAMES} == {name: name for name in NAMES}


def test_nothing_but_unfinished_uploads_is_a_run_that_has_not_begun(remote: Storage, tmp_path: Path) -> None:
    _cut_short(remote, 8, tmp_path / "scratch")
    assert search(remote, tmp_path / "copy") == (None, {})


def test_unfinished_uploads_do_not_count_and_go_with_the_next_checkpoint(remote: Storage, tmp_path: Path) -> None:
    for step in (4, 8, 16):
        write(remote, step, _fill, tmp_path / "scratch")
    _cut_short(remote, 12, tmp_path / "scratch")
    _cut_short(remote, 20, tmp_path / "scratch")
    prune(remote, 16, 2)
    assert steps(remote) == [8, 16, 20], "a later one may be another process's, at work"


def test_a_checkpoint_that_another_process_finished_meanwhile_is_left_alone(remote: Storage, tmp_path: Path) -> None:
    def overtaken(partial: Path) -> None:
        _fill(partial)
        write(remote, 8, _fill, tmp_path / "other")
        remote._fs.before_put = touched.append

    touched: list[str] = []
    write(remote, 8, overtaken, tmp_path / "scratch")
    assert touched == []
    assert newest(remote, tmp_path / "copy") is not None


@pytest.mark.parametrize("puts", range(len(NAMES) + 1))
def test_a_broken_checkpoint_is_none_while_it_is_written_anew(remote: Storage, tmp_path: Path, puts: int) -> None:
    write(remote, 8, _fill, tmp_path / "scratch")
    (tmp_path / "run" / "step-00000008" / "state.json").write_text("other")
    _cut_short(remote, 8, tmp_path / "scratch", puts)
    assert search(remote, tmp_path / "copy") == (None, {})


def test_no_copy_of_a_checkpoint_stays(remote: Storage, tmp_path: Path) -> None:
    for _ in range(2):
        write(remote, 8, _fill, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
