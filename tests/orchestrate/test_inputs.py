"""A sweep goes on only with the data and the models that it was begun with."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from raymdm.config.schema import ModelConfig, Recipe
from raymdm.data.prepare import prepare
from raymdm.errors import UserError
from raymdm.orchestrate import inputs
from raymdm.orchestrate.begin import create, latest, taken
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.inputs import Inputs, changes, completed, identify, require_same

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A data folder: 20 rows to train on, 4 to test."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, number in (("train", 20), ("test", 4)):
        lines = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(number)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _append_row(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "1 + 2?", "answer": "#### 3"}) + "\n")


@pytest.fixture
def recipe(make_recipe: MakeRecipe, rows: Path, tmp_path: Path) -> Recipe:
    return make_recipe(output=str(tmp_path / "runs"), data={"task": "gsm8k", "path": str(rows)})


def _now(recipe: Recipe) -> Inputs:
    cache = Path(recipe.output) / "cache"
    return identify(recipe, {"mdm": prepare(recipe.data, recipe.model, cache)})


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a small and a large file of weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"small": np.zeros(4, np.float32)}, folder / "model-1.safetensors")
    save_file({"large": np.zeros(2**18, np.float32)}, folder / "model-2.safetensors")
    return folder


@pytest.fixture
def of_model(make_recipe: MakeRecipe, model: Path) -> Callable[[], Inputs]:
    recipe = make_recipe()
    config = recipe.model.model_copy(update={"kind": "pretrained", "path": str(model)})
    return lambda: identify(recipe.model_copy(update={"model": config}), {})


def test_the_same_rows_elsewhere_are_the_same(recipe: Recipe, rows: Path) -> None:
    before = _now(recipe)
    moved = rows.rename(rows.with_name("moved"))
    data = recipe.data.model_copy(update={"path": str(moved)})
    assert changes(before, _now(recipe.model_copy(update={"data": data}))) == []


def test_other_rows_are_refused_with_what_changed_and_nothing_is_written(recipe: Recipe, rows: Path) -> None:
    with taken(recipe, _now(recipe), create) as folder:
        pass
    folder.update(status="interrupted")
    _append_row(rows)
    before, now = _files(folder.path), _now(recipe)
    with pytest.raises(UserError) as refusal, taken(recipe, now, lambda final, _: latest(final)):
        pytest.fail("it went on")
    old, new = folder.state()["inputs"]["data"]["mdm"]["hash"], now["data"]["mdm"]["hash"]
    assert str(refusal.value).splitlines() == [
        f"{folder.path} was begun with something else, so its runs cannot go on with this:",
        f"  data (rows or tokenizer): {old[:8]} (18 train, 2 validation, 4 test rows) -> "
        f"{new[:8]} (19 train, 2 validation, 4 test rows)",
        "Put back what it was begun with, or start a new sweep without --resume",
    ]
    assert _files(folder.path) == before


def test_the_same_goes_on(recipe: Recipe) -> None:
    with taken(recipe, _now(recipe), create) as folder:
        pass
    with taken(recipe, _now(recipe), lambda final, _: latest(final)) as again:
        assert again == folder


def test_a_sweep_of_an_earlier_version_is_not_refused(recipe: Recipe) -> None:
    folder = create(recipe)
    state = folder.state()
    del state["inputs"]
    folder.write("sweep.json", json.dumps(state))
    require_same(SweepFolder(folder.path), _now(recipe))


def test_only_the_family_whose_data_changed_is_named() -> None:
    alike, other = {"hash": "a" * 16, "rows": {"train": 1}}, {"hash": "b" * 16, "rows": {"train": 2}}
    before = {"data": {"mdm": alike, "arm": alike}, "models": {}}
    line = "(rows or tokenizer): aaaaaaaa (1 train rows) -> bbbbbbbb (2 train rows)"
    assert changes(before, before | {"data": {"mdm": alike, "arm": other}}) == [f"data of arm {line}"]
    assert changes(before, before | {"data": {"mdm": other, "arm": other}}) == [f"data {line}"]


def test_a_model_that_was_not_touched_is_the_same(of_model: Callable[[], Inputs], model: Path) -> None:
    before = of_model()
    (model / "README.md").write_text("words")
    (model / "config.json").touch()
    assert changes(before, of_model()) == []


@pytest.mark.parametrize("name", ["model-1.safetensors", "model-2.safetensors"])
def test_other_weights_of_the_same_shape_are_seen(
    of_model: Callable[[], Inputs], model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "STRIDE", 2**17)  # so that model-2 counts as large
    before = of_model()
    save_file({key: value + 1 for key, value in load_file(model / name).items()}, model / name)
    (line,) = changes(before, of_model())
    assert line.startswith(f"model.path: {name} ") and "config.json" not in line


def test_another_type_of_a_large_file_is_seen_in_its_header(
    of_model: Callable[[], Inputs], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "STRIDE", 2**17)
    before = of_model()
    save_file({"large": np.zeros(2**18, np.int32)}, model / "model-2.safetensors")
    assert len(changes(before, of_model())) == 1


@pytest.mark.parametrize("place", [0, 2**17 + 5, 2**20 + 70])
def test_every_stride_of_a_large_file_is_looked_at(
    of_model: Callable[[], Inputs], model: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "STRIDE", 2**17)
    before, path = of_model(), model / "model-2.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert len(changes(before, of_model())) == 1


def test_a_file_that_is_gone_is_named(of_model: Callable[[], Inputs], model: Path) -> None:
    before = of_model()
    (model / "config.json").unlink()
    (line,) = changes(before, of_model())
    assert line.startswith("model.path: config.json ") and line.endswith(" -> (none)")


def test_a_model_at_an_address_is_that_of_its_folder(
    make_recipe: MakeRecipe, of_model: Callable[[], Inputs], model: Path
) -> None:
    recipe = make_recipe()
    config = recipe.model.model_copy(update={"kind": "pretrained", "path": f"file://{model}"})
    assert identify(recipe.model_copy(update={"model": config}), {}) == of_model()


def test_a_hub_s_model_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--org--name"
    (cache / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert inputs._revision("org/name") is None
    for commit in ("a" * 40, "b" * 40):
        (cache / "refs" / "main").write_text(commit)
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
        assert inputs._revision("org/name") == commit
    assert inputs._revision("no/name/of/a/hub") is None


def _hub(revision: str | None) -> Inputs:
    return {"data": {}, "models": {"model.path": {"revision": revision}}}


def test_another_commit_on_the_hub_is_a_change_and_an_unknown_one_is_not() -> None:
    assert changes(_hub("a" * 40), _hub("b" * 40)) == ["model.path: revision aaaaaaaa -> bbbbbbbb"]
    assert changes(_hub(None), _hub("b" * 40)) == changes(_hub("a" * 40), _hub(None)) == []


def test_what_was_not_known_is_known_from_then_on() -> None:
    assert completed(None, _hub("b")) == completed(_hub(None), _hub("b")) == _hub("b")
    assert completed(_hub("a"), _hub(None)) == _hub("a")


def test_a_tiny_model_is_what_its_recipe_says(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    assert isinstance(recipe.model, ModelConfig)
    assert identify(recipe, {}) == {"data": {}, "models": {}}
