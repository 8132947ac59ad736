"""Short answers: what a box holds, what is left of its LaTeX, and which two say the same."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymdm.data.answers import boxed, boxed_answer, choice, choice_answer, clean, equivalent, in_box, same_choice

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
    "&amp;",
    "&",
    "(",
    ")",
    "\\left",
    "**",
    "$",
    "C)",
    " ",
    " 234",
    "\\times10^{3}",
    "x = ",
    " million",
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
        (r"\boldsymbol{B}", "B"),
        (r"\mathsf{\underline{B}}", "B"),
        (r"\bf B", "B"),
        (r"\displaystyle \Large B", "B"),
        (r"\textcolor{red}{5}", "5"),
        (r"\color{red} 5", "5"),
        ("{{5}}", "5"),
        (r"\{men; women\}", "men; women"),
        ("{a} and {b}", "{a} and {b}"),
        (r"\sqrt{2}", "sqrt{2}"),  # what a command says stays
        (r"\log{10}", "log{10}"),
        (r"5^\circ", "5°"),
        (r"20^{\circ}C", "20°C"),
        ("5\u20139", "5-9"),
        ("men\u2019s", "men's"),
        ("r&amp;d", "r&d"),
        (r"r\&amp;d", "r&d"),
        ("&lt;0.1", "<0.1"),
        ("at&t; x", "at&t; x"),
        ("$5$; $6$", "$5$; $6$"),
    ],
)
def test_cleaning(answer: str, cleaned: str) -> None:
    assert clean(answer) == cleaned


def test_box_with_nothing_but_decoration_is_taken_as_it_is() -> None:
    assert boxed_answer(r"\boxed{**}") == "**"
    assert not equivalent("**", ".")


@pytest.mark.parametrize("answer", ["a}b", "{", "x\\", "**", ".", "men; women", "{a}", "r&d", "4.5"])
def test_a_box_made_of_an_answer_says_that_answer(answer: str) -> None:
    assert equivalent(boxed_answer(in_box(answer)) or "", answer)


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
        ("10^6", "1000000"),
        ("10^{-3}", "0.001"),
        (r"\left(5\right)", "5"),
        ("\u20130.5", "-0.5"),
        ("USD 5", "5"),
        ("US$ 5", "5 dollars"),
        ("5 percent", "5%"),
        ("0.5 percentage points", "0.5"),
        ("5 workers", "5"),
        (r"5 \text{ m}", "5.0 m"),
        (r"3\ \text{m s}^{-1}", "3 m/s"),
        ("r&amp;d; total", "total; r&d"),
        ("``men''", "men"),
        ("\u201cmen\u201d", "men"),
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
        ("5%", "$5"),
        ("5 dollars", "5 euros"),
        ("$5 million", "5"),
        (r"\sqrt{2}", "2"),
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
        ("1/2", "0.505", True),
        ("1/3", "0.3333", True),
        ("1/3", "33/100", False),
        ("2016/2017", "1", False),
        ("0.88%", "0.876264", True),
        ("men", "women", False),
    ],
)
def test_numbers_within_a_tolerance(one: str, other: str, same: bool) -> None:
    assert equivalent(one, other, Fraction(1, 100)) == same
    assert equivalent(other, one, Fraction(1, 100)) == same


@pytest.mark.parametrize(
    ("one", "number"),
    [
        (r"2\pi", "2"),
        ("2x", "2"),
        ("2 m", "2"),
        (r"3\sin x", "3"),
        ("4x^2", "4"),
        ("2ab^3", "2"),
        ("3i", "3"),
        ("5 or six", "5"),
        ("1 in five", "1"),
        ("1 out of six", "1"),
        ("6 or more", "6"),
        ("15 years and over", "15"),
        ("5 never", "5"),
        ("1990s", "1990"),
        ("5 million", "5"),
    ],
)
def test_a_number_with_other_words_is_not_the_number(one: str, number: str) -> None:
    assert not equivalent(one, number, Fraction(1, 100))
    assert not equivalent(number, one, Fraction(1, 100))


def test_parts_are_paired_as_a_whole() -> None:
    # 1.005 fits both, 0.999 only the first: taking the first that fits would leave 1.01 alone
    assert equivalent("1.005; 0.999", "1; 1.01", Fraction(1, 100))


@pytest.mark.parametrize(
    "answer",
    ["c", "C", "(C)", "[C]", "C)", "C) text", "C. text", "C: text", "**C**", "C.", "C (text)", "C - text",
     "C \u2013 text", "C, text", "C text", "C) x, y and f(a)", "C: E. coli", r"\textsf{C}", r"C\text{: text}", "{C}",
     "C\n"],
)  # fmt: skip
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
    "answer",
    ["(A), (B)", "A), B), C), D)", "(A) and (C)", "A: iron, B: argon", "A. and B.", "a) or b)", "A.B", "(A)(B)",
     "[A] [B]", "B & C", "B/C", "A.) or b.)", "B) argon or C) neon", "A, B and C", r"B \text{ and } C", "A - B",
     "e.g. x"],
)  # fmt: skip
def test_several_options_are_no_choice(answer: str) -> None:
    assert choice(answer) is None


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("B) argon", "B", True),
        ("argon", "B", False),
        ("A and B", "B", False),
        ("A: iron, B: argon", "A", False),
        ("E. coli", "E. coli", True),
        ("e.  COLI", "E. coli", True),
        ("E. faecalis", "E. coli", False),
        ("E", "E. coli", False),
        ("0.50", "1/2", True),
    ],
)
def test_letters_and_texts_are_compared_with_their_like(answer: str, reference: str, same: bool) -> None:
    assert same_choice(answer, reference) == same


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
    assert answer is None or same_choice(answer, answer) in (True, False)
    assert boxed(f"{text}\\boxed{{7}}") in ("7", boxed(text))


@pytest.mark.parametrize("text", ["9" * 5000, "1e9999", "1/" + "0" * 50, "1" + ",000" * 2000, "9" * 99 + "e300"])
def test_numbers_of_any_size_are_read_or_left(text: str) -> None:
    assert equivalent(text, text)
