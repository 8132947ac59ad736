"""A model small enough to enumerate, and every draw of a method with its probability.

The world has sequences of several lengths in one padded batch. The model's logits are computed once for each of the
2^6 masks of a sequence, so that expectations over all rates, masks and orders are sums over a table; the code under
test (`draw_rates`, `draw_step_masks`, `diffusion_forward`) runs as in training, with enumerated numbers in place of
random ones.

Shape legend: S sequences of the world, L = 6 positions, V views, D rates a sequence, R enumerated draws, Q rates.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from raymdm import keys
from raymdm.config.schema import MethodSpec, ModelConfig, TokenizerConfig
from raymdm.data.loading import Batch, eligible_tokens
from raymdm.diffusion.samplers import Density
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training.draws import draw_rates, draw_step_masks
from raymdm.training.step import diffusion_forward

MASK_ID, VOCABULARY, L = 10, 11, 6
SUBSETS = torch.tensor(list(itertools.product([False, True], repeat=L)))
PLACES = 2 ** torch.arange(L - 1, -1, -1)
"""What a position adds to its mask's row in SUBSETS."""


@dataclass
class Draws:
    """R draws of (rates, masks), each with its probability given the sequence."""

    row: np.ndarray
    """(R,) sequence of the world."""
    t: np.ndarray
    """(D, R)"""
    weight: np.ndarray
    """(D, R)"""
    u: np.ndarray
    """(V or 1, R, L) numbers behind the masks."""
    probability: torch.Tensor
    """(R,); sums to 1 over the draws of each sequence."""


