"""Where a conversion finds base model and tokenizer; sources and targets that are not what they should be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from raymdm.cli import app
from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.convert import convert
from raymdm.models.load import load_model, save_model
from raymdm.storage import StorageError
from tests.models.llada_reference import write_llada

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def updates(tmp_path: Path) -> torch.Tensor:
    """Logits of `base` with the updates in `updates`."""
    write_llada(tmp_path / "base")
    settings = {"kind": "pretrained", "path": str(tmp_path / "base"), "adapter": {"r": 2}, "right_shift_logits": True}
    model = load_model(ModelConfig.model_validate(settings), range(40), "mdm")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        save_model(model, tmp_path / "updates")
        return model(IDS).logits


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_base_that_moved_is_named_and_can_be_given(tmp_path: Path, updates: torch.Tensor) -> None:
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"base_model_name_or_path in adapter_config\.json.*--base.*no such folder"):
        convert(tmp_path / "updates", tmp_path / "new", "llama")
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "updates"), str(tmp_path / "new"), "--base", str(tmp_path / "elsewhere")]
    )
    assert done.exit_code == 0, done.output
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, updates, rtol=1e-3, atol=1e-4)
    assert merged.config.right_shift_logits is True


def test_updates_that_name_no_base_ask_for_it(tmp_path: Path, updates: torch.Tensor) -> None:
    change(tmp_path / "updates" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(UserError, match=r"base_model_name_or_path .* is missing. Name the model by --base"):
        convert(tmp_path / "updates", tmp_path / "new", "llama")


def test_a_base_of_a_whole_model_is_refused(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    with pytest.raises(UserError, match=r"--base x: .* holds a whole model"):
        convert(tmp_path / "llada", tmp_path / "new", "llama", base="x")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dtype": "float16"}, "dtype in config.json is 'float16', expected float32 or bfloat16"),
        ({"dtype": None}, "dtype in config.json is None"),
        ({"vocab_size": None}, "vocab_size in config.json is None"),
    ],
)
def test_what_updates_were_trained_as_must_be_known(
    tmp_path: Path, updates: torch.Tensor, fields: dict[str, Any], reason: str
) -> None:
    change(tmp_path / "updates" / "config.json", **fields)
    with pytest.raises(UserError, match=reason):
        convert(tmp_path / "updates", tmp_path / "new", "llama")


def test_an_older_name_of_the_type_is_read(tmp_path: Path, updates: torch.Tensor) -> None:
    change(tmp_path / "updates" / "config.json", dtype=None, torch_dtype="float32")
    convert(tmp_path / "updates", tmp_path / "new", "llama")


def test_a_type_that_nobody_names_is_not_made_up(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    config = json.loads((tmp_path / "llada" / "config.json").read_text())
    (tmp_path / "llada" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "dtype" not in k}))
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    convert(tmp_path / "llama", tmp_path / "back", "llada")
    assert "torch_dtype" not in json.loads((tmp_path / "back" / "config.json").read_text())
    load_model(ModelConfig(kind="pretrained", path=str(tmp_path / "back")), range(40), "mdm")


# Tokenizers


def test_a_tokenizer_is_taken_from_elsewhere(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    arguments = ["convert", str(tmp_path / "llada"), str(tmp_path / "new"), "--tokenizer", str(tmp_path / "tokenizer")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "new" / "tokenizer.json").read_text() == "{}"


def test_a_model_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    (note,) = convert(tmp_path / "llada", tmp_path / "new", "llama")
    assert "has no tokenizer" in note and "--tokenizer" in note


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    with pytest.raises(UserError, match=r"--tokenizer .*none: no folder with a tokenizer's files"):
        convert(tmp_path / "llada", tmp_path / "new", "llama", tokenizer=tmp_path / "none")


def test_folders_and_code_are_no_tokenizer_s_files(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    (tmp_path / "llada" / "tokenizer_extra").mkdir()
    for name in ("tokenizer.json", "tokenizer_llada.py"):
        (tmp_path / "llada" / name).write_text("{}")
    assert convert(tmp_path / "llada", tmp_path / "new", "llama") == []
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


# Sources, targets and sizes


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_a_source_that_is_no_model_s_folder_is_told(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "source")
    with pytest.raises(UserError, match=r"source: (no such folder|config\.json is missing)") as error:
        convert(tmp_path / "source", tmp_path / "new", "llama")
    assert not isinstance(error.value, StorageError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_source_that_may_not_be_read_is_not_a_target_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_llada(tmp_path / "llada")
    refused = PermissionError(13, "Permission denied")
    original = Path.read_bytes

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        raise refused

    monkeypatch.setattr(Path, "read_bytes", lambda file: opened(file) if file.name == name else original(file))
    monkeypatch.setattr("raymdm.models.convert.safe_open", opened)
    with pytest.raises(StorageError, match=f"cannot read .*{name}: Permission denied"):
        convert(tmp_path / "llada", tmp_path / "new", "llama")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", ["-5GB", "0GB", "nanGB", "infGB", "5", ""])
def test_a_size_that_is_none_is_told(tmp_path: Path, size: str) -> None:
    write_llada(tmp_path / "llada")
    with pytest.raises(UserError, match=f"--shard-size '{size}'"):
        convert(tmp_path / "llada", tmp_path / "new", "llama", size)
