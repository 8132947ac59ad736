"""What the runs allow to say: tables of differences, of spreads and of power."""

import math
from collections.abc import Sequence

from raymdm.comparison.document import Difference, Estimate, Report, Spread
from raymdm.comparison.metrics import Metric
from raymdm.comparison.tables import (
    NONE,
    Cell,
    Column,
    Table,
    build,
    difference_unit,
    estimate,
    naming,
    number,
    p_cell,
    spaced,
)

SMALL_NUMBER = "{:.2f}".format
COMMON = 3
"""Most common seeds that are named."""


def _signed(value: float) -> str:
    """With its sign, unless it rounds to zero."""
    text = f"{value:+.2f}"
    return text if text.strip("+-0.") else text[1:]


def difference_table(report: Report, metric: Metric, reference: str, brief: bool = False) -> Table:
    """A row for each method that is compared to the reference in the metric."""
    columns = [
        *naming(report),
        Column("Seeds", seeds),
        Column("Difference", lambda row: estimate(row.difference, metric.write_signed)),
        Column("g", lambda row: estimate(row.effect_size, _signed)),
        Column("Largest\np", lambda row: p_cell(row.p)),
        Column("p Holm", lambda row: p_cell(row.p_holm)),
        Column("p permu-\ntation", _permutation, brief=False),
        Column("p Welch", lambda row: _welch(row, metric), brief=False),
        Column("p crossed", lambda row: p_cell(row.p_crossed), brief=False),
        Column("p, these\nruns", lambda row: p_cell(row.p_examples), brief=False),
        Column("P(better)", lambda row: estimate(row.improvement, SMALL_NUMBER)),
        Column("Gap", lambda row: number(row.gap, metric.write_signed), brief=False),
        Column("Finding", lambda row: Cell(row.finding, note=spaced(row.why)), words=True),
    ]
    return build(columns, differences(report, metric, reference), brief)


def seeds(row: Difference) -> str:
    """`3 + 3`, or `1 + 1, seed 42 alone` where only the seeds that both have are compared."""
    text = f"{row.seeds[0]} + {row.seeds[1]}"
    if not row.common:
        return text
    shown = ", ".join(map(str, row.common)) if len(row.common) <= COMMON else f"{len(row.common)} common seeds"
    word = "" if len(row.common) > COMMON else "seed " if len(row.common) == 1 else "seeds "
    return f"{text},\n{word}{shown}\nalone"


def differences(report: Report, metric: Metric, reference: str) -> list[Difference]:
    return [row for row in report.differences if (row.metric, row.reference) == (metric.key, reference)]


def spreads(report: Report, metric: Metric, reference: str) -> list[Spread]:
    return [row for row in report.spreads if (row.metric, row.reference) == (metric.key, reference)]


def difference_notes(rows: list[Difference]) -> list[str]:
    """What the family of claims is, how the intervals were made, and which p values are estimates."""
    claims = sorted({row.claims for row in rows if row.p is not None})
    found = [f"p Holm is corrected for {_or(claims)} tested differences of this metric."] if claims else []
    ways = list(dict.fromkeys(row.difference.how for row in rows))
    found.append(f"Interval of the difference: {'; '.join(ways)}.")
    if any(row.common for row in rows):
        found.append(
            "alone: only the runs whose seeds both have are compared, so this is not the difference of the means "
            "over all their seeds."
        )
    return found + _estimated(rows)


def _or(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))


def _estimated(rows: Sequence[Difference | Spread]) -> list[str]:
    if not any(row.p_permutation is not None and not row.exact for row in rows):
        return []
    return ["~: estimated from random splits of the seeds; every other p of a permutation test is over all splits."]


def _permutation(row: Difference | Spread) -> str:
    text = p_cell(row.p_permutation)
    return Cell(f"~{text}", row.p_permutation) if row.p_permutation is not None and not row.exact else text


