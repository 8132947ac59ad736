"""A report's sections: which tables stand where, and what is said above and below them."""

from collections.abc import Sequence
from typing import NamedTuple

from raymdm.comparison import claim_tables as claims
from raymdm.comparison import level_tables as levels
from raymdm.comparison.document import Report
from raymdm.comparison.metrics import METRICS, Metric
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import Table, described, flat, level_name, naming, unit

EQUAL_ROWS = "val_nll_equal_rows"
"""Validation NLL where every method has spent the same model rows."""
FIRST = ("accuracy", "val_nll")
"""Metrics whose tables are open, beside the claims' own and those that raymdm does not know."""


class Block(NamedTuple):
    """A table under its heading."""

    title: str
    table: Table
    brief: Table
    """The same for a paper."""
    notes: list[str]
    brief_notes: list[str]
    reasons: Sequence[tuple[str, str]] = ()
    """By row: what the page has as a cell's note."""
    folded: bool = False
    numeric: bool = True


class Section(NamedTuple):
    """A part of the report; one without a table or a figure is left out."""

    name: str
    """Of its figures and its anchor."""
    title: str
    lead: str
    """What its columns are."""
    brief_lead: str
    """The same of the tables for a paper."""
    blocks: list[Block]


def main_metrics(report: Report, runs: Runs) -> list[Metric]:
    """The metrics that are shown first: the claims' own, accuracy, validation NLL, and those of a foreign table."""
    keys = list(dict.fromkeys([report.metric, *(row.metric for row in report.levels)]))
    known = [key for key in keys if key == report.metric or key in FIRST or key not in METRICS]
    return [described(runs, key) for key in known if key == report.metric or key != EQUAL_ROWS]


def sections(report: Report, runs: Runs) -> list[Section]:
    """All sections of numbers, in the order of the page; some may be empty."""
    main = main_metrics(report, runs)
    keys = {metric.key for metric in main} | {EQUAL_ROWS, *levels.COSTS}
    others = [described(runs, key) for key in dict.fromkeys(row.metric for row in report.levels) if key not in keys]
    results = _results(report, runs, main, others)
    return [
        _section("results", "Results", [f"Below each number its {level_name(report)} interval.", *RESULTS], results),
        _section("differences", "Differences", _difference_lead(report), _differences(report, main, others)),
        _section("spread", "Spread", SPREAD, _spreads(report, main, others)),
        _section("cost", "Compute and cost", _cost_lead(report, runs), _costs(report, runs)),
        _section("power", "Power", _power_lead(report), _power(report, main)),
        _section("looks", "Adaptive looks", LOOKS, _looks(report)),
        _section("curves", "Learning curves", [], []),
    ]


def _section(name: str, title: str, lead: Sequence[str | tuple[str, str]], blocks: list[Block]) -> Section:
    """`lead`: sentences, and by column what it is; what no table has is not said."""
    full = {flat(header) for block in blocks for header in block.table.headers}
    brief = {flat(header) for block in blocks for header in block.brief.headers}
    texts = [
        " ".join(part if isinstance(part, str) else part[1] for part in lead if isinstance(part, str) or part[0] in has)
        for has in (full, brief)
    ]
    return Section(name, title, texts[0], texts[1], blocks)


RESULTS = (
    ("IQM", "IQM: interquartile mean, a quarter of the runs cut off at each end."),
    ("SD", "SD: standard deviation over seeds (n - 1)."),
    ("Range", "Range: largest less smallest seed; its interval is that of the expected range of as many normal runs."),
)
DIFFERENCES = (
    "Differences of means; below each number its interval, which is not widened for the number of claims.",
    ("g", "g: difference in pooled standard deviations over seeds (Hedges)."),
    ("Largest p", "Largest p: two-sided, of a permutation test of Welch's t and of Welch's t test, both over seeds{}."),
    ("p Holm", "p Holm: the same, corrected for all claims."),
    ("p permutation", "p permutation, p Welch{}: its parts."),
    ("p, these runs", "p, these runs: paired t over test examples, which says nothing about other seeds."),
    ("P(better)", "P(better): probability that a run of the method beats one of the reference."),
    ("Gap", "Gap: worst run to the reference's best, positive where even the worst is better."),
)
CROSSED = (", and of the crossed t test, over seeds and test examples, where there are scores", ", p crossed")


def _difference_lead(report: Report) -> list[str | tuple[str, str]]:
    crossed = any(row.p_crossed is not None for row in report.differences)
    words = dict(zip(("Largest p", "p permutation"), CROSSED if crossed else ("", ""), strict=True))
    return [part if isinstance(part, str) else (part[0], part[1].format(words.get(part[0]))) for part in DIFFERENCES]


SPREAD = (
    "Standard deviation over seeds against the reference's: below 1 the method varies less.",
    ("Larger p", "Larger p: of a permutation test of the runs' deviations and of Brown and Forsythe's test."),
    ("p Holm", "p Holm: the same, corrected for all claims."),
    ("p permutation", "p permutation, p Brown–Forsythe: its two parts."),
    ("p equivalence", "p equivalence: the larger of two one-sided F tests."),
    ("Holm", "Holm: that p, corrected for all claims."),
)
LOOKS = ("Seeds were added as the results asked for; each look at them spent a share of alpha.",)


def _cost_lead(report: Report, runs: Runs) -> list[str | tuple[str, str]]:
    lead: list[str | tuple[str, str]] = ["Means over seeds."]
    if levels.rows_differ(report):
        lead.append(
            "Model rows differ, so this is not equal compute: a method of two views sends two model rows for each "
            "sequence."
        )
    lead.append(("Measured rows", "Measured rows: of refits and searches, in a run, beside its model rows."))
    lead.append(
        ("Calibration rows", "Calibration rows: once for all runs that share it, in no other number of this table.")
    )
    if report.costs and (rows := levels.same_cost(report, "model_rows")):
        metric = described(runs, report.metric).label
        each = f"{rows[0]:,.0f} model rows" if len(set(rows)) == 1 else "the same model rows on a task"
        lead.append(f"All methods spent {each}, so {metric.lower()} is not drawn against cost.")
    return lead


