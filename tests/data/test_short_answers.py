"""Short answers: what a box holds, what is left of its LaTeX, and which two say the same."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymdm.data.answers import boxed, boxed_answer, choice, choice_answer, clean, equivalent

PIECES = [
    "\\boxed{",
    "\\frac{1}{2}",
    "\\text{",
    "{",
    "}",
    "\\",
    ";",
    "5",
    "-",
    "%",
    ".",
    ",",
    "/",
    "e9",
    "$",
    "C)",
    " ",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
"""Any text, and texts of what the readers look for."""


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{5} or rather \boxed{6}", "6"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{5} in \boxed{}", "5"),
        (r"\boxed{5} then \boxed{6", "5"),  # cut off by the length of the generation
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed 5", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_counts(text: str, content: str | None) -> None:
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        ("  5 \n", "5"),  # the paper's list: whitespace, \text, \%, backslashes, a trailing period
        (r"\text{total}", "total"),
        (r"5\%", "5%"),
        (r"a\_b", "a_b"),
        ("5.", "5"),
        (r"\text{ over \textbf{two} lines. }", "over two lines"),
        (r"5\,\text{km}", "5 km"),
        (r"12{,}345", "12,345"),
        (r"\dfrac{3}{4}", "3/4"),
        (r"-\frac{3}{4}", "-3/4"),
        (r"1\frac{3}{4}", "1 3/4"),
        (r"\frac12", "1/2"),
        (r"\(5\)", "5"),
        ("$5$", "5"),
        ("$5", "$5"),
        (r"\$5", "$5"),
        ("\u22125", "-5"),
        ("**C**", "C"),
        ("u.s.", "u.s"),
        (".", ""),
    ],
)
def test_cleaning(answer: str, cleaned: str) -> None:
    assert clean(answer) == cleaned


def test_box_with_nothing_but_decoration_has_no_answer() -> None:
    assert boxed_answer(r"\boxed{\,.}") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("18", "18.00"),
        ("18.", "18"),
        ("1,080", "1080"),
        ("1,234,567.5", "1234567.50"),
        ("$1,080.50", "1080.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("5 €", "5"),
        ("+5", "5"),
        (".5", "0.5"),
        ("50%", "50"),
        ("1/2", "0.5"),
        ("-1/2", "-0.5"),
        ("1 3/4", "1.75"),
        ("2/4", "1/2"),
        ("1.5e3", "1500"),
        ("1.5E-3", "0.0015"),
        (r"1.5 \times 10^{3}", "1500"),
        ("1.5 x 10^3", "1500"),
        ("18 dollars", "18"),
        ("5km", "5 km"),
        ("5 m^{2}", "5 m^2"),
        ("20°C", "20 °c"),
        ("0.1", "0.10"),
        ("-0", "0"),
        ("Total  Beverages", "total beverages"),
        ('"total"', "total"),
        ("u.s.", "U.S"),
        ("men; women", "women;men"),
        ("1; 2.0", "2; 1"),
        ("men;", "men"),
        ("2017/2018", "2017/2018"),
    ],
)
def test_the_same(one: str, other: str) -> None:
    assert equivalent(one, other)
    assert equivalent(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("18", "-18"),
        ("18", "19"),
        ("50%", "0.5"),  # dropped, not converted
        ("15.1 billion", "15100000000"),
        ("5 km", "5 miles"),
        ("1,2", "12"),
        ("1234,567", "1234567"),
        ("0.1", "0.10000000000000001"),
        ("1/0", "0"),
        ("2016/2017", "2017/2018"),
        ("5 to 9 employees", "5"),
        ("25 to 54", "25 to 54 years"),
        ("total", "totals"),
        ("1; 2", "1"),
        ("1; 1", "1; 2"),
        ("a; a; b", "a; b; b"),
        ("newfoundland, canada", "canada, newfoundland"),
        ("٣", "3"),
        ("", "0"),
        ("1e400", "1e401"),
    ],
)
def test_not_the_same(one: str, other: str) -> None:
    assert not equivalent(one, other)
    assert not equivalent(other, one)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.88", "0.876264", True),
        ("15.14", "15.144253", True),
        ("0.12", "0.13", False),
        ("0.05; 7", "7; 0.053164", True),
        ("2016/2017", "2017/2018", False),  # years, though written as fractions
        ("1/2", "0.505", False),
        ("0.88%", "0.876264", True),
        ("men", "women", False),
    ],
)
def test_numbers_within_a_tolerance(one: str, other: str, same: bool) -> None:
    assert equivalent(one, other, Fraction(1, 100)) == same
    assert equivalent(other, one, Fraction(1, 100)) == same


def test_parts_are_paired_as_a_whole() -> None:
    # 1.005 fits both, 0.999 only the first: taking the first that fits would leave 1.01 alone
    assert equivalent("1.005; 0.999", "1; 1.01", Fraction(1, 100))


@pytest.mark.parametrize("answer", ["c", "C", "(C)", "[C]", "C)", "C) text", "C. text", "C: text", "**C**", "C."])
def test_a_letter_is_a_choice(answer: str) -> None:
    assert choice(answer) == "C"


@pytest.mark.parametrize(
    "answer", [r"\text{C}", r"\mathbf{C}", "Option C", "The answer is C", "The correct answer is: C"]
)
def test_a_letter_in_words_is_a_choice(answer: str) -> None:
    assert choice(answer) == "C"


@pytest.mark.parametrize("answer", ["A cell", "A and B", "A, C", "a - b", "5", "CD", "", "É", "optionC"])
def test_other_answers_are_no_choice(answer: str) -> None:
    assert choice(answer) is None


@pytest.mark.parametrize(
    ("text", "answer"), [(r"so \boxed{(b) both}", "B"), (r"\boxed{\frac{1}{2}}", "1/2"), ("so B", None)]
)
def test_choice_in_a_text(text: str, answer: str | None) -> None:
    assert choice_answer(text) == answer


@given(TEXTS)
def test_every_answer_is_the_same_as_itself(text: str) -> None:
    assert equivalent(text, text)
    assert equivalent(clean(text), clean(text), Fraction(1, 100))


@given(TEXTS, TEXTS)
def test_sameness_has_no_direction(one: str, other: str) -> None:
    tolerance = Fraction(1, 100)
    assert equivalent(one, other) == equivalent(other, one)
    assert equivalent(one, other, tolerance) == equivalent(other, one, tolerance)


@given(TEXTS)
def test_no_text_breaks_the_readers(text: str) -> None:
    answer = choice_answer(text)
    assert answer is None or answer
    assert boxed(f"{text}\\boxed{{7}}") in ("7", boxed(text))


@pytest.mark.parametrize("text", ["9" * 5000, "1e9999", "1/" + "0" * 50, "1" + ",000" * 2000, "9" * 99 + "e300"])
def test_numbers_of_any_size_are_read_or_left(text: str) -> None:
    assert equivalent(text, text)
