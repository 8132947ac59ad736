"""LLaDA's sampler against a slow reference written from its description."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from raymdm.config.schema import ModelConfig
from raymdm.generation.unmask import generate_mdm, transfer_counts
from raymdm.models.load import load_model

SIZE, MASK_ID, PAD_ID = 24, 22, 23


def random_model(seed: int):
    """Float64, so that a batch and a single row rank near-equal tokens alike; large weights, so that ranks differ."""
    config = ModelConfig(
        kind="tiny", hidden_size=16, intermediate_size=24, num_heads=2, init_seed=seed, tokenizer={"kind": "chars"}
    )
    model = load_model(config, range(SIZE), "mdm").double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return model


MODELS = [random_model(seed) for seed in range(4)]


def reference(model, prompt, *, generation_length, steps, block_length, forbidden_ids=(), mask_id=MASK_ID):
    """One row, all positions, plain Python: masks are the gaps (None) of a list."""
    text = [int(token) for token in prompt] + [None] * generation_length
    blocks = generation_length // block_length
    per_block = steps // blocks
    for block in range(blocks):
        begin = len(prompt) + block * block_length
        for step in range(per_block):
            ids = torch.tensor([[mask_id if token is None else token for token in text]])
            with torch.no_grad():
                logits = model(ids).logits[0]
            logits[:, [mask_id, *forbidden_ids]] = -float("inf")
            probability = torch.softmax(logits, dim=-1)
            gaps = [i for i in range(begin, begin + block_length) if text[i] is None]
            gaps.sort(key=lambda i: -float(probability[i].max()))
            share = block_length // per_block + (1 if step < block_length % per_block else 0)
            for i in gaps[:share]:
                text[i] = int(probability[i].argmax())
    return text[len(prompt) :]


def generate(model, prompts, **kwargs):
    return generate_mdm(model, prompts, mask_id=MASK_ID, pad_id=PAD_ID, **kwargs).tolist()


SHAPES = [(6, 6, 6), (6, 3, 6), (6, 4, 6), (8, 1, 8), (8, 4, 4), (8, 8, 2), (9, 6, 3), (12, 6, 4), (10, 5, 10)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    model=st.sampled_from(MODELS),
    prompts=st.lists(st.lists(st.integers(0, 21), min_size=1, max_size=7), min_size=1, max_size=4),
    shape=st.sampled_from(SHAPES),
    forbidden=st.sets(st.integers(0, 21), max_size=3),
)
def test_batch_equals_the_reference_row_by_row(model, prompts, shape, forbidden):
    generation_length, steps, block_length = shape
    kwargs = {
        "generation_length": generation_length,
        "steps": steps,
        "block_length": block_length,
        "forbidden_ids": sorted(forbidden),
    }
    expected = [reference(model, prompt, **kwargs) for prompt in prompts]
    assert generate(model, [np.array(p, dtype=np.int32) for p in prompts], **kwargs) == expected


def test_the_random_models_do_not_all_say_the_same():
    outputs = {tuple(generate(model, [[1, 2, 3]], generation_length=8, steps=8, block_length=8)[0]) for model in MODELS}
    assert len(outputs) == len(MODELS)
    assert max(len(set(output)) for output in outputs) > 2


@pytest.mark.parametrize("steps", [4, 8])
def test_uneven_batch_equals_each_prompt_alone(steps):
    prompts = [torch.tensor([5]), torch.arange(9), torch.tensor([7, 3, 3])]
    kwargs = {"generation_length": 8, "steps": steps, "block_length": 4}
    together = generate(MODELS[0], prompts, **kwargs)
    assert together == [generate(MODELS[0], [prompt], **kwargs)[0] for prompt in prompts]


def test_uneven_batch_equals_each_prompt_alone_with_absolute_positions(tmp_path):
    # Rotary embeddings do not notice where a row starts; GPT-2's learnt positions do.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.4)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_model(ModelConfig(kind="pretrained", path=str(tmp_path)), range(SIZE), "mdm").double()
    prompts = [[5], list(range(9)), [7, 3, 3]]
    kwargs = {"generation_length": 8, "steps": 8, "block_length": 4}
    assert generate(model, prompts, **kwargs) == [reference(model, prompt, **kwargs) for prompt in prompts]


def test_mask_token_is_never_generated_even_if_most_probable():
    model = random_model(0)
    kwargs = {"generation_length": 6, "steps": 6, "block_length": 6}
    masked = torch.tensor([[1, 2] + [MASK_ID] * 6])
    with torch.no_grad():
        # The output layer reads [MASK] from the same direction as the favourite token, only more strongly.
        favourite = model(masked).logits[0, 2].argmax()
        model.get_output_embeddings().weight[MASK_ID] = 2 * model.get_output_embeddings().weight[favourite]
        assert model(masked).logits[0, 2].argmax() == MASK_ID
    assert MASK_ID not in generate(model, [[1, 2]], **kwargs)[0]


def test_forbidden_tokens_are_never_generated():
    forbidden = [token for token in range(SIZE) if token not in (4, 17)]
    output = generate(MODELS[1], [[1, 2]], generation_length=8, steps=4, block_length=8, forbidden_ids=forbidden)
    assert set(output[0]) <= {4, 17}


def test_equal_confidence_unmasks_from_the_left():
    # A head of zeros is equally unsure everywhere: token 0, leftmost first, whatever the sort does with ties.
    model = random_model(2)
    seen = []
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"][0, 1:].tolist()), with_kwargs=True
    )
    generate(model, [[5]], generation_length=4, steps=4, block_length=4)
    assert seen == [[MASK_ID] * 4, [0] + [MASK_ID] * 3, [0, 0] + [MASK_ID] * 2, [0, 0, 0, MASK_ID]]


def test_blocks_are_finished_from_left_to_right():
    model = random_model(3)
    gaps = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: gaps.append((kwargs["input_ids"][0, 2:] == MASK_ID).view(3, 4).sum(dim=1).tolist()),
        with_kwargs=True,
    )
    generate(model, [[5, 6]], generation_length=12, steps=6, block_length=4)
    assert gaps == [[4, 4, 4], [2, 4, 4], [0, 4, 4], [0, 2, 4], [0, 0, 4], [0, 0, 2]]


def test_an_empty_prompt_is_generated_from_nothing():
    kwargs = {"generation_length": 4, "steps": 4, "block_length": 4}
    assert generate(MODELS[0], [[], [1, 2]], **kwargs)[0] == reference(MODELS[0], [], **kwargs)


def test_a_mask_token_in_the_prompt_stays():
    kwargs = {"generation_length": 4, "steps": 2, "block_length": 4}
    prompt = [1, MASK_ID, 2]
    assert generate(MODELS[0], [prompt], **kwargs)[0] == reference(MODELS[0], prompt, **kwargs)


def test_the_head_sees_only_masked_positions_of_the_block():
    model = random_model(0)
    shapes = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
    generate(model, [[1, 2, 3], [4]], generation_length=8, steps=4, block_length=4)
    assert shapes == [(2, 4), (2, 2), (2, 4), (2, 2)]


@pytest.mark.parametrize(
    ("block_length", "steps", "counts"),
    [(8, 8, [1] * 8), (8, 4, [2] * 4), (7, 3, [3, 2, 2]), (5, 4, [2, 1, 1, 1]), (2, 3, [1, 1, 0]), (4, 1, [4])],
)
def test_transfer_counts(block_length, steps, counts):
    assert transfer_counts(block_length, steps) == counts


@pytest.mark.parametrize(("generation_length", "steps", "block_length"), [(10, 10, 4), (8, 3, 4)])
def test_sizes_that_do_not_divide_are_refused(generation_length, steps, block_length):
    with pytest.raises(ValueError, match="must be a multiple"):
        generate(MODELS[0], [[1]], generation_length=generation_length, steps=steps, block_length=block_length)


def test_training_mode_is_refused():
    model = random_model(0).train()
    with pytest.raises(ValueError, match=r"model\.eval"):
        generate(model, [[1]], generation_length=4, steps=4, block_length=4)