def _power_lead(report: Report) -> list[str | tuple[str, str]]:
    powers = [(row.seeds, row.power) for row in report.differences if row.power and row.metric == report.metric]
    targets = sorted({power.target for _, power in powers})
    target = " or ".join(f"{value:.0%}" for value in targets)
    lead: list[str | tuple[str, str]] = ["What the number of seeds can show."]
    if powers and all(power.detectable is None for _, power in powers):
        designs = list(dict.fromkeys(f"{ours} + {theirs}" for (ours, theirs), _ in powers))
        lead.append(f"With {' or '.join(designs)} seeds no difference whatever is detectable.")
    return [
        *lead,
        "Smallest p possible: the smallest that so many seeds can give.",
        "Alpha, first step of Holm: what the smallest p of all claims is held against.",
        f"Difference detectable: the difference of means that is found with {target} probability at these seeds and "
        "standard deviations, whatever the other claims are; none where no difference would do.",
        f"Seeds needed: of each method, to find the observed difference with {target} probability; none where 10,000 "
        "would not do.",
    ]


def _results(report: Report, runs: Runs, main: list[Metric], others: list[Metric]) -> list[Block]:
    blocks = [_levels(report, runs, metric, folded=metric not in main) for metric in [*main, *others]]
    for metric in main:
        runs_table = levels.seeds_table(report, runs, metric)
        long = "Seed: value" in runs_table.headers
        folded = long or metric.key != report.metric
        title = f"{unit(metric)}: every run"
        blocks.append(_block(title, runs_table, folded=folded, numeric=not long))
    blocks.append(_block("Methods", levels.methods_table(report, runs), numeric=False))
    return [block for block in blocks if block.table.rows]


def _levels(report: Report, runs: Runs, metric: Metric, *, folded: bool = False) -> Block:
    shown, brief = levels.level_table(report, metric), levels.level_table(report, metric, brief=True)
    notes, brief_notes = (levels.level_notes(report, runs, metric, table) for table in (shown, brief))
    return Block(unit(metric), shown, brief, notes, brief_notes, folded=folded)


def _block(title: str, table: Table, *, folded: bool = False, numeric: bool = True) -> Block:
    """A table that is the same for a paper."""
    notes = list(table.notes)
    return Block(title, table, table, notes, notes, folded=folded, numeric=numeric)


def references(report: Report) -> list[str]:
    """What methods are compared to: the baseline first, then the others in the order of the labels."""
    compared = {row.reference for row in report.differences} | {row.reference for row in report.spreads}
    return sorted((label for label in report.labels if label in compared), key=lambda label: label != report.baseline)


def _differences(report: Report, main: list[Metric], others: list[Metric]) -> list[Block]:
    blocks = []
    for metric in [*main, *others]:
        for reference in references(report):
            if rows := claims.differences(report, metric, reference):
                shown = claims.difference_table(report, metric, reference)
                brief = claims.difference_table(report, metric, reference, brief=True)
                notes, reasons = claims.difference_notes(rows), claims.reasons(report, rows)
                texts = [*shown.notes, *notes], [*brief.notes, *notes]
                folded = metric.key != report.metric and (metric not in main or reference != report.baseline)
                title = claims.less(metric, reference)
                blocks.append(Block(title, shown, brief, *texts, reasons, folded))
    return blocks


def _spreads(report: Report, main: list[Metric], others: list[Metric]) -> list[Block]:
    blocks = []
    for metric in [*main, *others]:
        for reference in references(report):
            if rows := claims.spreads(report, metric, reference):
                shown = claims.spread_table(report, metric, reference)
                brief = claims.spread_table(report, metric, reference, brief=True)
                notes, reasons = claims.spread_notes(rows), claims.reasons(report, rows)
                texts = [*shown.notes, *notes], [*brief.notes, *notes]
                title = f"{metric.label}: standard deviation over that of {reference}"
                folded = (metric.key, reference) != (report.metric, report.baseline)
                blocks.append(Block(title, shown, brief, *texts, reasons, folded))
    return blocks


def _costs(report: Report, runs: Runs) -> list[Block]:
    cost, brief = levels.cost_table(report), levels.cost_table(report, brief=True)
    equal = levels.equal_compute_table(report)
    names = len(naming(report))
    blocks = []
    if len(cost.headers) > names:
        blocks.append(Block(levels.cost_title(report), cost, brief, [], []))
    if len(equal.headers) > names:
        title = f"Variances per model row, times those of {report.baseline}"
        blocks.append(_block(title, equal)._replace(notes=[VARIANCES], brief_notes=[VARIANCES]))
    if any(row.metric == EQUAL_ROWS != report.metric for row in report.levels):
        metric = described(runs, EQUAL_ROWS)
        blocks.append(_levels(report, runs, metric))
        blocks += _differences(report, [metric], [])
    return blocks


VARIANCES = "Over windows of the runs as trained, each at its own parameters; not tested."


def _power(report: Report, main: list[Metric]) -> list[Block]:
    tables = [(metric, claims.power_table(report, metric)) for metric in main]
    return [_block(unit(metric), table, folded=metric.key != report.metric) for metric, table in tables if table.rows]


def _looks(report: Report) -> list[Block]:
    table = levels.looks_table(report)
    return [_block("", table)] if table.rows else []
