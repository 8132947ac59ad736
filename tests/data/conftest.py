"""Folders of rows that several data tests share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymdm.config.schema import DataConfig, ModelConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The folder of the real GSM8K files."""
    folder = ROOT / os.environ.get("RAYMDM_GSM8K", "../shared/data/gsm8k")
    if not (folder / "train.jsonl").is_file():
        pytest.skip(f"{folder} has no train.jsonl; set RAYMDM_GSM8K to the folder of the GSM8K files")
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write train.jsonl and test.jsonl; a row is a dict, or a text that stands for a raw line."""

    def write(train: list[Any], test: list[Any] | None = None, folder: str = "rows") -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        for name, rows in (("train", train), ("test", train if test is None else test)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (target / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return target

    return write


@pytest.fixture
def chars() -> ModelConfig:
    return ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "chars"}})


@pytest.fixture
def sft(write_rows: Callable[..., Path]) -> Callable[..., DataConfig]:
    """An `sft` configuration over given rows."""

    def make(train: list[Any], test: list[Any] | None = None, **fields: Any) -> DataConfig:
        return DataConfig(task="sft", path=str(write_rows(train, test)), **fields)

    return make
