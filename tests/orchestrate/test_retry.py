"""Which runs are tried again, and what is refused, before anything is trained."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import retry as module
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.retry import retry

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def folder(make_recipe: MakeRecipe, tmp_path: Path) -> SweepFolder:
    """standard has finished with seed 1, and failed with 2 and 3; 4 was not run."""
    folder = create(make_recipe(output=str(tmp_path), sweep__seeds=[1, 2, 3, 4]))
    folder.update(status="failed")
    for seed, status in ((1, "finished"), (2, "failed"), (3, "failed")):
        _end(folder, seed, status, f"error {seed}")
    return folder


@pytest.fixture
def gone_on(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that sweeps went on with."""
    recipes: list[Recipe] = []

    def go_on(
        folder: SweepFolder, recipe: Recipe, console: Console, reopen: Callable[[SweepFolder], None]
    ) -> SweepFolder:
        recipes.append(recipe)
        reopen(folder)
        return folder

    monkeypatch.setattr(module, "go_on", go_on)
    return recipes


def _end(folder: SweepFolder, seed: int, status: str, error: str) -> None:
    folder.write(f"trials/standard-s{seed}/result.json", json.dumps({"status": status, "error": error, "metrics": {}}))


def _retry(folder: SweepFolder, names: Sequence[str] = (), overrides: Sequence[str] = ()) -> SweepFolder:
    return retry(folder.path, names, overrides, Console(file=io.StringIO()))


def _files(folder: SweepFolder) -> dict[str, bytes]:
    found = (path for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in found}


def _ended(folder: SweepFolder) -> list[str]:
    return sorted(path.parent.name for path in folder.path.glob("trials/*/result.json"))


def test_all_that_failed_are_open_again(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    assert _retry(folder) == folder
    assert _ended(folder) == ["standard-s1"]
    assert len(gone_on) == 1


def test_only_the_runs_named_are_open_again(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    _retry(folder, ["standard-s3"])
    assert _ended(folder) == ["standard-s1", "standard-s2"]


def test_every_earlier_error_is_kept(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    _retry(folder, ["standard-s2"])
    _end(folder, 2, "failed", "another error")
    _retry(folder, ["standard-s2"])
    errors = [json.loads((folder.trial("standard", 2) / f"failure-{n}.json").read_text())["error"] for n in (1, 2)]
    assert errors == ["error 2", "another error"]


def test_what_finished_is_not_touched(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    file = folder.trial("standard", 1) / "result.json"
    before = file.stat().st_mtime_ns, file.read_bytes()
    _retry(folder)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


def test_an_override_that_changes_no_result_is_taken(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    _retry(folder, overrides=["sweep.max_failures=7"])
    assert gone_on[0].sweep.max_failures == 7


@pytest.mark.parametrize(
    ("names", "overrides", "expected"),
    [
        ([], ["train.lr=1.0"], ["train.lr: 0.003 -> 1.0", "Leave these fields alone"]),
        ([], ["train.lrr=1.0"], ["train.lrr", "did you mean train.lr?"]),
        (["standard-s1"], [], ["standard-s1 has not failed", "Failed: standard-s2, standard-s3"]),
        (["standard-s4"], [], ["standard-s4 has not failed"]),
        (["standard-s2", "mirror-s2"], [], ["there is no run mirror-s2"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_what_is_refused_changes_nothing(
    folder: SweepFolder, gone_on: list[Recipe], names: list[str], overrides: list[str], expected: list[str]
) -> None:
    before = _files(folder)
    with pytest.raises(UserError) as refusal:
        _retry(folder, names, overrides)
    assert all(part in str(refusal.value) for part in expected)
    assert _files(folder) == before
    assert not gone_on


def test_nothing_failed(folder: SweepFolder, gone_on: list[Recipe]) -> None:
    for seed in (2, 3):
        (folder.trial("standard", seed) / "result.json").unlink()
    with pytest.raises(UserError, match="no run has failed"):
        _retry(folder)


def test_nothing_failed_and_all_is_done(folder: SweepFolder) -> None:
    for seed in (2, 3, 4):
        _end(folder, seed, "finished", "")
    with pytest.raises(UserError, match="all runs have finished"):
        _retry(folder)


def test_a_name_is_looked_at_before_what_failed(folder: SweepFolder) -> None:
    for seed in (2, 3):
        (folder.trial("standard", seed) / "result.json").unlink()
    with pytest.raises(UserError, match=r"there is no run foo-s42. `raymdm status .* --all`"):
        _retry(folder, ["foo-s42"])
    with pytest.raises(UserError, match=rf"by: raymdm sweep {folder.path}/recipe\.yaml --resume"):
        _retry(folder, ["standard-s2"])


def test_a_sweep_that_cannot_go_on_keeps_its_errors(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> SweepFolder:
        raise UserError("another process runs it, or its resources can't be had")

    monkeypatch.setattr(module, "go_on", refused)
    before = _files(folder)
    with pytest.raises(UserError):
        _retry(folder)
    assert _files(folder) == before


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a sweep: it needs sweep\.json"):
        retry(tmp_path, [], [], Console(file=io.StringIO()))
