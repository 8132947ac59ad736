"""Figures of what the runs allow to say: differences, performance profiles, the metric against its cost."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from raymdm.comparison.claim_tables import differences
from raymdm.comparison.document import Difference, Level, Profile, Report
from raymdm.comparison.drawing import (
    MARKERS,
    Drawn,
    legend_below,
    legend_rows,
    line_style,
    log_scale,
    save,
    wrapped,
)
from raymdm.comparison.metrics import METRICS, Metric, percent
from raymdm.comparison.tables import difference_unit, level_name, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROFILE_SEEDS = 3
"""Fewest runs whose profile is drawn."""
COST_AXES = (("model_rows", "Model rows (sequences times views)"), ("train_seconds", "Train time, s"))
"""What a cost is drawn in: the first that every method has."""
FOUND = {"better": ("#0072B2", "D", True), "worse": ("#D55E00", "v", True)}
"""By finding: colour, marker, whether it is filled; the others are hollow circles."""


class Point(NamedTuple):
    label: str
    cost: float
    level: Level


def stem(metric: Metric, place: int) -> str:
    """What names a metric's figures: a name from data never names a file."""
    return metric.key if metric.key in METRICS else f"metric_{place + 1}"


def suffix(report: Report, task: str) -> str:
    """Ending of the names of a task's figures, where there are several tasks."""
    return f"_{report.tasks.index(task) + 1}" if len(report.tasks) > 1 else ""


def scaled(metric: Metric) -> float:
    """Shares are drawn in percent."""
    return 100.0 if metric.write is percent else 1.0


def forests(report: Report, metrics: list[Metric], folder: Path) -> list[Drawn]:
    """Differences with their intervals, one figure for each metric, reference and task.

    The metric of the claims is drawn against every reference, the others against the baseline.
    """
    references = list(dict.fromkeys(row.reference for row in report.differences))
    figures = []
    for place, metric in enumerate(metrics):
        for number, reference in enumerate(references):
            for task in report.tasks:
                rows = [row for row in differences(report, metric, reference) if row.task == task]
                if not rows or (metric.key != report.metric and reference != report.baseline):
                    continue
                path = folder / f"{stem(metric, place)}_difference_{number + 1}{suffix(report, task)}.png"
                save(1.3 + 0.34 * len(rows), _forest(rows, metric), path)
                title = f"{metric.label} less that of {reference}" + (f", {task}" if len(report.tasks) > 1 else "")
                better = {True: " Right of 0 is better.", False: " Left of 0 is better.", None: ""}
                caption = (
                    f"{title}, with {level_name(report)} intervals. Filled diamonds are better and filled triangles "
                    f"worse by the test; hollow circles are not told apart.{better[metric.higher_is_better]}"
                )
                figures.append(Drawn("differences", path, title, caption))
    return figures


