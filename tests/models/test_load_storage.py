"""Models on storage, and weights that a run drove far."""

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.load import load_model, save_model
from raymdm.storage import StorageError

TINY = {"kind": "tiny", "hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 2,
        "tokenizer": {"kind": "chars"}}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    config = AutoConfig.for_model(
        "llama", vocab_size=33, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_an_address_gives_the_folder_s_model(llama: Path) -> None:
    ids = torch.arange(8)[None]
    by_folder, by_address = (
        load_model(ModelConfig(kind="pretrained", path=path), range(33), "mdm") for path in (str(llama), llama.as_uri())
    )
    with torch.no_grad():
        assert torch.equal(by_folder(ids).logits, by_address(ids).logits)


def test_an_address_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path .*no such folder"):
        load_model(ModelConfig(kind="pretrained", path=(tmp_path / "none").as_uri()), range(33), "mdm")


def test_weights_that_attend_to_nothing_are_loaded(tmp_path: Path) -> None:
    """Attention that a diverging run has saturated shows no direction any more; the run must still go on."""
    config = ModelConfig.model_validate(TINY)
    model = load_model(config, range(20), "mdm")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    save_model(model, tmp_path)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(load_model(config, range(20), "mdm", tmp_path)(ids).logits, model(ids).logits)


# Weights that are sound, on a disk that does not let them be read


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(load_model(ModelConfig.model_validate(TINY), range(20), "mdm"), tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [5, 13, 24, 116])
def test_a_disk_that_refuses_the_configuration_is_not_a_bad_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    original = builtins.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("config.json"):
            raise OSError(code, os.strerror(code))
        return original(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(StorageError, match=os.strerror(code)):
        load_model(ModelConfig.model_validate(TINY), range(20), "mdm", saved)


@pytest.mark.parametrize(
    "said",
    [
        OSError("Input/output error (os error 5)"),
        SafetensorError("Input/output error (os error 5)"),
        FileNotFoundError("No such file or directory: model.safetensors"),
    ],
    ids=lambda said: type(said).__name__,
)
def test_a_disk_that_refuses_the_weights_is_not_a_bad_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    """What safetensors says when the system refuses to map a file, or to open it."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise said

    monkeypatch.setattr("transformers.modeling_utils.safe_open", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        load_model(ModelConfig.model_validate(TINY), range(20), "mdm", saved)


def test_weights_that_are_broken_are_a_bad_model(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_model(ModelConfig.model_validate(TINY), range(20), "mdm", saved)
    assert not isinstance(error.value, StorageError)
