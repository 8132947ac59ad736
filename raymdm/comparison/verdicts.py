"""Sentences of a report, each made from one test, from several with one finding, or from one number of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from raymdm.comparison.document import Cost, Difference, Report, Spread
from raymdm.comparison.metrics import Metric, p_value
from raymdm.comparison.runs import Runs

FINDINGS = ("better", "worse", "not distinguishable", "not supported by this many seeds", "not tested")
EQUAL_ROWS = "val_nll_equal_rows"
"""Validation NLL where every method has spent the same model rows."""
ROWS_DIFFER = 0.05
"""Relative difference of model rows from which two methods are not at equal compute."""
NAMED = 6
"""Most names in one list."""
Claim = TypeVar("Claim", Difference, Spread)


def headline(report: Report, runs: Runs) -> str:
    """Which methods the claims of the report's metric find better or worse than the baseline, and which not."""
    if report.baseline is None:
        return runs.not_compared
    claims = [found for found in report.differences if found.metric == report.metric and found.role == "baseline"]
    if not claims:
        return (
            f"No method is compared: none has {runs.metric.label.lower()} of its own and of {report.baseline}'s runs."
        )
    told = []
    for kind in FINDINGS:
        names = [
            _with_tasks(
                label, [found.task for found in claims if (found.label, found.finding) == (label, kind)], report
            )
            for label in report.labels
            if any((found.label, found.finding) == (label, kind) for found in claims)
        ]
        if names:
            told.append(f"{kind}: {_listed(names)}")
    return f"{runs.metric.label} against {report.baseline} – {'; '.join(told)}."


def _with_tasks(label: str, tasks: list[str], report: Report) -> str:
    if len(report.tasks) == 1:
        return label
    return f"{label} (all tasks)" if len(tasks) == len(report.tasks) else f"{label} ({', '.join(tasks)})"


