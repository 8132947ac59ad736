"""What the runs of each method gave: tables of levels, of single runs, of cost and of what a method is."""

from collections import Counter
from collections.abc import Iterable, Sequence

from raymdm.comparison.document import Cost, Estimate, Level, Report
from raymdm.comparison.metrics import METRICS, Metric, significant
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import (
    NONE,
    Cell,
    Column,
    Table,
    baseline_first,
    build,
    counted,
    described,
    estimate,
    method_name,
    mixes_bounds,
    naming,
    number,
)
from raymdm.config.schema import MethodSpec

SEED_COLUMNS = 10
"""Most seeds that have a column each."""
IQM_SEEDS = 4
"""Fewest seeds of which the interquartile mean leaves any out."""
ALIKE = 0.01
"""Costs closer than this, relative to the largest, are one."""
COSTS = ("model_rows", "measured_rows", "steps", "best_step", "train_seconds", "evaluate_seconds", "wall_seconds",
         "energy_wh")  # fmt: skip
"""Metrics that the table of costs shows."""


def level_table(report: Report, metric: Metric, brief: bool = False) -> Table:
    """A row a method: mean, median, IQM, standard deviation and range, each with its interval.

    The IQM is left out where no method has four seeds: it is their mean.
    """
    rows = _levels(report, metric)
    columns = [
        *naming(report, exact=mixes_bounds(report, metric)),
        Column("Seeds", lambda row: number(len(row.seeds))),
        Column("Mean", lambda row: estimate(row.mean, metric.write)),
        Column("Median", lambda row: estimate(row.median, metric.write), brief=False),
        Column("IQM", lambda row: estimate(row.iqm, metric.write)),
        Column("SD", lambda row: estimate(row.sd, metric.write)),
        Column(
            "Smallest to\nlargest", lambda row: Cell(f"{metric.write(row.low)} to {metric.write(row.high)}", row.low)
        ),
        Column("Range", lambda row: estimate(row.range, metric.write), brief=False),
    ]
    if max((len(row.seeds) for row in rows), default=0) < IQM_SEEDS:
        columns = [column for column in columns if column.header != "IQM"]
    return build(columns, rows, brief)


def level_notes(report: Report, runs: Runs, metric: Metric, shown: Table) -> list[str]:
    """How the intervals of the table's columns were made, and which methods have no mean."""
    rows = _levels(report, metric)
    parts: dict[str, list[tuple[Level, Estimate | None]]] = {
        "Mean": [(row, row.mean) for row in rows],
        "Median": [(row, row.median) for row in rows],
        "IQM": [(row, row.iqm) for row in rows],
        "SD": [(row, row.sd) for row in rows],
        "Range": [(row, row.range) for row in rows],
    }
    ways: dict[str, list[str]] = {}
    for name, estimates in parts.items():
        if name in shown.headers and any(found for _, found in estimates):
            ways.setdefault(_ways(estimates), []).append(name)
    intervals = [f"{', '.join(names)}: {way}." for way, names in ways.items()]
    reported = runs.table[runs.table["metric"] == metric.key]
    measured = {(row.task, row.label) for row in rows}
    without = [
        label if len(report.tasks) == 1 else f"{label} on {task}"
        for task, label in dict.fromkeys(zip(reported["task"], reported["label"], strict=True))
        if (task, label) not in measured
    ]
    return intervals + ([f"No mean of {', '.join(without)}: see the notes below."] if without else [])


def _ways(estimates: Iterable[tuple[Level, Estimate | None]]) -> str:
    """How the estimates of a column were made; the rarer ways with how many rows they are."""
    counts = Counter(found.how for _, found in estimates if found is not None)
    (first, _), *others = counts.most_common()
    return "; ".join([first, *(f"{how} ({counted(count, 'row')})" for how, count in others)])


def _levels(report: Report, metric: Metric) -> list[Level]:
    return baseline_first(report, [row for row in report.levels if row.metric == metric.key])


def seeds_table(report: Report, runs: Runs, metric: Metric) -> Table:
    """The metric of every run: a column a seed or, for many seeds, one list a method."""
    rows = runs.table[runs.table["metric"] == metric.key]
    cells = sorted(
        dict.fromkeys(zip(rows["task"], rows["label"], strict=True)),
        key=lambda cell: (report.tasks.index(cell[0]), cell[1] != report.baseline),
    )
    exact = mixes_bounds(report, metric)
    values = {cell: runs.values(*cell, metric.key) for cell in cells}
    several = len(report.tasks) > 1
    names = [[method_name(label, report, exact), *([task] if several else [])] for task, label in cells]
    heads = ["Method", *(["Task"] if several else [])]
    seeds = sorted({seed for found in values.values() for seed in found})
    if len(seeds) <= SEED_COLUMNS:
        lines = [[_run(values[cell].get(seed), metric) for seed in seeds] for cell in cells]
        table = [[*name, *line] for name, line in zip(names, lines, strict=True)]
        return Table([*heads, *(f"Seed {seed}" for seed in seeds)], table, words=(1,) if several else ())
    lists = [", ".join(f"{seed}: {_run(value, metric)}" for seed, value in values[cell].items()) for cell in cells]
    table = [[*name, line] for name, line in zip(names, lists, strict=True)]
    return Table([*heads, "Seed: value"], table, words=(1, 2))


