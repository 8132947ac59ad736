r"""Short answers in texts: what stands in \boxed{}, what it says without its LaTeX, and whether two say the same.

The cleaning is the paper's (its A.7.1), and some more LaTeX, entities of HTML and fractions are read besides. Numbers
are compared exactly, as rational numbers. What is dropped and never converted: a percent sign (50% is 50, not 0.5), a
currency, and another of the units in `raymdm.data.numbers`, and the `x =` before a value, where only one side has it.
Any other word makes a text.
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
_FONT = (
    r"(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|math(?:bf|it|rm|sf|tt|cal|bb|normal)|bf|it|rm|sf|tt|em|bm"
    r"|boldsymbol|emph|underline|mbox|hbox|operatorname|ensuremath)"
)
_COMMAND = re.compile(rf"\\(?:(?P<font>{_FONT})|[dtc]?frac)(?![a-zA-Z])")
"""Fractions, and commands that change how their argument looks and not what it says, unlike \\sqrt{} or \\log{}."""
_ANY_BRACE = re.compile(r"(?<!\\)[{}]")
_SWITCH = re.compile(
    rf"\\(?:{_FONT}|displaystyle|textstyle|left|right|[bB]igg?|tiny|small|normalsize|large|Large|LARGE|huge|Huge)"
    r"(?![a-zA-Z])"
)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_SPACING = re.compile(r"\\[,;:!]|\{,\}")
_WIDE_SPACE = re.compile(r"\\q?quad(?![a-zA-Z])|~")
_TIMES = re.compile(r"\\(?:times|cdot)(?![a-zA-Z])|[\u00b7\u22c5]")
_DEGREE = re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])")
_VARIABLE = re.compile(r"([a-zA-Z])\s*=\s*(?=[^\s=])")
"""What is before the value in `x = 5`."""
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
    it; \frac{a}{b} becomes a/b, \frac{a+b}{c} (a+b)/c, and &amp; what it stands for; dashes and quotes are as a
    keyboard has them.
    """
    answer = _without_entities(answer).translate(_CHARACTERS)
    answer = _without_commands(_DEGREE.sub("°", _TIMES.sub("×", _COLOUR.sub("", answer))))
    answer = _SPACING.sub(lambda m: "," if m[0] == "{,}" else "", _SWITCH.sub(" ", answer))
    answer = _WIDE_SPACE.sub(" ", answer.replace(r"\(", "").replace(r"\)", "")).replace("\\", "")
    answer = re.sub(r"(?<=-) (?=[0-9.,]+/)", "", " ".join(answer.split()))
    answer = answer.strip("*").strip()
    if len(answer) > 1 and answer[0] == answer[-1] == "$" and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    return _without_braces(answer).removesuffix(".").rstrip()


def _without_entities(answer: str) -> str:
    """Only entities that end with their semicolon: `AT&T` has none."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), _ESCAPED_AMPERSAND.sub("", answer))


def _without_commands(answer: str) -> str:
    """Fonts unwrapped and fractions with a slash. The last command is the first, and so what stands in another's
    argument comes before it."""
    for command in reversed(list(_COMMAND.finditer(answer))):
        first = second = _argument(answer, command.end())
        if first is not None and not command["font"]:
            second = _argument(answer, first[1])
        if first is None or second is None:
            continue
        said = first[0] if command["font"] else f"{_operand(first[0], '+-/')}/{_operand(second[0], '+-/×*')}"
        answer = f"{answer[: command.start()]} {said}{answer[second[1] :]}"
    return answer


def _argument(text: str, start: int) -> tuple[str, int] | None:
    """A command's argument that begins at `start`, in balanced braces or a digit, and where it ends; None without."""
    start += len(text[start:]) - len(text[start:].lstrip())
    if re.match("[0-9]", text[start:]):
        return text[start], start + 1
    if not text.startswith("{", start):
        return None
    depth = 0
    for brace in _ANY_BRACE.finditer(text, start):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if not depth:
            return text[start + 1 : brace.start()], brace.end()
    return None


def _operand(text: str, operators: str) -> str:
    """A part of a fraction: in parentheses when it has one of the operators, a sign aside, that no bracket holds."""
    text = text.strip()
    depths = accumulate((mark in "({[") - (mark in ")}]") for mark in text)
    loose = any(place and not depth and text[place] in operators for place, depth in enumerate(depths))
    return f"({text})" if loose else text


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
    variables = [_VARIABLE.match(answer) for answer in (one, other)]
    if len({match[1] for match in variables if match}) == 1:  # one has a variable, or both the same
        one, other = (
            answer[match.end() if match else 0 :] for answer, match in zip((one, other), variables, strict=True)
        )
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
