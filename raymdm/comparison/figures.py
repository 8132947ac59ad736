"""The figures of a report: what the runs logged and measured; those of the claims are in claim_figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raymdm.comparison.claim_figures import (
    LOGARITHMIC,
    cost_figures,
    forests,
    legend_names,
    picked_styles,
    profiles,
    scaled,
    stem,
    suffix,
)
from raymdm.comparison.document import Level, Report
from raymdm.comparison.drawing import (
    GREY,
    Drawn,
    Style,
    drawing_into,
    legend_below,
    legend_rows,
    line_style,
    log_scale,
    plot_density,
    save,
    wrapped,
)
from raymdm.comparison.metrics import Metric
from raymdm.comparison.results import Calibration
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import baseline_first, described, level_name, method_name, mixes_bounds, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIANCES = ("backprop_variance", "loss_variance", "grad_norm")
EXACT = " An ARM's NLL is exact, the others' are upper bounds."
Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""By label: steps (N,) and values (N, S), NaN where a seed logged nothing."""


def draw_figures(report: Report, runs: Runs, main: list[Metric], folder: Path) -> list[Drawn]:
    """Draw every figure that there is data for as a PNG in `folder`; `main` are the metrics shown first.

    Sections: `results`, `differences`, `cost`, `curves` and `calibration`.
    """
    variances = [described(runs, key) for key in VARIANCES if any(row.metric == key for row in report.levels)]
    with drawing_into(folder):
        return [
            *_dot_figures(report, main, "results", folder),
            *profiles(report, described(runs, report.metric), folder),
            *forests(report, main, folder),
            *cost_figures(report, described(runs, report.metric), folder),
            *_dot_figures(report, [metric for metric in variances if metric not in main], "cost", folder),
            *_curve_figures(report, runs, folder),
            *_calibration_figures(runs, folder),
        ]


def _dot_figures(report: Report, metrics: list[Metric], section: str, folder: Path) -> list[Drawn]:
    figures = []
    for place, metric in enumerate(metrics):
        for task in report.tasks:
            found = [row for row in report.levels if (row.task, row.metric) == (task, metric.key)]
            levels = baseline_first(report, found)
            if not levels:
                continue
            path = folder / f"{stem(metric, place)}{suffix(report, task)}.png"
            save(1.1 + 0.42 * len(levels), _dots(levels, report, metric), path)
            title = f"{metric.label} by method" + (f", {task}" if len(report.tasks) > 1 else "")
            figures.append(Drawn(section, path, title, _dot_caption(title, levels, report, metric)))
    return figures


def _dot_caption(title: str, levels: list[Level], report: Report, metric: Metric) -> str:
    caption = (
        f"{title}: a circle a seed; below them the mean, which is written at the right, with its "
        f"{level_name(report)} interval."
    )
    if any(level.label == report.baseline for level in levels):
        caption += f" The dashed line is the mean of {report.baseline}, the baseline."
    if mixes_bounds(report, metric):
        caption += EXACT
    return caption + (LOGARITHMIC if _logarithmic(levels) else "")


def _logarithmic(levels: list[Level]) -> bool:
    ends = [end for row in levels for end in (row.low, row.high, row.mean.low, row.mean.high) if end is not None]
    return min(ends) > 0 and max(ends) > 10 * min(ends)


