"""A model in a folder, built without numbers before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.look import look
from tests.models.llada_reference import write_llada


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    write_llada(tmp_path / "llada", files=2)
    return tmp_path / "llada"


def settings(path: Path | str, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"kind": "pretrained", "path": str(path), **fields})


def test_a_model_is_told_in_a_line(llada: Path) -> None:
    # by hand: 2 layers of 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32, two times 40 * 32, and a norm of 32
    expected = 2 * (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 2 * 40 * 32 + 32
    line = look(settings(llada), None, "mdm")
    assert line is not None
    assert line.startswith(f"weights of {llada}: 2 files, ")
    assert line.endswith(f"LlamaForCausalLM of {expected:,} parameters")


def test_of_an_adapter_the_trained_parameters_are_told(llada: Path) -> None:
    line = look(settings(llada, adapter={"r": 2, "target_modules": ["q_proj"]}), None, "mdm")
    # by hand: A and B of rank 2 beside 32 x 32, in 2 layers
    assert line is not None and line.endswith(f"{2 * 2 * (32 + 32)} of them trained")


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_layers_that_the_model_has_not_are_refused(llada: Path, kind: str) -> None:
    model = settings(llada, adapter={"kind": kind, "target_modules": ["foo"]})
    with pytest.raises(UserError, match=r"model\.adapter\.target_modules: .* has no linear layer foo"):
        look(model, None, "mdm")


def test_attention_of_a_gpu_can_be_looked_at_without_one(llada: Path) -> None:
    assert look(settings(llada, attn_implementation="flash_attention_2"), None, "mdm")


def test_an_architecture_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    write_llada(tmp_path, alibi=True)
    with pytest.raises(UserError, match="alibi: True"):
        look(settings(tmp_path), None, "mdm")


def test_a_file_that_is_cut_short_is_refused(llada: Path) -> None:
    file = llada / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"^model\.path .*: model-00002-of-00002\.safetensors has"):
        look(settings(llada), None, "mdm")


def test_a_bidirectional_model_is_no_arm(llada: Path) -> None:
    with pytest.raises(UserError, match=r"bidirectional .*arm_model\.path"):
        look(settings(llada), None, "arm")


def test_another_mask_token_is_refused(llada: Path) -> None:
    class Tokens:
        mask_token_id = 5

        def __len__(self) -> int:
            return 40

    with pytest.raises(UserError, match=r"the model's mask token is 7 .*, the tokenizer's 5"):
        look(settings(llada), Tokens(), "mdm")


@pytest.mark.parametrize("path", ["GSAI-ML/LLaDA-8B-Base", "s3://bucket/model"])
def test_a_model_elsewhere_is_not_looked_at(path: str) -> None:
    assert look(settings(path), None, "mdm") is None


def test_an_address_of_a_folder_here_is_looked_at(llada: Path) -> None:
    assert look(settings(f"file://{llada}"), None, "mdm") == look(settings(llada), None, "mdm")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        look(settings(tmp_path / "nothing"), None, "mdm")


def test_looking_draws_nothing_from_the_global_state(llada: Path) -> None:
    before = torch.random.get_rng_state()
    look(settings(llada, adapter={"r": 2}), None, "mdm")
    assert torch.equal(torch.random.get_rng_state(), before)
