"""Worker count, accumulation, data order and method leave each other's random numbers alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymdm import keys
from raymdm.config.schema import METHODS, MethodSpec, Recipe
from raymdm.data import loading
from raymdm.diffusion import control
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.samplers import Density
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.storage import Storage
from raymdm.training import step
from raymdm.training.density import density_in_force
from raymdm.training.draws import draw_rates, draw_step_masks
from raymdm.training.run import Worker
from raymdm.training.state import RunState
from raymdm.training.step import StepInputs, forward_backward

MakeRecipe = Callable[..., Recipe]
MDM_METHODS = [name for name, method in METHODS.items() if method.family == "mdm"]
BATCH = 8


def _density(method: MethodSpec) -> Density:
    if method.calibrated:
        return Density(np.array([smallest_rate(method.mask), 0.3, 1.0]), np.array([2.0, 0.5, 1.5]))
    return density_in_force(method, None, RunState())


def _worker(rank: int, workers: int) -> Worker:
    return Worker(lambda metrics: None, Storage("unused"), rank=rank, world_size=workers)


def _ema() -> np.ndarray:
    """A state of the moving averages whose offsets are far from 0."""
    state = control.start()
    for place in range(control.BINS):
        state[place] = [1.0, 0.5, 1.5 + place, 1.0, 2.0]
    return state


def _step(data: Path, recipe: Recipe, name: str, workers: int, micro: int) -> tuple[torch.Tensor, np.ndarray]:
    """The gradient that DDP would form, the mean over workers of what each accumulates, and the EMA's next state."""
    tokenizer = loading.tokenizer(data)
    method = METHODS[name]
    model = Denoiser(load_model(recipe.model, tokenizer, method.family), method.family)
    split = loading.load_split(data, "train")
    inputs = StepInputs(method, _density(method), 7, BATCH, tokenizer.mask_token_id, tokenizer.pad_token_id)
    indices = loading.batch_indices(len(split), BATCH, 3, recipe.data.seed)
    offsets = control.offsets(_ema()) if method.control_variate == "ema" else None
    binned = torch.zeros(2, control.BINS, dtype=torch.float64)
    for rank in range(workers):
        slots = _worker(rank, workers).slots(BATCH)
        where = slots, micro, workers, torch.device("cpu"), offsets
        binned += forward_backward(model, split, indices, 3, inputs, *where)[1]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / workers
    return gradient, control.update(_ema(), *binned.numpy())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("workers", "micro"), [(2, 8), (3, 2), (4, 1), (1, 3)])
def test_gradient_does_not_depend_on_workers_or_accumulation(
    tiny_data: Path, make_recipe: MakeRecipe, name: str, workers: int, micro: int
) -> None:
    whole, _ = _step(tiny_data, make_recipe(), name, 1, BATCH)
    found, _ = _step(tiny_data, make_recipe(), name, workers, micro)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("workers", "micro"), [(2, 8), (3, 2), (3, 8), (1, 3)])
def test_moving_averages_do_not_depend_on_workers_or_accumulation(
    tiny_data: Path, make_recipe: MakeRecipe, workers: int, micro: int
) -> None:
    _, whole = _step(tiny_data, make_recipe(), "ema", 1, BATCH)
    _, found = _step(tiny_data, make_recipe(), "ema", workers, micro)
    assert np.any(whole != _ema())
    np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_gradient_of_ema_is_that_of_standard(tiny_data: Path, make_recipe: MakeRecipe) -> None:
    ours, _ = _step(tiny_data, make_recipe(), "ema", 2, 3)
    standard, _ = _step(tiny_data, make_recipe(), "standard", 2, 3)
    assert torch.equal(ours, standard)


