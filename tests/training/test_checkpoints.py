"""Checkpoints on storage: whole or not there, the newest sound one found, no more kept than asked for."""

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raymdm.storage import Storage, StorageError
from raymdm.training import checkpoints
from raymdm.training.checkpoints import newest, prune, search, steps, write

FILES = {"model/model.safetensors": b"weights", "best/model.safetensors": b"best", "optimizer.pt": b"moments",
         "state.json": b"{}"}  # fmt: skip


def _fill(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def save(storage: Storage, tmp_path: Path) -> Callable[[int], None]:
    return lambda step: write(storage, step, _fill, tmp_path / "scratch")


def test_a_checkpoint_is_read_as_it_was_written(storage: Storage, save: Callable[[int], None], tmp_path: Path) -> None:
    save(5)
    save(50)
    found = newest(storage, tmp_path / "copy")
    assert found is not None
    assert (found.step, found.broken) == (50, [])
    assert {name: (found.path / name).read_bytes() for name in FILES} == FILES


def test_the_manifest_is_that_of_sha256sum(storage: Storage, save: Callable[[int], None]) -> None:
    save(7)
    manifest = json.loads(storage.read("step-00000007/manifest.json"))
    assert (manifest["format"], manifest["step"]) == (1, 7)
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }


def test_no_checkpoint_is_no_error(storage: Storage, tmp_path: Path) -> None:
    assert newest(storage, tmp_path / "copy") is None


BREAK: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "flipped at the end": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"~" + path.read_bytes()[-1:]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("name", "how"), [*itertools.product(FILES, BREAK), *(("manifest.json", how) for how in BREAK if how != "missing")]
)
def test_a_broken_file_is_named_and_the_checkpoint_before_used(
    storage: Storage, save: Callable[[int], None], tmp_path: Path, name: str, how: str
) -> None:
    save(4)
    save(8)
    BREAK[how](tmp_path / "run" / "step-00000008" / name)
    found = newest(storage, tmp_path / "copy")
    assert found is not None
    assert found.step == 4
    assert len(found.broken) == 1
    assert found.broken[0].startswith(f"step-00000008/{name} ")


@pytest.mark.parametrize("field", ["step", "format", "files"])
def test_a_changed_manifest_is_seen(storage: Storage, save: Callable[[int], None], tmp_path: Path, field: str) -> None:
    """Also where it stays a manifest."""
    save(8)
    path = tmp_path / "run" / "step-00000008" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: {} if field == "files" else 2}))
    assert newest(storage, tmp_path / "copy") is None


def test_an_empty_folder_is_no_checkpoint(folder: Storage, tmp_path: Path) -> None:
    write(folder, 4, _fill, tmp_path)
    (tmp_path / "run" / "step-00000008").mkdir()
    found = newest(folder, tmp_path / "copy")
    assert found is not None
    assert (found.step, found.broken) == (4, ["step-00000008/manifest.json is missing"])


def test_what_is_wrong_is_known_where_nothing_is_sound(
    storage: Storage, save: Callable[[int], None], tmp_path: Path
) -> None:
    save(4)
    save(8)
    for step in ("00000004", "00000008"):
        (tmp_path / "run" / f"step-{step}" / "optimizer.pt").unlink()
    found, broken = search(storage, tmp_path / "copy")
    assert found is None
    assert broken == {step: f"step-0000000{step}/optimizer.pt is missing" for step in (4, 8)}


def test_a_broken_checkpoint_is_written_anew(storage: Storage, save: Callable[[int], None], tmp_path: Path) -> None:
    save(8)
    (tmp_path / "run" / "step-00000008" / "state.json").write_text("other")
    save(8)
    found = newest(storage, tmp_path / "copy")
    assert found is not None
    assert (found.step, found.broken) == (8, [])