def _forest(rows: list[Difference], metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.axvline(0, color="#777777", linewidth=1, linestyle="--", zorder=0.5)
        for place, row in enumerate(rows):
            colour, marker, filled = FOUND.get(row.finding, ("#333333", "o", False))
            found = row.difference
            if found.low is not None and found.high is not None:
                axes.plot([scale * found.low, scale * found.high], [place] * 2, color=colour, linewidth=1.6)
            face = colour if filled else "white"
            axes.plot(scale * found.value, place, marker, color=colour, markersize=6, markerfacecolor=face)
            text = metric.write_signed(found.value)
            axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center")
        axes.set_yticks(range(len(rows)), [wrapped(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        words = difference_unit(metric)
        axes.set_xlabel(f"Difference in {metric.label[:1].lower()}{metric.label[1:]}" + (f", {words}" if words else ""))

    return draw


def profiles(report: Report, metric: Metric, folder: Path) -> list[Drawn]:
    """Performance profiles of methods with enough runs, one figure a task."""
    figures = []
    for task in report.tasks:
        runs = {row.label: len(row.values) for row in report.levels if (row.task, row.metric) == (task, metric.key)}
        shown = [
            profile
            for profile in report.profiles
            if (profile.task, profile.metric) == (task, metric.key) and runs.get(profile.label, 0) >= PROFILE_SEEDS
        ]
        if not shown:
            continue
        path = folder / f"profiles{suffix(report, task)}.png"
        save(3.0 + 0.2 * legend_rows([profile.label for profile in shown]), _profiles(shown, report, metric), path)
        title = "Performance profiles" + (f", {task}" if len(report.tasks) > 1 else "")
        caption = (
            f"Share of a method's runs whose {metric.label.lower()} is above each threshold, with pointwise "
            f"{level_name(report)} bands. A curve that lies above another everywhere is better."
        )
        figures.append(Drawn("results", path, title, caption))
    return figures


def _profiles(shown: list[Profile], report: Report, metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)

    def draw(figure: "Figure", axes: "Axes") -> None:
        lines = []
        for profile in shown:
            colour, dashes = line_style(profile.label, report.labels)
            x = [scale * threshold for threshold in profile.thresholds]
            axes.fill_between(
                x, profile.low, profile.high, color=colour, alpha=min(0.12, 0.5 / len(shown)), step="post"
            )
            lines += axes.plot(x, profile.share, color=colour, linestyle=dashes, linewidth=1.5, drawstyle="steps-post")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"Threshold: {unit(metric)}")
        axes.set_ylabel("Share of runs above it")
        legend_below(figure, lines, [profile.label for profile in shown], handlelength=3.2)

    return draw


def cost_figures(report: Report, metric: Metric, folder: Path) -> list[Drawn]:
    """The metric against what the runs cost, one figure a task with two methods or more."""
    figures = []
    for task in report.tasks:
        levels = {row.label: row for row in report.levels if (row.task, row.metric) == (task, metric.key)}
        for field, words in COST_AXES:
            costs = {row.label: getattr(row, field) for row in report.costs if row.task == task}
            if len(levels) < 2 or not all(costs.get(label) for label in levels):
                continue
            points = [Point(label, costs[label], level) for label, level in levels.items()]
            path = folder / f"cost{suffix(report, task)}.png"
            save(3.0 + 0.2 * legend_rows(list(levels)), _costs(points, report.labels, words, metric), path)
            title = f"{metric.label} against cost" + (f", {task}" if len(report.tasks) > 1 else "")
            caption = (
                f"{title}: mean over seeds with its {level_name(report)} interval, over the mean cost of a run. "
                "Methods of one cost stand a little apart."
            )
            figures.append(Drawn("cost", path, title, caption))
            break
    return figures


def _costs(points: list[Point], labels: list[str], words: str, metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)
    ends = min(point.cost for point in points), max(point.cost for point in points)
    logarithmic = ends[1] > 10 * ends[0]

    def draw(figure: "Figure", axes: "Axes") -> None:
        handles = []
        for place, point in enumerate(points):
            colour, _ = line_style(point.label, labels)
            # methods of one cost stand a little apart
            same = [other.label for other in points if abs(other.cost - point.cost) < 0.02 * ends[1]]
            shift = (same.index(point.label) - (len(same) - 1) / 2) * min(0.02, 0.2 / len(same))
            x = point.cost * 10**shift if logarithmic else point.cost + shift * ends[1]
            mean = point.level.mean
            if mean.low is not None and mean.high is not None:
                axes.plot([x, x], [scale * mean.low, scale * mean.high], color=colour, linewidth=1.2)
            marker = MARKERS[place % len(MARKERS)]
            handles += axes.plot(x, scale * mean.value, marker, color=colour, markersize=6)
        if logarithmic:
            log_scale(axes, "x")
        elif ends[0] < 0.5 * ends[1]:
            axes.set_xlim(left=0)
        if not logarithmic:
            axes.locator_params(axis="x", nbins=6)
            axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.1)
        axes.set_xlabel(words)
        axes.set_ylabel(unit(metric))
        legend_below(figure, handles, [point.label for point in points], handlelength=1.5)

    return draw
