"""A sweep, its resume, its growth and its retry, with all but the training: what they refuse to go on with."""

import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate import sweep as module
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.retry import retry
from raymdm.orchestrate.sweep import sweep

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """standard-s1 fails, and the others do not begin."""

    def run_cells(recipe: Recipe, folder: SweepFolder, *_: object) -> None:
        folder.write("trials/standard-s1/result.json", json.dumps({"status": "failed", "error": "", "metrics": {}}))

    monkeypatch.setattr(module, "connected", nullcontext)
    for name, value in {"capacity": None, "slots": 1, "keep_count": None, "overlap": 0}.items():
        monkeypatch.setattr(cluster, name, lambda *_, value=value: value)
    monkeypatch.setattr(module, "run_cells", run_cells)


@pytest.fixture
def make(make_recipe: MakeRecipe, tmp_path: Path) -> Callable[..., Recipe]:
    rows = tmp_path / "rows"
    rows.mkdir()
    line = json.dumps({"question": "1 + 2?", "answer": "#### 3"}) + "\n"
    for split in ("train", "test"):
        (rows / f"{split}.jsonl").write_text(line * 4)
    data = {"task": "gsm8k", "path": str(rows)}
    return lambda **changes: make_recipe(output=str(tmp_path / "runs"), data=data, **changes)


def _run(recipe: Recipe, resume: bool = False) -> tuple[SweepFolder, str]:
    text = io.StringIO()
    return sweep(recipe, resume, Console(file=text, width=200)), text.getvalue()


def _append_row(recipe: Recipe) -> None:
    with (Path(str(recipe.data.path)) / "train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "1 + 3?", "answer": "#### 4"}) + "\n")


def _files(folder: SweepFolder) -> dict[str, tuple[int, bytes]]:
    found = (path for path in folder.path.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def _resume(folder: SweepFolder, make: Callable[..., Recipe]) -> None:
    folder.update(status="interrupted")
    _run(make(), resume=True)


def _grow(folder: SweepFolder, make: Callable[..., Recipe]) -> None:
    folder.update(status="finished")
    seeds = folder.recipe().sweep.first_seeds
    _run(make(sweep__seeds=[*seeds, len(seeds) + 1]), resume=True)


def _retry(folder: SweepFolder, make: Callable[..., Recipe]) -> None:
    retry(folder.path, [], [], Console(file=io.StringIO()))


@pytest.mark.parametrize("go_on", [_resume, _grow, _retry])
def test_other_rows_are_refused(
    make: Callable[..., Recipe], go_on: Callable[[SweepFolder, Callable[..., Recipe]], None]
) -> None:
    folder, _ = _run(make())
    go_on(folder, make)  # with the same rows
    _append_row(make())
    with pytest.raises(UserError, match=r"data \(rows or tokenizer\): .*4 test rows\) -> .*4 train, 1 validation"):
        go_on(folder, make)
    assert folder.state()["inputs"]["data"]["mdm"]["rows"]["train"] == 3
    assert (folder.trial("standard", 1) / "result.json").exists()


def test_the_refusal_leaves_every_file_as_it_was(make: Callable[..., Recipe]) -> None:
    folder, _ = _run(make())
    folder.update(status="interrupted")
    before = _files(folder)
    _append_row(make())
    with pytest.raises(UserError, match="was begun with something else"):
        _run(make(), resume=True)
    assert _files(folder) == before


def test_a_new_sweep_takes_the_new_rows(make: Callable[..., Recipe]) -> None:
    first, _ = _run(make())
    _append_row(make())
    second, _ = _run(make())
    assert second != first
    assert second.state()["inputs"]["data"]["mdm"]["hash"] != first.state()["inputs"]["data"]["mdm"]["hash"]


def test_other_libraries_are_told_and_go_on(make: Callable[..., Recipe]) -> None:
    folder, _ = _run(make())
    (began,) = folder.state()["origins"]
    earlier = began | {"environment": began["environment"] | {"torch": "0.0.1"}}
    folder.update(status="interrupted", origins=[earlier])
    _, text = _run(make(), resume=True)
    assert f"since it ran last: torch 0.0.1 -> {began['environment']['torch']}\n" in text
    assert folder.state()["origins"] == [earlier, began]
