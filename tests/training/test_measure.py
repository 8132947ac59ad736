"""Measured losses and gradients: those of a forward and backward pass by hand, with the same keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from raymdm import keys
from raymdm.config.schema import METHODS, MethodSpec
from raymdm.data import loading
from raymdm.data.loading import Split
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training import measure
from raymdm.training.measure import Draws, Sketch, measure_gradients, measure_head_gradients, measure_losses

CPU = torch.device("cpu")
ROWS, INDEX, MASKS, SEED = np.array([7, 2, 7]), np.array([0, 5, 9]), 2, 11
METHODS_MEASURED = {
    "standard": METHODS["standard"],
    "fixed_size": METHODS["fixed_size"],
    "multi_sample": METHODS["multi_sample"],
    "stratified": MethodSpec(mask="fixed_size", views=2, view_rates="stratified"),
}


class Bench:
    """A split, a model of it and its special tokens."""

    def __init__(self, data: Path, recipe: Any, family: str = "mdm") -> None:
        tokenizer = loading.tokenizer(data)
        self.ids = (tokenizer.mask_token_id, tokenizer.pad_token_id)
        self.split: Split = loading.load_split(data, "train")
        self.model = Denoiser(load_model(recipe.model, tokenizer, family), family)

    def tokens(self, pair: int) -> torch.Tensor:
        return torch.tensor(self.split.input_ids[ROWS[pair]].tolist())

    def views(
        self, method: MethodSpec, t: np.ndarray, pair: int, mask: int
    ) -> Iterator[tuple[int, torch.Tensor, np.ndarray, float]]:
        """Each view's rate, noised tokens, targets and their weight, from the keys that the documentation states."""
        ids, row = self.tokens(pair), ROWS[pair]
        response = np.arange(len(ids)) >= self.split.prompt_lengths[row]
        for view in range(method.views):
            u = keys.uniforms(SEED, "study", int(INDEX[pair]), np.array([row]), len(ids), mask * method.views + view)[0]
            place = min(view, len(t) - 1)
            rate = t[place, pair]
            chosen = response & (u < rate)
            scale = 1 / (rate * response.sum())
            if method.mask == "fixed_size":
                k = int(np.ceil(rate * response.sum()))
                chosen, scale = response & (u <= np.sort(u[response])[k - 1]), 1 / k
            noised = torch.where(torch.from_numpy(chosen), self.ids[0], ids)
            yield place, noised, chosen, scale / (method.views if len(t) == 1 else 1)

    def by_hand(self, method: MethodSpec, t: np.ndarray, pair: int, mask: int, weights: np.ndarray) -> torch.Tensor:
        """The weighted loss of one draw."""
        ids, losses = self.tokens(pair), torch.zeros(len(t))
        for place, noised, chosen, scale in self.views(method, t, pair, mask):
            logits = self.model.model(input_ids=noised[None]).logits[0].log_softmax(-1)
            loss = -(logits[torch.arange(len(ids)), ids] * torch.from_numpy(chosen)).sum() * scale
            losses[place] = losses[place] + loss
        return (losses * torch.from_numpy(weights[:, pair])).mean()

    def head_by_hand(self, method: MethodSpec, t: np.ndarray, pair: int, mask: int) -> float:
        """The root of the sum over targets of the squared gradient by that target's last hidden state."""
        ids, head, square = self.tokens(pair), self.model.model.get_output_embeddings(), 0.0
        for _, noised, chosen, scale in self.views(method, t, pair, mask):
            hidden = self.model.model.get_decoder()(input_ids=noised[None]).last_hidden_state[0].detach()
            for target in np.flatnonzero(chosen):
                state = hidden[target].clone().requires_grad_()
                loss = scale * F.cross_entropy(head(state)[None], ids[[target]])
                square += torch.autograd.grad(loss, state)[0].double().square().sum().item()
        return float(np.sqrt(square))


@pytest.fixture(scope="module")
def bench(tiny_data: Path, make_recipe: Any) -> Bench:
    return Bench(tiny_data, make_recipe())


def _draws(name: str, pairs: slice = slice(None), seed: int = SEED) -> Draws:
    method = METHODS_MEASURED[name]
    t = np.array([[0.3, 0.6, 0.8], [0.7, 0.9, 0.95]])[: 2 if method.view_rates == "stratified" else 1]
    return Draws(method, ROWS[pairs], t[:, pairs], INDEX[pairs], MASKS, seed, "study")


def _sizes(model: torch.nn.Module) -> list[int]:
    return [parameter.numel() for parameter in model.parameters()]


