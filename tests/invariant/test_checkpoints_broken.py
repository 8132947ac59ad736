"""Whatever becomes of a run's checkpoints, of its storage or of its process: it ends as if nothing had happened."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from interrupted import assert_same_run, events_of, last, run_once, run_stopped, weights

from raymdm.config.schema import Recipe
from raymdm.storage import Storage, StorageError
from raymdm.training import checkpoints
from raymdm.training.loop import Job, Worker, train
from raymdm.training.run import Left

MakeRecipe = Callable[..., Recipe]
FILES = ["model/model.safetensors", "model/config.json", "best/model.safetensors", "optimizer.pt", "state.json",
         "manifest.json"]  # fmt: skip


@pytest.fixture(scope="module")
def job(tiny_data: Path, make_recipe: MakeRecipe) -> Job:
    return Job(make_recipe(train__checkpoint_every=2), "standard", 42, tiny_data)


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_once(job, folder)
    return folder


@pytest.fixture
def stopped(job: Job, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 4 and 6."""
    run_once(job, tmp_path / "run", stop=8)
    return tmp_path / "run"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BREAK: dict[str, Callable[[Path], object]] = {
    "flip": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "remove": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_costs_the_steps_since_the_checkpoint_before(
    job: Job, whole: Path, stopped: Path, name: str, how: str
) -> None:
    BREAK[how](stopped / "step-00000006" / name)
    events = events_of(run_once(job, stopped))
    assert [(event["event"], event["step"]) for event in events] == [("broken_checkpoint", 4), ("resumed", 4)]
    assert f"step-00000006/{name}" in events[0]["message"]
    assert_same_run(stopped, whole)
    assert checkpoints.steps(Storage(str(stopped))) == [10, 12]


def test_with_no_sound_checkpoint_the_run_starts_anew_and_says_so(job: Job, whole: Path, stopped: Path) -> None:
    for folder in stopped.iterdir():
        _flip(folder / "optimizer.pt")
    events = events_of(run_once(job, stopped))
    assert [event["event"] for event in events] == ["broken_checkpoint"] * 3
    assert "starts anew" in events[-1]["message"]
    assert_same_run(stopped, whole)


def test_a_write_that_was_killed_is_not_seen(job: Job, whole: Path, stopped: Path) -> None:
    leftover = stopped / f".step-00000008-{'a' * 32}.partial"
    shutil.copytree(stopped / "step-00000006", leftover)
    assert [event["event"] for event in events_of(run_once(job, stopped))] == ["resumed"]
    assert_same_run(stopped, whole)
    assert not leftover.exists()


def test_two_processes_of_a_run_do_not_disturb_each_other(job: Job, whole: Path, stopped: Path) -> None:
    """One that lost its driver does four more steps while the next has begun."""
    ahead = stopped.parent / "ahead"
    shutil.copytree(stopped, ahead)
    run_once(job, ahead, stop=5)
    steps = iter(range(100))

    def together() -> Left:
        if next(steps) == 1:
            for folder in ahead.iterdir():
                shutil.copytree(folder, stopped / folder.name, dirs_exist_ok=True)
        return ""

    run_once(job, stopped, notice=together)
    assert_same_run(stopped, whole)


# Storage that refuses


@pytest.fixture
def small(tmp_path: Path, mount_disk: Callable[[Path, str], AbstractContextManager[Path]]) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mount_disk(disk, "1m"):
        yield disk
        gc.collect()  # what failed holds files of it


def _refused(job: Job, folder: Path) -> str:
    with pytest.raises(StorageError) as error:
        train(job, Worker(lambda metrics: None, Storage(str(folder))))
    return str(error.value)


@pytest.mark.parametrize("room", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_a_full_disk_costs_nothing_that_was_written(
    job: Job, whole: Path, small: Path, stopped: Path, room: float
) -> None:
    """room: in checkpoints; another file fills the disk each time."""
    shutil.copytree(stopped, small / "run")
    one = sum(path.stat().st_size for path in (stopped / "step-00000006").rglob("*"))
    (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - int(room * one)))
    assert "No space left on device" in _refused(job, small / "run")
    found = last(small / "run")
    assert found.step >= 6 and found.broken == []
    (small / "filler").unlink()
    run_once(job, small / "run")
    assert_same_run(small / "run", whole)


def test_temporary_files_without_room_cost_nothing(
    job: Job, whole: Path, small: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for half of the best model, which each process copies."""
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    half = (stopped / "step-00000006" / "best" / "model.safetensors").stat().st_size // 2
    (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - half))
    message = _refused(job, stopped)
    assert "No space left on device" in message and str(small) in message
    assert last(stopped).step == 6
    (small / "filler").unlink()
    run_once(job, stopped)
    assert_same_run(stopped, whole)


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_permission_lost_amid_the_run_costs_nothing_that_was_written(
    job: Job, whole: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Root may write everywhere, so the operating system's answer is put in its mouth."""
    original = getattr(Path, call)

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if "step-00000010" in self.name:
            raise PermissionError(13, "Permission denied")
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refuse)
        assert "Permission denied" in _refused(job, stopped)
    assert last(stopped).step == 8
    run_once(job, stopped)
    assert_same_run(stopped, whole)


def test_storage_that_is_a_file_is_told_before_training(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in _refused(job, tmp_path / "file" / "run")


# A process that is killed


def _killed(job: Job, folder: Path, step: str, moment: int) -> None:
    """SIGKILL while the checkpoint of a step is written, at the given one of the waits for the disk."""
    original, calls = checkpoints._sync, iter(range(100))

    def sync(path: Path) -> None:
        if step in str(path) and next(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        original(path)

    checkpoints._sync = sync
    run_once(job, folder)


def test_kill_while_writing_leaves_the_checkpoint_before(job: Job, whole: Path, tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    for step, moment in [("00000006", 0), ("00000010", 5)]:
        process = context.Process(target=_killed, args=(job, tmp_path / "run", step, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert last(tmp_path / "run").step == int(step) - 2
    run_once(job, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)
    assert len(list((tmp_path / "run").iterdir())) == 2, "what the kills left is gone"


def test_the_best_model_survives_stops(job: Job, whole: Path, tmp_path: Path) -> None:
    run_stopped(job, tmp_path / "run", [7, 5, 3])
    best, expected = weights(tmp_path / "run", "best"), weights(whole, "best")
    assert all((best[name] == expected[name]).all() for name in expected)
