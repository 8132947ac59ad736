"""Answer extraction and scoring of generated texts."""

from raymdm.data.tasks import extract_answer, same_answer


def extract(task: str, text: str) -> str | None:
    r"""The answer in a generated text, read as the reference was, or None when there is none.

    `gsm8k`: the number after the first `#### `; `hitab`, `open_science`: what the last \boxed{} holds, without LaTeX;
    `sorting`: the text; `sft`, `reasoning_gym`: the text, stripped.
    """
    return extract_answer(task, text)


def score(task: str, text: str, reference: str) -> float:
    """1.0 when the whole generated text answers like the reference, else 0.0.

    `text` is the decoded generation (not an extraction from it) without special tokens; `reference` is the
    prepared row's answer. GSM8K answers are compared as decimal numbers, so 18 equals 18.00. `hitab`: see
    `raymdm.data.answers.equivalent`; numbers may differ by less than 0.01, as in the paper's public code.
    `open_science`: an answer must name the reference's letter and no other; one that is no letter is compared as
    HiTab's, without the 0.01. The others must be equal texts. For `reasoning_gym` this is a lower bound where a
    question has several right answers: the package's own scorers are not used, as some run `eval` on what the model
    wrote.
    """
    answer = extract(task, text)
    return 0.0 if answer is None else float(same_answer(task, answer, reference))
