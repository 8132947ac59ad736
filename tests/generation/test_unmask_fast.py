"""What saves forward passes: texts that have ended, the confidence threshold, the prefix cache."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_sampler import slow_sampler, transfer_tokens
from transformers import DynamicCache

from raymdm.errors import UserError
from raymdm.generation.unmask import generate_mdm

SIZE, MASK_ID, PAD_ID = 24, 22, 23
PROMPTS = [[5], list(range(9)), [7, 3, 3], [0, 1], [9, 9, 9, 9]]
SHAPES = [(8, 8, 4), (8, 4, 4), (9, 6, 3), (12, 6, 4), (6, 4, 6), (8, 8, 8)]


def sizes(generation_length, steps, block_length):
    return {"generation_length": generation_length, "steps": steps, "block_length": block_length}


def generate(model, prompts, **kwargs):
    tokens, passes = generate_mdm(model, prompts, mask_id=MASK_ID, pad_id=PAD_ID, **kwargs)
    return SimpleNamespace(tokens=tokens.tolist(), passes=passes.tolist())


@pytest.fixture(scope="module")
def sharp_models(random_model):
    """Models that are sure of some tokens: their logits are 8 times as large."""
    models = [random_model(seed) for seed in range(4)]
    with torch.no_grad():
        for model in models:
            model.get_output_embeddings().weight.mul_(8)
    return models


def up_to_stop(row, stops):
    return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]


def rows_read(model):
    """Rows of each forward pass, as they come."""
    read = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return read


@settings(max_examples=40)
@given(
    seed=st.integers(0, 3),
    shape=st.sampled_from(SHAPES),
    stops=st.sets(st.integers(0, 21), min_size=1, max_size=6),
    threshold=st.sampled_from([None, 0.5]),
    cache=st.booleans(),
)
def test_text_before_the_stop_is_that_of_a_row_generated_to_its_end(sharp_models, seed, shape, stops, threshold, cache):
    kwargs = sizes(*shape) | {"confidence_threshold": threshold, "prefix_cache": cache}
    whole = generate(sharp_models[seed], PROMPTS, **kwargs)
    found = generate(sharp_models[seed], PROMPTS, stop_ids=stops, **kwargs)
    for row, expected, passes, most in zip(found.tokens, whole.tokens, found.passes, whole.passes, strict=True):
        text = up_to_stop(expected, stops)
        assert row == text + expected[len(text) : len(text) + 1] * (len(row) - len(text))
        assert passes <= most


def test_rows_whose_text_has_ended_leave_the_batch(random_model):
    model = random_model(0)
    texts = generate(model, PROMPTS, **sizes(12, 12, 4)).tokens
    read = rows_read(model)
    stops = {texts[0][0], texts[1][5]}
    found = generate(model, PROMPTS, stop_ids=stops, **sizes(12, 12, 4))
    assert sum(read) == sum(found.passes) < 12 * len(PROMPTS)
    assert read == sorted(read, reverse=True)
    assert read[0] == len(PROMPTS)


def test_a_row_ends_within_a_block(random_model):
    """Nothing before the stop is masked any more: the rest of the block cannot matter."""
    model = random_model(0)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()  # token 0 from left to right
    assert generate(model, [[5]], stop_ids=[0], **sizes(8, 8, 8)).passes == [1]


def test_a_stop_behind_a_masked_token_does_not_end_a_row(models):
    whole = generate(models[1], PROMPTS, **sizes(8, 8, 8)).tokens
    for row, text in enumerate(whole):
        found = generate(models[1], [PROMPTS[row]], stop_ids=[text[-1]], **sizes(8, 8, 8)).tokens[0]
        assert up_to_stop(found, [text[-1]]) == up_to_stop(text, [text[-1]])


@torch.no_grad()
def by_threshold(model, prompt, threshold, *, generation_length, steps, block_length):
    """Fast-dLLM's rule for one row in plain Python: tokens and forward passes."""
    text, passes = [*prompt, *[None] * generation_length], 0
    for begin in range(len(prompt), len(text), block_length):
        left = steps * block_length // generation_length
        while gaps := [i for i in range(begin, begin + block_length) if text[i] is None]:
            ids = torch.tensor([[MASK_ID if token is None else token for token in text]])
            logits = model(ids).logits[0]
            logits[:, MASK_ID] = -float("inf")
            probability, best = logits.softmax(-1).max(-1)
            gaps.sort(key=lambda i: -float(probability[i]))
            least = transfer_tokens(len(gaps), left)[0]
            for rank, i in enumerate(gaps):
                if rank < least or probability[i] > threshold:
                    text[i] = int(best[i])
            passes, left = passes + 1, left - 1
    return text[len(prompt) :], passes


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_threshold_equals_the_rule_row_by_row(sharp_models, shape, threshold):
    for model in sharp_models:
        found = generate(model, PROMPTS, confidence_threshold=threshold, **sizes(*shape))
        expected = [by_threshold(model, prompt, threshold, **sizes(*shape)) for prompt in PROMPTS]
        assert list(zip(found.tokens, found.passes, strict=True)) == expected


