"""The negative log-likelihood of responses: exact for an autoregressive model, a bound for a masked diffusion model.

    -log p(x0 | prompt) <= E_l E_m [ n/l * sum of the CE of the l masked tokens ],      l uniform on 1..n

with exactly l of the response's n tokens masked, uniformly: the fixed-count estimator of LLaDA's evaluation (Nie et al.
2025), whose expectation is n times that of the training objective with eps = 0 (method section 4).

Shape legend: N examples, D draws of an example, S strata of a draw's rate, R model rows of a batch, L positions of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raymdm import keys
from raymdm.data.loading import Batch, Split, collate
from raymdm.diffusion.masking import independent_masks
from raymdm.models.checks import check_tokens
from raymdm.models.denoiser import Denoiser
from raymdm.models.precision import precision


def nll_rows(
    model: Denoiser,
    split: Split,
    rows: np.ndarray,
    family: Literal["mdm", "arm"],
    ids: tuple[int, int],
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int = 64,
) -> dict[str, list[Any]]:
    """NLL of the responses of some rows of a split, given their prompts: columns with an entry a row.

    `nll`: nats, over the response with its end-of-sequence tokens; for an MDM an unbiased estimate of the bound.
    `tokens`: of the response with one end; what fills it (`data.fill_response_to`) is in `nll` alone. `nll_per_token`.
    `standard_error`: of `nll`, from its own draws (Monte Carlo); 0 for an ARM, NaN with a single draw.

    Args:
        model: in evaluation mode.
        rows: (N,) in 0..len(split) - 1.
        family: what the model is.
        ids: (mask_id, pad_id).
        draws: masks an example (LLaDA: 128); an ARM needs none.
        seed: of the masks, which depend on it, on the example and on the draw alone.
        batch_size: model rows a forward pass.
    """
    sequences = [split.input_ids[i] for i in rows]
    prompts, examples = split.prompt_lengths[rows], split.example_ids[rows]
    if family == "arm":
        nll, errors = exact_nll(model, sequences, prompts, ids[1], device, batch_size), np.zeros(len(rows))
    else:
        nll, errors = nll_bound(model, sequences, prompts, examples, ids, draws, seed, device, batch_size)
    tokens = np.array([_to_first_end(ids[prompt:]) for ids, prompt in zip(sequences, prompts, strict=True)])
    return {
        "example_id": [int(example) for example in examples],
        "nll": nll.tolist(),
        "tokens": tokens.tolist(),
        "nll_per_token": (nll / tokens).tolist(),
        "standard_error": errors.tolist(),
    }


def _to_first_end(response: np.ndarray) -> int:
    """Tokens of a response with one end of sequence, which is its last token and what a fill repeats."""
    return int(np.argmax(response == response[-1])) + 1


class Summary(NamedTuple):
    """The NLL of a table of examples; for an MDM of its bound."""

    nll_per_token: float
    """Nats, all examples' nats over all their tokens."""
    standard_error: float
    """Of `nll_per_token`, if the examples are a sample of a larger population; Monte Carlo noise is in it. NaN for a
    single example."""
    monte_carlo_error: float
    """Of `nll_per_token` for these very examples: what more draws would make smaller."""
    perplexity: float
    """exp(nll_per_token)."""


def summary(table: Mapping[str, Any]) -> Summary:
    """Sum up what `nll_rows` gave: a mapping, or data frame, with columns `nll`, `tokens`, `standard_error`."""
    nll, tokens, errors = (np.asarray(table[name], dtype=np.float64) for name in ("nll", "tokens", "standard_error"))
    mean, count = nll.sum() / tokens.sum(), len(nll)
    residuals = nll - mean * tokens  # of a ratio: the lengths are random too
    variance = count / (count - 1) * (residuals**2).sum() if count > 1 else math.nan
    monte_carlo = math.sqrt((errors**2).sum()) / tokens.sum()
    with np.errstate(over="ignore"):  # infinite above 709 nats
        perplexity = float(np.exp(mean))
    return Summary(float(mean), math.sqrt(variance) / tokens.sum(), monte_carlo, perplexity)


