"""What a row means in each task: its prompt, its response and the answer that is scored."""

import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from operator import eq
from typing import Any, NamedTuple

from raymdm.config.schema import DataConfig
from raymdm.data import hitab, open_science
from raymdm.data.answers import boxed_answer, equivalent, same_choice
from raymdm.data.generated import generated_rows
from raymdm.data.marks import SYNTAX
from raymdm.data.rows import Message, Row, RowError, conversation, read_rows, row_place, source_label
from raymdm.data.splits import Source
from raymdm.errors import UserError

# The official grader of openai/grade-school-math reads `#### (\-?[0-9\.\,]+)`; a dollar sign is allowed besides.
_FINAL_NUMBER = re.compile(r"#### (\$?-?\$?[0-9.,]+)")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_BOX = r"\boxed{"


class Example(NamedTuple):
    """A row as its task reads it."""

    example_id: int
    """0-based line or row of the split the row came from."""
    messages: list[Message]
    """The prompt as a conversation, for a chat template."""
    prompt: str
    """The prompt as plain text, its messages joined by line breaks, for a tokenizer without a chat template."""
    response: str
    answer: str
    """Reference for the scorer: the row's own, or the extraction from the response."""


Reading = tuple[list[Message], str, str | None]
"""The prompt's messages, the response and the reference answer; None: it stands in the response."""


def _conversation(fields: dict[str, Any], layout: str) -> Reading:
    return *conversation(fields, layout), None


class Task(NamedTuple):
    """The parts in which tasks differ."""

    extract: Callable[[str], str | None]
    """The answer in a text, reference or generated; None when there is none."""
    read: Callable[[dict[str, Any], str], Reading] = _conversation
    """What a row's columns hold, in the layout of `data.format`."""
    same: Callable[[str, str], bool] = eq
    """Whether an extracted answer says what the reference does."""
    clean: Callable[[str], str] = str
    """The response to learn, made from the row's response."""
    separator: str = ""
    """Stands between prompt and response when there is no chat template."""
    missing: str = "the response holds no answer"
    """Why a row is bad whose response has no answer."""
    delimiters: tuple[str, ...] = ()
    """Texts that announce the answer in a response, unless `data.delimiters` names others."""


class Examples(NamedTuple):
    """The examples of one source, with the counts of what was read."""

    examples: list[Example]
    rows_read: int
    bad_rows: int
    first_bad: str | None = None
    """Place and reason of the first bad row that was skipped."""


def parse_number(text: str) -> Decimal | None:
    """A decimal number; dollar signs and thousands separators don't matter. None when it is no number."""
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def gsm8k_answer(text: str) -> str | None:
    """The number after the first `#### `, commas and dollar sign removed, as the official grader reads it."""
    match = _FINAL_NUMBER.search(text)
    number = match.group(1).replace(",", "").replace("$", "") if match else ""
    return number if parse_number(number) is not None else None


def strip_calculator(text: str) -> str:
    """A GSM8K response without its `<<48/2=24>>` annotations.

    They call a calculator while text is sampled, which fills in what follows the `=`. There is none here: left in,
    they would only write each result twice, lengthen the response, and give a masked result away by its copy.
    """
    return _CALCULATOR.sub("", text)


def _same_numbers(answer: str, reference: str) -> bool:
    number = parse_number(answer)
    return number is not None and number == parse_number(reference)


def _whole(text: str) -> str | None:
    return text.strip() or None


def _exact(text: str) -> str | None:
    return text or None


TASKS: dict[str, Task] = {
    "gsm8k": Task(
        gsm8k_answer,
        same=_same_numbers,
        clean=strip_calculator,
        separator="\n",
        missing="the response has no '#### ' followed by a number",
        delimiters=("####",),
    ),
    "hitab": Task(
        boxed_answer,
        lambda fields, _: hitab.read_sample(fields),
        lambda answer, reference: equivalent(answer, reference, hitab.TOLERANCE),
        separator="\n\n",
        delimiters=(_BOX,),
    ),
    "open_science": Task(
        boxed_answer,
        open_science.read_row,
        same_choice,
        separator="\n\n",
        missing="the row has no 'expected_answer', and its response no answer in \\boxed{}",
        delimiters=(_BOX,),
    ),
    "sorting": Task(_exact),
    "reasoning_gym": Task(_whole, separator="\n"),
    "sft": Task(_whole, delimiters=("####", _BOX)),
}