def test_threshold_saves_forward_passes_and_never_adds_any(sharp_models):
    passes = [generate(m, PROMPTS, confidence_threshold=0.6, **sizes(12, 12, 4)).passes for m in sharp_models]
    assert max(map(max, passes)) <= 12
    assert min(map(min, passes)) < 9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_threshold_of_1_leaves_equal_shares(sharp_models, shape):
    kwargs = sizes(*shape)
    assert generate(sharp_models[2], PROMPTS, confidence_threshold=1.0, **kwargs) == generate(
        sharp_models[2], PROMPTS, **kwargs
    )


def test_a_threshold_near_0_takes_a_step_a_block(sharp_models):
    found = generate(sharp_models[2], PROMPTS, confidence_threshold=1e-9, **sizes(12, 12, 4))
    assert found == generate(sharp_models[2], PROMPTS, **sizes(12, 3, 4))


@torch.no_grad()
def by_prefix(model, prompt, *, generation_length, steps, block_length, shift):
    """One row whose block's prefix is cut out of a full pass's keys and values by hand."""
    text = torch.tensor([[*prompt, *[MASK_ID] * generation_length]])
    for begin in range(len(prompt), text.shape[1], block_length):
        first, kept = max(begin - shift, 0), None
        for count in transfer_tokens(block_length, steps * block_length // generation_length):
            if kept is None:
                output = model(text, use_cache=True)
                kept = [(keys[:, :, :first], values[:, :, :first]) for keys, values, *_ in output.past_key_values]
                logits = output.logits[0]
            else:
                places = torch.arange(first, text.shape[1])[None]
                output = model(text[:, first:], past_key_values=DynamicCache(kept), position_ids=places)
                logits = torch.cat([torch.zeros(first, SIZE).double(), output.logits[0]])
            if shift:
                logits = torch.cat([logits[:1], logits[:-1]])
            logits[:, MASK_ID] = -torch.inf
            probability, best = logits.softmax(-1).max(-1)
            gaps = [i for i in range(begin, begin + block_length) if text[0, i] == MASK_ID]
            for i in sorted(gaps, key=lambda i: -float(probability[i]))[:count]:
                text[0, i] = best[i]
    return text[0, len(prompt) :].tolist()


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_prefix_cache_equals_one_cut_by_hand_row_by_row(models, shape, shift):
    for model in models:
        found = generate(model, PROMPTS, prefix_cache=True, shift=shift, **sizes(*shape)).tokens
        assert found == [by_prefix(model, prompt, shift=shift, **sizes(*shape)) for prompt in PROMPTS]


@pytest.mark.parametrize("shift", [False, True])
def test_prefix_cache_with_absolute_positions_and_an_empty_prompt(absolute_model, shift):
    prompts = [*PROMPTS, []]
    found = generate(absolute_model, prompts, prefix_cache=True, shift=shift, **sizes(8, 8, 4)).tokens
    assert found == [by_prefix(absolute_model, prompt, shift=shift, **sizes(8, 8, 4)) for prompt in prompts]


def test_a_prefix_that_is_read_anew_in_each_step_changes_nothing(models):
    """A step a block: the cache never serves, so the text is LLaDA's."""
    expected = slow_sampler(models[0], PROMPTS, mask_id=MASK_ID, pad_id=PAD_ID, banned=[MASK_ID], **sizes(12, 3, 4))
    assert generate(models[0], PROMPTS, prefix_cache=True, **sizes(12, 3, 4)).tokens == expected.tolist()


def test_prefix_cache_is_an_approximation(models):
    """The blocks after the first see another past: else the tests above would show nothing."""
    exact = [generate(model, PROMPTS, **sizes(12, 12, 4)).tokens for model in models]
    assert [generate(model, PROMPTS, prefix_cache=True, **sizes(12, 12, 4)).tokens for model in models] != exact


def test_prefix_cache_reads_the_prefix_once_a_block(random_model):
    model = random_model(0)
    lengths = []
    generate(model, [[1, 2]], prefix_cache=True, **sizes(4, 4, 4))  # asks the model once whether it keeps anything
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(model, [[1, 2, 3]], prefix_cache=True, **sizes(8, 6, 4))
    assert lengths == [2, 11, 8, 8, 11, 4, 4]


@pytest.mark.parametrize("shift", [False, True])
def test_rows_leave_a_batch_whose_cached_prefix_is_empty(models, shift):
    """Of one-token prompts the first block's prefix is empty with the shift, of empty ones without it."""
    prompts = [[token] if shift else [] for token in range(6)]
    for stop in range(22):
        found = generate(models[0], prompts, **sizes(8, 8, 4), stop_ids=[stop], shift=shift, prefix_cache=True)
        alone = [
            generate(models[0], [prompt], **sizes(8, 8, 4), stop_ids=[stop], shift=shift, prefix_cache=True).tokens[0]
            for prompt in prompts
        ]
        assert found.tokens == alone


def test_a_model_that_keeps_nothing_is_refused_the_cache(random_model):
    model = random_model(0)
    forward = model.get_decoder().forward
    model.get_decoder().forward = lambda input_ids, use_cache, **_: forward(input_ids=input_ids, use_cache=False)
    with pytest.raises(UserError, match=r"prefix_cache: LlamaForCausalLM keeps no keys and values"):
        generate(model, [[1]], prefix_cache=True, **sizes(4, 4, 4))
