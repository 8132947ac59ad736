"""Numbers in short answers, with their units, compared exactly."""

import re
from fractions import Fraction
from typing import NamedTuple

_LONGEST_NUMBER = 100
"""Characters; what is longer is a text."""
_LARGEST_EXPONENT = 300
_FIRST_YEAR = 1000
"""A numerator from here on may as well be a year, as in 2017/2018."""

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<before>(?:us|ca?)?\$|usd|cad|eur|gbp|[€£¥])?\s*(?P<sign_after>[-+]?)\s*
    (?: (?:(?P<whole>[0-9]+)\s+)? (?P<above>[0-9]+)\s*/\s*(?P<below>[0-9]+)
      | (?:(?P<factor>{_DECIMAL})\s*(?:x|×|\*)\s*)? 10\s*\^\s*\{{?\s*(?P<power>[-+]?[0-9]{{1,4}})\s*\}}?
      | (?P<decimal>{_DECIMAL}) (?:e(?P<exponent>[-+]?[0-9]{{1,4}}))?
    )
    \s*(?P<after>[^\d\s].*)?""",
    re.VERBOSE | re.IGNORECASE,
)
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
"""Units that a number may have or lack; none is longer than a few words. None that could be a variable or a multiple:
2n, 3i and 5 million are texts."""


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

    Numbers are decimals, with thousands separators or without, `3/4`, `1 3/4`, `1.5e3`, `1.5 x 10^3` and `10^3`,
    exponents up to 300, in parentheses or not. They are the same when they are equal, or differ by less than
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
    above = int(match["above"] or 0)
    return _Number(-value if negative else value, unit, match["above"] is not None, above >= _FIRST_YEAR)


def _unit(before: str, after: str) -> str | None:
    """What a currency before a number and the words after it are; "" where nothing is there, None if not known."""
    names = ["".join(re.sub("[{}]", "", name).casefold().split()) for name in (before, after)]
    units = {name if name in _LETTERS else _UNITS.get(name) for name in names if name}
    return next(iter(units), "") if len(units) < 2 else None


def _value(match: re.Match[str]) -> Fraction | None:
    if match["above"]:
        below = int(match["below"])
        return int(match["whole"] or 0) + Fraction(int(match["above"]), below) if below else None
    exponent = int(match["exponent"] or match["power"] or 0)
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    digits = match["decimal"] or match["factor"] or "1"
    return Fraction(digits.replace(",", "").rstrip(".")) * Fraction(10) ** exponent
