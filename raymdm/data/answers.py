r"""Short answers in texts: what stands in \boxed{}, what it says without its LaTeX, and whether two say the same.

The cleaning is the paper's (its A.7.1), and some more LaTeX, entities of HTML and fractions are read besides. Numbers
are compared exactly, as rational numbers. What is dropped and never converted: a percent sign (50% is 50, not 0.5), a
currency, and another of the units in `raymdm.data.numbers`, where only one side has it. Any other word makes a text.
"""

import html
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from raymdm.data.numbers import same_number

SEPARATOR = ";"
"""Stands between the parts of an answer that has several. A comma would not do: numbers and names hold commas."""

_BRACES = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_ESCAPED_AMPERSAND = re.compile(rf"\\(?={_ENTITY.pattern})")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|([0-9])\s*([0-9]))")
_FONT = (
    r"(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|math(?:bf|it|rm|sf|tt|cal|bb|normal)|bf|it|rm|sf|tt|em|bm"
    r"|boldsymbol|emph|underline|mbox|hbox|operatorname|ensuremath)"
)
_WRAPPER = re.compile(rf"\\{_FONT}\s*\{{([^{{}}]*)\}}")
"""Commands that change how their argument looks and not what it says, unlike \\sqrt{} or \\log{}."""
_SWITCH = re.compile(
    rf"\\(?:{_FONT}|displaystyle|textstyle|left|right|[bB]igg?|tiny|small|normalsize|large|Large|LARGE|huge|Huge)"
    r"(?![a-zA-Z])"
)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_SPACING = re.compile(r"\\[,;:!]|\{,\}")
_WIDE_SPACE = re.compile(r"\\q?quad\b|~")
_TIMES = re.compile(r"\\(?:times|cdot)\b")
_DEGREE = re.compile(r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})|\\degree\b")
_CHARACTERS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-") | {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\u202f": " "})  # fmt: skip
"""Dashes, quotes and spaces as a keyboard has them."""

_MOST_BRACES = 8
"""Pairs around an answer; more are no decoration."""