@pytest.mark.parametrize("name", METHODS_MEASURED)
def test_losses_are_those_of_a_forward_pass_with_the_same_keys(bench: Bench, name: str) -> None:
    draws = _draws(name)
    found = measure_losses(bench.model, bench.split, draws, bench.ids, CPU)
    one = np.ones_like(draws.t)
    expected = [[bench.by_hand(draws.method, draws.t, g, k, one).item() for k in range(MASKS)] for g in range(3)]
    assert found.dtype == np.float64
    assert found == pytest.approx(np.array(expected), rel=1e-5)


@pytest.mark.parametrize("name", METHODS_MEASURED)
def test_squares_are_those_of_autograd(bench: Bench, name: str) -> None:
    """Weights differ over pairs and, with two rates a sequence, over those."""
    draws = _draws(name)
    weights = np.array([[2.0, 0.5, 1.0], [0.25, 3.0, 1.5]])[: len(draws.t)]
    found = measure_gradients(bench.model, bench.split, draws, bench.ids, CPU, weights)
    parameters = list(bench.model.parameters())
    for pair, mask in [(0, 0), (1, 1), (2, 0)]:
        loss = bench.by_hand(draws.method, draws.t, pair, mask, weights)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()
        assert found.losses[pair, mask] == pytest.approx(loss.item(), rel=1e-5)
        assert found.squares[pair, mask] == pytest.approx(gradient.square().sum().item(), rel=1e-4)
    assert found.sketches.shape == (3, MASKS, 0)


def test_losses_of_gradients_and_of_forward_passes_agree(bench: Bench) -> None:
    draws = _draws("multi_sample")
    losses = measure_losses(bench.model, bench.split, draws, bench.ids, CPU)
    assert measure_gradients(bench.model, bench.split, draws, bench.ids, CPU).losses == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("name", METHODS_MEASURED)
def test_results_do_not_depend_on_how_draws_are_split(bench: Bench, name: str) -> None:
    """Pairs alone, in another order, and beside longer rows."""
    sketch = Sketch(_sizes(bench.model), 50, 1, CPU)
    whole = measure_gradients(bench.model, bench.split, _draws(name), bench.ids, CPU, sketch=sketch)
    losses = measure_losses(bench.model, bench.split, _draws(name), bench.ids, CPU)
    for part in (slice(0, 1), slice(1, 3), slice(None, None, -1)):
        some = measure_gradients(bench.model, bench.split, _draws(name, part), bench.ids, CPU, sketch=sketch)
        assert np.array_equal(some.squares, whole.squares[part])
        assert np.array_equal(some.sketches, whole.sketches[part])
        found = measure_losses(bench.model, bench.split, _draws(name, part), bench.ids, CPU)
        assert found == pytest.approx(losses[part], rel=1e-6)


def test_the_seed_changes_the_masks(bench: Bench) -> None:
    one, other = (measure_losses(bench.model, bench.split, _draws("standard", seed=s), bench.ids, CPU) for s in (1, 2))
    assert not np.any(one == other)


def test_an_arm_s_loss_has_no_masks(tiny_data: Path, make_recipe: Any) -> None:
    arm = Bench(tiny_data, make_recipe(), "arm")
    draws = Draws(METHODS["arm"], ROWS, np.ones((1, 3)), INDEX, 1, SEED, "study")
    for pair, row in enumerate(ROWS):
        ids, prompt = torch.tensor(arm.split.input_ids[row].tolist()), int(arm.split.prompt_lengths[row])
        token = (
            -arm.model.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        )
        found = measure_losses(arm.model, arm.split, draws, arm.ids, CPU)
        assert found[pair, 0] == pytest.approx(token[prompt - 1 :].mean().item(), rel=1e-5)


def test_gradients_of_parameters_are_left_as_they_are(bench: Bench) -> None:
    measure_gradients(bench.model, bench.split, _draws("standard"), bench.ids, CPU)
    assert all(parameter.grad is None for parameter in bench.model.parameters())


