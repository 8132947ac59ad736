"""A refit, a search or a moving average changes what it is for and nothing else: no order, no draw, no model."""

import copy
import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymdm import keys
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.diffusion import calibration
from raymdm.diffusion.epr import rate_grid
from raymdm.diffusion.fits import Fit
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.samplers import Density
from raymdm.errors import UserError
from raymdm.storage import Storage
from raymdm.training import density as density_module
from raymdm.training.density import refit, search_interval
from raymdm.training.loop import Job, Run, Worker, build, train, train_step

MakeRecipe = Callable[..., Recipe]
PARAMS = {"a": 0.8, "b": 0.3, "A": 0.5, "kappa": 0.9, "m": 2.5, "q": 6.0, "r": 0.9}


def _job(recipe: Recipe, name: str, data: Path, folder: Path) -> Job:
    method = recipe.spec(name)
    path = folder / f"{name}.json"
    fit = {"kind": "epr", "params": PARAMS, "eps": smallest_rate(method.mask), "uniform_mix": 0.0}
    path.write_text(json.dumps(fit | {"mask": method.calibration}))
    return Job(recipe, name, 42, data, path if method.calibrated else None)


def _build(recipe: Recipe, name: str, data: Path, folder: Path) -> Run:
    return build(_job(recipe, name, data, folder), Worker(lambda metrics: None, Storage(str(folder / "run"))), folder)


def _train(job: Job) -> list[dict[str, float]]:
    records: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        train(job, Worker(lambda metrics: records.extend(metrics["records"]), Storage(folder)))
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def test_a_refit_to_the_same_density_changes_nothing(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "fit_density", lambda *_: Fit("epr", PARAMS, 0.0, {}))
    without = _train(_job(make_recipe(), "p_pots", tiny_data, tmp_path))
    refitted = _train(_job(make_recipe(train__refit_every=5), "p_pots", tiny_data, tmp_path))
    assert [record["drift/kl"] for record in refitted if "drift/kl" in record] == [0.0, 0.0]
    assert [record for record in refitted if "drift/kl" not in record] == without


