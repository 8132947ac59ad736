"""Code that comes with a checkpoint: never run, unless the recipe says that somebody read it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.data.tokenizer import load_tokenizer
from raymdm.errors import UserError
from raymdm.models.convert import convert
from raymdm.models.load import load_model, skeleton
from tests.models.llada_reference import write_llada

AUTO_MAP = {
    "AutoConfig": "theirs.Config",
    "AutoModel": "theirs.Model",
    "AutoModelForCausalLM": "theirs.Model",
    "AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"],
}


def armed(folder: Path, **fields: Any) -> Path:
    """Give a checkpoint code that leaves a trace when it is imported; returns where."""
    trace = folder / "was-run"
    (folder / "theirs.py").write_text(f"open({str(trace)!r}, 'w').close()\nraise RuntimeError('theirs')\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": AUTO_MAP, **fields}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Theirs", "auto_map": AUTO_MAP}))
    return trace


def small(folder: Path) -> None:
    config = AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def pretrained(folder: Path, trust: bool = False) -> ModelConfig:
    return ModelConfig(kind="pretrained", path=str(folder), trust_remote_code=trust)


def test_a_known_architecture_with_code_is_loaded_without(tmp_path: Path) -> None:
    small(tmp_path)
    trace = armed(tmp_path)
    load_model(pretrained(tmp_path), range(40), "mdm")
    skeleton(pretrained(tmp_path), range(40), "mdm")
    assert not trace.exists()


def test_llada_with_code_is_loaded_and_converted_without(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    trace = armed(tmp_path / "llada")
    load_model(pretrained(tmp_path / "llada", trust=True), range(40), "mdm")
    convert(tmp_path / "llada", tmp_path / "llama", "llama")
    assert not trace.exists()


@pytest.mark.parametrize("load", [load_model, skeleton])
def test_an_unknown_architecture_is_refused_and_names_the_setting(tmp_path: Path, load: Any) -> None:
    small(tmp_path)
    trace = armed(tmp_path, model_type="theirs")
    with pytest.raises(UserError, match=r"model_type 'theirs' is not known.*set model\.trust_remote_code: true"):
        load(pretrained(tmp_path), range(40), "mdm")
    assert not trace.exists()


def test_an_unknown_architecture_without_code_is_refused(tmp_path: Path) -> None:
    small(tmp_path)
    armed(tmp_path, model_type="theirs", auto_map=None)
    with pytest.raises(UserError, match="nor one of LLaDAModelLM, ILLaDAForCausalLM, DreamModel") as error:
        load_model(pretrained(tmp_path, trust=True), range(40), "mdm")
    assert "trust_remote_code" not in str(error.value)


def test_a_tokenizer_with_code_is_refused_and_names_the_setting(tmp_path: Path) -> None:
    small(tmp_path)
    trace = armed(tmp_path, model_type="theirs")
    with pytest.raises(UserError, match=r"model\.path: .*lacks \(Theirs\).*set model\.trust_remote_code: true"):
        load_tokenizer(pretrained(tmp_path), None)
    assert not trace.exists()


def test_trusted_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would say nothing."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    small(tmp_path / "model")
    trace = armed(tmp_path / "model", model_type="theirs")
    with pytest.raises(UserError, match="theirs"):
        load_model(pretrained(tmp_path / "model", trust=True), range(40), "mdm")
    assert trace.exists()