def _dots(levels: list[Level], report: Report, metric: Metric) -> "Callable[[Figure, Axes], None]":
    scale = scaled(metric)

    def draw(figure: "Figure", axes: "Axes") -> None:
        for place, level in enumerate(levels):
            values, colour = (
                scale * np.array(level.values),
                line_style(level.label, report.labels, report.baseline).colour,
            )
            # seeds a little apart, so that equal values stay visible
            offsets = np.linspace(-0.32, 0, len(values)) if len(values) > 1 else np.full(1, -0.16)
            size = 5 if len(values) <= 10 else 3
            axes.plot(values, place + offsets, "o", color=colour, markersize=size, markerfacecolor="none")
            mean = level.mean
            if mean.low is not None and mean.high is not None:
                axes.plot([scale * mean.low, scale * mean.high], [place + 0.22] * 2, color=colour, linewidth=1.6)
            axes.plot(scale * mean.value, place + 0.22, "D", color=colour, markersize=5)
            axes.annotate(metric.write(mean.value), (1.01, place), xycoords=("axes fraction", "data"), va="center")
            if level.label == report.baseline:
                axes.axvline(scale * mean.value, color="#777777", linewidth=1, linestyle="--", zorder=0.5)
        exact = mixes_bounds(report, metric)
        axes.set_yticks(range(len(levels)), [wrapped(method_name(row.label, report, exact)) for row in levels])
        axes.set_ylim(len(levels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if _logarithmic(levels):
            log_scale(axes, "x")
        axes.set_xlabel(unit(metric))

    return draw


def _curve_figures(report: Report, runs: Runs, folder: Path) -> list[Drawn]:
    figures = []
    logged = label_curves(runs)
    for metric, name in (("val/nll", "Validation NLL"), ("train/loss", "Training loss")):
        for task in report.tasks:
            curves = _curves(logged[(logged["task"] == task) & (logged["metric"] == metric)], report.labels)
            rows_a_step = _rows_a_step(report, task)
            for axis, words in (("steps", "equal steps"), ("rows", "equal compute")):
                factors = dict.fromkeys(curves, 1.0) if axis == "steps" else rows_a_step
                shown = {label: curve for label, curve in curves.items() if label in factors}
                if not shown:
                    continue
                path = folder / f"{metric.replace('/', '_')}_{axis}{suffix(report, task)}.png"
                xlabel = "Optimiser steps" if axis == "steps" else "Model rows (sequences times views)"
                styles = picked_styles(report, list(shown), task, described(runs, report.metric))
                height = 3.0 + 0.2 * legend_rows(legend_names(list(shown), styles))
                save(height, _lines(shown, styles, factors, xlabel, f"{name}, nats/token"), path)
                title = f"{name} at {words}" + (f", {task}" if len(report.tasks) > 1 else "")
                caption = (
                    f"{name} over {xlabel[0].lower()}{xlabel[1:]}: a thin line a seed, a thick one for the mean as "
                    "far as all seeds of the method went."
                )
                if len(styles) < len(shown):
                    caption += " In colour the baseline and the methods of the best mean, in grey the others' means."
                if metric == "val/nll" and len({report.families.get(label) for label in shown}) > 1:
                    caption += EXACT
                if _curves_logarithmic(shown):
                    caption += " The vertical axis is logarithmic."
                figures.append(Drawn("curves", path, title, caption))
    return figures


def label_curves(runs: Runs) -> pd.DataFrame:
    """What the sweeps' runs logged on the way: task, label, seed, step, metric, value."""
    cells = ["task", "model", "method", "seed"]
    found = [pd.DataFrame(columns=["task", "label", "seed", "step", "metric", "value"])]
    for sweep in runs.sweeps:
        trials = sweep.table[cells].drop_duplicates()
        labels = runs.table[[*cells, "label"]].drop_duplicates()
        named = sweep.curves.merge(trials, on=["method", "seed"]).merge(labels, on=cells)
        if len(named):
            found.append(named[found[0].columns])
    curves = pd.concat(found[1:]) if len(found) > 1 else found[0]
    return curves.drop_duplicates(["task", "label", "seed", "step", "metric"], keep="last")


def _curves(logged: pd.DataFrame, labels: list[str]) -> Curves:
    curves = {}
    for label in labels:
        table = logged[logged["label"] == label].pivot(index="step", columns="seed", values="value").astype(float)
        if np.isfinite(table.to_numpy()).any():
            curves[label] = (table.index.to_numpy(dtype=float), table.to_numpy())
    return curves


def _rows_a_step(report: Report, task: str) -> dict[str, float]:
    """By label, where they are known."""
    return {
        cost.label: cost.model_rows / cost.steps
        for cost in report.costs
        if cost.task == task and cost.model_rows and cost.steps
    }


def _lines(
    curves: Curves, styles: Mapping[str, Style], rows_a_step: Mapping[str, float], xlabel: str, ylabel: str
) -> "Callable[[Figure, Axes], None]":
    def draw(figure: "Figure", axes: "Axes") -> None:
        means, grey = [], []
        for label, (steps, values) in curves.items():
            x, style = steps * rows_a_step[label], styles.get(label)
            everywhere = np.isfinite(values).all(1)
            mean = values[everywhere].mean(1)
            if style is None:
                grey += axes.plot(x[everywhere], mean, color=GREY, linewidth=0.8, zorder=1.5)
                continue
            alpha = 0.4 if values.shape[1] <= 10 else 0.2
            axes.plot(*_joined(x, values), color=style.colour, linewidth=0.6, alpha=alpha)
            means += axes.plot(x[everywhere], mean, color=style.colour, linewidth=1.8, linestyle=style.dashes)
        if _curves_logarithmic(curves):
            log_scale(axes, "y")
        axes.locator_params(axis="x", nbins=6, integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        legend_below(figure, [*means, *grey[:1]], legend_names(list(curves), styles), handlelength=3.2)

    return draw


def _curves_logarithmic(curves: Curves) -> bool:
    shown = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()])
    return bool(shown.min() > 0 and shown.max() > 10 * shown.min())


def _joined(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All seeds' curves as one line, which is quicker to draw: gaps between the seeds, none where one did not log."""
    seed, step = np.nonzero(np.isfinite(values.T))
    ends = np.flatnonzero(np.diff(seed)) + 1
    return np.insert(x[step], ends, np.nan), np.insert(values[step, seed], ends, np.nan)


def draw_density(calibration: Calibration, path: Path) -> Path:
    """Draw the empirical optimum, the fitted density and the uniform one as a PNG."""
    uniform, fit = 1 / (1 - calibration.eps), "EPR" if calibration.kind == "epr" else calibration.kind
    return plot_density(path, calibration.grid, calibration.optimum, calibration.fitted, uniform, f"fitted {fit}")


def _calibration_figures(runs: Runs, folder: Path) -> list[Drawn]:
    figures = []
    for place, sweep in enumerate(runs.sweeps, start=1):
        several = len(runs.sweeps) > 1
        for mask, calibration in sweep.calibrations.items():
            path = draw_density(calibration, folder / f"density_{mask}{f'_{place}' if several else ''}.png")
            title = f"Density for {mask} masks" + (f", {sweep.info.name}" if several else "")
            caption = (
                "The empirical optimum at each rate of the grid, the fitted density that draws the rates, and the "
                "uniform one."
            )
            figures.append(Drawn("calibration", path, title, caption))
    return figures