class Spare(torch.nn.Module):
    """A model with a parameter that no loss reaches, before those that losses do."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.spare = torch.nn.Parameter(torch.ones(13))
        self.inner = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(*inputs)


@pytest.mark.parametrize("size", [20, 10**6])
def test_a_parameter_out_of_reach_adds_nothing(bench: Bench, size: int) -> None:
    """The sketch is that of the gradient with zeros in the parameter's place; the norm is as without it."""
    spare, draws = Spare(bench.model), _draws("standard", slice(0, 1))
    sketch = Sketch(_sizes(spare), size, 0, CPU)
    found = measure_gradients(spare, bench.split, draws, bench.ids, CPU, sketch=sketch)
    assert found.sketches.shape == (1, MASKS, size if size == 20 else sum(_sizes(spare)))
    assert found.squares == pytest.approx(measure_gradients(bench.model, bench.split, draws, bench.ids, CPU).squares)
    for mask in range(MASKS):
        loss = bench.by_hand(draws.method, draws.t, 0, mask, np.ones_like(draws.t))
        gradient = [torch.zeros(13), *torch.autograd.grad(loss, list(bench.model.parameters()))]
        expected = sketch(gradient).numpy()
        assert found.sketches[0, mask] == pytest.approx(expected, rel=1e-4, abs=1e-5 * np.abs(expected).max())


def test_a_large_gradient_is_looked_at_in_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of more numbers than a chunk has, whatever is measured of it."""
    whole = measure_gradients(bench.model, bench.split, _draws("standard"), bench.ids, CPU).squares
    original, sizes = torch.Tensor.double, []

    def spy(self: torch.Tensor) -> torch.Tensor:
        sizes.append(self.numel())
        return original(self)

    monkeypatch.setattr(measure, "CHUNK", 10)
    monkeypatch.setattr(torch.Tensor, "double", spy)
    sketch = Sketch(_sizes(bench.model), 50, 1, CPU)
    chunks = measure_gradients(bench.model, bench.split, _draws("standard"), bench.ids, CPU, sketch=sketch).squares
    assert max(sizes) == 10 < max(_sizes(bench.model))
    assert chunks == pytest.approx(whole, rel=1e-12)


def test_frozen_parameters_are_not_measured(tiny_data: Path, make_recipe: Any) -> None:
    bench = Bench(tiny_data, make_recipe())
    whole = measure_gradients(bench.model, bench.split, _draws("standard"), bench.ids, CPU).squares
    bench.model.model.get_output_embeddings().weight.requires_grad_(False)
    part = measure_gradients(bench.model, bench.split, _draws("standard"), bench.ids, CPU).squares
    assert np.all(part < whole)


# The bound that the output layer gives


@pytest.mark.parametrize("name", ["standard", "fixed_size", "multi_sample"])
def test_the_head_s_bound_is_made_of_gradients_by_the_last_hidden_states(bench: Bench, name: str) -> None:
    draws = _draws(name)
    found = measure_head_gradients(bench.model, bench.split, draws, bench.ids, CPU)
    expected = [[bench.head_by_hand(draws.method, draws.t, g, k) for k in range(MASKS)] for g in range(3)]
    assert found == pytest.approx(np.array(expected), rel=1e-4)


class Dequantised(torch.nn.Linear):
    """As quantised layers are: a Linear whose weight is not what it multiplies with."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, 3 * self.weight.flip(0))


def test_the_head_s_bound_asks_a_head_that_is_more_than_its_weight(tiny_data: Path, make_recipe: Any) -> None:
    bench, draws = Bench(tiny_data, make_recipe()), _draws("standard")
    plain = bench.model.model.get_output_embeddings()
    head = Dequantised(plain.in_features, plain.out_features, bias=False)
    head.load_state_dict(plain.state_dict())
    bench.model.model.set_output_embeddings(head)
    found = measure_head_gradients(bench.model, bench.split, draws, bench.ids, CPU)
    expected = [[bench.head_by_hand(draws.method, draws.t, g, k) for k in range(MASKS)] for g in range(3)]
    assert found == pytest.approx(np.array(expected), rel=1e-4)


@pytest.mark.parametrize("name", ["standard", "fixed_size", "multi_sample"])
def test_the_head_s_bound_does_not_depend_on_how_draws_are_split(bench: Bench, name: str) -> None:
    whole = measure_head_gradients(bench.model, bench.split, _draws(name), bench.ids, CPU)
    for part in (slice(0, 1), slice(1, 3), slice(None, None, -1)):
        found = measure_head_gradients(bench.model, bench.split, _draws(name, part), bench.ids, CPU)
        assert found == pytest.approx(whole[part], rel=1e-5)


