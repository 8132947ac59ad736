"""Figures of what the runs allow to say: differences, performance profiles, the metric against its cost."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from raymdm.comparison.claim_tables import differences
from raymdm.comparison.document import Difference, Level, Profile, Report
from raymdm.comparison.drawing import (
    GREY,
    Drawn,
    Style,
    legend_below,
    legend_rows,
    line_style,
    log_scale,
    save,
    wrapped,
)
from raymdm.comparison.level_tables import ALIKE
from raymdm.comparison.metrics import METRICS, Metric, percent
from raymdm.comparison.tables import ON_COMMON, baseline_first, difference_unit, level_name, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROFILE_SEEDS = 3
"""Fewest runs whose profile is drawn."""
COST_AXES = (("model_rows", "Model rows (sequences times views)"), ("train_seconds", "Train time, s"))
"""What a cost is drawn in: the first that every method has."""
COLOURED = 8
"""Most methods whose curves each have a colour."""
BEST = 3
"""Methods that keep theirs beside the baseline where there are more."""
GROUPS = 5
"""Most costs that each have a tick."""
APART = 7
"""Points between methods of one cost."""
FOUND = {
    "better": ("#0072B2", "D", True, "filled diamonds: better"),
    "worse": ("#D55E00", "v", True, "filled triangles: worse"),
    "not distinguishable": ("#333333", "o", False, "hollow circles: not distinguishable"),
    "not supported by this many seeds": ("#666666", "s", False, "hollow squares: not supported by this many seeds"),
    "not tested": ("#666666", "x", False, "crosses: not tested"),
}
"""By finding: colour, marker, whether it is filled, words."""
LOGARITHMIC = " The axis is logarithmic."


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
                figures.append(Drawn("differences", path, title, _forest_caption(title, rows, report, metric)))
    return figures


def _forest_caption(title: str, rows: list[Difference], report: Report, metric: Metric) -> str:
    marks = "; ".join(words for finding, (*_, words) in FOUND.items() if any(row.finding == finding for row in rows))
    better = {True: " Right of 0 is better.", False: " Left of 0 is better.", None: ""}[metric.higher_is_better]
    caption = f"{title}, with {level_name(report)} intervals. {marks[:1].upper()}{marks[1:]}.{better}"
    if any(row.difference.low is not None for row in rows):
        caption += (
            " Intervals are not widened for the number of claims, so that one may leave 0 out and still be no finding."
        )
    if any(row.common for row in rows):
        caption += f" {ON_COMMON}: only the runs whose seeds both have, so not the difference of the means above."
    return caption


def _forest(rows: list[Difference], metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.axvline(0, color="#777777", linewidth=1, linestyle="--", zorder=0.5)
        for place, row in enumerate(rows):
            colour, marker, filled = FOUND[row.finding][:3]
            found = row.difference
            if found.low is not None and found.high is not None:
                axes.plot([scale * found.low, scale * found.high], [place] * 2, color=colour, linewidth=1.6)
            face = colour if filled else "white"
            axes.plot(scale * found.value, place, marker, color=colour, markersize=6, markerfacecolor=face)
            text = metric.write_signed(found.value)
            axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center")
        names = [f"{row.label} {ON_COMMON}" if row.common else row.label for row in rows]
        axes.set_yticks(range(len(rows)), [wrapped(name) for name in names])
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
        shown.sort(key=lambda profile: profile.label != report.baseline)
        labels = [profile.label for profile in shown]
        styles = picked_styles(report, labels, task, metric)
        save(3.0 + 0.2 * legend_rows(legend_names(labels, styles)), _profiles(shown, styles, metric), path)
        title = "Performance profiles" + (f", {task}" if len(report.tasks) > 1 else "")
        caption = (
            f"Share of a method's runs whose {metric.label.lower()} is above each threshold, with pointwise "
            f"{level_name(report)} bands. A curve that lies {'below' if metric.higher_is_better is False else 'above'} "
            "another everywhere is better."
        )
        if len(styles) < len(labels):
            caption += " In colour the baseline and the methods of the best mean; the others grey, without bands."
        figures.append(Drawn("results", path, title, caption))
    return figures


def picked_styles(report: Report, labels: list[str], task: str, metric: Metric) -> dict[str, Style]:
    """Styles of those methods that have a colour: all, or of many the baseline and those of the best means."""
    if len(labels) <= COLOURED:
        return {label: line_style(label, report.labels, report.baseline) for label in labels}
    means = {row.label: row.mean.value for row in report.levels if (row.task, row.metric) == (task, metric.key)}
    others = [label for label in labels if label != report.baseline and label in means]
    best = sorted(others, key=lambda label: means[label], reverse=metric.higher_is_better is not False)[:BEST]
    picked = [label for label in labels if label in (report.baseline, *best)]
    return {label: line_style(label, picked, report.baseline) for label in picked}


def legend_names(labels: list[str], styles: Mapping[str, Style]) -> list[str]:
    """The coloured methods and, in one name, the others."""
    grey = len(labels) - len(styles)
    return [label for label in labels if label in styles] + ([f"the {grey} others"] if grey else [])


def _profiles(shown: list[Profile], styles: Mapping[str, Style], metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)

    def draw(figure: "Figure", axes: "Axes") -> None:
        lines, grey = [], []
        for profile in shown:
            style = styles.get(profile.label)
            x = [scale * threshold for threshold in profile.thresholds]
            if style is None:
                grey += axes.plot(x, profile.share, color=GREY, linewidth=0.8, drawstyle="steps-post", zorder=1.5)
                continue
            alpha = min(0.12, 0.5 / len(styles))
            axes.fill_between(x, profile.low, profile.high, color=style.colour, alpha=alpha, step="post")
            lines += axes.plot(
                x, profile.share, color=style.colour, linestyle=style.dashes, linewidth=1.5, drawstyle="steps-post"
            )
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"Threshold: {unit(metric)}")
        axes.set_ylabel("Share of runs above it")
        names = legend_names([profile.label for profile in shown], styles)
        legend_below(figure, [*lines, *grey[:1]], names, handlelength=3.2)

    return draw


def cost_figures(report: Report, metric: Metric, folder: Path) -> list[Drawn]:
    """The metric against what the runs cost, one figure a task with two methods or more that did not all cost alike."""
    figures = []
    for task in report.tasks:
        found = [row for row in report.levels if (row.task, row.metric) == (task, metric.key)]
        levels = {row.label: row for row in baseline_first(report, found)}
        for field, words in COST_AXES:
            costs = {row.label: getattr(row, field) for row in report.costs if row.task == task}
            if len(levels) < 2 or not all(costs.get(label) for label in levels):
                continue
            points = [Point(label, costs[label], level) for label, level in levels.items()]
            if len(_cost_groups(points)) > 1:
                figures.append(_cost_figure(points, report, task, words, metric, folder))
            break
    return figures


def _cost_figure(points: list[Point], report: Report, task: str, words: str, metric: Metric, folder: Path) -> Drawn:
    path = folder / f"cost{suffix(report, task)}.png"
    save(3.0 + 0.2 * legend_rows([point.label for point in points]), _costs(points, report, words, metric), path)
    title = f"{metric.label} against cost" + (f", {task}" if len(report.tasks) > 1 else "")
    caption = f"{title}: mean over seeds with its {level_name(report)} interval, over the mean cost of a run."
    if len(_cost_groups(points)) < len(points):
        caption += f" Methods whose costs are within {ALIKE:.0%} stand side by side around their cost."
    return Drawn("cost", path, title, caption + (LOGARITHMIC if _logarithmic(points) else ""))


def _cost_groups(points: list[Point]) -> list[list[Point]]:
    """Points of one cost, the cheapest first."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.cost):
        if groups and point.cost - groups[-1][0].cost <= ALIKE * point.cost:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _logarithmic(points: list[Point]) -> bool:
    return max(point.cost for point in points) > 10 * min(point.cost for point in points)


