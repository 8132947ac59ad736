"""What rows mean: answers, cleaned responses, and bad rows counted or refused."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from raymdm.config.schema import DataConfig
from raymdm.data.rows import Row, RowError
from raymdm.data.tasks import extract_answer, make_example, parse_number, read_examples, strip_calculator
from raymdm.errors import UserError

Sft = Callable[..., DataConfig]
GOOD = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### 18", "18"),
        ("#### 1,080", "1080"),
        ("#### -3.50 m", "-3.50"),
        ("#### $5", "5"),
        ("#### -$5", "-5"),
        ("#### 5\n#### 6", "5"),  # the official grader takes the first match
        ("#### none\n#### 6", "6"),
        ("####18", None),  # ... and asks for the blank
        ("18", None),
        ("#### ,", None),
        ("#### 1.2.3", None),
        ("#### ٣", None),
        ("", None),
    ],
)
def test_gsm8k_answer(text: str, answer: str | None) -> None:
    assert extract_answer("gsm8k", text) == answer


@pytest.mark.parametrize(("text", "number"), [("$1,080.50", Decimal("1080.5")), ("18.", Decimal(18)), ("x", None)])
def test_parse_number(text: str, number: Decimal | None) -> None:
    assert parse_number(text) == number


def test_calculator_annotations_go() -> None:
    assert strip_calculator("48/2 = <<48/2=24>>24 and 1 < 2 << 3") == "48/2 = 24 and 1 < 2 << 3"


@pytest.mark.parametrize(("task", "answer"), [("sft", "b c"), ("reasoning_gym", "b c"), ("sorting", " b c\n")])
def test_text_answers_are_stripped_but_for_sorting(task: str, answer: str) -> None:
    assert extract_answer(task, " b c\n") == answer


@pytest.mark.parametrize("task", ["sft", "reasoning_gym", "sorting"])
def test_no_text_is_no_answer(task: str) -> None:
    assert extract_answer(task, "") is None


def gsm8k_row(answer: str) -> Row:
    return Row(0, {"question": "How many?", "answer": answer})


def test_gsm8k_example() -> None:
    example = make_example(DataConfig(task="gsm8k", path="x"), gsm8k_row("2+2=<<2+2=4>>4\n#### 4"), "[EOS]")
    assert (example.prompt, example.response, example.answer) == ("How many?\n", "2+2=4\n#### 4", "4")
    assert example.messages == [{"role": "user", "content": "How many?"}]


def test_gsm8k_row_without_a_number_is_bad() -> None:
    with pytest.raises(RowError, match="no '#### ' followed by a number"):
        make_example(DataConfig(task="gsm8k", path="x"), gsm8k_row("four"), "[EOS]")


def test_end_of_sequence_text_in_the_data_goes() -> None:
    row = Row(0, {"prompt": "a", "response": "b</s></s>\n"})
    assert make_example(DataConfig(task="sft", path="x"), row, "</s>").response == "b"


def test_response_of_nothing_but_end_of_sequence_is_bad() -> None:
    with pytest.raises(RowError, match="no answer"):
        make_example(DataConfig(task="sft", path="x"), Row(0, {"prompt": "a", "response": "</s>"}), "</s>")


def test_half_a_surrogate_pair_is_bad() -> None:
    with pytest.raises(RowError, match="not valid Unicode"):
        make_example(DataConfig(task="sft", path="x"), Row(0, {"prompt": "a", "response": "\ud800"}), "</s>")


def test_bad_row_fails_with_file_line_and_reason(sft: Sft) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl, line 3: not valid JSON.*on_bad_row"):
        read_examples(sft([GOOD, GOOD, "{"]), "train", "[EOS]")


@pytest.mark.parametrize("bad", [{"prompt": "a"}, {"prompt": "a", "response": ""}])
def test_row_without_response_fails_with_its_line(sft: Sft, bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl, line 2: .*response"):
        read_examples(sft([GOOD, bad]), "train", "[EOS]")


def test_skipped_bad_rows_are_counted_and_keep_the_others_ids(sft: Sft) -> None:
    read = read_examples(sft([GOOD, "{", {"prompt": "a"}, GOOD], on_bad_row="skip"), "train", "[EOS]")
    assert (read.rows_read, read.bad_rows) == (4, 2)
    assert [example.example_id for example in read.examples] == [0, 3]
    assert "train.jsonl, line 2: not valid JSON" in (read.first_bad or "")


def test_nothing_but_bad_rows_is_an_error(sft: Sft) -> None:
    with pytest.raises(UserError, match=r"none of the 2 rows can be used\. The first: .*line 1: not valid"):
        read_examples(sft(["{", "{"], on_bad_row="skip"), "train", "[EOS]")


def test_limit_counts_usable_rows_and_stops_reading(sft: Sft) -> None:
    read = read_examples(sft(["{", GOOD, GOOD, "{", GOOD], on_bad_row="skip"), "train", "[EOS]", limit=2)
    assert (len(read.examples), read.rows_read, read.bad_rows) == (2, 3, 1)


def test_every_real_gsm8k_row_has_an_answer(gsm8k: Path) -> None:
    data = DataConfig(task="gsm8k", path=str(gsm8k))
    read = {source: read_examples(data, source, "[EOS]") for source in ("train", "test")}
    assert {source: len(found.examples) for source, found in read.items()} == {"train": 7473, "test": 1319}
    texts = [example.response for found in read.values() for example in found.examples]
    assert not any("<<" in text or ">>" in text for text in texts)
    assert [example.answer for example in read["train"].examples[:3]] == ["72", "10", "5"]