def extract_answer(task: str, text: str) -> str | None:
    """The answer of a task in a reference response or a generated text, or None when there is none."""
    return TASKS[task].extract(text)


def same_answer(task: str, answer: str, reference: str) -> bool:
    """Whether an answer that `extract_answer` found says what a prepared row's answer does."""
    return TASKS[task].same(answer, reference)


def delimiters(data: DataConfig) -> list[str]:
    """The texts that announce an answer (ISAD): the recipe's, or else the task's own."""
    return list(TASKS[data.task].delimiters) if data.delimiters is None else data.delimiters


def syntax_pattern(data: DataConfig) -> str:
    """The regular expression of a prompt's syntax (SyRM): the recipe's, or else the general one."""
    return SYNTAX if data.syntax_pattern is None else data.syntax_pattern


def make_example(data: DataConfig, row: Row, eos: str) -> Example:
    """Read a row as `data.task` does.

    An end-of-sequence text that the data itself put at the response's end goes, since preparation adds the token.
    Raises RowError with the reason when the row can't be used.
    """
    if row.problem is not None:
        raise RowError(row.problem)
    task = TASKS[data.task]
    messages, response, answer = task.read(row.fields, data.format)
    response = task.clean(_without_eos(response, eos))
    if not response.strip():
        raise RowError("the response holds no answer")
    if answer is None:
        answer = task.extract(response)
    if answer is None:
        raise RowError(task.missing)
    prompt = "\n".join(message["content"] for message in messages) + task.separator
    try:
        (prompt + response).encode()
    except UnicodeEncodeError as error:
        raise RowError(f"text that is not valid Unicode ({error.reason})") from error
    return Example(row.example_id, messages, prompt, response, answer)


def _without_eos(response: str, eos: str) -> str:
    while (bare := response.rstrip()).endswith(eos):
        response = bare.removesuffix(eos)
    return response


def source_rows(data: DataConfig, source: Source) -> Iterable[Row]:
    """Raw rows of a source: generated, from local files (with their tables), or through `datasets`."""
    made = generated_rows(data, source)
    if made is not None:
        return (Row(i, fields) for i, fields in enumerate(made))
    rows = read_rows(data, source)
    return hitab.with_tables(data, source, rows) if data.task == "hitab" else rows


def read_examples(data: DataConfig, source: Source, eos: str, limit: int | None = None) -> Examples:
    """The first `limit` usable examples of a source; null reads all.

    Raises UserError naming file, 1-based line and reason at a bad row (or counts it, with `data.on_bad_row: skip`),
    and when no row is left.
    """
    examples: list[Example] = []
    rows_read = bad_rows = 0
    first_bad = None
    for row in source_rows(data, source):
        rows_read += 1
        try:
            examples.append(make_example(data, row, eos))
        except RowError as error:
            problem = f"{row_place(data, source, row.example_id)}: {error}"
            if data.on_bad_row == "fail":
                raise UserError(f"{problem}. Mend the row, or set data.on_bad_row: skip") from error
            first_bad = first_bad or problem
            bad_rows += 1
        if len(examples) == limit:
            break
    if not examples:
        raise UserError(
            f"{source_label(data, source)}: none of the {rows_read} rows can be used. The first: {first_bad}"
        )
    return Examples(examples, rows_read, bad_rows, first_bad)


def example_texts(examples: Iterable[Example]) -> Iterator[str]:
    """Prompts and responses, which a learnt tokenizer is made from."""
    for example in examples:
        yield example.prompt
        yield example.response
