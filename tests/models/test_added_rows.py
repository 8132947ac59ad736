"""Embeddings for tokens that a model lacks: how many, what they are, and what an ARM does without."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.checks import check_tokens, vocabulary_size
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model, save_model, skeleton

ROWS = 30
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip


class Tokenizer:
    """So many tokens, one of which masks."""

    def __init__(self, size: int, mask: int | None) -> None:
        self.size, self.mask_token_id = size, mask

    def __len__(self) -> int:
        return self.size


def settings(path: Path, **fields: Any) -> ModelConfig:
    return ModelConfig(kind="pretrained", path=str(path), **fields)


def written(folder: Path, architecture: str = "llama", **fields: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = AutoConfig.for_model(architecture, **{"vocab_size": ROWS, **SIZES, **fields})
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_an_added_row_is_the_mean_of_those_before(tmp_path: Path, tied: bool, dtype: Any) -> None:
    path = written(tmp_path, tie_word_embeddings=tied)
    model = load_model(settings(path, dtype=dtype), Tokenizer(33, 32), "mdm")
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = part.weight.detach()
        expected = weight[:ROWS].double().mean(0)
        assert weight.shape == (33, 32)
        tolerance = {"float32": 1e-6, "bfloat16": 1e-2}[dtype]
        torch.testing.assert_close(weight[ROWS:].double(), expected.expand(3, -1), atol=tolerance, rtol=tolerance)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied


def test_the_bias_of_an_output_layer_gets_its_mean_too(tmp_path: Path) -> None:
    path = written(tmp_path, "phi", rotary_pct=0.5)
    head = load_model(settings(path), range(33), "mdm").get_output_embeddings()
    torch.testing.assert_close(head.bias[ROWS:], head.bias[:ROWS].mean().expand(3))


@pytest.mark.parametrize("make", [load_model, skeleton])
@pytest.mark.parametrize(
    ("size", "mask", "mdm", "arm"), [(31, 30, 31, 30), (33, 32, 33, 32), (33, 30, 33, 33), (31, None, 31, 31),
                                     (20, 19, 30, 30)]
)  # fmt: skip
def test_an_arm_gets_no_row_for_a_mask_token_that_comes_last(
    tmp_path: Path, make: Any, size: int, mask: int | None, mdm: int, arm: int
) -> None:
    path, tokenizer = written(tmp_path), Tokenizer(size, mask)
    assert vocabulary_size(make(settings(path), tokenizer, "mdm")) == mdm
    model = make(settings(path), tokenizer, "arm")
    assert (vocabulary_size(model), model.config.vocab_size) == (arm, arm)


@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_a_trained_arm_keeps_its_shape(tmp_path: Path, adapter: Any) -> None:
    recipe, tokenizer = settings(written(tmp_path / "base"), adapter=adapter), Tokenizer(31, 30)
    model = load_model(recipe, tokenizer, "arm")
    save_model(model, tmp_path / "trained")
    again = load_model(recipe, tokenizer, "arm", tmp_path / "trained")
    assert vocabulary_size(again) == ROWS
    ids = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_trained_weights_with_a_row_for_the_mask_token_can_still_be_used(tmp_path: Path) -> None:
    path = written(tmp_path / "larger", vocab_size=31)
    assert vocabulary_size(load_model(settings(tmp_path), Tokenizer(31, 30), "arm", path)) == 31


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    model = Denoiser(load_model(settings(written(tmp_path)), Tokenizer(31, 30), "arm"), "arm")
    check_tokens(model, 29)
    check_tokens(torch.nn.Sequential(model), 29)
    for wrapped in (model, torch.nn.Sequential(model), model.model):
        with pytest.raises(UserError, match="holds the token 30, for which the model has no embedding"):
            check_tokens(wrapped, 30)


def test_a_model_on_a_device_is_the_one_in_host_memory(tmp_path: Path) -> None:
    path, cpu = written(tmp_path), torch.device("cpu")
    plain, placed = (load_model(settings(path), range(33), "mdm", None, device) for device in (None, cpu))
    pairs = zip(plain.state_dict().values(), placed.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("adapter", "asked"), [(None, "cpu"), ({"r": 2}, "None")])
def test_whole_models_go_straight_to_their_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: Any, asked: str
) -> None:
    places = []
    original = AutoModelForCausalLM.from_pretrained

    def spy(*args: Any, **kwargs: Any) -> Any:
        places.append(str(kwargs["device_map"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    load_model(settings(written(tmp_path), adapter=adapter), range(ROWS), "mdm", None, torch.device("cpu"))
    assert places == [asked]
