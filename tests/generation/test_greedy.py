"""Greedy decoding against a loop without cache, padding or batch; text from token ids."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from raymdm.generation.greedy import decode, generate_arm

EOS_ID, TURN_ID, PAD_ID = 10, 21, 23
PROMPTS = [[1], [2, 3, 4, 5, 6], [7, 8], [0, 9, 1, 1], [3, 3, 3]]


@pytest.fixture(scope="module")
def arms(random_model):
    return [random_model(seed, "arm") for seed in range(6)]


def reference(model, prompt, limit: int, stops=(EOS_ID,)) -> list[int]:
    text = list(prompt)
    while len(text) < len(prompt) + limit:
        with torch.no_grad():
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        if text[-1] in stops:
            break
    return text[len(prompt) :]


def generate(model, prompts, limit: int, stops=(EOS_ID,)) -> list[list[int]]:
    output = generate_arm(model, prompts, stop_ids=stops, pad_id=PAD_ID, max_new_tokens=limit)
    return output.tolist()


@pytest.mark.parametrize("stops", [(EOS_ID,), (TURN_ID, EOS_ID, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_batch_equals_the_loop_row_by_row(arms, seed, stops):
    rows = generate(arms[seed], [np.array(prompt, dtype=np.int32) for prompt in PROMPTS], 9, stops)
    expected = [reference(arms[seed], prompt, 9, stops) for prompt in PROMPTS]
    assert rows == [row + [PAD_ID] * (max(map(len, expected)) - len(row)) for row in expected]


def test_some_rows_end_early_and_some_do_not(arms):
    lengths = {len(reference(model, prompt, 9, (EOS_ID, 4))) for model in arms for prompt in PROMPTS}
    assert 9 in lengths
    assert min(lengths) < 9


def test_settings_of_the_model_repository_are_not_used_and_kept(random_model):
    model = random_model(1, "arm")
    expected = generate(model, PROMPTS, 9)
    own = model.generation_config
    own.update(repetition_penalty=9.0, min_new_tokens=8, do_sample=True, temperature=3.0, eos_token_id=1)
    assert generate(model, PROMPTS, 9) == expected
    assert model.generation_config is own


def test_training_mode_is_refused(random_model):
    with pytest.raises(ValueError, match=r"model\.eval"):
        generate(random_model(0, "arm").train(), PROMPTS, 2)


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: i for i, word in enumerate(["a", "b", "c", "<eos>", "<pad>", "<turn>"])}
    base = Tokenizer(WordLevel(words, unk_token="a"))
    base.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<eos>", pad_token="<pad>")


@pytest.mark.parametrize(
    ("ids", "text", "length"),
    [
        ([0, 1, 3, 2, 3], "a b", 2),
        ([0, 1, 2], "a b c", 3),
        ([3, 0], "", 0),
        ([], "", 0),
        ([0, 4, 1], "a b", 3),
        ([0, 5, 3], "a", 1),
    ],
)
def test_decode_cuts_at_the_first_stop_and_skips_special_tokens(tokenizer, ids, text, length):
    assert decode(tokenizer, ids, stop_ids=[3, 5]) == (text, length)


def test_decode_takes_a_tensor_row(tokenizer):
    assert decode(tokenizer, torch.tensor([2, 3]), stop_ids=[3]) == ("c", 1)
