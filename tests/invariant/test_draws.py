"""Worker count, accumulation, data order and method leave each other's random numbers alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.samplers import Density
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training.draws import draw_rates, draw_step_masks
from raymdm.training.loop import _slice
from raymdm.training.step import StepInputs, forward_backward

MakeRecipe = Callable[..., Recipe]
MDM_METHODS = [name for name, method in METHODS.items() if method.family == "mdm"]
BATCH = 8


def _gradient(data: Path, recipe: Recipe, name: str, workers: int, micro: int) -> torch.Tensor:
    """The gradient that DDP would form: the mean over workers of what each accumulates."""
    tokenizer = loading.tokenizer(data)
    method = METHODS[name]
    model = Denoiser(load_model(recipe.model, tokenizer, method.family), method.family == "arm")
    split = loading.load_split(data, "train")
    density = Density(np.array([smallest_rate(method.mask), 0.3, 1.0]), np.array([2.0, 0.5, 1.5]))
    inputs = StepInputs(method, density, 7, BATCH, tokenizer.mask_token_id, tokenizer.pad_token_id)
    indices = loading.batch_indices(len(split), BATCH, 3, recipe.data.seed)
    for rank in range(workers):
        slots = _slice(BATCH, rank, workers)
        forward_backward(model, split, indices, 3, inputs, slots, micro, workers, torch.device("cpu"))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / workers


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("workers", "micro"), [(2, 8), (3, 2), (4, 1), (1, 3)])
def test_gradient_does_not_depend_on_workers_or_accumulation(
    tiny_data: Path, make_recipe: MakeRecipe, name: str, workers: int, micro: int
) -> None:
    whole = _gradient(tiny_data, make_recipe(), name, 1, BATCH)
    torch.testing.assert_close(_gradient(tiny_data, make_recipe(), name, workers, micro), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MDM_METHODS)
def test_a_slice_draws_the_masks_of_the_whole_batch(name: str) -> None:
    method, t = METHODS[name], np.linspace(0.1, 1, BATCH)
    eligible = torch.ones(BATCH, 11).bool()
    whole = draw_step_masks(method, 5, 2, np.arange(BATCH), t, eligible).mask
    part = draw_step_masks(method, 5, 2, np.arange(3, 6), t[3:6], eligible[3:6]).mask
    assert torch.equal(part, whole[:, 3:6])


def test_no_two_slots_share_a_draw() -> None:
    t, _ = draw_rates(METHODS["standard"], Density.uniform(1e-3), 5, 0, 64)
    assert len(np.unique(t)) == 64


@pytest.mark.parametrize(("seed", "step"), [(6, 2), (5, 3)])
def test_seed_and_step_change_the_rates(seed: int, step: int) -> None:
    here, _ = draw_rates(METHODS["standard"], Density.uniform(1e-3), 5, 2, BATCH)
    there, _ = draw_rates(METHODS["standard"], Density.uniform(1e-3), seed, step, BATCH)
    assert not np.any(here == there)


def test_strata_hold_over_the_global_batch() -> None:
    t, _ = draw_rates(METHODS["low_discrepancy"], Density.uniform(0.0), 5, 2, 32)
    assert sorted((t * 32).astype(int)) == list(range(32))


def test_strata_of_a_density_have_equal_mass() -> None:
    density = Density(np.array([0.0, 0.5, 1.0]), np.array([3.0, 1.0, 2.0]))
    t, weights = draw_rates(METHODS["low_discrepancy"], density, 5, 2, 16)
    edges = density.quantile(np.linspace(1e-9, 1 - 1e-9, 17))
    assert sorted(np.searchsorted(edges, t) - 1) == list(range(16))
    assert weights == pytest.approx(density.weight(t))
