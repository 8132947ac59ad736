"""From runs to a report's numbers."""

from raymdm import __version__
from raymdm.comparison.claims import differences
from raymdm.comparison.document import Report
from raymdm.comparison.levels import costs, levels
from raymdm.comparison.notes import notes
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Asked
from raymdm.comparison.spreads import spreads
from raymdm.comparison.stats.spread import MARGIN
from raymdm.comparison.tested import ALPHA
from raymdm.comparison.verdicts import headline, verdicts

__all__ = ["ALPHA", "analyse"]


def analyse(runs: Runs, asked: Asked = (), margin: float = MARGIN) -> Report:
    """All statistics of a comparison.

    Arguments:
        asked: pairs of labels to compare beside those with the baseline and the ARMs; they join the family of claims.
        margin: ratio of standard deviations within which two spreads count as equivalent.
    """
    # In an adaptive sweep the intervals of all looks together hold at 1 - ALPHA, each at the level of its own look.
    level = 1 - (runs.looks[-1].alpha if runs.looks else ALPHA)
    found, profiles = levels(runs, level)
    report = Report(
        raymdm_version=__version__,
        name=runs.name,
        source=runs.source,
        options={"Metric of the claims": runs.metric.key, "Margin of equal spread": f"{margin:g}"},
        baseline=runs.baseline,
        metric=runs.metric.key,
        alpha=ALPHA,
        confidence=level,
        tasks=runs.tasks,
        labels=runs.labels,
        families=runs.families,
        headline="",
        verdicts={},
        notes=[],
        levels=found,
        differences=differences(runs, asked, level),
        spreads=spreads(runs, asked, level, margin),
        costs=list(costs(runs)),
        profiles=profiles,
        looks=runs.looks,
        failures=runs.failures,
    )
    words = {"headline": headline(report, runs), "verdicts": verdicts(report, runs), "notes": notes(report, runs)}
    return report.model_copy(update=words)
