"""Numbers in short answers, with their units, compared exactly."""

import re
from fractions import Fraction
from typing import NamedTuple

_LONGEST_NUMBER = 100
"""Characters; what is longer is a text."""
_LARGEST_EXPONENT = 300
_FIRST_YEAR = 1000
"""A numerator from here on may as well be a year, as in 2017/2018."""

_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_TIMES = r"\s*[x×*]\s*"
_POWER = r"10\s*\^\s*\{?\s*[-+]?[0-9]{1,4}\s*\}?"
_DIVISOR = rf"(?:{_POWER}|{_DECIMAL}(?:e[-+]?[0-9]{{1,4}})?)"
_SIMPLE = rf"(?:{_DECIMAL}{_TIMES}{_POWER}|{_DIVISOR})"
_GROUP = rf"\(\s*[-+]?{_SIMPLE}(?:\s*/\s*{_DIVISOR})?\s*\)"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<before>(?:us|ca?)?\$|usd|cad|eur|gbp|[€£¥])?\s*(?P<sign_after>[-+]?)\s*
    (?: (?:(?P<whole>[0-9]+)\s+)? (?P<above>[0-9]+)\s*/\s*(?P<below>[0-9]+) (?![\d.,^]|e[-+]?\d)
      | (?P<over>{_SIMPLE}|{_GROUP})\s*/\s*(?P<under>[-+]?{_DIVISOR}|{_GROUP})
      | (?P<spaced>[0-9]{{1,3}}(?:[ ][0-9]{{3}})+(?:\.[0-9]*)?)
      | (?P<simple>{_SIMPLE})
    )
    (?:\s*(?P<scale>hundred|thousand|million|billion|trillion)s?\b)?
    \s*(?P<after>[^\d\s].*)?""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPELLINGS = """
    %: percent, per cent, percentage, pct
    pp: percentage point, percentage points
    $: us$, usd, dollar, dollars, us dollar, us dollars
    c$: ca$, cad, canadian dollar, canadian dollars
    €: eur, euro, euros
    £: gbp, pound, pounds
    ¥: yen
    ¢: cent, cents
    year: years, yr, yrs
    month: months
    week: weeks
    day: days
    hour: hours, hr, hrs
    minute: minutes, min
    second: seconds, sec
    km: kilometre, kilometres, kilometer, kilometers
    cm: centimetre, centimetres, centimeter, centimeters
    mm: millimetre, millimetres, millimeter, millimeters
    metre: metres, meter, meters
    mile: miles
    foot: feet, ft
    inch: inches
    m^2: square metres, square meters
    km^2: square kilometres, square kilometers
    m^3: cubic metres, cubic meters
    hectare: hectares, ha
    acre: acres
    litre: litres, liter, liters
    ml: millilitre, millilitres, milliliter, milliliters
    kg: kilogram, kilograms
    gram: grams
    mg: milligram, milligrams
    tonne: tonnes
    ton: tons
    m/s: m s^-1
    m/s^2: m s^-2
    km/h: kmh, kph
    mol: mole, moles
    kj: kilojoule, kilojoules
    joule: joules
    kw: kilowatt, kilowatts
    watt: watts
    volt: volts
    hz: hertz
    °: degree, degrees
    °c: degrees celsius
    °f: degrees fahrenheit
    people: person, persons
    worker: workers
    employee: employees
    household: households
    student: students
    case: cases
    time: times
    point: points
"""
"""Units that a number may have or lack; none is longer than a few words. None that could be a variable: 2n and 3i are
texts."""


def _units() -> dict[str, str]:
    """From each spelling, without spaces, to the first one of its unit."""
    lines = (line.partition(":") for line in _SPELLINGS.strip().splitlines())
    return {
        "".join(spelling.split()): unit.strip()
        for unit, _, others in lines
        for spelling in (unit, *others.split(","))
        if spelling.strip()
    }


_UNITS = _units()
_LETTERS = frozenset("mgshlkwnjvac")
"""Units of one letter: never dropped, as 2m may be a product, but 5 m is 5.0 m."""


class _Number(NamedTuple):
    value: Fraction
    unit: str
    is_fraction: bool
    may_be_year: bool


def same_number(one: str, other: str, tolerance: Fraction = Fraction(0)) -> bool | None:
    """Whether two answers are the same number; None where one of them is none.

    Numbers are decimals, with thousands separators or without (commas, or spaces between groups of three digits),
    `1.5e3`, `1.5 x 10^3` and `10^3`, exponents up to 300, fractions of two such (`3/4`, `10^3/2`, `(1/2)/3`), `1 3/4`,
    and `5 million`, in parentheses or not. They are the same when they are equal, or differ by less than
    `tolerance`; two fractions, and what may be years such as 2017/2018, must be equal. Units must agree if both have
    one; a unit that one lacks must be more than a letter.
    """
    a, b = _parse(one), _parse(other)
    if a is None or b is None:
        return None
    if a.unit != b.unit and ((a.unit and b.unit) or (a.unit or b.unit) in _LETTERS):
        return False
    exact = (a.is_fraction and b.is_fraction) or a.may_be_year or b.may_be_year
    return a.value == b.value or (not exact and abs(a.value - b.value) < tolerance)


def _parse(answer: str) -> _Number | None:
    answer = re.sub(r"^\(([^()]*)\)$", r"\1", answer.strip())
    match = _NUMBER.fullmatch(answer.strip()) if len(answer) <= _LONGEST_NUMBER else None
    if match is None or (match["sign"] and match["sign_after"]):
        return None
    unit, value = _unit(match["before"] or "", match["after"] or ""), _value(match)
    if unit is None or value is None:
        return None
    negative = "-" in (match["sign"], match["sign_after"])
    value *= _SCALES[match["scale"].lower()] if match["scale"] else 1
    is_fraction = bool(match["above"] or match["over"])
    return _Number(-value if negative else value, unit, is_fraction, int(match["above"] or 0) >= _FIRST_YEAR)


def _unit(before: str, after: str) -> str | None:
    """What a currency before a number and the words after it are; "" where nothing is there, None if not known."""
    names = ["".join(re.sub("[{}]", "", name).casefold().split()) for name in (before, after)]
    units = {name if name in _LETTERS else _UNITS.get(name) for name in names if name}
    return next(iter(units), "") if len(units) < 2 else None


def _value(match: re.Match[str]) -> Fraction | None:
    if match["above"]:
        part = _quotient(match["above"], match["below"])
        return None if part is None else int(match["whole"] or 0) + part
    if match["over"]:
        return _quotient(match["over"], match["under"])
    return _simple(match["simple"] or match["spaced"].replace(" ", ""))


def _quotient(over: str, under: str) -> Fraction | None:
    """None where the divisor is 0, or a part cannot be read."""
    above, below = _operand(over), _operand(under)
    return above / below if above is not None and below else None


def _operand(text: str) -> Fraction | None:
    over, slash, under = text.strip("() ").partition("/")
    return _quotient(over, under) if slash else _simple(over)


def _simple(text: str) -> Fraction | None:
    """The value of a decimal, `1.5e3`, `1.5 x 10^3` or `10^3`; None for an exponent that is too large."""
    compact = re.sub(r"[\s,{}]", "", text).lower()
    scientific = re.sub(r"[x×*]10\^", "e", re.sub(r"^([-+]?)10\^", r"\g<1>1e", compact))
    digits, _, exponent = scientific.partition("e")
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT:
        return None
    return Fraction(digits.rstrip(".")) * Fraction(10) ** int(exponent or 0)
