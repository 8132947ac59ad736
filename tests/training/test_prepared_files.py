"""Files of the stages before that a worker does not find, or cannot understand, end in one message."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, build

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_data, tmp_path / "data")


def _refused(job: Job, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        build(job, Worker(lambda metrics: None, Storage(str(folder / "run"))), folder)
    return str(error.value)


@pytest.mark.parametrize("name", ["", "train.parquet", "validation.parquet", "tokenizer"])
def test_data_that_is_not_there_is_named(data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    (data / name).rename(tmp_path / "elsewhere")
    message = _refused(Job(make_recipe(), "standard", 1, data), tmp_path)
    assert str(data / (name or "train.parquet")) in message
    assert "all nodes share" in message


@pytest.mark.parametrize("name", ["train.parquet", "tokenizer/tokenizer.json"])
def test_data_that_is_broken_is_told(data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    (data / name).write_text("nonsense")
    assert str(data) in _refused(Job(make_recipe(), "standard", 1, data), tmp_path)


def test_a_density_that_is_not_there_is_named(data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    message = _refused(Job(make_recipe(), "p_pots", 1, data, tmp_path / "density.json"), tmp_path)
    assert str(tmp_path / "density.json") in message
    assert "all nodes" in message


def test_a_density_that_is_broken_is_told(data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "density.json").write_text('{"mask": ')
    message = _refused(Job(make_recipe(), "p_pots", 1, data, tmp_path / "density.json"), tmp_path)
    assert str(tmp_path / "density.json") in message
