r"""Short answers in texts: what stands in \boxed{}, what it says without its LaTeX, and whether two say the same.

The cleaning is the paper's (its A.7.1), and fractions are read besides. Numbers are compared exactly, as rational
numbers. What is dropped and never converted: a percent sign (50% is 50, not 0.5), a currency sign, and a unit that only
one side has.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

SEPARATOR = ";"
"""Stands between the parts of an answer that has several. A comma would not do: numbers and names hold commas."""

_BRACES = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|([0-9])\s*([0-9]))")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|bf|rm|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:!]|\{,\}")
_TIMES = re.compile(r"\\(?:times|cdot)\b")

_LONGEST_NUMBER = 100
"""Characters; what is longer is a text."""
_LARGEST_EXPONENT = 300

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_UNIT = r"\s*(?:[^\W\d_]|[°%$€£¥])(?:[^\d,;^]|\^\s*\{?\s*[-+]?[0-9]\s*\}?)*"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*[$€£¥]?\s*(?P<sign_after>[-+]?)
    (?: (?:(?P<whole>[0-9]+)\s+)? (?P<above>[0-9]+)\s*/\s*(?P<below>[0-9]+)
      | (?P<decimal>{_DECIMAL})
        (?: [eE](?P<exponent>[-+]?[0-9]{{1,4}})
          | \s*(?:x|×|\*)\s*10\s*\^\s*\{{?\s*(?P<power>[-+]?[0-9]{{1,4}})\s*\}}? )?
    )
    (?P<unit>{_UNIT})?""",
    re.VERBOSE,
)
_CHOICE = re.compile(
    r"""(?:(?:the\s+)?(?:(?:final|correct|best)\s+)?(?:answer|option|choice)\s*(?:is\b)?\s*:?\s*)?
    [(\[]?\s*(?<![a-z])([a-z])\s*(?:[)\].:].*)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


class _Number(NamedTuple):
    value: Fraction
    unit: str
    is_fraction: bool
    """Written a/b; it may as well be a year such as 2017/2018."""


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{} (or \fbox{}) whose braces are balanced and hold something; None without one."""
    found: tuple[int, str] | None = None
    opened: list[int | None] = []  # where the content of each open brace starts; None for one that is no box's
    for brace in _BRACES.finditer(text):
        mark = brace.group()
        if mark == "}" and opened:
            start = opened.pop()
            content = "" if start is None else text[start : brace.start()]
            if start is not None and content.strip() and (found is None or start > found[0]):
                found = start, content
        elif mark.endswith("{") and mark != r"\{":
            opened.append(None if mark == "{" else brace.end())
    return None if found is None else found[1]


def clean(answer: str) -> str:
    r"""An answer without LaTeX and decoration.

    As the paper has it: no whitespace around it, \text{...} unwrapped, \% made %, backslashes deleted, a trailing
    period trimmed. Besides: \frac{a}{b} becomes a/b, the Unicode minus a hyphen, and $...$ and **...** are unwrapped.
    """
    answer = _FRACTION.sub(lambda m: f" {(m[1] or m[3] or '').strip()}/{(m[2] or m[4] or '').strip()}", answer)
    while (unwrapped := _WRAPPER.sub(r" \1", answer)) != answer:
        answer = unwrapped
    answer = _SPACING.sub(lambda m: "," if m[0] == "{,}" else "", _TIMES.sub("×", answer))
    answer = answer.replace(r"\(", "").replace(r"\)", "").replace("~", " ").replace("\\", "").replace("\u2212", "-")
    answer = re.sub(r"(?<=-) (?=[0-9]+/)", "", " ".join(answer.split()))
    answer = answer.strip("*").strip()
    if len(answer) > 1 and answer[0] == answer[-1] == "$":
        answer = answer[1:-1].strip()
    return answer.removesuffix(".").rstrip()


def boxed_answer(text: str) -> str | None:
    """The cleaned content of the last box of a text; None when there is none, or nothing is left of it."""
    content = boxed(text)
    return None if content is None else clean(content) or None


def choice(answer: str) -> str | None:
    """The letter that an answer to a multiple-choice question names, as a capital; None when it names none.

    `c`, `(C)`, `C) text`, `**C**` and `The answer is C` name C; `A cell` and `A and B` name none.
    """
    match = _CHOICE.fullmatch(clean(answer))
    return match[1].upper() if match else None


def choice_answer(text: str) -> str | None:
    """The letter in the last box of a text, or the whole cleaned answer when it is no letter; None without a box."""
    answer = boxed_answer(text)
    return None if answer is None else choice(answer) or answer


def equivalent(one: str, other: str, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether two cleaned answers say the same, in any order of their parts. Reflexive and symmetric; never raises.

    Numbers are decimals, with thousands separators or without, `3/4`, `1 3/4`, `1.5e3` and `1.5 x 10^3`, exponents
    up to 300. They are the same when they are equal, or differ by less than `tolerance` while neither is written as a
    fraction. Units must agree if both have one. Texts are compared without regard to case and spaces.
    """
    ones, others = _parts(one), _parts(other)
    if len(ones) != len(others):
        return False
    same = [[_same(a, b, tolerance) for b in others] for a in ones]
    return _all_matched(same)


def _parts(answer: str) -> list[str]:
    parts = [clean(part) for part in answer.split(SEPARATOR)]
    return [part for part in parts if part] or [""]


def _same(one: str, other: str, tolerance: Fraction) -> bool:
    a, b = _parse(one), _parse(other)
    if a is None or b is None:
        return _plain(one) == _plain(other)
    if a.unit and b.unit and a.unit != b.unit:
        return False
    exact = a.is_fraction or b.is_fraction
    return a.value == b.value or (not exact and abs(a.value - b.value) < tolerance)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip("\"'*")


def _all_matched(same: Sequence[Sequence[bool]]) -> bool:
    """Whether rows and columns can be paired: each row with a column of its own that is the same (Kuhn's algorithm)."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fits in enumerate(same[row]):
            if fits and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(same)))


def _parse(answer: str) -> _Number | None:
    match = _NUMBER.fullmatch(answer.strip()) if len(answer) <= _LONGEST_NUMBER else None
    if match is None or (match["sign"] and match["sign_after"]):
        return None
    if match["decimal"]:
        value = _decimal(match["decimal"], int(match["exponent"] or match["power"] or 0))
    else:
        value = _fraction(int(match["whole"] or 0), int(match["above"]), int(match["below"]))
    if value is None:
        return None
    negative = "-" in (match["sign"], match["sign_after"])
    unit = "".join(re.sub(r"[%$€£¥{}]", "", match["unit"] or "").casefold().split())
    return _Number(-value if negative else value, unit, match["decimal"] is None)


def _decimal(digits: str, exponent: int) -> Fraction | None:
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    return Fraction(digits.replace(",", "").rstrip(".")) * Fraction(10) ** exponent


def _fraction(whole: int, above: int, below: int) -> Fraction | None:
    return whole + Fraction(above, below) if below else None
