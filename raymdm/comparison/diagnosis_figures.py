"""The figures of a diagnosis."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from raymdm.comparison.diagnosis import Diagnosis, Variance
from raymdm.comparison.drawing import COLOURS, LINES, Drawn, drawing_into, log_scale, plot_density, save
from raymdm.comparison.recommendation import ratio, without_ratios
from raymdm.comparison.stats.intervals import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCES = {
    "masks": ("A, masks", "#0072B2", ""),
    "rate": ("B, rate", "#E69F00", "///"),
    "data": ("C, data", "#999999", "..."),
}
"""By source: label, colour, hatching."""
CURVES = {
    "mean": ("Mean loss g(t)", "Mean over sequences and masks of the unweighted loss", "g(t), nats/token"),
    "variance": ("Mask variance v(t)", "Mean over sequences of the loss's variance over masks", "v(t), (nats/token)²"),
    "second_moment": (
        "Second moment of the loss", "Its root is the optimal density for the loss", "Mean square, (nats/token)²"
    ),
    "gradient_second_moment": (
        "Second moment of the gradient", "Its root is the optimal density for the gradient", "Mean squared norm"
    ),
}  # fmt: skip
"""By field of a curve: title, what it says, label of its axis."""


def draw_diagnosis(diagnosis: Diagnosis, folder: Path) -> list[Drawn]:
    """Draw every figure that the diagnosis holds data for as a PNG in `folder`.

    Sections: `variance`, `curves` and `densities`.
    """
    with drawing_into(folder):
        return [
            *_bar_figures(diagnosis, folder),
            *_curve_figures(diagnosis, folder),
            *_density_figures(diagnosis, folder),
        ]


def _bar_figures(diagnosis: Diagnosis, folder: Path) -> list[Drawn]:
    figures = []
    kinds: tuple[Literal["gradient", "loss"], ...] = ("gradient", "loss")
    for kind in kinds if len(diagnosis.methods) > 1 else ():
        rows = [(method, method.gradient if kind == "gradient" else method.loss) for method in diagnosis.methods]
        measured = {method.name: (method.rows, found) for method, found in rows if found is not None}
        if diagnosis.baseline.name not in measured or without_ratios(diagnosis, kind):
            continue
        path = save(1.5 + 0.3 * len(measured), _bars(measured, diagnosis.baseline.name), folder / f"{kind}_sources.png")
        caption = (
            f"What masks, masking rate and data add to the variance of the {kind} at equal compute, times "
            f"{diagnosis.baseline.name}. Diamond and number: a batch's variance, lower than the bar's end where strata "
            f"help; line: its {LEVEL:.0%} interval. A part estimated below 0 stands left of 0."
        )
        figures.append(Drawn("variance", path, f"Variance of the {kind}", caption))
    return figures


def _bars(measured: dict[str, tuple[int, Variance]], baseline: str) -> "Callable[[Figure, Axes], None]":
    """A stacked bar a method; parts below 0 are stacked to the left."""
    rows, variance = measured[baseline]
    scale = rows * variance.batch.value

    def draw(figure: "Figure", axes: "Axes") -> None:
        for source, (label, colour, hatch) in SOURCES.items():
            lefts, widths = stack(measured, source, scale)
            axes.barh(
                np.arange(len(measured)),
                widths,
                0.62,
                lefts,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                label=label,
            )
        for row, (_, found) in enumerate(measured.values()):
            relative = found.relative
            if relative is None:
                continue
            if relative.low is not None and relative.high is not None:
                axes.plot([relative.low, relative.high], [row, row], color="#000000", linewidth=1.3)
            axes.plot(relative.value, row, "D", color="#000000", markersize=4, markerfacecolor="white")
            where = ("axes fraction", "data")
            axes.annotate(ratio(relative.value), (1.01, row), xycoords=where, va="center", annotation_clip=False)
        axes.axvline(1, color="#777777", linewidth=1, linestyle="--", zorder=0.5)
        axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_yticks(range(len(measured)), list(measured), parse_math=False)
        axes.set_ylim(len(measured) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"At equal compute, times {baseline}", parse_math=False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)

    return draw


def stack(measured: dict[str, tuple[int, Variance]], source: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Where each method's part begins and how wide it is, in units of the baseline; (methods,) each."""
    parts = np.array(
        [[rows * getattr(found, name).value / scale for name in SOURCES] for rows, found in measured.values()]
    )
    place = list(SOURCES).index(source)
    width, before = parts[:, place], parts[:, :place]
    same_side = np.sign(before) == np.sign(width)[:, None]
    return (before * same_side).sum(1), width


def _curve_figures(diagnosis: Diagnosis, folder: Path) -> list[Drawn]:
    figures = []
    for field, (title, meaning, label) in CURVES.items():
        grid = "gradient_t" if field.startswith("gradient") else "t"
        lines = {
            masking: (np.array(getattr(curve, grid)), np.array(getattr(curve, field)))
            for masking, curve in diagnosis.curves.items()
            if getattr(curve, grid)
        }
        if lines:
            height = 2.8 + 0.2 * ((len(lines) + 1) // 2)
            path = save(height, _lines(lines, label), folder / f"{field}.png")
            figures.append(Drawn("curves", path, title, f"{meaning}, by masking rate; a line a masking."))
    return figures


def _lines(lines: dict[str, tuple[np.ndarray, np.ndarray]], ylabel: str) -> "Callable[[Figure, Axes], None]":
    shown = np.concatenate([values for _, values in lines.values()])
    positive = shown[shown > 0]
    logarithmic = len(positive) > 0 and positive.max() > 10 * positive.min()

    def draw(figure: "Figure", axes: "Axes") -> None:
        for place, (masking, (t, values)) in enumerate(lines.items()):
            axes.plot(
                t,
                np.where(values > 0, values, np.nan) if logarithmic else values,
                color=COLOURS[place % len(COLOURS)],
                linestyle=LINES[place % len(LINES)],
                linewidth=1.6,
                label=masking,
            )
        if logarithmic:
            log_scale(axes, "y")
        else:
            axes.set_ylim(bottom=min(0, shown.min()))
        axes.set_xlim(0, 1)
        axes.set_xlabel("Masking rate t")
        axes.set_ylabel(ylabel)
        legend = figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=3.2)
        for text in legend.get_texts():
            text.set_parse_math(False)

    return draw


def _density_figures(diagnosis: Diagnosis, folder: Path) -> list[Drawn]:
    figures = []
    for place, (name, density) in enumerate(diagnosis.densities.items(), start=1):
        path = folder / f"density_{place}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png"
        plot_density(path, density.t, density.optimum, density.p, 1.0, "fitted")
        caption = f"The density that makes the variance of the {density.target} small, against its empirical optimum."
        figures.append(Drawn("densities", path, name, caption))
    return figures