class World:
    """Sequences given as (prompt length, response length), and a model of them."""

    def __init__(self, denoiser: Denoiser, lengths: list[tuple[int, int]], context_free: bool = False) -> None:
        """context_free: the model's predictions do not depend on what is masked."""
        self.denoiser, self.size = denoiser, len(lengths)
        position, total = torch.arange(L)[None], torch.tensor([sum(pair) for pair in lengths])[:, None]
        attention = position < total
        response = attention & (position >= torch.tensor([prompt for prompt, _ in lengths])[:, None])
        ids = torch.tensor([[3, 1, 4, 5, 9, 2], [2, 7, 1, 8, 2, 0], [6, 0, 2, 3, 1, 4]])[: self.size] * attention
        # the last token of the prompt is syntax; the first of the response a delimiter
        syntax, delimiter = (response.roll(-1, 1) & attention & ~response), response & ~response.roll(1, 1)
        self.batch = Batch(ids, attention, response, syntax, delimiter)
        logits = self._all_logits()
        self.logits = logits[:, :1].expand_as(logits) if context_free else logits
        token = -self.logits.log_softmax(-1).gather(-1, ids[:, None, :, None].expand(-1, 64, -1, 1))[..., 0]
        self.ce = token.detach()
        """(S, 64, L): cross-entropy of every token under every mask, by torch's own log-softmax."""
        self.token = token

    def _all_logits(self) -> torch.Tensor:
        ids, attention, *_ = (part.repeat_interleave(64, 0) for part in self.batch)
        noised = torch.where(SUBSETS.repeat(self.size, 1), MASK_ID, ids)
        found = self.denoiser.model(input_ids=noised, attention_mask=attention, position_ids=torch.arange(L)[None])
        return found.logits.view(self.size, 64, L, VOCABULARY)

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        """Gradient of a number with respect to all of the model's parameters, (P,)."""
        found = torch.autograd.grad(value, list(self.denoiser.parameters()), retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    # what the code under test makes of enumerated draws

    def rates(
        self, method: MethodSpec, density: Density, cuts: Sequence[float] = (), nodes: int = 6
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rates (D, Q) and weights (D, Q) of `draw_rates`, with the probabilities (Q,) of a quadrature over its u.

        The pieces between the rates where ceil(t n) jumps, `cuts` and the density's nodes have nodes of their own.
        """
        count = method.views if method.view_rates == "stratified" else 1
        sizes = {int(n) for n in eligible_tokens(self.batch, method.eligible).sum(1)}
        jumps = [k / n for n in sizes for k in range(1, n)] if method.mask == "fixed_size" else []
        grid = np.linspace(density.eps, 1, 1_000_001)
        mass = np.concatenate([[0], np.cumsum((density.pdf(grid)[1:] + density.pdf(grid)[:-1]) / 2)])
        ends = np.interp([*jumps, *cuts], grid, mass / mass[-1])
        stratum = [_gauss(0, 1, [float(end * count - view) for end in ends], nodes) for view in range(count)]
        u, p = (np.stack([part.ravel() for part in np.meshgrid(*(s[i] for s in stratum))]) for i in (0, 1))
        plain = method.model_copy(update={"strata": "none"})  # strata leave each draw alone: see test_samplers
        with mock.patch.object(keys, "uniforms", lambda seed, purpose, step, index, n, draw: u[draw][:, None]):
            t, weight = draw_rates(plain, density, 0, 0, u.shape[1])
        return t, weight, p.prod(0)

    def draws(self, method: MethodSpec, t: np.ndarray, weight: np.ndarray, p: np.ndarray) -> Draws:
        """Every draw of masks at rates t (D, Q) for every sequence."""
        eligible, parts = eligible_tokens(self.batch, method.eligible), []
        for row, (q, rates) in itertools.product(range(self.size), enumerate(t.T)):
            places = eligible[row].nonzero()[:, 0].numpy()
            u, chance = numbers(method, rates, len(places))
            padded = np.full((u.shape[0], u.shape[1], L), 0.5)
            padded[:, :, places] = u
            count = len(chance)
            parts.append(
                (np.full(count, row), rates[:, None].repeat(count, 1), weight[:, [q]].repeat(count, 1), padded,
                 chance * p[q])
            )  # fmt: skip
        row, t, weight, u, chance = (
            np.concatenate(part, -1 if part[0].ndim < 3 else 1) for part in zip(*parts, strict=True)
        )
        return Draws(row, t, weight, u, torch.from_numpy(chance))

    def losses(self, method: MethodSpec, draws: Draws) -> torch.Tensor:
        """What each draw gives a sequence's gradient to carry: the mean over its rates of w l, (R,)."""
        batch, row = Batch(*(part[draws.row] for part in self.batch)), torch.from_numpy(draws.row)

        def uniforms(seed: int, purpose: str, step: int, index: np.ndarray, n: int, draw: int) -> np.ndarray:
            return draws.u[draw]

        with mock.patch.object(keys, "uniforms", uniforms):
            masks = draw_step_masks(method, 0, 0, np.arange(len(row)), draws.t, batch)

        def model(
            input_ids: torch.Tensor, attention: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, _: str
        ) -> torch.Tensor:
            assert torch.equal(attention, batch.attention_mask.repeat(method.views, 1))
            which = ((input_ids == MASK_ID) * PLACES).sum(1)
            logits = self.logits[row.repeat(method.views), which][targets]
            return F.cross_entropy(logits, labels, reduction="none")

        losses = diffusion_forward(model, batch, masks, MASK_ID, torch.device("cpu"))
        return (torch.from_numpy(draws.weight) * losses.double()).mean(0)

    def expected(self, method: MethodSpec, density: Density, **quadrature: Any) -> torch.Tensor:
        """The expectation of each sequence's loss over all rates and masks, (S,)."""
        draws = self.draws(method, *self.rates(method, density, **quadrature))
        weighted = draws.probability * self.losses(method, draws)
        return weighted.new_zeros(self.size).index_add(0, torch.from_numpy(draws.row), weighted)

    def moments(self, method: MethodSpec, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each sequence's loss over the draws, (S,) each."""
        losses, row = self.losses(method, draws).detach(), torch.from_numpy(draws.row)
        mean = losses.new_zeros(self.size).index_add(0, row, draws.probability * losses)
        second = losses.new_zeros(self.size).index_add(0, row, draws.probability * losses**2)
        return mean, second - mean**2

    def at(self, method: MethodSpec, *t: float) -> Draws:
        """Every draw of masks at given rates, unweighted."""
        return self.draws(method, np.array(t)[:, None], np.ones((len(t), 1)), np.ones(1))

    # references, which never call the code under test

    def subsets(self, row: int, which: torch.Tensor) -> torch.Tensor:
        """All masks of the tokens `which` (S, L) of a sequence, (K, L) bool."""
        return SUBSETS[~(SUBSETS & ~which[row]).any(1)]

    def summed(self, row: int, masks: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy of the masked tokens, (K,)."""
        return (self.token[row, (masks * PLACES).sum(1)] * masks).sum(1)

    def at_rate(self, t: float, which: torch.Tensor) -> torch.Tensor:
        """g(t) of each sequence (method section 1), (S,): sum over masks of P(mask | t) times the loss."""
        found = []
        for row in range(self.size):
            masks, n = self.subsets(row, which), int(which[row].sum())
            k = masks.sum(1)
            found.append((t**k * (1 - t) ** (n - k) * self.summed(row, masks)).sum() / (t * n))
        return torch.stack(found)

    def objective(self, low: float = 1e-3, high: float = 1.0, which: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of g over t uniform in (low, high), (S,); by default the response's objective."""
        which = self.batch.response_mask if which is None else which
        t, p = _gauss(low, high, [0.01, 0.1], 8)
        return torch.stack([weight * self.at_rate(float(rate), which) for rate, weight in zip(t, p, strict=True)]).sum(
            0
        ) / (high - low)


def _gauss(low: float, high: float, cuts: Sequence[float], nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [low, high], cut into pieces."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.array(sorted({low, high, *(cut for cut in cuts if low + 1e-9 < cut < high - 1e-9)}))
    middle, half = (edges[1:] + edges[:-1])[:, None] / 2, np.diff(edges)[:, None] / 2
    return (middle + half * x).ravel(), (half * w).ravel()


def numbers(method: MethodSpec, t: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All u (V or 1, R, n) that the mask rules tell apart, with their probabilities (R,)."""
    own = method.coupling == "independent"
    if method.mask == "fixed_size":
        one = [(order, 1.0) for order in itertools.permutations((np.arange(n) + 0.5) / max(n, 1))]
        sets = [one] * (method.views if own else 1)
    else:
        plain = np.broadcast_to(t, method.views)
        raised = np.minimum(1, method.delimiter_factor * plain)
        rates = np.concatenate([plain, raised])
        ends = {
            "independent": rates,
            "nested": rates,
            "mirrored": np.concatenate([rates, 1 - rates]),
            "consecutive": np.concatenate([np.cumsum(plain), np.cumsum(raised)]) % 1,
        }[method.coupling]
        edges = np.array(sorted({0.0, 1.0, *ends.tolist()}))
        cells = list(zip((edges[1:] + edges[:-1]) / 2, np.diff(edges), strict=True))
        one = [
            (tuple(c[0] for c in cell), np.prod([c[1] for c in cell])) for cell in itertools.product(cells, repeat=n)
        ]
        sets = [one] * (method.views if own else 1)
    joint = list(itertools.product(*sets))
    u = np.array([[order for order, _ in views] for views in joint], dtype=float).reshape(len(joint), len(sets), n)
    chance = np.array([np.prod([size for _, size in views]) for views in joint])
    return u.transpose(1, 0, 2), chance / (len(joint) if method.mask == "fixed_size" else 1)


@pytest.fixture(scope="session")
def denoiser() -> Denoiser:
    """A tiny bidirectional model in float64, with attention so strong that its losses depend on the masks."""
    config = ModelConfig(
        kind="tiny",
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        init_seed=3,
        tokenizer=TokenizerConfig(kind="chars"),
    )
    model: LlamaForCausalLM = load_model(config, range(VOCABULARY), "mdm").double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(50 if "v_proj" in name or "o_proj" in name else 20)
    return Denoiser(model, "mdm")


@pytest.fixture(scope="session")
def world(denoiser: Denoiser) -> World:
    """Responses of 5, 2 and 1 tokens."""
    return World(denoiser, [(1, 5), (3, 2), (2, 1)])


@pytest.fixture(scope="session")
def small_world(denoiser: Denoiser) -> World:
    """Responses of 3, 2 and 1 tokens, for methods with many masks a draw."""
    return World(denoiser, [(2, 3), (3, 2), (1, 1)])


@pytest.fixture(scope="session")
def context_free_world(denoiser: Denoiser) -> World:
    """Responses of 4, 2 and 1 tokens, whose predictions do not depend on what is masked."""
    return World(denoiser, [(2, 4), (3, 2), (2, 1)], context_free=True)
