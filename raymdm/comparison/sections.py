"""A report's sections: which tables stand where, and what is said above and below them."""

from collections.abc import Sequence
from typing import NamedTuple

from raymdm.comparison import claim_tables as claims
from raymdm.comparison import level_tables as levels
from raymdm.comparison.document import Report
from raymdm.comparison.metrics import METRICS, Metric
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import Table, described, level_name, naming, unit

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
    return [
        Section("results", "Results", _results_lead(report), _results(report, runs, main, others)),
        Section("differences", "Differences", DIFFERENCES, _differences(report, main, others)),
        Section("spread", "Spread", SPREAD, _spreads(report, main, others)),
        Section("cost", "Compute and cost", COST, _costs(report, runs)),
        Section("power", "Power", _power_lead(report), _power(report, main)),
        Section("looks", "Adaptive looks", LOOKS, _looks(report)),
        Section("curves", "Learning curves", "", []),
    ]


def _results_lead(report: Report) -> str:
    return (
        f"Below each number its {level_name(report)} interval. IQM: interquartile mean, a quarter of the runs cut "
        "off at each end. SD: standard deviation over seeds (n - 1). Range: largest less smallest seed."
    )


DIFFERENCES = (
    "Differences of means; below each number its interval. g: difference in pooled standard deviations over seeds "
    "(Hedges). p: permutation test of Welch's t over seeds, two-sided. p Holm: the same, corrected for all claims. "
    "Welch: p and interval of Welch's t. p, these runs: paired t over test examples, which says nothing about other "
    "seeds. P(better): probability that a run of the method beats one of the reference. Gap: worst run to the "
    "reference's best, positive where even the worst is better."
)
SPREAD = (
    "Standard deviation over seeds against the reference's: below 1 the method varies less. p: permutation test of the "
    "runs' deviations. p equivalence: the larger of two one-sided F tests."
)
COST = "Means over seeds. Equal steps are not equal compute: a mirrored method sends two model rows for each sequence."
LOOKS = "Seeds were added as the results asked for; each look at them spent a share of alpha."


def _power_lead(report: Report) -> str:
    targets = sorted({row.power.target for row in report.differences if row.power})
    target = " or ".join(f"{value:.0%}" for value in targets)
    return (
        "What the number of seeds can show. Smallest p: the smallest that so many seeds can give. Detectable: the "
        f"difference of means that is found with {target} probability at these seeds and standard deviations. Seeds "
        f"needed: of each method, to find the observed difference with {target} probability. A cell is "
        "empty where no difference, or no number of seeds up to 10,000, would do."
    )


def _results(report: Report, runs: Runs, main: list[Metric], others: list[Metric]) -> list[Block]:
    blocks = []
    for metric in [*main, *others]:
        shown, brief = levels.level_table(report, metric), levels.level_table(report, metric, brief=True)
        notes = levels.level_notes(report, runs, metric)
        blocks.append(Block(unit(metric), shown, brief, notes, folded=metric not in main))
    for metric in main:
        runs_table = levels.seeds_table(report, runs, metric)
        long = "Seed: value" in runs_table.headers
        folded = long or metric.key != report.metric
        title = f"{unit(metric)}: every run"
        blocks.append(Block(title, runs_table, runs_table, [], folded=folded, numeric=not long))
    methods = levels.methods_table(report, runs)
    blocks.append(Block("Methods", methods, methods, [], numeric=False))
    return [block for block in blocks if block.table.rows]


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
                folded = metric.key != report.metric and (metric not in main or reference != report.baseline)
                blocks.append(Block(claims.less(metric, reference), shown, brief, notes, reasons, folded))
    return blocks


def _spreads(report: Report, main: list[Metric], others: list[Metric]) -> list[Block]:
    blocks = []
    for metric in [*main, *others]:
        for reference in references(report):
            if rows := claims.spreads(report, metric, reference):
                shown = claims.spread_table(report, metric, reference)
                brief = claims.spread_table(report, metric, reference, brief=True)
                notes, reasons = claims.spread_notes(rows), claims.reasons(report, rows)
                title = f"{metric.label}: standard deviation over that of {reference}"
                folded = (metric.key, reference) != (report.metric, report.baseline)
                blocks.append(Block(title, shown, brief, notes, reasons, folded))
    return blocks


def _costs(report: Report, runs: Runs) -> list[Block]:
    cost, brief = levels.cost_table(report), levels.cost_table(report, brief=True)
    equal = levels.equal_compute_table(report)
    names = len(naming(report))
    blocks = [Block("At equal steps", cost, brief, [])] if len(cost.headers) > names else []
    if len(equal.headers) > names:
        blocks.append(Block(f"At equal compute, times {report.baseline}", equal, equal, []))
    if any(row.metric == EQUAL_ROWS != report.metric for row in report.levels):
        metric = described(runs, EQUAL_ROWS)
        shown, brief = levels.level_table(report, metric), levels.level_table(report, metric, brief=True)
        notes = levels.level_notes(report, runs, metric)
        blocks.append(Block(unit(metric), shown, brief, notes))
        blocks += _differences(report, [metric], [])
    return blocks


def _power(report: Report, main: list[Metric]) -> list[Block]:
    tables = [(metric, claims.power_table(report, metric)) for metric in main]
    return [
        Block(unit(metric), table, table, [], folded=metric.key != report.metric)
        for metric, table in tables
        if table.rows
    ]


def _looks(report: Report) -> list[Block]:
    table = levels.looks_table(report)
    return [Block("", table, table, [])] if table.rows else []