def _run(value: float | None, metric: Metric) -> str:
    if value is None:
        return NONE
    return number(value, metric.write) if abs(value) < float("inf") else "not finite"


def methods_table(report: Report, runs: Runs) -> Table:
    known = [label for label in report.labels if label in runs.specs]
    rows = [[method_name(label, report), _description(runs.specs[label])] for label in known]
    return Table(["Method", "What it is"], rows)


def _description(method: MethodSpec) -> str:
    """The preset's sentence, or the parts of a composed method; and whether it is biased.

    Which method is the baseline is the comparison's to say, not the preset's.
    """
    text = method.description.removesuffix(": the baseline")
    return f"{text} (biased: {method.biased})" if method.biased else text


def cost_title(report: Report) -> str:
    """What the runs that are compared have in common: compute, steps or neither."""
    rows, steps = same_cost(report, "model_rows"), same_cost(report, "steps")
    if rows:
        return "At equal compute" + (f": {rows[0]:,.0f} model rows each" if _spans(rows) <= ALIKE else "")
    if steps:
        return "At equal steps" + (f": {steps[0]:,.0f} each" if _spans(steps) <= ALIKE else "")
    return "As run"


def same_cost(report: Report, field: str) -> list[float]:
    """What the methods of each task all spent, a number a task; empty where they differ or any is not known."""
    found = []
    for task in report.tasks:
        values = [getattr(cost, field) for cost in report.costs if cost.task == task]
        if len(values) < 2 or not all(values) or _spans(values) > ALIKE:
            return []
        found.append(values[0])
    return found


def rows_differ(report: Report) -> bool:
    """Whether two methods of a task are known to have spent different numbers of model rows."""
    known = [[c.model_rows for c in report.costs if c.task == task and c.model_rows] for task in report.tasks]
    return any(values and _spans(values) > ALIKE for values in known)


def _spans(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / max(values)


def cost_table(report: Report, brief: bool = False) -> Table:
    """Compute, wall time and energy a run."""
    columns = [
        *naming(report),
        Column("Views a\nsequence", lambda row: number(row.views), brief=False),
        Column("Model rows", lambda row: number(row.model_rows)),
        Column(f"Rows, times\n{report.baseline}", lambda row: number(row.relative_rows, "{:.2f}".format)),
        Column("Measured\nrows", lambda row: number(row.measured_rows), brief=False),
        Column("Calibration\nrows", lambda row: number(row.calibration_rows), brief=False),
        Column("Steps", lambda row: number(row.steps)),
        Column("Best step", lambda row: number(row.best_step), brief=False),
        Column("Train\ntime", lambda row: _time(row, "train_seconds")),
        Column("Evaluation\ntime", lambda row: _time(row, "evaluate_seconds"), brief=False),
        Column("Run time", lambda row: _time(row, "wall_seconds"), brief=False),
        Column("Energy,\nWh", lambda row: number(row.energy_wh, significant)),
    ]
    return build(columns, baseline_first(report, report.costs), brief)


def _time(row: Cost, metric: str) -> str:
    return number(getattr(row, metric), METRICS[metric].write)


def equal_compute_table(report: Report) -> Table:
    """Variances per model row, over the baseline's."""
    ratio = "{:.2f}".format
    columns = [
        *naming(report),
        Column("Loss\nvariance", lambda row: number(row.loss_variance, ratio)),
        Column("Back-propagated\nvariance", lambda row: number(row.backprop_variance, ratio)),
    ]
    return build(columns, baseline_first(report, report.costs))


def looks_table(report: Report) -> Table:
    """A row a look at an adaptive sweep."""
    rows = []
    for place, look in enumerate(report.looks, start=1):
        counts = set(look.runs.values())
        each = f"{counted(counts.pop(), 'seed')} of each method" if len(counts) == 1 else ""
        text = each or ", ".join(f"{label} {count}" for label, count in look.runs.items())
        spent = sum(earlier.alpha for earlier in report.looks[:place])
        rows.append([str(place), text, f"{look.alpha:.4f}", f"{spent:.4f}"])
    return Table(["Look", "Seeds that had ended", "Alpha spent\nat this look", "Alpha spent\nso far"], rows, words=(1,))


def metrics_table(runs: Runs) -> Table:
    """The metrics that the runs reported and how each is obtained."""
    reported = [key for key in runs.table["metric"].unique() if key in METRICS or key in runs.metrics]
    order = [key for key in METRICS if key in reported] + [key for key in reported if key not in METRICS]
    found = [described(runs, key) for key in order]
    return Table(["Number", "Unit", "How it is obtained"], [[m.label, m.unit or NONE, m.how or NONE] for m in found])
