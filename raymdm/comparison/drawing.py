"""What all figures share: their look, their scales, their files. matplotlib is imported when one is drawn.

One panel a figure, so that a page can set them side by side or, on a phone, one below the other. Colours are Okabe and
Ito's; what they tell apart is told apart by dashes, markers or hatching too.
"""

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
LINES = ["-", "--", "-.", ":"]
OTHERS = [*COLOURS[1:], "#882255"]
"""Of methods that are not the baseline."""
GREY = "#b0b0b0"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*"]
Dashes = str | tuple[float, tuple[float, ...]]
WIDTH = 4.6  # inches; with 9 pt text it stays readable when a phone shrinks it
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


class Drawn(NamedTuple):
    """A figure on disk and what it shows."""

    section: str
    """Where it stands on its page, such as `results` or `curves`."""
    path: Path
    title: str
    caption: str


@contextmanager
def drawing_into(folder: Path) -> Iterator[None]:
    """Make the folder and draw in the reports' style, whatever the user's own settings of matplotlib are."""
    from matplotlib import style

    folder.mkdir(parents=True, exist_ok=True)
    with style.context(["default", STYLE]):
        yield


def save(height: float, draw: "Callable[[Figure, Axes], None]", path: Path) -> Path:
    """Draw on one set of axes without pyplot's global state; no version or date goes into the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    draw(figure, figure.add_subplot())
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; the caption and the tables beside it have it
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    dashes: Dashes
    marker: str


def line_style(label: str, labels: Sequence[str], baseline: str | None) -> Style:
    """Style of a method by its place in `labels`, which has all of them; no two share colour and dashes.

    Black and an unbroken line are the baseline's alone; the colours of the next seven are all different.
    """
    if label == baseline:
        return Style(COLOURS[0], "-", MARKERS[0])
    place = [name for name in labels if name != baseline].index(label)
    turn, colour = divmod(place, len(OTHERS))
    marker = MARKERS[1 + place % (len(MARKERS) - 1)]
    if turn < len(LINES):
        return Style(OTHERS[colour], LINES[(place + 1 + 2 * turn) % len(LINES)], marker)
    return Style(OTHERS[colour], (0, (float(turn), 1.0, 1.0, 1.0)), marker)


def legend_rows(labels: Sequence[str]) -> int:
    """Rows of the legend below a figure: two columns where every name is short."""
    return (len(labels) + 1) // 2 if _short(labels) else len(labels)


def legend_below(figure: "Figure", handles: "Sequence[Artist]", labels: Sequence[str], handlelength: float) -> None:
    """Name what is drawn below the axes."""
    names = [wrapped(label, 54) for label in labels]
    columns = 2 if _short(labels) else 1
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, handlelength=handlelength)


def _short(labels: Sequence[str]) -> bool:
    return max(map(len, labels)) <= 24


def wrapped(label: str, width: int = 24) -> str:
    """A name on lines short enough to stand beside a figure."""
    words = textwrap.wrap(label, width, break_on_hyphens=False) or [label]
    return "\n".join(words[:3]) + (" …" if len(words) > 3 else "")


def log_scale(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Logarithmic, with plain numbers at 1, 2 and 5 of each decade, or at 1 alone from four decades on."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def plot_density(
    path: Path, t: Sequence[float], optimum: Sequence[float], fitted: Sequence[float], uniform: float, fit: str
) -> Path:
    """Draw the empirical optimum, the fitted density, named `fit`, and the uniform one, all over rates t (T,)."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.plot(t, optimum, "o", color="#000000", markersize=3.5, markerfacecolor="none")
        axes.plot(t, fitted, color="#D55E00", linewidth=1.8)
        axes.axhline(uniform, color="#0072B2", linewidth=1.4, linestyle="--")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1)
        axes.set_xlabel("Masking rate t")
        axes.set_ylabel("Density p(t)")
        labels = ["optimum on the grid", fit, "uniform"]
        figure.legend(axes.get_lines(), labels, loc="outside lower center", ncols=3, frameon=False, handlelength=3.2)

    return save(3.0, draw, path)
