"""Tables as rows of text, which the page, the Markdown file and the terminal all show, and how cells are written."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from raymdm.comparison.document import Difference, Estimate, Level, Report
from raymdm.comparison.metrics import METRICS, Metric, p_value, percent
from raymdm.comparison.runs import Runs

NONE = "–"
"""Stands where there is no number."""


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


class Column(NamedTuple):
    """A column of a table that is made from one object a row."""

    header: str
    cell: Callable[[Any], str]
    brief: bool = True
    """Whether a table for a paper has it too."""
    words: bool = False


def build(columns: Sequence[Column], rows: Iterable[Any], brief: bool = False) -> Table:
    """A table of the columns that hold anything in any row; `brief` for a paper's."""
    columns = [column for column in columns if column.brief or not brief]
    cells = [[column.cell(row) for column in columns] for row in rows]
    kept = [place for place in range(len(columns)) if place == 0 or any(row[place] != NONE for row in cells)]
    return Table(
        [columns[place].header for place in kept],
        [[row[place] for place in kept] for row in cells],
        tuple(new for new, place in enumerate(kept) if columns[place].words),
    )


def naming(report: Report) -> list[Column]:
    """The columns that say which row it is: the method, and the task where there are several."""
    columns = [Column("Method", lambda row: row.label)]
    if len(report.tasks) > 1:
        columns.append(Column("Task", lambda row: row.task, words=True))
    return columns


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
    return NONE if p is None else Cell(p_value(p), p)


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
        Column(unit(metric), lambda row: _mean_and_sd(row, metric)),
    ]
    if report.baseline is not None:
        head = f"Less {report.baseline}, {difference_unit(metric)}".removesuffix(", ")
        columns += [
            Column(head, lambda row: _less(row, report, found, metric)),
            Column("Finding", lambda row: _finding(found.get((row.task, row.label, row.metric))), words=True),
        ]
    columns.append(Column("Val. NLL,\nnats/token", lambda row: _mean_and_sd(nll.get((row.task, row.label)))))
    caption = [
        report.headline,
        f"± standard deviation over seeds; below it the mean's {level_name(report)} interval.",
    ]
    if report.failures:
        caption.append(f"Without a result: {', '.join(report.failures)}.")
    shown = build(columns, [row for row in report.levels if row.metric == report.metric])
    return rich_table(shown, report.name, "\n".join(caption))


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
    return estimate(difference.difference, metric.write_signed) if difference else NONE


def _finding(difference: Difference | None) -> str:
    """Broken where it is longest, so that a terminal's column stays narrow."""
    return difference.finding.replace("supported by ", "supported by\n") if difference else NONE


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
    for place, header in enumerate(shown.headers):
        # in a narrow terminal numbers stay whole and long names are folded
        longest = max(len(word) for text in (header, *(row[place] for row in shown.rows)) for word in text.split())
        words = place == 0 or place in shown.words
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(escape(header), justify=justify, min_width=longest if place else name_width, overflow="fold")
    for row in shown.rows:
        table.add_row(*map(escape, row))
    return table
