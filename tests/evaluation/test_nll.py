"""The bound's estimate against all masks there are, its standard error against repetitions, and the exact NLL."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from raymdm.config.schema import ModelConfig
from raymdm.data.loading import Split
from raymdm.evaluation.nll import nll_bound, nll_rows, summary
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model

VOCABULARY, MASK, PAD = range(12), 10, 11
CPU = torch.device("cpu")
PROMPT, RESPONSE = [3, 1, 4], [1, 5, 9, 2]
TINY = ModelConfig(
    kind="tiny", hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, tokenizer={"kind": "chars"}
)


def denoiser(family: str) -> Denoiser:
    """A model of random weights, large enough that its losses depend on what is masked."""
    model = load_model(TINY, VOCABULARY, family)
    for parameter in model.parameters():
        parameter.data *= 8
    return Denoiser(model, family)


@pytest.fixture(scope="module")
def mdm() -> Denoiser:
    return denoiser("mdm")


@pytest.fixture(scope="module")
def arm() -> Denoiser:
    return denoiser("arm")


def split(*pairs: tuple[list[int], list[int]]) -> Split:
    """Prompts and responses; the example ids are 100, 101, ..."""
    nothing = [np.array([], dtype=np.int32)] * len(pairs)
    return Split(
        example_ids=100 + np.arange(len(pairs)),
        input_ids=[np.array(prompt + response, dtype=np.int32) for prompt, response in pairs],
        prompt_lengths=np.array([len(prompt) for prompt, _ in pairs], dtype=np.int32),
        prompts=[""] * len(pairs),
        answers=[""] * len(pairs),
        syntax=nothing,
        delimiter=nothing,
    )


def all_masks(model: Denoiser, prompt: list[int], response: list[int]) -> float:
    """The bound itself: every l with 1/n, every mask of l tokens with the same weight."""
    n, bound = len(response), 0.0
    clean = torch.tensor(prompt + response)
    for size in range(1, n + 1):
        masks = list(itertools.combinations(range(n), size))
        for chosen in masks:
            at = len(prompt) + torch.tensor(chosen)
            noised = clean.clone()
            noised[at] = MASK
            with torch.no_grad():
                log_p = model.model(noised[None]).logits[0, at].double().log_softmax(-1)
            cross_entropies = -log_p[torch.arange(size), clean[at]]
            bound += float(cross_entropies.sum()) * n / size / len(masks) / n
    return bound


def estimates(model: Denoiser, draws: int, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    sequences = [np.array(PROMPT + RESPONSE)] * repetitions
    prompts = np.full(repetitions, len(PROMPT))
    keys = np.arange(repetitions)
    return nll_bound(model, sequences, prompts, keys, (MASK, PAD), draws, 5, CPU, batch_size=512)


@pytest.mark.parametrize("draws", [1, 2, 5, 8])
def test_bound_is_estimated_without_bias(mdm, draws):
    nll, _ = estimates(mdm, draws, 1600 // draws)
    error = nll.std(ddof=1) / math.sqrt(len(nll))
    assert error < 0.05 * nll.mean()
    assert abs(nll.mean() - all_masks(mdm, PROMPT, RESPONSE)) < 4 * error


@pytest.mark.parametrize("draws", [2, 5, 8])
def test_standard_error_is_the_spread_over_repetitions(mdm, draws):
    nll, errors = estimates(mdm, draws, 800)
    assert (errors**2).mean() == pytest.approx(nll.var(ddof=1), rel=0.2)


def test_more_draws_have_a_smaller_error_than_independent_ones_would(mdm):
    one, eight = (estimates(mdm, draws, 400)[0] for draws in (1, 8))
    assert eight.var(ddof=1) < one.var(ddof=1) / 8


def test_single_draw_says_nothing_of_its_error(mdm):
    assert np.isnan(estimates(mdm, 1, 3)[1]).all()


def test_response_of_one_token_is_exact(mdm):
    rows = nll_rows(mdm, split((PROMPT, [7])), np.array([0]), "mdm", (MASK, PAD), 4, 0, CPU)
    assert rows["nll"][0] == pytest.approx(all_masks(mdm, PROMPT, [7]), rel=1e-5)
    assert rows["standard_error"][0] == pytest.approx(0, abs=1e-6)


def test_examples_do_not_depend_on_their_company(mdm):
    data = split((PROMPT, RESPONSE), ([2], [6, 5, 3, 5, 8]), (PROMPT, [7, 7]))
    settings = ("mdm", (MASK, PAD), 6, 0, CPU)
    together = nll_rows(mdm, data, np.array([0, 1, 2]), *settings)
    alone = nll_rows(mdm, data, np.array([1]), *settings, batch_size=4)
    assert together["nll"][1] == pytest.approx(alone["nll"][0], rel=1e-5)
    assert together["standard_error"][1] == pytest.approx(alone["standard_error"][0], rel=1e-5)


def test_other_seeds_and_examples_have_other_masks(mdm):
    data = split((PROMPT, RESPONSE), (PROMPT, RESPONSE))
    first, other = (nll_rows(mdm, data, np.array([0, 1]), "mdm", (MASK, PAD), 4, seed, CPU)["nll"] for seed in (0, 1))
    assert len({*first, *other}) == 4


def test_columns_are_those_of_the_rows_asked_for(mdm):
    data = split((PROMPT, RESPONSE), ([2], [6, 5, 3, 5, 8]), (PROMPT, [7, 2]))
    rows = nll_rows(mdm, data, np.array([2, 1]), "mdm", (MASK, PAD), 2, 0, CPU)
    assert list(rows) == ["example_id", "nll", "tokens", "nll_per_token", "standard_error"]
    assert rows["example_id"] == [102, 101]
    assert rows["tokens"] == [2, 5]
    assert rows["nll_per_token"] == [rows["nll"][0] / 2, rows["nll"][1] / 5]


def test_autoregressive_nll_is_exact(arm):
    data = split((PROMPT, RESPONSE), ([2], [6, 5, 3, 5, 8]))
    rows = nll_rows(arm, data, np.array([0, 1]), "arm", (MASK, PAD), 1, 0, CPU)
    for nll, ids, prompt in zip(rows["nll"], data.input_ids, data.prompt_lengths, strict=True):
        with torch.no_grad():
            log_p = arm.model(torch.tensor(ids)[None].long()).logits[0].double().log_softmax(-1)
        assert nll == pytest.approx(-sum(float(log_p[i - 1, ids[i]]) for i in range(prompt, len(ids))), rel=1e-5)
    assert rows["standard_error"] == [0.0, 0.0]


def test_summary_by_hand():
    table = pd.DataFrame({"nll": [6.0, 2.0, 4.0], "tokens": [2, 2, 4], "standard_error": [0.3, 0.0, 0.4]})
    found = summary(table)
    assert found.nll_per_token == 1.5
    assert found.perplexity == pytest.approx(math.exp(1.5))
    assert found.monte_carlo_error == pytest.approx(0.5 / 8)
    # residuals of 12 nats over 8 tokens: 6 - 3, 2 - 3, 4 - 6
    assert found.standard_error == pytest.approx(math.sqrt(3 / 2 * (9 + 1 + 4)) / 8)


def test_perplexity_beyond_all_numbers_is_infinite():
    assert summary({"nll": [8000.0], "tokens": [10], "standard_error": [0.0]}).perplexity == math.inf


def test_summary_s_error_is_the_spread_over_samples_of_examples():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 15, size=(2000, 40))
    nll = tokens * generator.normal(2.0, 0.5, size=tokens.shape) + generator.normal(0, 1, size=tokens.shape)
    none = np.zeros(40)
    found = [summary({"nll": a, "tokens": b, "standard_error": none}) for a, b in zip(nll, tokens, strict=True)]
    spread = np.std([one.nll_per_token for one in found], ddof=1)
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.05)


def test_one_example_says_nothing_of_others():
    found = summary({"nll": [6.0], "tokens": [2], "standard_error": [0.5]})
    assert math.isnan(found.standard_error)
    assert found.monte_carlo_error == 0.25


def test_a_fill_is_in_the_bound_and_not_among_the_tokens(mdm: Denoiser) -> None:
    filled = [*RESPONSE, RESPONSE[-1], RESPONSE[-1]]
    found = nll_rows(mdm, split((PROMPT, filled)), np.array([0]), "mdm", (MASK, PAD), 400, 5, CPU)
    assert found["nll"][0] == pytest.approx(all_masks(mdm, PROMPT, filled), abs=4 * found["standard_error"][0])
    assert found["tokens"] == [len(RESPONSE)]
    assert found["nll_per_token"][0] == found["nll"][0] / len(RESPONSE)
