"""Sentences of a report, each made from one test or one number of it."""

from raymdm.comparison.document import Cost, Difference, Report, Spread
from raymdm.comparison.metrics import Metric
from raymdm.comparison.runs import Runs


def headline(report: Report, runs: Runs) -> str:
    """How many claims of the report's metric are findings, in one sentence."""
    if report.baseline is None:
        return runs.not_compared
    claims = [found for found in report.differences if found.metric == report.metric and found.role == "baseline"]
    if not claims:
        return (
            f"No method is compared: none has {runs.metric.label.lower()} of its own and of {report.baseline}'s runs."
        )
    kinds = ("better", "worse", "not distinguishable", "not supported by this many seeds", "not tested")
    counts = [(sum(found.finding == kind for found in claims), kind) for kind in kinds]
    told = ", ".join(f"{count} {kind}" for count, kind in counts if count)
    number = f"{len(claims)} comparison{'s' if len(claims) > 1 else ''}"
    return f"{runs.metric.label} against {report.baseline}: of {number}, {told}."


def verdicts(report: Report, runs: Runs) -> dict[str, list[str]]:
    """By label, in the report's order; a label about which nothing can be said is left out."""
    found: dict[str, list[str]] = {}
    for label in report.labels:
        sentences = [_difference(d, runs, report) for d in report.differences if _told(d, label, report)]
        sentences += [_spread(s, report) for s in report.spreads if s.label == label]
        sentences += [text for cost in report.costs if cost.label == label for text in _cost(cost, report)]
        if sentences:
            found[label] = sentences
    return found


def _told(difference: Difference, label: str, report: Report) -> bool:
    """Of the metrics of the loss only the validation NLL, and only to the baseline."""
    return difference.label == label and (
        difference.metric == report.metric or (difference.metric == "val_nll" and difference.role == "baseline")
    )


def _on(task: str, report: Report) -> str:
    return f"On {task}: " if len(report.tasks) > 1 else ""


def _difference(found: Difference, runs: Runs, report: Report) -> str:
    metric, estimate = runs.metrics[found.metric], found.difference
    size = f"{metric.write_signed(estimate.value)}{_unit(metric)}"
    if estimate.low is not None and estimate.high is not None:
        low, high = metric.write_signed(estimate.low), metric.write_signed(estimate.high)
        size += f" ({100 * report.confidence:.3g}% interval {low} to {high})"
    start = _place(_name(metric), found.task, report)
    return f"{start} {size} to {found.reference}: {_reading(found)} ({found.why})."


def _reading(found: Difference) -> str:
    text: str = found.finding
    if found.finding == "better" and found.gap > 0:
        text += f", its worst run above the best of {found.reference}"
    return text


def _name(metric: Metric) -> str:
    """The label inside a sentence."""
    return metric.label[:1].lower() + metric.label[1:]


def _place(name: str, task: str, report: Report) -> str:
    text = f"{_on(task, report)}{name}"
    return text[0].upper() + text[1:]


def _unit(metric: Metric) -> str:
    unit = "points" if metric.unit == "%" else metric.unit
    return f" {unit}" if unit else ""


def _spread(found: Spread, report: Report) -> str:
    start = _place("spread over seeds", found.task, report)
    if found.ratio is None:
        return f"{start} against {found.reference}: {found.finding} ({found.why})."
    size = f"{found.ratio.value:.2g} times that of {found.reference}"
    if found.ratio.low is not None and found.ratio.high is not None:
        size += f" ({found.ratio.low:.2g} to {found.ratio.high:.2g})"
    equivalence = {
        "equivalent": f"equivalent within a factor of {found.margin:g}",
        "not shown equivalent": f"not shown equivalent within a factor of {found.margin:g}",
        "not supported by this many seeds": (
            f"equivalence within a factor of {found.margin:g} is not supported by this many seeds"
        ),
        "not tested": "equivalence not tested",
    }[found.equivalence]
    finding = f"a difference is {found.finding}" if found.finding.startswith("not") else found.finding
    return f"{start} {size}: {finding}; {equivalence}."


def _cost(cost: Cost, report: Report) -> list[str]:
    sentences = []
    if cost.relative_rows is not None and not 0.95 < cost.relative_rows < 1.05:
        text = (
            f"it used {cost.relative_rows:.2f} times the model rows of {report.baseline}, so this is not equal compute"
        )
        sentences.append(f"{_place(text, cost.task, report)}.")
    if cost.backprop_variance is not None and cost.label != report.baseline:
        text = f"back-propagated variance at equal compute {cost.backprop_variance:.2f} times that of {report.baseline}"
        sentences.append(f"{_place(text, cost.task, report)}.")
    return sentences
