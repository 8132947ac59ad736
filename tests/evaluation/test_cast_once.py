"""Under autocast, weights are cast once for all forward passes of a batch, and the numbers are those of before."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymdm.config.schema import ModelConfig
from raymdm.evaluation import nll
from raymdm.generation.greedy import generate_arm
from raymdm.generation.unmask import generate_mdm
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model

SIZE, MASK, PAD = 24, 22, 23
TINY = {"kind": "tiny", "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "tokenizer": {"kind": "chars"}}
PROMPTS = [np.array([1, 5, 3]), np.array([2, 7, 7, 4, 9])]
BF16 = torch.bfloat16


class Casts(TorchDispatchMode):
    """Counts how often a tensor of a parameter's shape becomes bfloat16."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._shapes = {part.shape for part in model.parameters() if part.ndim == 2}
        self.found: Counter[torch.Size] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if "_to_copy" in str(func) and made.dtype == BF16 and made.shape in self._shapes:
            self.found[made.shape] += 1
        return made


def linear_shapes(model: torch.nn.Module) -> Counter[torch.Size]:
    return Counter(part.weight.shape for part in model.modules() if isinstance(part, torch.nn.Linear))


def random_model(family: Any) -> Any:
    model = load_model(ModelConfig.model_validate(TINY), range(SIZE), family)
    with torch.no_grad():
        for part in model.parameters():
            if part.ndim == 2:
                part.mul_(12)
    return model


def unmask(model: Any, **more: Any) -> torch.Tensor:
    return generate_mdm(
        model, PROMPTS, mask_id=MASK, pad_id=PAD, generation_length=8, steps=8, block_length=4, **more
    ).tokens


def greedy(model: Any) -> torch.Tensor:
    return generate_arm(model, PROMPTS, stop_ids=[SIZE - 1], pad_id=PAD, max_new_tokens=6)


CALLS: dict[str, tuple[str, Callable[[Any], torch.Tensor]]] = {
    "mdm": ("mdm", unmask),
    "mdm with a prefix cache": ("mdm", lambda model: unmask(model, prefix_cache=True)),
    "arm": ("arm", greedy),
}


@pytest.mark.parametrize("name", CALLS)
def test_generation_casts_each_weight_once(name: str) -> None:
    family, call = CALLS[name]
    model = random_model(family)
    with torch.autocast("cpu", BF16), Casts(model) as casts:
        call(model)
    assert casts.found == linear_shapes(model)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_generated_is_as_with_weights_cast_each_time(name: str) -> None:
    family, call = CALLS[name]
    model = random_model(family)
    with torch.autocast("cpu", BF16):
        found = call(model)
    with torch.autocast("cpu", BF16, cache_enabled=False):
        assert torch.equal(call(model), found)
    assert len(found.unique()) > 3


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 autocast on the CPU, as a GPU has it."""
    monkeypatch.setattr(nll, "precision", lambda device: torch.autocast("cpu", BF16))


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_likelihoods_cast_each_weight_once_and_are_the_same(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Denoiser(random_model(family), family).eval()
    sequences, lengths = [np.array([1, 5, 3, 8, 2]), np.array([2, 7, 7, 4])] * 2, np.array([2, 1] * 2)
    cpu = torch.device("cpu")

    def measured() -> np.ndarray:
        if family == "arm":
            return nll.exact_nll(model, sequences, lengths, PAD, cpu, batch_size=1)
        return nll.nll_bound(model, sequences, lengths, np.arange(4), (MASK, PAD), 4, 0, cpu, batch_size=4)[0]

    with Casts(model) as casts:
        found = measured()
    assert casts.found == linear_shapes(model)
    monkeypatch.setattr(nll, "precision", lambda device: torch.autocast("cpu", BF16, cache_enabled=False))
    np.testing.assert_array_equal(measured(), found)