def test_a_refit_leaves_the_order_and_all_other_draws(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uniforms, indices, quantile = keys.uniforms, loading.batch_indices, Density.quantile
    calls: list[tuple[Any, ...]] = []

    def spy_uniforms(seed: int, purpose: str, step: Any, index: Any, n: int, draw: Any = 0) -> np.ndarray:
        u = uniforms(seed, purpose, step, index, n, draw)
        if purpose != "refit":
            calls.append((purpose, u.tobytes()))
        return u

    def spy_indices(*arguments: int) -> np.ndarray:
        calls.append(("order", indices(*arguments).tobytes()))
        return indices(*arguments)

    def spy_quantile(self: Density, u: np.ndarray) -> np.ndarray:
        t = quantile(self, u)
        if u.shape == (1, 8):  # a step's rates, not those that compare two densities
            calls.append(("u", u.tobytes()))
            rates.append(t)
        return t

    rates: list[np.ndarray] = []
    monkeypatch.setattr(keys, "uniforms", spy_uniforms)
    monkeypatch.setattr(loading, "batch_indices", spy_indices)
    monkeypatch.setattr(Density, "quantile", spy_quantile)
    found = []
    for every in (None, 5):
        _train(_job(make_recipe(train__refit_every=every), "p_pots", tiny_data, tmp_path))
        found.append((calls.copy(), np.array(rates)))
        calls.clear()
        rates.clear()
    assert found[0][0] == found[1][0]
    assert {name for name, _ in found[0][0]} >= {"rate", "mask", "order", "u"}
    same = np.all(found[0][1] == found[1][1], axis=(1, 2))
    assert same.tolist() == [True] * 5 + [False] * 7, "the rates change from the step after the refit on"


@pytest.mark.parametrize("name", ["p_pots", "fixed_size_g_pots", "clipped_search"])
def test_measuring_leaves_the_model_as_it_was(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    run = _build(make_recipe(calibrate__starts=2, calibrate__gradient_sequences=2), name, tiny_data, tmp_path)
    train_step(run)
    before, optimizer = copy.deepcopy(run.denoiser.state_dict()), copy.deepcopy(run.optimizer.state_dict())
    random, modes = torch.get_rng_state(), []
    run.denoiser.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    (search_interval if name == "clipped_search" else refit)(run)
    assert modes and not any(modes), "measured without dropout"
    assert all(module.training for module in run.denoiser.modules())
    assert all(parameter.grad is None for parameter in run.denoiser.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[key], value) for key, value in run.denoiser.state_dict().items())
    assert str(optimizer) == str(run.optimizer.state_dict())
    train_step(run)


def test_a_refit_to_known_losses(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """l = 1 + t whatever is masked: p*(t) = (1 + t) / 1.5 on (0, 1], int l^2 = 7/3, (int l)^2 = 9/4."""

    def losses(model: Any, split: Any, draws: Any, *_: Any) -> np.ndarray:
        return np.repeat(1 + draws.t[0][:, None], draws.masks, axis=1)

    monkeypatch.setattr(density_module, "measure_losses", losses)
    recipe = make_recipe(methods={"m": {"extends": "fixed_size_p_pots", "fit": "histogram"}}, calibrate__grid=400)
    run = _build(recipe, "m", tiny_data, tmp_path)
    old = run.inputs.density
    refit(run)
    t, _ = rate_grid(400, 0.0)
    assert run.inputs.density.pdf(t) == pytest.approx((1 + t) / 1.5, rel=1e-4)
    record = run.records[-1]
    assert record["drift/second_moment_uniform"] == pytest.approx(7 / 3, rel=1e-4)
    assert record["drift/second_moment_new"] == pytest.approx(9 / 4, rel=1e-4)
    fine = (np.arange(200_000) + 0.5) / 200_000
    assert record["drift/second_moment_old"] == pytest.approx(float(((1 + fine) ** 2 / old.pdf(fine)).mean()), rel=1e-3)
    divergence = float((old.pdf(fine) * np.log(old.pdf(fine) * 1.5 / (1 + fine))).mean())
    assert record["drift/kl"] == pytest.approx(divergence, rel=1e-3)
    assert record["drift/rows"] == run.state.measured_rows == 400 * 3 * 2


def test_refits_are_keyed_by_their_step(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    found = []
    for step in (4, 4, 5):
        run = _build(make_recipe(calibrate__starts=2), "p_pots", tiny_data, tmp_path)
        run.state.step = step
        refit(run)
        found.append(run.state.fit)
    assert found[0] == found[1] != found[2]


def test_the_density_for_the_gradient_is_fitted_to_norms(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a gradient norm of 2 - t whatever is masked: p*(t) = (2 - t) / 1.5."""

    class Norms:
        def __init__(self, model: Any, split: Any, draws: Any, *_: Any) -> None:
            self.squares = np.repeat((2 - draws.t[0][:, None]) ** 2, draws.masks, axis=1)

    monkeypatch.setattr(density_module, "measure_gradients", Norms)
    recipe = make_recipe(methods={"m": {"extends": "fixed_size_g_pots", "fit": "histogram"}}, calibrate__grid=400)
    run = _build(recipe, "m", tiny_data, tmp_path)
    refit(run)
    t, _ = rate_grid(400, 0.0)
    assert run.inputs.density.pdf(t) == pytest.approx((2 - t) / 1.5, rel=1e-4)


@pytest.mark.parametrize(("rank", "warned"), [(0, True), (1, False)])
def test_a_poor_refit_is_told_by_one_worker(
    tiny_data: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rank: int,
    warned: bool,
) -> None:
    """Losses that go up and down six times: no seven parameters follow them."""

    def losses(model: Any, split: Any, draws: Any, *_: Any) -> np.ndarray:
        return np.repeat(1 + 0.9 * np.sin(12 * np.pi * draws.t[0])[:, None], draws.masks, axis=1)

    monkeypatch.setattr(density_module, "measure_losses", losses)
    run = _build(make_recipe(), "p_pots", tiny_data, tmp_path)
    run.worker = dataclasses.replace(run.worker, rank=rank)
    run.state.step = 7
    with caplog.at_level(logging.WARNING):
        refit(run)
    told = [message for message in caplog.messages if message.startswith("refit at step 7: The epr fit is far from")]
    assert bool(told) == bool(caplog.messages) == warned
    if warned:
        assert f"KL {run.records[-1]['drift/fit_kl']:.3g} nats" in told[0]


def test_a_good_refit_is_not_talked_about(
    tiny_data: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def losses(model: Any, split: Any, draws: Any, *_: Any) -> np.ndarray:
        """The same shape for every sequence, no two alike."""
        return np.repeat(((1 + draws.t[0]) * (1 + draws.rows % 5))[:, None], draws.masks, axis=1)

    monkeypatch.setattr(density_module, "measure_losses", losses)
    run = _build(make_recipe(calibrate__starts=24), "p_pots", tiny_data, tmp_path)
    with caplog.at_level(logging.WARNING):
        refit(run)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "norm", "rows"),
    [
        ("p_pots", "exact", 70 * 5 * 3),
        ("p_pots_mirror", "exact", 70 * 5 * 3 * 2),
        ("g_pots", "exact", 70 * 4 * 1),
        ("g_pots", "head", 70 * 5 * 3),
    ],
)
def test_a_refit_measures_as_much_as_a_calibration(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str, norm: str, rows: int
) -> None:
    """70 rates; 5 sequences and 3 masks, but 4 and 1 for whole gradients; a row a view."""
    recipe = make_recipe(
        calibrate__starts=1, calibrate__sequences=5, calibrate__masks=3, calibrate__gradient_sequences=4,
        calibrate__gradient_masks=1, calibrate__gradient_norm=norm,
    )  # fmt: skip
    run = _build(recipe, name, tiny_data, tmp_path)
    refit(run)
    assert run.records[-1]["drift/rows"] == run.state.measured_rows == rows


@pytest.mark.parametrize("name", ["p_pots", "clipped_search"])
def test_no_forward_pass_of_a_measurement_has_more_rows_than_a_calibration_s(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    run = _build(make_recipe(calibrate__batch_size=7, calibrate__starts=1), name, tiny_data, tmp_path)
    sizes: list[int] = []
    run.denoiser.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    (search_interval if name == "clipped_search" else refit)(run)
    assert max(sizes) == (7 if name == "clipped_search" else 6), "two masks a pair stay together"


def test_a_loss_that_is_not_finite_is_named(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _build(make_recipe(), "p_pots", tiny_data, tmp_path)
    original, named = density_module.measure_losses, []

    def broken(model: Any, split: Any, draws: Any, *where: Any) -> np.ndarray:
        losses = original(model, split, draws, *where)
        if not named:
            named.append(
                f"step 0: the loss of example {split.example_ids[draws.rows[7]]} at t = {draws.t[0, 7]:.4f} is"
            )
            losses[7, 1] = np.nan
        return losses

    monkeypatch.setattr(density_module, "measure_losses", broken)
    with pytest.raises(UserError) as error:
        refit(run)
    assert str(error.value).startswith(named[0])


@pytest.mark.parametrize("name", ["standard", "arm"])
def test_methods_without_a_calibrated_density_are_not_refitted(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    without = _train(_job(make_recipe(), name, tiny_data, tmp_path))
    assert _train(_job(make_recipe(train__refit_every=5), name, tiny_data, tmp_path)) == without


def test_ema_trains_as_standard_does_and_reports_another_loss(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    ours, standard = (_train(_job(make_recipe(), name, tiny_data, tmp_path)) for name in ("ema", "standard"))
    assert len(ours) == len(standard)
    changed = {"train/loss", "train/loss_variance"}
    for mine, theirs in zip(ours, standard, strict=True):
        assert {k: v for k, v in mine.items() if k not in changed} == {
            k: v for k, v in theirs.items() if k not in changed
        }
    assert ours[-1] == standard[-1], "validation is the same"
    assert {k for k in changed for a, b in zip(ours, standard, strict=True) if a.get(k) != b.get(k)} == changed


def test_a_search_draws_the_next_rates_from_what_it_found(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are 1 for rates in (0.2, 0.7] and 0 or 2 in turn elsewhere."""

    def losses(model: Any, split: Any, draws: Any, *_: Any) -> np.ndarray:
        t = draws.t[0]
        return np.where((t > 0.2) & (t <= 0.7), 1.0, np.arange(len(t)) % 2 * 2.0)[:, None]

    monkeypatch.setattr(density_module, "measure_losses", losses)
    recipe = make_recipe(train__validation_draws=40)
    run = _build(recipe, "clipped_search", tiny_data, tmp_path)
    assert run.inputs.density.quantile(np.array([0.0, 1.0])) == pytest.approx([1e-3, 1.0])
    search_interval(run)
    assert run.state.interval == [0.2, 0.7]
    assert run.inputs.density.quantile(np.array([0.0, 1.0])) == pytest.approx([0.2, 0.7])
    assert run.records[-1] == {"step": 0, "train/clip_low": 0.2, "train/clip_high": 0.7, "train/clip_variance": 0.0}


@pytest.mark.parametrize(
    ("name", "ends"),
    [("clipped", (0.3, 0.8)), ("bell", (1e-3, 1.0)), ("standard", (1e-3, 1.0)), ("fixed_size", (0, 1))],
)
def test_densities_at_the_start(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str, ends: tuple[float, float]
) -> None:
    density = _build(make_recipe(), name, tiny_data, tmp_path).inputs.density
    assert density.quantile(np.array([0.0, 1.0])) == pytest.approx(ends)
    assert METHODS[name].density == "uniform" or density.pdf(np.array(0.5)) > 1


def test_every_evaluation_but_the_last_searches(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    records = _train(_job(make_recipe(), "clipped_search", tiny_data, tmp_path))
    assert [record["step"] for record in records if "train/clip_low" in record] == [4, 8]
