"""Small random models that have something to say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from raymdm.config.schema import ModelConfig
from raymdm.models.load import load_model

SIZE, MASK_ID, PAD_ID = 24, 22, 23


def _random_model(seed: int, family: str = "mdm", **fields: Any) -> Any:
    tiny = {"kind": "tiny", "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "tokenizer": {"kind": "chars"}}
    model = load_model(ModelConfig(**tiny | {"init_seed": seed} | fields), range(SIZE), family).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return model


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Any]:
    """Makes a model of 24 tokens in float64, so that a batch and a single row rank near-equal tokens alike, with large
    weights, so that ranks differ. Token 22 is [MASK], 23 padding."""
    return _random_model


@pytest.fixture(scope="session")
def models() -> list[Any]:
    """Four random MDMs."""
    return [_random_model(seed) for seed in range(4)]


@pytest.fixture(scope="session")
def absolute_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GPT-2 as an MDM: rotary embeddings do not notice where a row starts, learnt positions do."""
    folder = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.4)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return load_model(ModelConfig(kind="pretrained", path=str(folder)), range(SIZE), "mdm").double()
