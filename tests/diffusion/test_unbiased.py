"""Every method's expected loss and gradient, by enumeration of all masks and quadrature over t.

The reference never calls the code under test: it sums P(mask | t) l(x0, t, mask) over all 2^n masks of the Bernoulli
objective of method section 1. The methods' expectations come from the real code, fed with one u for each region that
the mask rule can tell apart, or with every order of the tokens.
"""

import itertools

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from raymdm.config.schema import METHODS, ModelConfig, TokenizerConfig
from raymdm.diffusion.epr import EPR
from raymdm.diffusion.masking import Masks, draw_masks, smallest_rate
from raymdm.diffusion.objective import noise, sequence_losses
from raymdm.diffusion.samplers import Density
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model

MASK_ID, VOCABULARY = 10, 11
# strata leave each draw's own distribution alone (test_samplers), so one method stands for those that differ in them
MDM_METHODS = [name for name, method in METHODS.items() if method.family == "mdm" and method.strata == "none"]
# (prompt length, response length): the rows share a batch width, so the shorter ones are padded
LENGTHS = [(1, 5), (3, 2), (2, 1)]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    config = ModelConfig(
        kind="tiny",
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        tokenizer=TokenizerConfig(kind="chars"),
    )
    model: LlamaForCausalLM = load_model(config, range(VOCABULARY), "mdm").double()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than an initialisation, so that losses depend on the masks
            parameter.mul_(12)
    return Denoiser(model, shift=False)


def _rows(lengths: tuple[int, int], count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prompt, response = lengths
    ids = torch.full((1, 6), 0)
    ids[0, : prompt + response] = torch.tensor([3, 1, 4, 5, 9, 2])[: prompt + response]
    position = torch.arange(6)[None]
    attention = position < prompt + response
    return ids.expand(count, -1), attention.expand(count, -1), (attention & (position >= prompt)).expand(count, -1)


def _summed_losses(denoiser: Denoiser, ids: torch.Tensor, attention: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of each mask (R, L), by the model's full logits and torch's own log-softmax."""
    logits = denoiser.model(
        input_ids=torch.where(masks, MASK_ID, ids), attention_mask=attention, position_ids=torch.arange(6)[None]
    ).logits
    token = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return (token * masks).sum(1)


def _nodes(low: float, high: float, pieces: list[float]) -> list[tuple[float, float]]:
    """Gauss-Legendre nodes and weights on [low, high], cut at `pieces`."""
    x, w = np.polynomial.legendre.leggauss(8)
    edges = sorted({low, high, *(p for p in pieces if low < p < high)})
    return [
        ((a + b) / 2 + (b - a) / 2 * float(xi), (b - a) / 2 * float(wi))
        for a, b in itertools.pairwise(edges)
        for xi, wi in zip(x, w, strict=True)
    ]


def _reference(denoiser: Denoiser, lengths: tuple[int, int], eps: float) -> torch.Tensor:
    n = lengths[1]
    subsets = torch.tensor(list(itertools.product([False, True], repeat=n)))
    ids, attention, eligible = _rows(lengths, len(subsets))
    masks = torch.zeros_like(eligible)
    masks[:, lengths[0] : sum(lengths)] = subsets
    losses = _summed_losses(denoiser, ids, attention, masks)
    k = subsets.sum(1)
    total = torch.zeros((), dtype=torch.float64)
    for t, w in _nodes(eps, 1.0, [0.01, 0.1]):
        probability = t**k * (1 - t) ** (n - k)
        total = total + w / (1 - eps) * (probability * losses).sum() / (t * n)
    return total


def _representatives(kind: str, t: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All u (R, n) that the mask rule tells apart, with their probabilities (R,)."""
    if kind == "fixed_size":
        orders = np.array(list(itertools.permutations((np.arange(n) + 0.5) / n)))
        return orders, np.full(len(orders), 1 / len(orders))
    edges = np.array(sorted({0.0, min(t, 1 - t), max(t, 1 - t), 1.0}))
    middle, size = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    choices = np.array(list(itertools.product(range(len(size)), repeat=n)))
    return middle[choices], size[choices].prod(1)


def _expectation(denoiser: Denoiser, name: str, lengths: tuple[int, int], density: Density) -> torch.Tensor:
    method, n = METHODS[name], lengths[1]
    total = torch.zeros((), dtype=torch.float64)
    for t, w in _nodes(density.eps, 1.0, [0.01, 0.1, 0.5, *(np.arange(1, n) / n)]):
        u, probability = _representatives(method.mask, t, n)
        ids, attention, eligible = _rows(lengths, len(u))
        padded = torch.full(eligible.shape, 0.5, dtype=torch.float64)
        padded[:, lengths[0] : sum(lengths)] = torch.from_numpy(u)
        rates = torch.full((len(u),), t, dtype=torch.float64)
        masks: Masks = draw_masks(method.mask, padded, rates, eligible, method.mirrored)
        batch = noise(ids, masks, MASK_ID)
        logits = denoiser(batch.input_ids, attention.repeat(method.views, 1), batch.targets)
        losses = sequence_losses(logits, batch, masks.scale)
        weight = float(density.weight(np.array(t)) * density.pdf(np.array(t)))
        total = total + w * weight * (torch.from_numpy(probability) * losses.double()).sum()
    return total


def _gradient(value: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(denoiser.parameters()))])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", MDM_METHODS)
def test_expected_loss_and_gradient_are_the_objective_s(
    denoiser: Denoiser, name: str, lengths: tuple[int, int]
) -> None:
    eps = smallest_rate(METHODS[name].mask)
    calibrated = METHODS[name].density == "calibrated"
    density = EPR(0.8, 0.3, 0.5, 0.9, 2.5, 6.0, 0.9).density(eps) if calibrated else Density.uniform(eps)
    expected, found = _reference(denoiser, lengths, eps), _expectation(denoiser, name, lengths, density)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    gradient, reference = _gradient(found, denoiser), _gradient(expected, denoiser)
    assert ((gradient - reference).norm() / reference.norm()).item() < 1e-4


def test_the_check_notices_a_wrong_weight(denoiser: Denoiser) -> None:
    """A weight that forgets 1/p(t) is far outside the tolerance, so the test above can fail."""
    density = EPR(0.8, 0.3, 0.5, 0.9, 2.5, 6.0, 0.9).density(1e-3)
    low, high = density.weight_range()
    assert high / low > 1.5
    expected = _reference(denoiser, LENGTHS[0], 1e-3).item()
    biased = _expectation(denoiser, "standard", LENGTHS[0], density).item() * low
    assert biased != pytest.approx(expected, rel=1e-2)