class _Recorder:
    """Stands for the model and keeps, for every step and slot, its rates, masks and weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots: dict[tuple[int, int], tuple[Any, ...]] = {}
        monkeypatch.setattr(step, "draw_step_masks", self._draw)
        monkeypatch.setattr(step, "diffusion_forward", self._forward)

    def _draw(self, method: MethodSpec, seed: int, step: int, slots: np.ndarray, t: np.ndarray, batch: Any) -> Any:
        masks = draw_step_masks(method, seed, step, slots, t, batch)
        for place, slot in enumerate(slots):
            assert (step, slot) not in self.slots, "a slot is drawn once"
            real = int(batch.attention_mask[place].sum())
            kept = t[:, place], masks.mask[:, place, :real].numpy(), masks.weight[:, :, place, :real].numpy()
            self.slots[step, int(slot)] = tuple(part.tobytes() for part in kept)
        return masks

    def _forward(self, model: Any, batch: Any, masks: Any, *_: Any) -> torch.Tensor:
        return torch.ones(len(masks.weight), len(batch.input_ids), requires_grad=True)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("name", MDM_METHODS)
def test_rates_and_masks_do_not_depend_on_workers_or_accumulation(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, workers: int, accumulation: int
) -> None:
    method, split, size = METHODS[name], loading.load_split(tiny_data, "train"), 16
    inputs = StepInputs(method, _density(method), 7, size, 1, 0)
    indices = loading.batch_indices(len(split), size, 3, 0)

    def draws(workers: int, accumulation: int) -> dict[tuple[int, int], tuple[Any, ...]]:
        recorder = _Recorder(monkeypatch)
        micro = size // (workers * accumulation)
        for rank in range(workers):
            slots = _worker(rank, workers).slots(size)
            forward_backward(torch.nn.Module(), split, indices, 3, inputs, slots, micro, workers, torch.device("cpu"))
        return recorder.slots

    whole = draws(1, 1)
    assert sorted(whole) == [(3, slot) for slot in range(size)]
    assert draws(workers, accumulation) == whole


@pytest.mark.parametrize("name", MDM_METHODS)
def test_two_ranks_never_share_a_draw(tiny_data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every row of random numbers that any of four workers uses in two steps, rates and masks, is used once."""
    method, split, size = METHODS[name], loading.load_split(tiny_data, "train"), 16
    inputs = StepInputs(method, _density(method), 7, size, 1, 0)
    _Recorder(monkeypatch)
    rows: dict[int, set[bytes]] = {}
    original = keys.uniforms

    def spy(seed: int, purpose: str, step: int, index: np.ndarray, n: int, draw: int = 0) -> np.ndarray:
        u = original(seed, purpose, step, index, n, draw)
        if purpose == "mask":
            used = rows.setdefault(rank, set())
            assert not used & {row.tobytes() for row in u[:, :4]}
            used |= {row.tobytes() for row in u[:, :4]}
        return u

    monkeypatch.setattr(keys, "uniforms", spy)
    for number in (3, 4):
        indices = loading.batch_indices(len(split), size, number, 0)
        for rank in range(4):
            where = _worker(rank, 4).slots(size), 2, 4, torch.device("cpu")
            forward_backward(torch.nn.Module(), split, indices, number, inputs, *where)
    numbers = method.views if method.coupling == "independent" else 1
    assert len(set.union(*rows.values())) == 2 * size * numbers == sum(map(len, rows.values()))


@pytest.mark.parametrize("name", MDM_METHODS)
def test_no_two_slots_share_a_rate(name: str) -> None:
    t, _ = draw_rates(METHODS[name], _density(METHODS[name]), 5, 0, 64)
    assert len(np.unique(t)) == t.size


@pytest.mark.parametrize(("seed", "step"), [(6, 2), (5, 3)])
def test_seed_and_step_change_the_rates(seed: int, step: int) -> None:
    here, _ = draw_rates(METHODS["standard"], Density.uniform(1e-3), 5, 2, BATCH)
    there, _ = draw_rates(METHODS["standard"], Density.uniform(1e-3), seed, step, BATCH)
    assert not np.any(here == there)


def test_strata_hold_over_the_global_batch() -> None:
    t, _ = draw_rates(METHODS["low_discrepancy"], Density.uniform(0.0), 5, 2, 32)
    assert sorted((t[0] * 32).astype(int)) == list(range(32))


def test_strata_of_a_density_have_equal_mass() -> None:
    density = Density(np.array([0.0, 0.5, 1.0]), np.array([3.0, 1.0, 2.0]))
    t, weights = draw_rates(METHODS["low_discrepancy"], density, 5, 2, 16)
    edges = density.quantile(np.linspace(1e-9, 1 - 1e-9, 17))
    assert sorted(np.searchsorted(edges, t[0]) - 1) == list(range(16))
    assert weights == pytest.approx(density.weight(t))


def test_views_with_rates_of_their_own_fill_a_stratum_each() -> None:
    """Two views, B strata within each view's half of the distribution: 2 B cells, each filled once."""
    density = Density(np.array([0.0, 0.5, 1.0]), np.array([3.0, 1.0, 2.0]))
    method = MethodSpec(strata="batch", views=2, view_rates="stratified")
    t, _ = draw_rates(method, density, 5, 2, 16)
    edges = density.quantile(np.linspace(1e-9, 1 - 1e-9, 33))
    cells = np.searchsorted(edges, t) - 1
    assert sorted(cells[0]) == list(range(16))
    assert sorted(cells[1]) == list(range(16, 32))