def test_a_sound_checkpoint_is_left_as_it_is(storage: Storage, save: Callable[[int], None], tmp_path: Path) -> None:
    save(8)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    save(8)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept(storage: Storage, save: Callable[[int], None], keep: int) -> None:
    for step in (1, 2, 3, 4):
        save(step)
        prune(storage, step, keep)
    assert steps(storage) == [1, 2, 3, 4][-keep:]


def test_a_broken_one_is_not_kept_in_a_sound_one_s_place(storage: Storage, save: Callable[[int], None]) -> None:
    for step in (4, 7, 8):
        save(step)
    prune(storage, 8, 2, broken={7})
    assert steps(storage) == [4, 8]


def test_later_checkpoints_are_another_process_s_business(storage: Storage, save: Callable[[int], None]) -> None:
    for step in (4, 8, 12):
        save(step)
    prune(storage, 8, 1)
    assert steps(storage) == [8, 12]


# What only a folder on a disk has: a name that says it is not finished


def test_leftovers_of_steps_gone_by_are_removed(folder: Storage, tmp_path: Path) -> None:
    for name in (".step-00000003-ab.partial", ".step-00000008-cd.broken", ".step-00000009-ef.partial", "step-notes"):
        (folder.path / name).mkdir(parents=True)
    write(folder, 8, _fill, tmp_path)
    prune(folder, 8, 1)
    assert sorted(os.listdir(folder.path)) == [".step-00000009-ef.partial", "step-00000008", "step-notes"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS])
def test_a_refusal_at_any_moment_leaves_what_was_there(
    folder: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The k-th call that waits for the disk fails, for every k."""
    write(folder, 4, _fill, tmp_path)
    original, done = checkpoints._sync, 0
    while True:
        calls = iter(range(100))

        def sync(path: Path, calls: object = calls, done: int = done) -> None:
            if next(calls) == done:  # type: ignore[call-overload]
                raise OSError(code, os.strerror(code))
            original(path)

        monkeypatch.setattr(checkpoints, "_sync", sync)
        found = newest(folder, tmp_path / "copy")
        assert found is not None and found.broken == []
        told = ""
        try:
            write(folder, 8, _fill, tmp_path)
        except StorageError as error:
            told = str(error)
        if not told:
            break
        assert os.strerror(code) in told and str(folder.path) in told
        done += 1
    assert done > len(FILES)
    assert steps(folder) == [4, 8]


def test_a_step_that_another_process_committed_meanwhile_is_fine(folder: Storage, tmp_path: Path) -> None:
    def overtaken(partial: Path) -> None:
        write(folder, 8, _fill, tmp_path)
        mine = {path: path.stat().st_mtime_ns for path in folder.path.rglob("step-00000008/*")}
        _fill(partial)
        kept.update(mine)

    kept: dict[Path, int] = {}
    write(folder, 8, overtaken, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert os.listdir(folder.path) == ["step-00000008"]


@pytest.mark.parametrize("writer", ["python", "torch", "safetensors"])
@pytest.mark.parametrize("step", [8, 12])
def test_a_process_that_is_overtaken_does_not_fail(folder: Storage, tmp_path: Path, step: int, writer: str) -> None:
    """The other, which is at the same step or further on, takes what this one is writing for a leftover."""

    def overtaken(partial: Path) -> None:
        write(folder, step, _fill, tmp_path)
        prune(folder, step, 1)
        assert not partial.exists()
        if writer == "safetensors":
            save_file({"a": torch.ones(2)}, partial / "model.safetensors")
        elif writer == "torch":
            with (partial / "optimizer.pt").open("wb") as file:
                torch.save({}, file)
        else:
            (partial / "model").mkdir()

    write(folder, 8, overtaken, tmp_path)
    assert steps(folder) == [step]


def test_a_mistake_in_the_code_is_not_taken_for_storage(folder: Storage, tmp_path: Path) -> None:
    def wrong(partial: Path) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        write(folder, 8, wrong, tmp_path)
    assert os.listdir(folder.path) == []


def test_a_folder_that_vanishes_without_a_reason_is_an_error(folder: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write(folder, 8, shutil.rmtree, tmp_path)
