"""LLaDA's sampler against a slow one written from its description."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_sampler import slow_sampler, transfer_tokens

from raymdm.generation import unmask
from raymdm.generation.unmask import generate_mdm

SIZE, MASK_ID, PAD_ID = 24, 22, 23
SHAPES = [(6, 6, 6), (6, 3, 6), (6, 4, 6), (8, 1, 8), (8, 4, 4), (8, 8, 2), (9, 6, 3), (12, 6, 4), (10, 5, 10)]
PROMPTS = [[5], list(range(9)), [7, 3, 3]]


def sizes(generation_length, steps, block_length):
    return {"generation_length": generation_length, "steps": steps, "block_length": block_length}


def generate(model, prompts, **kwargs):
    return generate_mdm(model, prompts, mask_id=MASK_ID, pad_id=PAD_ID, **kwargs).tokens.tolist()


def slow(model, prompts, banned=(MASK_ID,), **kwargs):
    return slow_sampler(model, prompts, mask_id=MASK_ID, pad_id=PAD_ID, banned=banned, **kwargs).tolist()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 3),
    prompts=st.lists(st.lists(st.integers(0, 21), min_size=1, max_size=7), min_size=1, max_size=4),
    shape=st.sampled_from(SHAPES),
    forbidden=st.sets(st.integers(0, 21), max_size=3),
    shift=st.booleans(),
)
def test_batch_equals_the_slow_sampler_row_by_row(models, seed, prompts, shape, forbidden, shift):
    kwargs = sizes(*shape) | {"shift": shift}
    expected = [slow(models[seed], [prompt], [MASK_ID, *forbidden], **kwargs)[0] for prompt in prompts]
    arrays = [np.array(prompt, dtype=np.int32) for prompt in prompts]
    assert generate(models[seed], arrays, forbidden_ids=sorted(forbidden), **kwargs) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_equals_the_slow_sampler_s_batch_in_low_precision(random_model, dtype, shape):
    model = random_model(sum(shape) % 4).to(dtype)
    assert generate(model, PROMPTS, **sizes(*shape)) == slow(model, PROMPTS, **sizes(*shape))


def test_the_random_models_do_not_all_say_the_same(models):
    outputs = {tuple(generate(model, [[1, 2, 3]], **sizes(8, 8, 8))[0]) for model in models}
    assert len(outputs) == len(models)
    assert max(len(set(output)) for output in outputs) > 2


@pytest.mark.parametrize("shift", [False, True])
def test_batch_equals_the_slow_sampler_with_absolute_positions_and_an_empty_prompt(absolute_model, shift):
    kwargs = sizes(8, 8, 4) | {"shift": shift}
    expected = [slow(absolute_model, [prompt], **kwargs)[0] for prompt in [*PROMPTS, []]]
    assert generate(absolute_model, [*PROMPTS, []], **kwargs) == expected


@pytest.fixture
def masking_model(random_model):
    """A model that finds [MASK] more probable than its favourite token: its output layer reads both from the same
    direction."""
    model = random_model(0)
    with torch.no_grad():
        favourite = model(torch.tensor([[1, 2] + [MASK_ID] * 6])).logits[0, 2].argmax()
        model.get_output_embeddings().weight[MASK_ID] = 2 * model.get_output_embeddings().weight[favourite]
    return model


def test_llada_s_own_sampler_may_leave_a_mask_in_the_text(masking_model):
    assert MASK_ID in slow(masking_model, [[1, 2]], banned=(), **sizes(6, 6, 6))[0]


def test_mask_token_is_never_generated_even_if_most_probable(masking_model):
    output = generate(masking_model, [[1, 2]], **sizes(6, 6, 6))
    assert MASK_ID not in output[0]
    assert output == slow(masking_model, [[1, 2]], **sizes(6, 6, 6))


def test_forbidden_tokens_are_never_generated(models):
    forbidden = [token for token in range(SIZE) if token not in (4, 17)]
    output = generate(models[1], [[1, 2]], forbidden_ids=forbidden, **sizes(8, 4, 8))
    assert set(output[0]) <= {4, 17}


def test_equal_confidence_unmasks_from_the_left(random_model):
    # A head of zeros is equally unsure everywhere: token 0, leftmost first, whatever the sort does with ties.
    model = random_model(2)
    seen = []
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"][0, 1:].tolist()), with_kwargs=True
    )
    generate(model, [[5]], **sizes(4, 4, 4))
    assert seen == [[MASK_ID] * 4, [0] + [MASK_ID] * 3, [0, 0] + [MASK_ID] * 2, [0, 0, 0, MASK_ID]]


def test_probabilities_that_float32_cannot_tell_from_1_are_ranked(random_model):
    model = random_model(1).float()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(200)
    confidence = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, logits: confidence.append(logits.softmax(-1).amax(-1))
    )
    output = generate(model, PROMPTS, **sizes(8, 8, 8))
    assert (confidence[0] == 1).sum() > 16
    assert output == slow(model, PROMPTS, **sizes(8, 8, 8))


def test_blocks_are_finished_from_left_to_right(random_model):
    model = random_model(3)
    gaps = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: gaps.append((kwargs["input_ids"][0, 2:] == MASK_ID).view(3, 4).sum(dim=1).tolist()),
        with_kwargs=True,
    )
    generate(model, [[5, 6]], **sizes(12, 6, 4))
    assert gaps == [[4, 4, 4], [2, 4, 4], [0, 4, 4], [0, 2, 4], [0, 0, 4], [0, 0, 2]]


def test_a_mask_token_in_the_prompt_stays(models):
    """LLaDA's own sampler would fill it in: here the prompt is given."""
    seen = []
    handle = (
        models[0]
        .get_decoder()
        .register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"][0, :3].tolist()), with_kwargs=True
        )
    )
    generate(models[0], [[1, MASK_ID, 2]], **sizes(4, 2, 4))
    handle.remove()
    assert seen == [[1, MASK_ID, 2]] * 2


def test_the_head_sees_only_masked_positions_of_the_block(random_model):
    model = random_model(0)
    shapes = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[0]))
    generate(model, [[1, 2, 3], [4]], **sizes(8, 4, 4))
    assert shapes == [2 * 4, 2 * 2, 2 * 4, 2 * 2]


def test_logits_in_pieces_are_the_same(models, monkeypatch):
    expected = generate(models[0], PROMPTS, **sizes(8, 4, 8))
    monkeypatch.setattr(unmask, "_LOGITS", 5 * SIZE)
    assert generate(models[0], PROMPTS, **sizes(8, 4, 8)) == expected


@pytest.mark.parametrize(
    ("block_length", "steps", "counts"),
    [(8, 8, [1] * 8), (8, 4, [2] * 4), (7, 3, [3, 2, 2]), (5, 4, [2, 1, 1, 1]), (2, 3, [1, 1, 0]), (4, 1, [4])],
)
def test_shares_of_the_slow_sampler(block_length, steps, counts):
    assert transfer_tokens(block_length, steps) == counts


@pytest.mark.parametrize(("generation_length", "steps", "block_length"), [(10, 10, 4), (8, 3, 4)])
def test_sizes_that_do_not_divide_are_refused(models, generation_length, steps, block_length):
    with pytest.raises(ValueError, match="must be a multiple"):
        generate(models[0], [[1]], **sizes(generation_length, steps, block_length))


def test_training_mode_is_refused(random_model):
    with pytest.raises(ValueError, match=r"model\.eval"):
        generate(random_model(0).train(), [[1]], **sizes(4, 4, 4))
