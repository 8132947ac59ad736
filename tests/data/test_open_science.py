"""OpenScience: rows with `input`, `output` and `expected_answer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymdm.config.schema import DataConfig
from raymdm.data.open_science import INSTRUCTION
from raymdm.data.tasks import Example, delimiters, read_examples
from raymdm.errors import UserError

WriteRows = Callable[..., Path]

QUESTION = "Solve the following problem. Put the answer inside \\boxed{}.\n\nWhich is a gas?\n\nA: iron\nB: argon"
ROW = {"input": QUESTION, "output": "Argon is noble. The answer is \\boxed{B}.", "expected_answer": "B"}


@pytest.fixture
def read(write_rows: WriteRows) -> Callable[..., Example]:
    def read_one(row: dict[str, Any], **fields: Any) -> Example:
        data = DataConfig(task="open_science", path=str(write_rows([row])), **fields)
        return read_examples(data, "train", "[EOS]").examples[0]

    return read_one


def test_a_row(read: Callable[..., Example]) -> None:
    example = read(ROW)
    assert (example.prompt, example.response, example.answer) == (f"{QUESTION}\n\n", ROW["output"], "B")


def test_a_prompt_without_a_box_gets_the_instruction(read: Callable[..., Example]) -> None:
    example = read(ROW | {"input": "Which is a gas?\nA: iron\nB: argon\n"})
    assert example.prompt == f"Which is a gas?\nA: iron\nB: argon\n\n{INSTRUCTION}\n\n"
    assert example.messages[-1]["content"] == example.prompt.rstrip()


@pytest.mark.parametrize(
    ("expected", "answer"),
    [("b", "B"), ("(B)", "B"), (r"\text{B}", "B"), (r"\frac{1}{2}", "1/2"), ("argon", "argon"), ("E. coli", "E. coli")],
)
def test_the_expected_answer_is_the_reference(read: Callable[..., Example], expected: str, answer: str) -> None:
    assert read(ROW | {"expected_answer": expected}).answer == answer


@pytest.mark.parametrize("fields", [{"expected_answer": None}, {"expected_answer": " "}, {}])
def test_without_one_the_response_s_box_is(read: Callable[..., Example], fields: dict[str, Any]) -> None:
    row = {"input": QUESTION, "output": r"\boxed{A}, no: \boxed{\textbf{B}}"}
    assert read(row | fields).answer == "B"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"output": "argon", "expected_answer": None}, r"no 'expected_answer', and its response no answer in .boxed"),
        ({"expected_answer": 2}, "'expected_answer' must be text, not int"),
        ({"output": ""}, "the response is empty"),
        ({"output": None}, "column 'output' must be text, not NoneType"),
        ({"input": ["q"]}, "column 'input' must be text, not list"),
        ({"input": ""}, "the prompt is empty"),
    ],
)
def test_a_broken_row_is_named(read: Callable[..., Example], fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=rf"train\.jsonl, line 1: .*{reason}"):
        read(ROW | fields)


def test_other_layouts_are_taken(read: Callable[..., Example]) -> None:
    row = {"question": QUESTION, "answer": r"\boxed{B}"}
    assert read(row).answer == "B"
    assert read(ROW | row | {"answer": r"\boxed{A}", "expected_answer": None}, format="question_answer").answer == "A"


def test_isad_s_delimiter_is_the_box() -> None:
    assert delimiters(DataConfig(task="open_science", path="x")) == [r"\boxed{"]


def test_the_paper_s_parts_of_one_file(write_rows: WriteRows) -> None:
    rows = [ROW | {"input": f"{QUESTION} ({i})"} for i in range(6000)]
    file = write_rows(rows, [ROW]) / "train.jsonl"
    data = DataConfig(task="open_science", path=str(file), train_split="train[:5000]", test_split="train[5000:6000]")
    train, test = (read_examples(data, source, "[EOS]").examples for source in ("train", "test"))
    assert (len(train), train[-1].example_id) == (5000, 4999)
    assert (len(test), test[0].example_id, test[-1].example_id) == (1000, 5000, 5999)
