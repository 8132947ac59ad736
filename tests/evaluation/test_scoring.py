"""Scores of generated texts."""

import pytest

from raymdm.evaluation.scoring import extract, score


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("2 + 16 = 18\n#### 18", "18", 1.0),
        ("#### 18.00", "18", 1.0),
        ("#### 18.", "18.0", 1.0),
        ("#### $1,080", "1080", 1.0),
        ("#### 1080", "1,080", 1.0),
        ("#### -18", "18", 0.0),
        ("#### 0.1", "0.10000000000000001", 0.0),  # decimals, not floats
        ("#### 19 #### 18", "18", 0.0),
        ("the answer is 18", "18", 0.0),
        ("", "18", 0.0),
    ],
)
def test_gsm8k_compares_numbers(text: str, reference: str, expected: float) -> None:
    assert score("gsm8k", text, reference) == expected


@pytest.mark.parametrize(("text", "expected"), [("1234", 1.0), ("1234 ", 0.0), ("1243", 0.0), ("", 0.0)])
def test_sorting_is_exact(text: str, expected: float) -> None:
    assert score("sorting", text, "1234") == expected


@pytest.mark.parametrize("task", ["sft", "reasoning_gym"])
@pytest.mark.parametrize(("text", "expected"), [("yes", 1.0), ("  yes\n", 1.0), ("Yes", 0.0), ("yes!", 0.0), ("", 0.0)])
def test_texts_match_after_stripping(task: str, text: str, expected: float) -> None:
    assert score(task, text, "yes") == expected


def test_extract_reads_predictions_as_references_are_read() -> None:
    assert extract("gsm8k", "so #### 1,000") == "1000"
    assert extract("gsm8k", "so 1,000") is None
    assert extract("sft", " yes ") == "yes"


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (r"So \boxed{4.5}", "4.5", 1.0),
        (r"\boxed{4.50\%}.", "4.5", 1.0),
        (r"\boxed{\text{Total Beverages.}}", "total beverages", 1.0),
        (r"\boxed{88} or \boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{women; men}", "men; women", 1.0),
        (r"\boxed{0.876}", "0.876264", 1.0),  # within 0.01, as the paper's public code has it
        (r"\boxed{0.89}", "0.876264", 0.0),
        (r"\boxed{men}", "men; women", 0.0),
        (r"\boxed{\text{u.s.}}", "u.s.", 1.0),
        (r"\boxed{r&amp;d}", "r&d", 1.0),  # as the table has it
        (r"\boxed{\frac13}", "0.3333", 1.0),
        (r"\boxed{5 or six}", "5", 0.0),
        ("4.5", "4.5", 0.0),
        (r"\boxed{4.5", "4.5", 0.0),
        ("", "4.5", 0.0),
    ],
)
def test_hitab_compares_what_the_last_box_holds(text: str, reference: str, expected: float) -> None:
    assert score("hitab", text, reference) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (r"\boxed{B}", "B", 1.0),
        (r"\boxed{b}", "B", 1.0),
        (r"<think>\boxed{A}?</think> \boxed{(B) argon}", "B", 1.0),
        (r"\boxed{**B**}", "B", 1.0),
        (r"\boxed{A}", "B", 0.0),
        (r"\boxed{A, B}", "B", 0.0),
        (r"\boxed{(B), (A)}", "B", 0.0),
        (r"\boxed{E. coli}", "E. coli", 1.0),
        (r"\boxed{E. faecalis}", "E. coli", 0.0),
        ("The answer is B", "B", 0.0),
        (r"\boxed{0.50}", "1/2", 1.0),  # an open question
        (r"\boxed{0.505}", "1/2", 0.0),
    ],
)
def test_open_science_compares_the_letter(text: str, reference: str, expected: float) -> None:
    assert score("open_science", text, reference) == expected
