"""Tables as rows of text, which the page, the Markdown file and the terminal all show, and how cells are written."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from raymdm.comparison.document import Cost, Difference, Estimate, Level, Report
from raymdm.comparison.metrics import METRICS, Metric, p_value, percent
from raymdm.comparison.runs import Runs

NONE = "–"
"""Stands where there is no number."""
NLLS = ("val_nll", "val_nll_equal_rows")
"""Metrics of which an ARM's is exact and a masked diffusion model's an upper bound."""
ON_COMMON = "†"
"""Marks a difference on the seeds that both have, where either has more."""
NARROW = 80
"""Columns of the narrowest terminal in which names are kept whole if they can be."""
Row = TypeVar("Row", Level, Cost)


class Cell(str):
    """A cell's text with the number that it is sorted by and a note that the page sets below it."""

    __slots__ = ("note", "sort")
    sort: float | None
    note: str

    def __new__(cls, text: str, sort: float | None = None, note: str = "") -> "Cell":
        cell = super().__new__(cls, text)
        cell.sort, cell.note = sort, note
        return cell


class Table(NamedTuple):
    """Text only; a cell may hold several lines. The first column names the row."""

    headers: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = ()
    """Columns that are read as words even in a table of numbers."""
    notes: tuple[str, ...] = ()
    """What every row has in common."""


class Column(NamedTuple):
    """A column of a table that is made from one object a row."""

    header: str
    cell: Callable[[Any], str]
    brief: bool = True
    """Whether a table for a paper has it too."""
    words: bool = False
    once: bool = False
    """Whether a note says it once where all rows have the same."""


def build(columns: Sequence[Column], rows: Iterable[Any], brief: bool = False) -> Table:
    """A table of the columns that hold anything in any row; `brief` for a paper's."""
    columns = [column for column in columns if column.brief or not brief]
    cells = [[column.cell(row) for column in columns] for row in rows]
    held = [place for place in range(len(columns)) if place == 0 or any(row[place] != NONE for row in cells)]
    alike = [p for p in held if p and columns[p].once and len(cells) > 1 and len({row[p] for row in cells}) == 1]
    kept = [place for place in held if place not in alike]
    return Table(
        [columns[place].header for place in kept],
        [[row[place] for place in kept] for row in cells],
        tuple(new for new, place in enumerate(kept) if columns[place].words),
        tuple(f"{flat(columns[place].header)}: {cells[0][place]} in every row." for place in alike),
    )


def flat(header: str) -> str:
    """A column's head on one line."""
    return header.replace("-\n", "").replace("–\n", "–").replace("\n", " ")


def spaced(text: str) -> str:
    """`p 0.10` and `< 0.0001` stay on one line."""
    return re.sub(r"\bp (?=[<~\d])|^p (?=\w)|(?<=<) (?=\d)", lambda found: found[0].replace(" ", "\u00a0"), text)


def naming(report: Report, exact: bool = False) -> list[Column]:
    """The columns that say which row it is: the method, and the task where there are several."""
    columns = [Column("Method", lambda row: method_name(row.label, report, exact))]
    if len(report.tasks) > 1:
        columns.append(Column("Task", lambda row: row.task, words=True))
    return columns


def method_name(label: str, report: Report, exact: bool = False) -> str:
    """With what a reader has to know of its row: `exact` where NLLs of ARMs stand beside upper bounds."""
    marks = ["baseline"] if label == report.baseline else []
    marks += ["exact NLL"] if exact and report.families.get(label) == "arm" else []
    return f"{label} ({', '.join(marks)})" if marks else label


def mixes_bounds(report: Report, metric: Metric) -> bool:
    """Whether the metric's NLLs are exact for some methods and upper bounds for others."""
    families = {report.families.get(row.label) for row in report.levels if row.metric == metric.key}
    return metric.key in NLLS and len(families) > 1


def baseline_first(report: Report, rows: Iterable[Row]) -> list[Row]:
    """Task by task; else as they were."""
    return sorted(rows, key=lambda row: (report.tasks.index(row.task), row.label != report.baseline))


def described(runs: Runs, metric: str) -> Metric:
    """How a metric is read and written."""
    return runs.metrics.get(metric) or METRICS[metric]


def unit(metric: Metric) -> str:
    """`Accuracy, %`: a metric's label with its unit."""
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def difference_unit(metric: Metric) -> str:
    """Two percentages differ by points."""
    return "points" if metric.write is percent else metric.unit


def number(value: float | None, write: Callable[[float], str] = "{:,.0f}".format) -> str:
    return NONE if value is None else Cell(write(value), float(value))


def estimate(found: Estimate | None, write: Callable[[float], str]) -> str:
    """The number and, on a second line, its interval."""
    if found is None:
        return NONE
    interval = "" if found.low is None or found.high is None else f"\n{write(found.low)} to {write(found.high)}"
    return Cell(write(found.value) + interval, found.value)


def p_cell(p: float | None) -> str:
    return NONE if p is None else Cell(spaced(p_value(p)), p)


def level_name(report: Report) -> str:
    """`95%`; in an adaptive sweep the level need not be whole."""
    return f"{100 * report.confidence:.3g}%"


def counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def terminal(report: Report, runs: Runs) -> RichTable:
    """The comparison for a terminal of 100 columns: each method's metric and its difference to the baseline."""
    found = {(d.task, d.label, d.metric): d for d in report.differences if d.reference == report.baseline}
    nll = {(row.task, row.label): row for row in report.levels if row.metric == "val_nll" != report.metric}
    metric = described(runs, report.metric)
    columns = [
        Column("Method", lambda row: f"{row.label}\n{counted(len(row.seeds), 'seed')}"),
        *naming(report)[1:],
        Column(_head(metric.label, metric.unit), lambda row: _mean_and_sd(row, metric)),
    ]
    if report.baseline is not None:
        head = _head(f"Less {report.baseline}", difference_unit(metric))
        columns += [
            Column(head, lambda row: _less(row, report, found, metric)),
            Column("Finding", lambda row: _finding(found.get((row.task, row.label, row.metric))), words=True),
        ]
    mixed = mixes_bounds(report, METRICS["val_nll"])
    columns.append(Column("Val. NLL,\nnats/token", lambda row: _nll(row, nll, report, mixed)))
    rows = baseline_first(report, [row for row in report.levels if row.metric == report.metric])
    common = any(d.common for (_, _, key), d in found.items() if key == report.metric)
    return rich_table(_narrow(build(columns, rows)), report.name, "\n".join(_caption(report, common=common)))


def _head(label: str, words: str) -> str:
    return f"{label},\n{words}" if words else label


def _caption(report: Report, *, common: bool) -> list[str]:
    caption = [
        report.headline,
        f"± standard deviation over seeds; below it the mean's {level_name(report)} interval.",
    ]
    if common:
        caption.append(
            f"{ON_COMMON} Of the runs whose seeds both methods have, so not the difference of the two means shown."
        )
    if report.failures:
        caption.append(f"Without a result: {', '.join(report.failures)}.")
    return caption


def _nll(level: Level, nll: dict[tuple[str, str], Level], report: Report, mixed: bool) -> str:
    """An ARM's is exact, which is said where others are upper bounds."""
    text = _mean_and_sd(nll.get((level.task, level.label)))
    exact = mixed and text != NONE and report.families.get(level.label) == "arm"
    return f"{text}\nexact" if exact else text


def _mean_and_sd(level: Level | None, metric: Metric = METRICS["val_nll"]) -> str:
    """`61.0 ± 1.2` and, on the next line, the mean's interval."""
    if level is None:
        return NONE
    first, *interval = estimate(level.mean, metric.write).splitlines()
    spread = f" ± {metric.write(level.sd.value)}" if level.sd else ""
    return "\n".join([first + spread, *interval])


def _less(level: Level, report: Report, found: dict[tuple[str, str, str], Difference], metric: Metric) -> str:
    if level.label == report.baseline:
        return "baseline"
    difference = found.get((level.task, level.label, level.metric))
    if difference is None:
        return NONE
    first, *interval = estimate(difference.difference, metric.write_signed).splitlines()
    return "\n".join([f"{first} {ON_COMMON}" if difference.common else first, *interval])


def _finding(difference: Difference | None) -> str:
    """Broken where it is longest, so that a terminal's column stays narrow."""
    broken = {
        "not distinguishable": "not\ndistinguishable",
        "not supported by this many seeds": "not supported\nby this many\nseeds",
    }
    return broken.get(difference.finding, difference.finding) if difference else NONE


def rich_table(shown: Table, title: str, caption: str, name_width: int = 10, lines: bool = True) -> RichTable:
    """A table for the terminal; the first column may shrink to `name_width`; `lines` between rows."""
    table = RichTable(
        title=escape(title),
        caption=escape(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_lines=lines,
    )
    for place, (header, width) in enumerate(zip(shown.headers, _widths(shown), strict=True)):
        # in a narrow terminal numbers stay whole and long names are folded
        words = place == 0 or place in shown.words
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(escape(header), justify=justify, min_width=width if place else name_width, overflow="fold")
    for row in shown.rows:
        table.add_row(*map(escape, row))
    return table


def _widths(shown: Table) -> list[int]:
    """Of columns whose heads are broken between words and whose cells are not."""
    return [
        max([*_lengths(header.split()), *(n for row in shown.rows for n in _lengths(row[place].splitlines()))])
        for place, header in enumerate(shown.headers)
    ]


def _narrow(shown: Table) -> Table:
    """With names folded so that all columns fit into the narrowest terminal, if they can."""
    room = max(10, NARROW - sum(width + 2 for width in _widths(shown)[1:]) - 3)
    rows = [["\n".join(_folded(line, room) for line in name.splitlines()), *cells] for name, *cells in shown.rows]
    return shown._replace(rows=rows)


def _lengths(texts: Iterable[str]) -> list[int]:
    return [len(text) for text in texts]


def _folded(name: str, width: int) -> str:
    """A name on lines of at most `width`, as far as its parts allow."""
    lines = [""]
    for part in re.findall(r"[^_\- ]*[_\- ]*", name):
        if len(lines[-1] + part.rstrip()) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return "\n".join(line.rstrip() for line in lines if line)