def _listed(names: Sequence[str]) -> str:
    """`a, b and 3 more`."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def verdicts(report: Report, runs: Runs) -> dict[str, list[str]]:
    """By label, in the report's order; a label about which nothing can be said is left out.

    Claims against the baseline come first, one sentence each. Those against ARMs and those of spread follow, those with
    one finding in one sentence.
    """
    found: dict[str, list[str]] = {}
    for label in report.labels:
        claims = [row for row in report.differences if row.label == label]
        spreads = [row for row in report.spreads if row.label == label and row.metric == report.metric]
        costs = [row for row in report.costs if row.label == label]
        own = [row for row in claims if row.metric == report.metric]
        sentences = [
            *(_difference(row, runs, report) for row in own if row.role != "arm"),
            *_losses(claims, costs, runs, report),
            *_costs(costs, _rows, report),
            *_against_arms([row for row in own if row.role == "arm"], runs, report),
            *_spreads([row for row in spreads if row.role != "arm"], report),
            *_spreads([row for row in spreads if row.role == "arm"], report),
            *_costs(costs, _variance, report),
        ]
        if sentences:
            found[label] = sentences
    return found


def _losses(claims: list[Difference], costs: list[Cost], runs: Runs, report: Report) -> Iterable[str]:
    """The validation NLL against the baseline; at equal compute too where the model rows differ."""
    unequal = {cost.task for cost in costs if _unequal(cost)}
    for claim in claims:
        told = claim.metric == "val_nll" or (claim.metric == EQUAL_ROWS and claim.task in unequal)
        if told and claim.role == "baseline" and claim.metric != report.metric:
            yield _difference(claim, runs, report)


def _unequal(cost: Cost) -> bool:
    return cost.relative_rows is not None and abs(cost.relative_rows - 1) > ROWS_DIFFER


def _difference(found: Difference, runs: Runs, report: Report) -> str:
    metric = runs.metrics[found.metric]
    size = f"{_size(found, metric)}{_unit(metric)}{_interval(found, metric, report)}"
    start = _place(_name(metric), [found.task], report)
    return f"{start} {size} against {found.reference}: {_reading(found)} ({found.why})."


def _size(found: Difference, metric: Metric) -> str:
    return metric.write_signed(found.difference.value)


def _interval(found: Difference, metric: Metric, report: Report) -> str:
    estimate = found.difference
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = metric.write_signed(estimate.low), metric.write_signed(estimate.high)
    return f" ({100 * report.confidence:.3g}% interval {low} to {high})"


def _reading(found: Difference) -> str:
    text: str = found.finding
    if found.finding == "better" and found.gap > 0:
        text += f", its worst run better than the best of {found.reference}"
    return text


def _against_arms(claims: list[Difference], runs: Runs, report: Report) -> Iterable[str]:
    """One sentence a finding."""
    metric = runs.metrics[report.metric]
    for group in _groups(claims, lambda row: row.finding):
        if len(group) == 1:
            yield _difference(group[0], runs, report)
            continue
        found = group[0].finding
        sizes = [f"{_cell(row, report)} {_size(row, metric)}{_unit(metric)}" for row in group]
        told = f" ({_listed(sizes)})" if found in ("better", "worse") else ""
        yield f"{_about(group, report)}: {found}{told}{_shared(group)}."


def _groups(claims: Iterable[Claim], key: Callable[[Claim], object]) -> list[list[Claim]]:
    groups: dict[object, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(key(claim), []).append(claim)
    return list(groups.values())


def _cell(found: Difference | Spread, report: Report) -> str:
    return f"{found.reference} on {found.task}" if len(report.tasks) > 1 else found.reference


def _about(group: Sequence[Difference | Spread], report: Report) -> str:
    """`Against 3 ARMs on 3 tasks, 9 claims`, or the names where that says no more than they do."""
    references = list(dict.fromkeys(row.reference for row in group))
    tasks = list(dict.fromkeys(row.task for row in group))
    several = len(references) > 1
    whom = f"{len(references)} ARMs" if several and group[0].role == "arm" else ", ".join(references)
    where = f" on {_tasks(tasks, report)}" if len(report.tasks) > 1 else ""
    return f"Against {whom}{where}, {len(group)} claims"


def _tasks(tasks: list[str], report: Report) -> str:
    return (
        f"{len(tasks)} tasks" if len(tasks) > 3 or (len(tasks) > 1 and tasks == report.tasks) else " and ".join(tasks)
    )


def _shared(group: Sequence[Difference | Spread]) -> str:
    """What the findings of a group rest on."""
    finding = group[0].finding
    if finding == "not tested":
        reasons = list(dict.fromkeys(row.why for row in group if row.why))
        return f" ({'; '.join(reasons[:3])}{' …' if len(reasons) > 3 else ''})" if reasons else ""
    adjusted = [row.p_holm for row in group if row.p_holm is not None]
    if finding == "not supported by this many seeds":
        return _at_best(group)
    if not adjusted:
        return ""
    end = f"at most {p_value(max(adjusted))}" if finding in _FOUND else f"at least {p_value(min(adjusted))}"
    return f" (p {end.replace('at most <', '<')} after Holm over {group[0].claims} claims)"


_FOUND = ("better", "worse", "smaller", "larger")


def _at_best(group: Sequence[Difference | Spread]) -> str:
    """What so many seeds could have shown."""
    smallest = [p for row in group if (p := _smallest(row)) is not None]
    if not smallest:
        return ""
    counts = {row.seeds for row in group}
    first, second = next(iter(counts))
    who = f"{first} seeds each" if len(counts) == 1 and first == second else "so many seeds"
    claims = group[0].claims
    family = f" before Holm over {claims} claims" if claims > 1 else ""
    return f" ({who} reach p {p_value(min(smallest))} at best{family})"


def _smallest(found: Difference | Spread) -> float | None:
    if isinstance(found, Spread):
        return found.smallest_p
    return found.power.smallest_p if found.power else None


def _spreads(rows: list[Spread], report: Report) -> Iterable[str]:
    """One sentence a finding; a claim of its own where it is alone."""
    for group in _groups(rows, lambda row: (row.finding, row.equivalence)):
        if len(group) == 1:
            yield _spread(group[0], report)
            continue
        ratios = [row.ratio.value for row in group if row.ratio]
        size = f", ratios of {_ratio(min(ratios))} to {_ratio(max(ratios))}" if ratios else ""
        about = _about(group, report).replace("Against", "Spread over seeds against", 1)
        yield f"{about}{size}: {group[0].finding}{_shared(group)}{_equivalence(group[0])}."


def _spread(found: Spread, report: Report) -> str:
    start = _place("spread over seeds", [found.task], report)
    if found.ratio is None:
        return f"{start} against {found.reference}: {found.finding} ({found.why})."
    size = f"{_ratio(found.ratio.value)} times that of {found.reference}"
    if found.ratio.low is not None and found.ratio.high is not None:
        size += f" ({_ratio(found.ratio.low)} to {_ratio(found.ratio.high)})"
    return f"{start} {size}: {found.finding}{_test(found)}{_equivalence(found)}."


def _test(found: Spread) -> str:
    if found.p is None or found.p_holm is None:
        return f" ({found.why})" if found.why else ""
    family = f", {p_value(found.p_holm)} after Holm over {found.claims} claims" if found.claims > 1 else ""
    unsupported = found.finding == "not supported by this many seeds" and found.smallest_p is not None
    best = f"; so many seeds reach {p_value(found.smallest_p or 0)} at best" if unsupported else ""
    return f" (p {p_value(found.p)}{family}{best})"


def _equivalence(found: Spread) -> str:
    """A difference that is not found is not yet equality, so both are said."""
    factor = f"within a factor of {found.margin:g}"
    holm = found.p_equivalence_holm
    p = "" if holm is None else f" (p {p_value(holm)}{' after Holm' if found.claims > 1 else ''})"
    return {
        "equivalent": f"; equivalent {factor}{p}",
        "not shown equivalent": f"; not shown equivalent {factor}{p}",
        "not supported by this many seeds": f"; equivalence {factor} is not supported by this many seeds either"
        if found.finding == "not supported by this many seeds"
        else f"; equivalence {factor} is not supported by this many seeds",
        "not tested": "",
    }[found.equivalence]


def _ratio(value: float) -> str:
    """Two digits, trailing zeros kept: `0.60`, `4.0`, `41`."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:#.2g}".removesuffix(".")


