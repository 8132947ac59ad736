"""AdamW with moments in 8 bits a number: its codes, its steps, its state in a checkpoint."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interrupted import assert_same_run, last, run_once, run_stopped, state
from torch import Tensor, nn

from raymdm.config.schema import Recipe
from raymdm.config.training import TrainConfig
from raymdm.training import optimizer
from raymdm.training.loop import Job
from raymdm.training.optimizer import AdamW8bit, block_size, code_map, dequantise, make_optimizer, quantise

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


def _coded(values: Tensor, size: int, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of numbers (r, C)."""
    codes, scale = torch.empty_like(values, dtype=torch.uint8), torch.empty(len(values), values.shape[1] // size)
    quantise(values, scale, codes, signed)
    return codes, scale


def _random(*shape: int, seed: int = 0) -> Tensor:
    """Numbers over seven decades."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (-7 * torch.rand(shape, generator=generator))
    return sizes * torch.randn(shape, generator=generator)


def _train(trained: type | Callable[..., torch.optim.Optimizer], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Where 20 steps on a quadratic with curvatures from 0.1 to 10 end."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape).to(dtype))
    curvature = torch.logspace(-1, 1, parameter.numel()).view(shape)
    moved = trained([parameter], 0.05, 0.1)
    for _ in range(20):
        (curvature * parameter.float().square()).sum().backward()
        moved.step()
        moved.zero_grad()
    return parameter.detach()


def _adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


@pytest.mark.parametrize("signed", [True, False])
def test_a_map_has_256_numbers_of_seven_decades(signed: bool) -> None:
    numbers = code_map(signed, CPU)
    assert len(numbers.unique()) == 256
    assert numbers[-1] == 1
    assert (numbers == 0).sum() == 1
    # the smallest: the middle of (0.1, 1] times 1e-6, and without a sign of its lower half
    assert numbers[numbers > 0].min() == pytest.approx(0.55e-6 if signed else 0.325e-6)
    assert bool((numbers < 0).any()) == signed


@pytest.mark.parametrize("signed", [True, False])
def test_a_map_is_that_of_bitsandbytes(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.testing.assert_close(code_map(signed, CPU), functional.create_dynamic_map(signed), rtol=0, atol=1e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_a_number_becomes_the_nearest_of_the_map(signed: bool) -> None:
    values = _random(4, 64, seed=1) if signed else _random(4, 64, seed=1).abs()
    codes, scale = _coded(values, 32, signed)
    relative = values.view(4, 2, 32) / scale.unsqueeze(-1)
    nearest = (relative.unsqueeze(-1) - code_map(signed, CPU)).abs().min(-1).values
    found = (dequantise(codes, scale, signed).view(4, 2, 32) / scale.unsqueeze(-1) - relative).abs()
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-6)


def test_a_block_of_zeros_stays_zero() -> None:
    values = torch.zeros(2, 64)
    values[1, :32] = 3.0
    codes, scale = _coded(values, 32, True)
    assert torch.equal(dequantise(codes, scale, True), values)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((5, 4096), 256), ((5, 896), 224), ((5, 32), 32), ((3, 2, 100), 100), ((5, 31), None), ((5, 257), None),
     ((4096,), None)],
)  # fmt: skip
def test_blocks_cut_rows_evenly(shape: tuple[int, ...], size: int | None) -> None:
    assert block_size(torch.Size(shape)) == size


@pytest.mark.parametrize("shape", [(40,), (6, 8), (3, 5, 7)])
def test_without_blocks_it_is_adamw(shape: tuple[int, ...]) -> None:
    torch.testing.assert_close(_train(AdamW8bit, shape, torch.float32), _train(_adamw, shape, torch.float32))


def test_with_blocks_it_goes_where_adamw_goes() -> None:
    start, found, expected = (
        _train(moved, (16, 256), torch.float32)
        for moved in (lambda p, lr, wd: AdamW8bit(p, 0.0, 0.0), AdamW8bit, _adamw)
    )
    assert (found - expected).norm() < 0.05 * (expected - start).norm()


def test_a_step_is_adamw_on_the_moments_as_they_are_read() -> None:
    """The third step by hand, from what 8 bits kept of two."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 64))
    moved = AdamW8bit([parameter], 0.1, 0.2)
    for _ in range(2):
        parameter.grad = torch.randn(4, 64)
        moved.step()
    kept = moved.state[parameter]
    mean, square = (
        dequantise(kept[name], kept[f"{name}_scale"], name == "exp_avg") for name in ("exp_avg", "exp_avg_sq")
    )
    before, parameter.grad = parameter.detach().clone(), torch.randn(4, 64)
    mean, square = 0.9 * mean + 0.1 * parameter.grad, 0.999 * square + 0.001 * parameter.grad**2
    spread = square.sqrt() / math.sqrt(1 - 0.999**3) + 1e-8
    moved.step()
    torch.testing.assert_close(parameter.detach(), before * (1 - 0.1 * 0.2) - 0.1 / (1 - 0.9**3) * mean / spread)


def test_rows_that_are_moved_apart_move_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _train(AdamW8bit, (9, 64), torch.float32)
    monkeypatch.setattr(optimizer, "AT_ONCE", 128)
    assert torch.equal(_train(AdamW8bit, (9, 64), torch.float32), whole)


def test_moments_take_two_bytes_and_a_scale_a_block() -> None:
    parameter = nn.Parameter(torch.randn(8, 512))
    parameter.grad = torch.randn(8, 512)
    moved = AdamW8bit([parameter], 0.1, 0.0)
    moved.step()
    sizes = sum(value.numel() * value.element_size() for value in moved.state[parameter].values() if value.ndim)
    assert sizes == 2 * (8 * 512 + 4 * 8 * 512 / 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((4, 64), (5,))]
    moved = AdamW8bit(parameters, 0.1, 0.1)

    def step(moved: AdamW8bit, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in moved.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape).to(dtype)
        moved.step()

    step(moved, 1)
    file = io.BytesIO()
    torch.save(moved.state_dict(), file)
    file.seek(0)
    other = AdamW8bit([nn.Parameter(parameter.detach().clone()) for parameter in parameters], 9.0, 9.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for run in (moved, other):
        step(run, 2)
    for one, two in zip(parameters, other.param_groups[0]["params"], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_what_is_frozen_has_no_moments(kind: str) -> None:
    model = nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    moved = make_optimizer(model.parameters(), TrainConfig(optimizer=kind))
    model(torch.ones(1, 64)).sum().backward()
    moved.step()
    assert set(moved.state) == set(model[1].parameters())


def test_a_run_in_8_bits_resumes_bit_for_bit(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(train__optimizer="adamw_8bit", model__hidden_size=64, train__checkpoint_every=3)
    job = Job(recipe, "standard", 42, tiny_data)
    run_once(job, tmp_path / "whole")
    run_stopped(job, tmp_path / "run", [5, 5])
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    kept = torch.load(last(tmp_path / "run").path / "optimizer.pt", weights_only=True)["state"]
    assert torch.uint8 in {value.dtype for moments in kept.values() for value in moments.values()}


def test_a_run_in_8_bits_learns_as_one_in_32(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for kind in ("adamw", "adamw_8bit"):
        recipe = make_recipe(train__optimizer=kind, model__hidden_size=64)
        run_once(Job(recipe, "standard", 42, tiny_data), tmp_path / kind)
    found, expected = (state(tmp_path / kind).best_nll for kind in ("adamw_8bit", "adamw"))
    assert found == pytest.approx(expected, rel=0.01)