_WORDING = r"(?:(?:the\s+)?(?:(?:final|correct|best)\s+)?(?:answer|option|choice)\s*(?:is\b)?\s*:?\s*)?"
_CHOICE = re.compile(
    rf"""{_WORDING}[(\[]?\s*(?<![a-z])(?P<letter>[a-z])
    (?P<rest>\s*[)\]:,].* | \s*\.(?![a-z]\b).* | \s+(?:\(|-+\s).* | (?-i:(?<=[B-HJ-Z]))\s+\S.*)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""A letter, alone or with the option's text; `A cell` and `I think` are words."""
_OTHER_CHOICE = re.compile(
    r"""(?<![\w(\[.]) [(\[]? [a-j][)\]]                                       # (B), B), b)
    | (?<![\w(\[.]) (?-i:[A-J]):                                              # B:
    | (?:[,;&/+\n] | \b(?:and|or)\b) \s* [(\[]? [a-j] (?=[)\].:,;] | \s*$ | \s+(?:and|or)\b)
    | ^[\W_]* (?:[a-j]\b [\W_]*)+ $                                           # nothing but letters""",
    re.VERBOSE | re.IGNORECASE,
)


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


def in_box(answer: str) -> str:
    r"""A response that holds a plain answer: \boxed{ANSWER}, its braces escaped; backslashes, which `clean` deletes
    anyway, are left out."""
    plain = re.sub(r"([{}])", r"\\\1", answer.replace("\\", ""))
    return rf"\boxed{{{plain}}}"


def clean(answer: str) -> str:
    r"""An answer without LaTeX and decoration.

    As the paper has it: no whitespace around it, \text{...} unwrapped, \% made %, backslashes deleted, a trailing
    period trimmed. Besides: other fonts, sizes and colours are unwrapped, and so are braces, $...$ and **...** around
    it; \frac{a}{b} becomes a/b, and &amp; what it stands for; dashes and quotes are as a keyboard has them.
    """
    answer = _FRACTION.sub(
        lambda m: f" {(m[1] or m[3] or '').strip()}/{(m[2] or m[4] or '').strip()}", _without_entities(answer)
    )
    answer = _DEGREE.sub("°", _TIMES.sub("×", _COLOUR.sub("", answer)))
    while (unwrapped := _WRAPPER.sub(r" \1", answer)) != answer:
        answer = unwrapped
    answer = _SPACING.sub(lambda m: "," if m[0] == "{,}" else "", _SWITCH.sub(" ", answer))
    answer = _WIDE_SPACE.sub(" ", answer.replace(r"\(", "").replace(r"\)", "")).replace("\\", "")
    answer = re.sub(r"(?<=-) (?=[0-9]+/)", "", " ".join(answer.translate(_CHARACTERS).split()))
    answer = answer.strip("*").strip()
    if len(answer) > 1 and answer[0] == answer[-1] == "$" and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    return _without_braces(answer).removesuffix(".").rstrip()


def _without_entities(answer: str) -> str:
    """Only entities that end with their semicolon: `AT&T` has none."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), _ESCAPED_AMPERSAND.sub("", answer))


def _without_braces(answer: str) -> str:
    """Without braces around all of it, as in `{5}` and the set `{men; women}`."""
    for _ in range(_MOST_BRACES):
        inner = answer[1:-1]
        if f"{{{inner}}}" != answer:
            break
        if min(accumulate((brace == "{") - (brace == "}") for brace in inner), default=0) < 0:  # {a} and {b}
            break
        answer = inner.strip()
    return answer


def boxed_answer(text: str) -> str | None:
    """The cleaned content of the last box of a text, as it is where cleaning would leave nothing; None without one."""
    content = boxed(text)
    return None if content is None else clean(content) or content.strip()


def choice(answer: str, alone: bool = False) -> str | None:
    """The letter that an answer to a multiple-choice question names, as a capital; None for none or several.

    `c`, `(C)`, `C) text`, `C text`, `**C**` and `The answer is C` name C; `A cell`, `A and B` and `A: x, B: y` name
    none. `alone`: nor does a letter with the text of its option.
    """
    match = _CHOICE.fullmatch(clean(answer))
    if match is None or _OTHER_CHOICE.search(rest := match["rest"] or ""):
        return None
    return None if alone and rest.strip(" )].:") else match["letter"].upper()


def choice_answer(text: str) -> str | None:
    """The letter in the last box of a text, or the whole cleaned answer when it is no letter; None without a box."""
    answer = boxed_answer(text)
    return None if answer is None else choice(answer) or answer


def same_choice(answer: str, reference: str) -> bool:
    """Whether a cleaned answer names the letter of the reference, or says the same as one that is no letter."""
    letter = choice(reference, alone=True)
    return equivalent(answer, reference) if letter is None else choice(answer) == letter


def equivalent(one: str, other: str, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether two cleaned answers say the same, in any order of their parts. Reflexive and symmetric; never raises.

    Numbers are as `raymdm.data.numbers` reads and compares them. Texts are compared without regard to case and spaces.
    """
    ones, others = _parts(one), _parts(other)
    if len(ones) != len(others):
        return False
    same = [[_same(a, b, tolerance) for b in others] for a in ones]
    return _all_matched(same)


def _parts(answer: str) -> list[str]:
    parts = [clean(part) or part.strip() for part in _without_entities(answer).split(SEPARATOR)]
    return [part for part in parts if part] or [""]


def _same(one: str, other: str, tolerance: Fraction) -> bool:
    numbers = same_number(one, other, tolerance)
    return _plain(one) == _plain(other) if numbers is None else numbers


def _plain(text: str) -> str:
    folded = " ".join(text.casefold().split())
    return folded.strip("\"'`*") or folded


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