def _rows(cost: Cost, report: Report) -> str:
    if cost.relative_rows is None or not _unequal(cost):
        return ""
    times = f"{cost.relative_rows:.2f} times the model rows of {report.baseline}"
    return f"it used {times}, so this is not equal compute"


def _variance(cost: Cost, report: Report) -> str:
    if cost.backprop_variance is None or cost.label == report.baseline:
        return ""
    times = f"{cost.backprop_variance:.2f} times that of {report.baseline}"
    return f"back-propagated variance {times} per model row, over windows of the runs as trained; not tested"


def _costs(costs: list[Cost], tell: Callable[[Cost, Report], str], report: Report) -> Iterable[str]:
    """A sentence for all tasks of which it holds."""
    told: dict[str, list[str]] = {}
    for cost in costs:
        if text := tell(cost, report):
            told.setdefault(text, []).append(cost.task)
    for text, tasks in told.items():
        yield f"{_place(text, tasks, report)}."


def _name(metric: Metric) -> str:
    """The label inside a sentence."""
    return metric.label[:1].lower() + metric.label[1:]


def _place(name: str, tasks: list[str], report: Report) -> str:
    text = f"On {_tasks(tasks, report)}: {name}" if len(report.tasks) > 1 else name
    return text[0].upper() + text[1:]


def _unit(metric: Metric) -> str:
    unit = "points" if metric.unit == "%" else metric.unit
    return f" {unit}" if unit else ""
