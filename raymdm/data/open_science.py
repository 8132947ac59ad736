r"""OpenScience: questions of many fields, mostly multiple choice, with reasoned responses that end in \boxed{LETTER}.

Rows of `nvidia/OpenScienceReasoning-2` (one split, `train`), as programs that read them show: `input` (the question
with its choices, and mostly the instruction to answer in a box), `output` (the response, its reasoning included),
`expected_answer` (a letter, mostly). Rows in another layout of `data.format` are taken as well. The data set itself was
not at hand.
"""

from typing import Any

from raymdm.data.answers import choice, choice_answer, clean
from raymdm.data.rows import Message, RowError, conversation, prompt_and_response

INSTRUCTION = r"Put the answer, and nothing else, in \boxed{}. If there are choices, it is the letter of one."
"""Ends a prompt that says nothing of a box."""


def read_row(fields: dict[str, Any], layout: str) -> tuple[list[Message], str, str | None]:
    r"""The prompt, the response and the reference answer of a row; None where even the response has no answer.

    The reference is `expected_answer`, a letter if it is nothing else (`E. coli` is a text), or without one what the
    response's box says, where a letter may stand with the option's text. Raises RowError with the reason when the row
    doesn't fit.
    """
    if layout == "auto" and "input" in fields and "output" in fields:
        messages, response = prompt_and_response(fields, "input", "output")
    else:
        messages, response = conversation(fields, layout)
    if not any(r"\boxed" in message["content"] for message in messages):
        last = messages[-1]
        messages = [*messages[:-1], last | {"content": f"{last['content'].rstrip()}\n\n{INSTRUCTION}"}]
    return messages, response, _expected(fields.get("expected_answer")) or choice_answer(response)


def _expected(answer: Any) -> str | None:
    if answer is None:
        return None
    if not isinstance(answer, str):
        raise RowError(f"column 'expected_answer' must be text, not {type(answer).__name__}")
    return choice(answer, alone=True) or clean(answer) or None
