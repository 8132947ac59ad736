"""report.tex: a paper's tables, for a document that loads booktabs."""

import re
from pathlib import Path

from raymdm.comparison import claim_tables as claims
from raymdm.comparison import level_tables as levels
from raymdm.comparison.document import Difference, Report, Spread
from raymdm.comparison.metrics import Metric
from raymdm.comparison.runs import Runs
from raymdm.comparison.sections import main_metrics, references
from raymdm.comparison.tables import Table, counted, difference_unit, level_name, spaced, unit

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "²": r"\textsuperscript{2}",
    "±": r"$\pm$",
    "–": r"\textendash{}",
    "\u00a0": "~",
    "†": r"\dag{}",
    "`": r"\textasciigrave{}",
    # a row's end would take them for its arguments
    "[": "{[}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
LONG = 20
"""Most letters that a column of words holds on one line."""
BROKEN = "p{2.6cm}"
HEAD = """% Tables of a raymdm comparison. Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.
% Names outside Latin script need XeLaTeX or LuaLaTeX.
"""


def write_latex(report: Report, runs: Runs, path: Path) -> Path:
    """Write levels, differences and spreads of the first metrics as booktabs tables."""
    parts = [HEAD]
    for place, metric in enumerate(main_metrics(report, runs), start=1):
        parts += _tables(report, metric, place)
    path.write_text("\n".join(parts), encoding="utf-8", newline="\n")
    return path


def _tables(report: Report, metric: Metric, place: int) -> list[str]:
    parts = []
    if (shown := levels.level_table(report, metric, brief=True)).rows:
        counts = [len(row.seeds) for row in report.levels if row.metric == metric.key]
        caption = _level_caption(report, metric, counts, iqm="IQM" in shown.headers)
        parts.append(latex_table(shown, caption, f"levels-{place}"))
    for number, reference in enumerate(references(report), start=1):
        if differences := claims.differences(report, metric, reference):
            shown = claims.difference_table(report, metric, reference, brief=True)
            seeds = [count for row in differences for count in row.seeds]
            caption = _difference_caption(report, metric, reference, seeds, differences)
            parts.append(latex_table(shown, caption, f"differences-{place}-{number}"))
        if spreads := claims.spreads(report, metric, reference):
            shown = claims.spread_table(report, metric, reference, brief=True)
            seeds = [count for row in spreads for count in row.seeds]
            caption = _spread_caption(report, metric, reference, seeds, spreads)
            parts.append(latex_table(shown, caption, f"spread-{place}-{number}"))
    return parts


def _seeds(counts: list[int]) -> str:
    fewest, most = min(counts), max(counts)
    return f"{fewest} to {most} seeds a method" if fewest < most else f"{most} seed{'s' if most > 1 else ''} a method"


def _level_caption(report: Report, metric: Metric, counts: list[int], *, iqm: bool) -> str:
    means = "mean, interquartile mean (IQM)" if iqm else "mean"
    return (
        f"{unit(metric)}: {means} and standard deviation (SD) over {_seeds(counts)}, with {level_name(report)} "
        "intervals."
    )


def _difference_caption(
    report: Report, metric: Metric, reference: str, counts: list[int], rows: list[Difference]
) -> str:
    words = difference_unit(metric)
    tested = [row.claims for row in rows if row.p is not None]
    holm = f", and after Holm's correction for {counted(max(tested), 'claim')}" if tested else ""
    alone = " Where seeds stand alone, only their runs are compared." if any(row.common for row in rows) else ""
    scored = any(row.p_crossed is not None for row in rows)
    crossed = ", and of the crossed t test over seeds and test examples" if scored else ""
    return (
        f"{metric.label} less that of {reference}{f', {words}' if words else ''}, over {_seeds(counts)}, with "
        f"{level_name(report)} intervals, not widened for the number of claims.{alone} g: Hedges' effect size; largest "
        "p: two-sided, of a permutation test of Welch's t and of Welch's t test, both over seeds"
        f"{crossed}{holm}; P(better): probability that a run beats one of {reference}. Level of the tests: "
        f"{report.alpha:g}."
    )


def _spread_caption(report: Report, metric: Metric, reference: str, counts: list[int], rows: list[Spread]) -> str:
    margin = rows[0].margin
    tested = [row.claims for row in rows if row.p is not None]
    holm = f", and after Holm's correction for {counted(max(tested), 'claim')}" if tested else ""
    return (
        f"{metric.label}: standard deviation over that of {reference}, over {_seeds(counts)}, with "
        f"{level_name(report)} intervals. Larger p: of a two-sided permutation test of the runs' deviations and of "
        f"Brown and Forsythe's test{holm}; equivalent: a ratio between {1 / margin:.2f} and {margin:.2f} by two "
        f"one-sided F tests. Level of the tests: {report.alpha:g}."
    )


def latex_table(table: Table, caption: str, label: str) -> str:
    """A table environment; a cell's further lines are set small below its first, long words are broken."""
    columns = [_column(table, place) for place in range(len(table.headers))]
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{latex(spaced(caption))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{''.join(columns)}}}",
        r"\toprule",
        _row([_stacked(header, "b", "", column) for header, column in zip(table.headers, columns, strict=True)]),
        r"\midrule",
        *(
            _row([_stacked(cell, "t", r"\scriptsize ", column) for cell, column in zip(row, columns, strict=True)])
            for row in table.rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _column(table: Table, place: int) -> str:
    if place and place not in table.words:
        return "r"
    return BROKEN if place and max(len(row[place]) for row in table.rows) > LONG else "l"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \tabularnewline"


def _stacked(text: str, where: str, small: str, column: str) -> str:
    """One line, or several in a table of their own whose top or bottom lies on the row's line."""
    first, *more = [latex(line) for line in text.splitlines()] or [""]
    if column == BROKEN:
        return rf"\raggedright {' '.join([first, *more])}"
    if not more:
        return first
    lines = r" \\ ".join([first, *(small + line for line in more)])
    return rf"\begin{{tabular}}[{where}]{{@{{}}{column}@{{}}}}{lines}\end{{tabular}}"


def latex(text: str) -> str:
    """Text that LaTeX sets as it is: every special character is escaped, a sign before a number is a minus."""
    text = re.sub(r"[^\S\u00a0]+", " ", text).strip()
    printable = "".join(character for character in text if character.isprintable() or character == "\u00a0")
    escaped = "".join(SPECIAL.get(character, character) for character in printable)
    return re.sub(r"-(?=-)", "-{}", re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", escaped))
