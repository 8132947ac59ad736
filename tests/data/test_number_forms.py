"""The forms that a number takes in answers: powers of ten, LaTeX fractions, words, spaces, and a variable before it."""

import pytest

from raymdm.data.answers import choice, clean, equivalent, same_choice


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"5\times10^{3}", "5000"),
        (r"5\cdot10^3", "5000"),
        (r"5 \times 10^{3}", r"5\cdot10^{3}"),
        ("5·10^3", "5000"),
        ("6.02e23", r"6.02\times10^{23}"),
        ("6.02E23", "6.02 x 10^23"),
        (r"-2.5\times10^{-3}", "-0.0025"),
        (r"\quad5", "5"),
        (r"5\quad\text{km}", "5 km"),
        (r"30^\circ", "30 degrees"),
        (r"30\degree", "30"),
        (r"5\times10^{3}\,\text{m}", "5000 m"),
        (r"\frac{10^{3}}{2}", "500"),
        (r"\frac{2}{10^{3}}", "0.002"),
        (r"\frac{3\times10^{8}}{6\times10^{14}}", "5e-7"),
        (r"\frac{\text{3}}{4}", "3/4"),
        (r"\frac{\text{3}}{\mathbf{4}}", "0.75"),
        (r"\frac{1.5}{2}", "0.75"),
        (r"\frac{1,500}{2}", "750"),
        (r"\frac{1{,}500}{2}", "750"),
        (r"\dfrac{\text{a}}{b}", "a/b"),
        (r"\frac{a+b}{c}", "(a+b)/c"),
        (r"\frac 1{2}", "1/2"),
        (r"\frac{1}2", "0.5"),
        (r"\frac{\frac{1}{2}}{3}", "1/6"),
        (r"\frac{1}{\frac{2}{3}}", "1.5"),
        (r"\frac{\frac12}{\frac34}", "2/3"),
        (r"-\frac{1.5}{2}", "-0.75"),
        (r"\frac{-1}{2}", "-1/2"),
        (r"\frac{1}{-2}", "-0.5"),
        (r"2\frac{1}{2}", "2.5"),
        ("1.5/2", "0.75"),
        (r"\text{10^{3}}", "1000"),
        (r"x = 5", "5"),
        ("x=5", "5.0"),
        (r"x = \frac{1}{2}", "0.5"),
        ("x = 5", "x = 5.0"),
        ("x = 5; y = 3", "3; 5"),
        ("n = total", "total"),
        ("5 million", "5,000,000"),
        ("5 million", "5000 thousand"),
        (r"\$5 million", "5,000,000"),
        (r"\$5 million", "5 million dollars"),
        ("15.1 billion", "15100000000"),
        ("2.5 Trillion", "2.5e12"),
        ("3 hundred", "300"),
        ("1 1/2 million", "1500000"),
        ("5 million people", "5000000"),
        ("1 234 567", "1234567"),
        ("1\u2009234\u2009567", "1,234,567"),
        (r"1\ 234\ 567", "1234567"),
        (r"1\,234\,567", "1234567"),
        (r"1{,}234{,}567", "1234567"),
        ("12 345.50", "12345.5"),
        ("1 234 km", "1234"),
    ],
)
def test_forms_of_one_number_are_the_same(one: str, other: str) -> None:
    assert equivalent(one, other)
    assert equivalent(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"5\times10^{3}", "5"),
        (r"5\times10^{3}", "500"),
        (r"2\timesx", "2"),
        (r"\frac{10^{3}}{2}", "10"),
        (r"\frac{1.5}{2}", "1.5"),
        (r"\frac{1}{2}{3}", "1/2"),
        (r"\frac{1}{0}", "0"),
        (r"\frac{1}{\frac{0}{3}}", "0"),
        (r"\frac{a+b}{c}", "a+b/c"),
        (r"\frac{a}{b+c}", "a/b+c"),
        (r"\frac{1}{\frac{2}{3}}", "1/2/3"),
        ("1/2 x 10^3", "0.0005"),
        ("5/6/2020", "5/6"),
        ("x = 5", "y = 5"),
        ("x = 5", "x = 6"),
        ("x = 5", "6"),
        ("ab = 5", "5"),
        ("x == 5", "5"),
        ("x =", ""),
        ("x", "5"),
        ("5 million", "5"),
        ("5 million", "6 million"),
        ("5 million", "5 billion"),
        ("5 millionaires", "5 million"),
        ("5 millionaires", "5"),
        ("5 m", "5 million"),
        ("million", "1000000"),
        ("$5 million", "5 million euros"),
        ("1 234", "1, 234"),
        ("1 234", "1; 234"),
        ("1 23", "123"),
        ("1 2345", "12345"),
        ("1234 567", "1234567"),
        ("1 234 56", "123456"),
        ("1 234/567", "1234/567"),
        ("1 234 m", "1234"),
    ],
)
def test_what_looks_alike_is_not_the_same(one: str, other: str) -> None:
    assert not equivalent(one, other)
    assert not equivalent(other, one)


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        (r"5\times10^{3}", "5×10^{3}"),
        (r"\frac{\frac{1}{2}}{3}", "(1/2)/3"),
        (r"\frac{\text{total cost}}{n}", "total cost/n"),
        (r"\frac{(a+b)}{c}", "(a+b)/c"),
        (r"\frac{x}", "frac{x}"),  # half a fraction
        (r"\text{a {b} c}", "a {b} c"),
        (r"\timestamp", "timestamp"),
    ],
)
def test_cleaning_of_commands(answer: str, cleaned: str) -> None:
    assert clean(answer) == cleaned


@pytest.mark.parametrize("answer", ["x = 5", "5 million", "1 234", r"\frac{a}{b}"])
def test_numbers_are_no_choice(answer: str) -> None:
    assert choice(answer) is None


@pytest.mark.parametrize(
    ("answer", "reference", "same"), [("x = 5", "5", True), ("A", "x = 5", False), ("5", "A", False)]
)
def test_a_variable_is_no_letter(answer: str, reference: str, same: bool) -> None:
    assert same_choice(answer, reference) == same
