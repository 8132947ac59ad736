"""Validation draws: fixed, even, and an unbiased estimate."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats

from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training import validation
from raymdm.training.validation import fixed_rates, nll_and_error, validation_sums

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


def test_rates_cover_the_unit_interval_evenly() -> None:
    rates = np.sort(np.concatenate([fixed_rates(np.arange(100), draw, 2, 0) for draw in range(2)]))
    assert rates[0] > 0 and rates[-1] <= 1
    assert np.diff(rates).max() < 3 / 200


def _sums(data: Path, recipe: Recipe, method: str, draws: int, share: tuple[int, int] = (0, 1)) -> torch.Tensor:
    tokenizer = loading.tokenizer(data)
    family = METHODS[method].family
    model = Denoiser(load_model(recipe.model, tokenizer, family), family)
    split = loading.load_split(data, "validation")
    ids = tokenizer.mask_token_id, tokenizer.pad_token_id
    return validation_sums(model, split, METHODS[method], ids, draws, 0, share, CPU)


def test_methods_are_judged_on_the_same_draws(tiny_data: Path, make_recipe: MakeRecipe) -> None:
    assert torch.equal(
        _sums(tiny_data, make_recipe(), "standard", 2), _sums(tiny_data, make_recipe(), "p_pots_mirror", 2)
    )


def test_the_error_is_that_of_the_sequences_means(
    tiny_data: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found again from the losses of every sequence and draw alone, as many chunks as there are sequences."""
    monkeypatch.setattr(validation, "CHUNK", 1)
    losses: list[float] = []
    original = validation.diffusion_forward

    def spy(*arguments: Any) -> torch.Tensor:
        found = original(*arguments)
        losses.append(float(found))
        return found

    monkeypatch.setattr(validation, "diffusion_forward", spy)
    sums, size = _sums(tiny_data, make_recipe(), "standard", 3), len(loading.load_split(tiny_data, "validation"))
    means = np.array(losses).reshape(size, 3).mean(1)
    assert size > 2
    assert nll_and_error(sums, size) == pytest.approx((means.mean(), stats.sem(means)))


def test_one_sequence_has_no_error() -> None:
    assert nll_and_error(torch.tensor([6.0, 2.0, 9.0]), 1) == (3.0, None)


@pytest.mark.parametrize("family", ["standard", "arm"])
def test_every_worker_does_as_many_passes(
    tiny_data: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Some shares of 5 workers hold a sequence more than others, with one sequence a pass."""
    monkeypatch.setattr(validation, "CHUNK", 1)
    name = "autoregressive_forward" if family == "arm" else "diffusion_forward"
    forward = mock.Mock(side_effect=getattr(validation, name))
    monkeypatch.setattr(validation, name, forward)
    calls, counts = [], []
    for rank in range(5):
        forward.reset_mock()
        counts.append(_sums(tiny_data, make_recipe(), family, 2, (rank, 5))[1].item())
        calls.append(forward.call_count)
    assert len(set(counts)) == 2
    assert set(calls) == {max(counts)}


def test_workers_share_the_work(tiny_data: Path, make_recipe: MakeRecipe) -> None:
    whole = _sums(tiny_data, make_recipe(), "standard", 2)
    parts = sum(_sums(tiny_data, make_recipe(), "standard", 2, (rank, 3)) for rank in range(3))
    assert torch.allclose(whole, torch.as_tensor(parts))


def test_many_draws_approach_the_enumerated_bound(tiny_data: Path, make_recipe: MakeRecipe) -> None:
    """The bound by hand: for each k of 1..n equally likely, the mean over all masks of size k of the mean CE."""
    recipe, tokenizer = make_recipe(), loading.tokenizer(tiny_data)
    model = load_model(recipe.model, tokenizer, "mdm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    split = loading.load_split(tiny_data, "validation")
    exact = []
    for ids, prompt in zip(split.input_ids, split.prompt_lengths, strict=True):
        clean, n = torch.from_numpy(ids.astype(np.int64))[None], len(ids) - int(prompt)
        sizes = []
        for k in range(1, n + 1):
            losses = []
            for chosen in itertools.combinations(range(int(prompt), len(ids)), k):
                noised = clean.clone()
                noised[0, list(chosen)] = tokenizer.mask_token_id
                with torch.no_grad():
                    log_p = model(input_ids=noised).logits.log_softmax(-1)
                losses.append(-float(np.mean([float(log_p[0, i, clean[0, i]]) for i in chosen])))
            sizes.append(np.mean(losses))
        exact.append(np.mean(sizes))
    ids = tokenizer.mask_token_id, tokenizer.pad_token_id
    total, count, _ = validation_sums(
        Denoiser(model, "mdm"), split, METHODS["standard"], ids, 400, 0, (0, 1), CPU
    ).tolist()
    assert total / count == pytest.approx(float(np.mean(exact)), rel=0.02)


def test_sequences_a_pass_change_nothing(
    tiny_data: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = validation.diffusion_forward

    def spy(model: torch.nn.Module, batch: Any, *arguments: Any) -> torch.Tensor:
        sizes.append(len(batch.input_ids))
        return original(model, batch, *arguments)

    monkeypatch.setattr(validation, "diffusion_forward", spy)
    recipe, tokenizer = make_recipe(), loading.tokenizer(tiny_data)
    model = Denoiser(load_model(recipe.model, tokenizer, "mdm"), "mdm")
    split, ids = loading.load_split(tiny_data, "validation"), (tokenizer.mask_token_id, tokenizer.pad_token_id)
    found = [validation_sums(model, split, METHODS["standard"], ids, 2, 0, (0, 1), CPU, chunk) for chunk in (None, 4)]
    torch.testing.assert_close(found[1], found[0])
    assert sizes == [6, 6, 4, 4, 2, 2]
