"""Responses that are filled with ends of sequence up to a number of tokens, for MDMs alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data import loading
from raymdm.data.prepare import check_source, prepare

Sft = Callable[..., DataConfig]
Pretrained = Callable[..., ModelConfig]
PAIRS = [{"prompt": f"{i}+1=", "response": str(i + 1)} for i in range(8)] + [{"prompt": "5+5=", "response": "10"}] * 8
SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_a_response_is_filled_with_its_end(sft: Sft, chars: ModelConfig, tmp_path: Path, split: str) -> None:
    folder = prepare(sft(PAIRS, fill_response_to=4, validation_fraction=0.5), chars, tmp_path)
    found, tokenizer = loading.load_split(folder, split), loading.tokenizer(folder)
    expected = {f"{pair['prompt']}{pair['response']}".ljust(8, "$").replace("$", "[EOS]") for pair in PAIRS}
    assert {tokenizer.decode(ids) for ids in found.input_ids} <= expected
    assert set(found.prompt_lengths.tolist()) == {4}


def test_the_fill_is_response_and_is_attended(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    pairs = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "bbbbbb"}]
    folder = prepare(sft(pairs, fill_response_to=4), chars, tmp_path)
    batch = loading.load_split(folder, "test").batch(np.arange(2), pad_id=0)
    assert batch.attention_mask.tolist() == [[True] * 5 + [False] * 3, [True] * 8]
    assert batch.response_mask.tolist() == [[False] + [True] * 4 + [False] * 3, [False] + [True] * 7]


def test_longer_responses_stay_and_are_counted(
    sft: Sft, chars: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [{"prompt": "a", "response": "b" * length} for length in (1, 2, 3, 4)]
    folder = prepare(sft(pairs, fill_response_to=3), chars, tmp_path)
    found, counts = loading.load_split(folder, "test"), loading.meta(folder)["counts"]
    assert [len(ids) for ids in found.input_ids] == [4, 4, 5, 6]
    assert counts["train"]["longer_than_fill"] + counts["validation"]["longer_than_fill"] == 2
    assert counts["test"]["longer_than_fill"] == 2
    assert "2 of 4 test responses have more than data.fill_response_to (3) tokens" in caplog.text


def test_the_check_tells_of_longer_responses(
    sft: Sft, pretrained: Pretrained, caplog: pytest.LogCaptureFixture
) -> None:
    data = sft([{"prompt": "one", "response": "two three"}] * 2, fill_response_to=2)
    check_source(data, pretrained(), "arm")
    assert "fill_response_to" not in caplog.text
    check_source(data, pretrained())
    assert "2 of 2 train responses have more than data.fill_response_to (2) tokens" in caplog.text


def test_the_longest_row_counts_the_fill_but_for_test_rows(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    pairs = [{"prompt": prompt, "response": "b"} for prompt in ("a", "aaaa") for _ in range(10)]  # 2 + 3 and 4 + 3
    folder = prepare(sft(pairs, fill_response_to=3, max_length=6, validation_fraction=0.5), chars, tmp_path)
    counts = loading.meta(folder)["counts"]
    assert counts["train"]["too_long"] + counts["validation"]["too_long"] == 10
    assert counts["test"]["too_long"] == 0


def test_an_arm_is_trained_on_the_responses_as_they_are(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    plain, filled = sft(PAIRS), sft(PAIRS, fill_response_to=4)
    assert prepare(filled, chars, tmp_path, "arm") == prepare(plain, chars, tmp_path, "arm")
    assert prepare(plain, chars, tmp_path, "mdm") == prepare(plain, chars, tmp_path, "arm")
    assert prepare(filled, chars, tmp_path, "mdm") != prepare(filled, chars, tmp_path, "arm")


def test_another_fill_is_other_data(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    assert len({prepare(sft(PAIRS, fill_response_to=fill), chars, tmp_path) for fill in (None, 4, 5)}) == 3


def test_marks_stay_where_they_are(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    pairs = [{"prompt": "|", "response": "b####"}] * 2
    splits = [
        loading.load_split(prepare(sft(pairs, fill_response_to=fill), chars, tmp_path), "test") for fill in (None, 9)
    ]
    for split in splits:
        assert (split.syntax[0].tolist(), split.delimiter[0].tolist()) == ([0], [2, 3, 4, 5])