def _welch(row: Difference, metric: Metric) -> str:
    """Welch's p and, below it, Welch's interval of the difference where that is another."""
    if row.p_welch is None:
        return NONE
    if row.welch is None or _same(row.welch, row.difference):
        return p_cell(row.p_welch)
    interval = estimate(row.welch, metric.write_signed).splitlines()[1:]
    return Cell("\n".join([p_cell(row.p_welch), *interval]), row.p_welch)


def _same(one: Estimate, other: Estimate) -> bool:
    ends = ((one.low, other.low), (one.high, other.high))
    return all(a == b or (a is not None and b is not None and math.isclose(a, b, abs_tol=1e-12)) for a, b in ends)


def spread_table(report: Report, metric: Metric, reference: str, brief: bool = False) -> Table:
    """A row for each method whose standard deviation is compared to the reference's."""
    columns = [
        *naming(report),
        Column("Ratio\nof SDs", lambda row: estimate(row.ratio, SMALL_NUMBER)),
        Column("Larger\np", lambda row: p_cell(row.p)),
        Column("p Holm", lambda row: p_cell(row.p_holm)),
        Column("p permu-\ntation", _permutation, brief=False),
        Column("p Brown–\nForsythe", lambda row: p_cell(row.p_brown_forsythe), brief=False),
        Column("Smallest p\npossible", lambda row: p_cell(row.smallest_p), brief=False, once=True),
        Column("Finding", lambda row: Cell(row.finding, note=spaced(row.why)), words=True),
        Column("p equi-\nvalence", lambda row: p_cell(row.p_equivalence)),
        Column("Holm", lambda row: p_cell(row.p_equivalence_holm), brief=False),
        Column("Equivalence", lambda row: row.equivalence, words=True),
        Column("Seeds to show\nequivalence", lambda row: number(row.equivalence_seeds), brief=False, once=True),
    ]
    return build(columns, spreads(report, metric, reference), brief)


def spread_notes(rows: list[Spread]) -> list[str]:
    """What equivalent means, what the family is, how the intervals were made."""
    margins = sorted({row.margin for row in rows})
    claims = sorted({row.claims for row in rows if row.p is not None})
    found = [f"Equivalent: a ratio between {' or '.join(f'{1 / m:.2f} and {m:.2f}' for m in margins)}."]
    if claims:
        found.append(f"p Holm is corrected for {_or(claims)} tested ratios of this metric.")
    ways = list(dict.fromkeys(row.ratio.how for row in rows if row.ratio))
    found += [f"Interval of the ratio: {'; '.join(ways)}."] if ways else []
    return found + _estimated(rows)


def reasons(report: Report, rows: list[Difference] | list[Spread]) -> list[tuple[str, str]]:
    """By method, and task where there are several: what its finding rests on."""
    several = len(report.tasks) > 1
    return [(f"{row.label}, {row.task}" if several else row.label, row.why) for row in rows if row.why]


def power_table(report: Report, metric: Metric) -> Table:
    """What each comparison's number of seeds can show."""
    rows = [row for row in report.differences if row.metric == metric.key and row.power]
    columns = [
        *naming(report),
        Column("Against", lambda row: row.reference, words=True, once=True),
        Column("Seeds", lambda row: f"{row.seeds[0]} + {row.seeds[1]}", once=True),
        Column("Smallest p\npossible", lambda row: p_cell(row.power.smallest_p), once=True),
        Column("Alpha, first\nstep of Holm", lambda row: Cell(f"{row.power.alpha:.2g}", row.power.alpha), once=True),
        Column("SDs", lambda row: " and ".join(map(metric.write, row.power.sds))),
        Column("Difference\nobserved", lambda row: number(row.difference.value, metric.write_signed)),
        Column("Difference\ndetectable", lambda row: _or_none(number(row.power.detectable, metric.write))),
        Column("Seeds\nneeded", lambda row: _or_none(number(row.power.seeds_needed))),
    ]
    return build(columns, rows)


def _or_none(text: str) -> str:
    return "none" if text == NONE else text


def less(metric: Metric, reference: str) -> str:
    """Heading of a table of differences."""
    words = difference_unit(metric)
    return f"{metric.label} less that of {reference}" + (f", {words}" if words else "")