def _costs(points: list[Point], report: Report, words: str, metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale, groups = scaled(metric), _cost_groups(points)

    def draw(figure: "Figure", axes: "Axes") -> None:
        from matplotlib.transforms import ScaledTranslation

        handles, y = {}, []
        for group in groups:
            cost = sum(point.cost for point in group) / len(group)
            for place, point in enumerate(sorted(group, key=points.index)):
                style, mean = line_style(point.label, report.labels, report.baseline), point.level.mean
                # side by side on paper: at the scale of the axis every point of the group stands at its cost
                aside = APART * (place - (len(group) - 1) / 2) / 72
                where = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
                ends = [] if mean.low is None or mean.high is None else [scale * mean.low, scale * mean.high]
                axes.plot([cost] * len(ends), ends, color=style.colour, linewidth=1.2, transform=where)
                handles[point.label] = axes.plot(
                    cost, scale * mean.value, style.marker, color=style.colour, markersize=6, transform=where
                )[0]
                y += [*ends, scale * mean.value]
        _cost_axis(axes, [group[0].cost for group in groups], logarithmic=_logarithmic(points))
        room = 0.05 * (max(y) - min(y)) or 1e-3
        axes.set_ylim(min(y) - room, max(y) + room)
        axes.set_xlabel(words)
        axes.set_ylabel(unit(metric))
        names = [point.label for point in points]
        legend_below(figure, [handles[name] for name in names], names, handlelength=1.5)

    return draw


def _cost_axis(axes: "Axes", costs: list[float], *, logarithmic: bool) -> None:
    """A tick at each cost where there are few, far enough apart to be read."""
    low, high = costs[0], costs[-1]
    if logarithmic:
        axes.set_xlim(0.7 * low, high / 0.7)
        log_scale(axes, "x")
        return
    room = 0.25 * (high - low)
    axes.set_xlim(low - room, high + room)
    if len(costs) <= GROUPS and all(after - before > 0.15 * (high - low) for before, after in pairwise(costs)):
        axes.set_xticks(costs)
    else:
        axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
