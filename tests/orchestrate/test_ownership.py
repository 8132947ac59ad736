"""A sweep belongs to one process, on one machine or several."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import ownership
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.ownership import OWNER, owned

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.1)


@pytest.fixture
def folder(make_recipe: MakeRecipe, tmp_path: Path) -> SweepFolder:
    return create(make_recipe(output=str(tmp_path / "here"), storage_path=str(tmp_path / "there")))


def test_a_sweep_is_run_by_one_process(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = create(make_recipe(output=str(tmp_path)))
    with owned(folder), pytest.raises(UserError, match="another process"), owned(folder):
        pass
    with owned(folder):
        pass


def test_the_mark_on_the_storage_goes_with_its_owner(folder: SweepFolder) -> None:
    with owned(folder):
        pass
    assert not folder.storage.exists(OWNER)


def test_an_owner_elsewhere_that_lives_is_respected(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        """Until the mark is renewed: a busy machine does that late."""
        assert seconds > 2 * ownership.BEAT_S
        before, deadline = folder.storage.read(OWNER), time.monotonic() + 60
        while folder.storage.read(OWNER) == before and time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(ownership, "time", SimpleNamespace(sleep=sleep))
    other = SweepFolder(tmp_path / "elsewhere", folder.mirror)
    other.path.mkdir()
    with owned(other), pytest.raises(UserError, match="is being run by process"), owned(folder):
        pass


def test_a_mark_that_stands_still_is_taken_over(folder: SweepFolder) -> None:
    mark = {"host": "gone", "pid": 1, "folder": "/elsewhere", "token": "x", "beat": 7}
    folder.storage.write(OWNER, json.dumps(mark).encode())
    with owned(folder):
        pass


def _run_until_taken_over(folder: SweepFolder) -> None:
    with owned(folder):
        mark = json.loads(folder.storage.read(OWNER))
        for _ in range(600):  # a mark written between a beat's look and its writing is lost, as one that is not renewed
            folder.storage.write(OWNER, json.dumps(mark | {"token": "another"}).encode())
            time.sleep(0.05)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_an_owner_that_was_taken_over_stops(folder: SweepFolder) -> None:
    before = signal.signal(signal.SIGTERM, _interrupt)  # as a sweep that is connected has it
    try:
        with pytest.raises(KeyboardInterrupt):
            _run_until_taken_over(folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(folder.storage.read(OWNER))["token"] == "another"