def exact_nll(
    model: Denoiser,
    sequences: Sequence[np.ndarray],
    prompt_lengths: np.ndarray,
    pad_id: int,
    device: torch.device,
    batch_size: int = 64,
) -> np.ndarray:
    """NLL (N,) in nats of what follows the prompts, by an autoregressive model.

    sequences: N arrays of token ids; prompt_lengths: (N,) tokens, one or more each.
    """
    nll = np.zeros(len(sequences))
    with _weights_cast_once(device):
        for part in _parts(len(sequences), batch_size):
            batch = collate([sequences[i] for i in part], prompt_lengths[part], pad_id)
            check_tokens(model, int(batch.input_ids.max()))
            nll[part] = _row_sums(model, batch.input_ids, batch, batch.response_mask, device)
    return nll


def nll_bound(
    model: Denoiser,
    sequences: Sequence[np.ndarray],
    prompt_lengths: np.ndarray,
    examples: np.ndarray,
    ids: tuple[int, int],
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased estimates (N,) in nats of a masked diffusion model's bound, and their standard errors (N,).

    sequences: N arrays of token ids; prompt_lengths: (N,) tokens; examples: (N,) in 0..2^32 - 1, the keys of their
    masks. The rates of an example's draws are stratified: it takes fewer of them. NaN errors with a single draw.
    """
    values = np.zeros((len(sequences), draws))
    with _weights_cast_once(device):
        for part in _parts(values.size, batch_size):
            example, draw = np.divmod(part, draws)
            batch = collate([sequences[i] for i in example], prompt_lengths[example], ids[1])
            mask = _masks(batch.response_mask, examples[example], draw, draws, seed)
            noised = batch.input_ids.masked_fill(mask, ids[0])
            weight = batch.response_mask.sum(1) / mask.sum(1)  # n/l
            values[example, draw] = weight.numpy() * _row_sums(model, noised, batch, mask, device)
    return _stratified_mean(values)


@contextmanager
def _weights_cast_once(device: torch.device) -> Iterator[None]:
    """Keeps what autocast made of the weights, from one forward pass to the next."""
    with torch.no_grad(), precision(device):
        yield


def _parts(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _masks(response: Tensor, examples: np.ndarray, draw: np.ndarray, draws: int, seed: int) -> Tensor:
    """(R, L) bool: l tokens of each row's response. With t uniform on (0, 1), l = ceil(t n) is uniform on 1..n."""
    stratum = draw % _strata(draws)
    t = (stratum + keys.uniforms(seed, "nll-rate", 0, examples, 1, draw)[:, 0]) / _strata(draws)
    u = torch.from_numpy(keys.uniforms(seed, "nll-mask", 0, examples, response.shape[1], draw))
    rate = torch.from_numpy(t)[:, None].expand_as(u)
    return independent_masks("fixed_size", u[None], rate[None], response)[0]


def _strata(draws: int) -> int:
    """Strata of the rate, with two draws each, as one says nothing of noise; of an odd number the first has three."""
    return max(1, draws // 2)


def _stratified_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over strata of each stratum's mean, (N,), and the standard error of that, (N,); values: (N, D)."""
    draws = values.shape[1]
    strata = _strata(draws)
    member = np.arange(draws) % strata == np.arange(strata)[:, None]  # (S, D)
    count = member.sum(1)
    means = values @ member.T / count
    squares = (values - means[:, np.arange(draws) % strata]) ** 2 @ member.T
    variance = squares / (count - 1) if draws > 1 else np.full_like(squares, math.nan)
    return means.mean(1), np.sqrt((variance / count).sum(1)) / strata


@torch.no_grad()
def _row_sums(model: Denoiser, input_ids: Tensor, batch: Batch, targets: Tensor, device: torch.device) -> np.ndarray:
    """Each row's summed cross-entropies at its targets, (R,) float64."""
    labels = batch.input_ids[targets].to(device)
    with precision(device):
        losses = model(input_ids.to(device), batch.attention_mask.to(device), targets.to(device), labels)
    rows = targets.nonzero()[:, 0].to(device)
    sums = torch.zeros(len(targets), dtype=torch.float64, device=device).index_add(0, rows, losses.double())
    return sums.cpu().numpy()
