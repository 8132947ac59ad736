"""Answers to what may be asked of a comparison (`raymdm.config.criteria`), from its report alone."""

from typing import NamedTuple

from raymdm.comparison.document import Difference, Level, Report, Spread
from raymdm.comparison.metrics import METRICS, significant
from raymdm.config.criteria import Atom, Criterion
from raymdm.errors import UserError


class Answer(NamedTuple):
    """Whether it holds, and the numbers that say so."""

    holds: bool
    why: str


def answers(report: Report, criterion: Criterion) -> tuple[bool, list[str]]:
    """Whether a whole criterion holds, and a reason for each of its questions; raises UserError as `answer` does."""
    found = {atom: answer(report, atom) for atom in criterion.atoms}
    holds = criterion.holds(lambda atom: found[atom].holds)
    return holds, [f"{atom}: {'yes' if each.holds else 'no'}: {each.why}" for atom, each in found.items()]


def answer(report: Report, atom: Atom) -> Answer:
    """The answer to one question; with several tasks it must hold on each that has both methods.

    Raises UserError where the report has no such method, metric or comparison.
    """
    for name in atom.methods:
        if name not in report.labels:
            raise UserError(f"{atom}: no method {name!r} in the results. Known: {', '.join(report.labels)}")
    if atom.function == "halfwidth":
        return _halfwidth(report, atom)
    a, b = atom.arguments
    if atom.function == "equivalent_spread":
        spreads = [s for s in report.spreads if s.metric == report.metric and {s.label, s.reference} == {a, b}]
        return _each(report, atom, [(s.equivalence == "equivalent", _spread(s)) for s in spreads])
    found = [d for d in report.differences if d.metric == report.metric and {d.label, d.reference} == {a, b}]
    holds = {"decided": _decided, "better": _better, "dominates": _dominates}[atom.function]
    return _each(report, atom, [(holds(d, a), _difference(d) + _gap(d, atom)) for d in found])


def _each(report: Report, atom: Atom, found: list[tuple[bool, str]]) -> Answer:
    if not found:
        raise UserError(f"{atom}: the two share no task with {report.metric} of both, so they were not compared")
    return Answer(all(holds for holds, _ in found), "; ".join(why for _, why in found))


def _decided(difference: Difference, first: str) -> bool:
    return difference.finding in ("better", "worse")


def _better(difference: Difference, first: str) -> bool:
    return difference.finding == ("better" if difference.label == first else "worse")


def _dominates(difference: Difference, first: str) -> bool:
    """A finding too: of one seed each, one is always above the other."""
    gap = difference.gap if difference.label == first else difference.gap_back
    return gap > 0 and _better(difference, first)


def _difference(difference: Difference) -> str:
    return f"{difference.task}: {difference.label} to {difference.reference}: {difference.finding} ({difference.why})"


def _gap(difference: Difference, atom: Atom) -> str:
    """For dominance: the first method's worst run to the second's best, positive where it is better."""
    if atom.function != "dominates":
        return ""
    gap = difference.gap if difference.label == atom.arguments[0] else difference.gap_back
    metric = METRICS.get(difference.metric)
    return f", worst run to best {metric.write_signed(gap) if metric else significant(gap)}"


def _spread(spread: Spread) -> str:
    return f"{spread.task}: {spread.label} to {spread.reference}: {spread.equivalence} ({spread.why})"


def _halfwidth(report: Report, atom: Atom) -> Answer:
    metric, bound = atom.arguments[0], atom.bound
    levels = {(level.task, level.label): level for level in report.levels if level.metric == metric}
    if not levels:
        raise UserError(f"{atom}: no run has the metric {metric!r}. Known: {', '.join(_metrics(report))}")
    asked = [(c.task, c.label) for c in report.costs if not atom.methods or c.label in atom.methods]
    lacking = [f"{label} on {task}" for task, label in asked if (task, label) not in levels]
    if lacking:
        return Answer(False, f"a run of {lacking[0]} has no {metric}, or none that is finite")
    assert bound is not None
    widths = [(levels[place], halfwidth(levels[place])) for place in asked]
    widest, width = max(widths, key=lambda pair: float("inf") if pair[1] is None else pair[1])
    where = f"{widest.task}: {widest.label}: {metric}"
    if width is None:
        return Answer(False, f"{where}: {widest.over_seeds.how if widest.over_seeds else 'no interval'}")
    return Answer(width <= bound, f"{where}: half-width {significant(width)}, the widest")


def halfwidth(level: Level) -> float | None:
    """Half the interval of a level's mean over seeds, in the unit that reports write (accuracy: points); None without.

    Over seeds alone, which more seeds make shorter: the part that test examples add to the whole interval stays.
    """
    found = level.over_seeds
    if found is None or found.low is None or found.high is None:
        return None
    percent = level.metric in METRICS and METRICS[level.metric].unit == "%"
    return (found.high - found.low) / 2 * (100 if percent else 1)


def _metrics(report: Report) -> list[str]:
    return list(dict.fromkeys(level.metric for level in report.levels))