def test_a_draw_that_masks_nothing_has_no_gradient(bench: Bench) -> None:
    draws = Draws(METHODS["standard"], ROWS, np.array([[1e-9, 0.9, 1e-9]]), INDEX, MASKS, SEED, "study")
    found = measure_head_gradients(bench.model, bench.split, draws, bench.ids, CPU)
    exact = measure_gradients(bench.model, bench.split, draws, bench.ids, CPU).squares
    for sizes in (found, exact):
        assert not sizes[[0, 2]].any()
        assert sizes[1].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_s_bound_is_a_float32_product_whatever_the_forward_pass_is(
    tiny_data: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As on a GPU, the forward pass is in bf16; and so may the parameters be."""
    bench, draws = Bench(tiny_data, make_recipe()), _draws("standard", slice(0, 1))
    bench.model.to(dtype)
    bf16 = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(measure, "precision", lambda device: bf16)
    monkeypatch.setattr(measure, "VOCABULARY", 7)
    head, logits = bench.model.model.get_output_embeddings(), []
    head.register_forward_hook(lambda module, inputs, output: logits.append(output.double()))
    found = measure_head_gradients(bench.model, bench.split, draws, bench.ids, CPU)
    rows = logits[0].softmax(-1)
    targets, scales = [], []
    for mask in range(MASKS):
        for _, _, chosen, scale in bench.views(draws.method, draws.t, 0, mask):
            targets.append(bench.tokens(0)[torch.from_numpy(chosen)])
            scales.append(scale)
    residual = rows - F.one_hot(torch.cat(targets), rows.shape[1])
    squares = (residual @ head.weight.double()).square().sum(1).split([len(part) for part in targets])
    expected = [scale * square.sum().sqrt().item() for scale, square in zip(scales, squares, strict=True)]
    assert found[0] == pytest.approx(np.array(expected), rel=1e-5)


# The sketch


def test_a_sketch_of_few_parameters_is_the_gradient_itself() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.tensor([-1.0, 7.0])
    assert Sketch([6, 2], 8, 0, CPU)([a, b]).tolist() == [0, 1, 2, 3, 4, 5, -1, 7]
    assert Sketch([6, 2], 8, 0, CPU)([None, b]).tolist() == [0, 0, 0, 0, 0, 0, -1, 7]
    assert not Sketch([6, 2], 7, 0, CPU).exact


def test_a_sketch_is_linear_and_keyed_by_its_seed() -> None:
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sketch = Sketch([40], 8, 3, CPU)
    torch.testing.assert_close(sketch([2 * a - b]), 2 * sketch([a]) - sketch([b]))
    assert torch.equal(sketch([a]), Sketch([40], 8, 3, CPU)([a]))
    assert not torch.equal(sketch([a]), Sketch([40], 8, 4, CPU)([a]))


def test_a_sketch_puts_every_number_into_one_place_with_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two parameters, in chunks of four numbers; no two of the chunks alike."""
    monkeypatch.setattr(measure, "CHUNK", 4)
    sketch = Sketch([18, 12], 7, 5, CPU)
    found = torch.stack([sketch([row[:18].reshape(3, 6), row[18:]]) for row in torch.eye(30)])
    assert torch.equal(found.abs().sum(1), torch.ones(30, dtype=torch.float64))
    assert torch.equal((found != 0).sum(1), torch.ones(30, dtype=torch.long))
    assert set(found.unique().tolist()) == {-1.0, 0.0, 1.0}
    chunks = [*found[:16].reshape(4, 28).tolist(), *found[18:].reshape(3, 28).tolist()]
    assert len({tuple(chunk) for chunk in chunks}) == 7


def test_a_sketch_s_map_is_the_same_kept_or_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(2, 25, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(measure, "CHUNK", 10)
    found = []
    for kept in (50, 49):
        monkeypatch.setattr(measure, "KEPT", kept)
        sketch = Sketch([25, 25], 6, 1, CPU)
        found += [sketch([a, b]), sketch([a, b])]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_inner_products_of_sketches_are_unbiased() -> None:
    """Over seeds: mean <a, b>, and variance (|a|^2 |b|^2 + <a, b>^2 - 2 sum a_i^2 b_i^2) / R (CountSketch).

    The 25 numbers are two parameters'.
    """
    a, b = torch.randn(2, 25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sketches = (Sketch([10, 15], 10, seed, CPU) for seed in range(3000))
    found = np.array([float(s(a.split([10, 15])) @ s(b.split([10, 15]))) for s in sketches])
    assert stats.ttest_1samp(found, float(a @ b)).pvalue > 1e-3
    variance = float((a @ a) * (b @ b) + (a @ b) ** 2 - 2 * (a**2 * b**2).sum()) / 10
    assert found.var() == pytest.approx(variance, rel=0.15)
