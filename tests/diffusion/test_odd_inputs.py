"""What every method makes of odd sequences: one token, none, all of one length, rates at the ends of their range."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from raymdm.config.schema import METHODS, MethodSpec
from raymdm.data.loading import Batch, collate, eligible_tokens
from raymdm.diffusion.masking import smallest_rate
from raymdm.training.draws import draw_step_masks
from raymdm.training.step import diffusion_forward

MORE = {
    f"{mask}_{coupling}_{views}": MethodSpec(mask=mask, coupling=coupling, views=views, view_rates=rates)
    for mask in ("bernoulli", "fixed_size")
    for coupling, views, rates in [
        ("independent", 7, "shared"), ("consecutive", 2, "shared"), ("consecutive", 7, "shared"),
        ("consecutive", 7, "stratified"), ("nested", 7, "stratified"), ("independent", 2, "stratified"),
    ]
}  # fmt: skip
MORE["nested_control_7"] = MORE["fixed_size_nested_7"].model_copy(update={"control_variate": "nested"})
MDM = {name: spec for name, spec in METHODS.items() if spec.family == "mdm"} | MORE
few = settings(max_examples=12)  # for each of thirty methods
ALL = pytest.mark.parametrize("name", MDM)
CPU = torch.device("cpu")


class Table(torch.nn.Module):
    """Logits from the input token alone: 12 tokens, the mask 11."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
        self.logits = torch.nn.Parameter(start)

    def forward(
        self, input_ids: torch.Tensor, attention: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, _: str
    ) -> torch.Tensor:
        return F.cross_entropy(self.logits[input_ids[targets]], labels, reduction="none")


def _batch(lengths: list[tuple[int, int]]) -> Batch:
    """Sequences of (prompt, response) tokens; the first response token is a delimiter, no prompt token is syntax."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 10, sum(pair)) for pair in lengths]
    delimiter = [np.array([prompt] if response else [], dtype=int) for prompt, response in lengths]
    return collate(ids, [prompt for prompt, _ in lengths], 10, [np.array([], dtype=int)] * len(ids), delimiter)


def _losses(method: MethodSpec, batch: Batch, t: float, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (D, S) at one rate, and the gradient of their sum."""
    model, size = Table(), len(batch.input_ids)
    rates = np.full((method.views if method.view_rates == "stratified" else 1, size), t)
    masks = draw_step_masks(method, 3, step, np.arange(size), rates, batch)
    losses = diffusion_forward(model, batch, masks, 11, CPU)
    losses.sum().backward()
    assert model.logits.grad is not None
    return losses.detach(), model.logits.grad


def _mean_over_the_masked(batch: Batch, row: int) -> float:
    """The loss at t = 1: the mean cross-entropy of the response, all of it masked."""
    tokens = batch.input_ids[row][batch.response_mask[row]]
    return float(-Table().logits.log_softmax(-1)[11, tokens].mean().detach())


@ALL
@few
@given(t=st.floats(1e-3, 1))
def test_a_sequence_without_eligible_tokens_has_loss_zero_and_a_gradient_of_zeros(name: str, t: float) -> None:
    method, batch = MDM[name], _batch([(4, 0), (2, 0)])
    if method.eligible == "all":
        batch = batch._replace(attention_mask=torch.zeros_like(batch.attention_mask))
    losses, gradient = _losses(method, batch, t)
    assert losses.shape[1] == 2
    assert not losses.any()
    assert not gradient.any()


@ALL
def test_a_sequence_without_eligible_tokens_leaves_the_others_alone(name: str) -> None:
    """Draws are keyed by slot, so the first sequence has the same masks alone and beside an empty one."""
    alone, _ = _losses(MDM[name], _batch([(2, 3)]), 0.6)
    both, _ = _losses(MDM[name], _batch([(2, 3), (5, 0)]), 0.6)
    assert both[:, 0].tolist() == alone[:, 0].tolist()
    assert not both[:, 1].any()


@ALL
@few
@given(length=st.integers(1, 5), size=st.integers(1, 4), end=st.sampled_from(["eps", "tiny", "one"]))
def test_losses_are_finite_at_both_ends_of_t(name: str, length: int, size: int, end: str) -> None:
    eps = smallest_rate(MDM[name].mask)
    t = {"eps": eps, "tiny": float(np.nextafter(eps, 1)), "one": 1.0}[end]
    losses, gradient = _losses(MDM[name], _batch([(1, length)] * size), t, step=length)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()


@ALL
def test_at_rate_one_everything_is_masked_and_the_loss_is_the_mean(name: str) -> None:
    batch = _batch([(2, 1), (1, 4), (3, 2)])
    losses, _ = _losses(MDM[name], batch, 1.0)
    for row in range(3):
        assert losses[:, row].tolist() == pytest.approx([_mean_over_the_masked(batch, row)] * len(losses), rel=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in MDM.items() if spec.mask == "fixed_size"])
@few
@given(t=st.floats(0, 1))
def test_a_single_token_is_always_masked_by_a_fixed_size(name: str, t: float) -> None:
    """k = max(1, ceil(t)) = 1 of 1: no draw is empty, and the loss is the token's cross-entropy."""
    batch = _batch([(3, 1)])
    losses, _ = _losses(MDM[name], batch, t)
    assert losses.tolist() == pytest.approx(np.full((len(losses), 1), _mean_over_the_masked(batch, 0)), rel=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in MDM.items() if spec.mask == "bernoulli" and spec.views == 1])
@few
@given(t=st.floats(1e-3, 1), step=st.integers(0, 50))
def test_a_single_token_is_masked_or_not_by_bernoulli(name: str, t: float, step: int) -> None:
    """Its loss is 0 or its cross-entropy divided by the rate at which it is masked (twice t for a delimiter)."""
    method, batch = MDM[name], _batch([(3, 1)])
    rate = min(1.0, method.delimiter_factor * t)
    losses, _ = _losses(method, batch, t, step)
    assert any(losses.item() == pytest.approx(x, rel=1e-5) for x in (0.0, _mean_over_the_masked(batch, 0) / rate))


@ALL
@few
@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4), t=st.floats(1e-3, 1))
def test_only_eligible_tokens_are_masked_or_weighed(name: str, lengths: list[int], t: float) -> None:
    method, batch = MDM[name], _batch([(2, n) for n in lengths])
    rates = np.full((method.views if method.view_rates == "stratified" else 1, len(lengths)), t)
    masks = draw_step_masks(method, 1, 0, np.arange(len(lengths)), rates, batch)
    eligible = eligible_tokens(batch, method.eligible)
    assert masks.mask.shape == (method.views, *eligible.shape)
    assert not (masks.mask & ~eligible).any()
    assert not (masks.weight * ~masks.mask).any()
    assert masks.weight.dtype == torch.float64


def _sums_of_weights(name: str) -> torch.Tensor:
    method, batch = MDM[name], _batch([(2, 5), (1, 3), (4, 1)])
    rates = np.tile(np.linspace(0.2, 0.9, method.views if method.view_rates == "stratified" else 1)[:, None], (1, 3))
    return draw_step_masks(method, 1, 0, np.arange(3), rates, batch).weight.sum((1, 3))


@pytest.mark.parametrize("name", [name for name, spec in MDM.items() if spec.mask == "fixed_size"])
def test_fixed_size_weights_sum_to_one(name: str) -> None:
    """So a model whose tokens all cost the same has a loss without variance, control variate or not."""
    sums = _sums_of_weights(name)
    torch.testing.assert_close(sums, torch.ones_like(sums))
