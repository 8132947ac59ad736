"""The written report: results.csv, report.json, figures, report.md, report.tex and one page that needs nothing else."""

from pathlib import Path
from typing import Any

from raymdm.comparison import level_tables, sweep_tables
from raymdm.comparison.document import Report
from raymdm.comparison.drawing import Drawn
from raymdm.comparison.figures import draw_figures
from raymdm.comparison.latex import write_latex
from raymdm.comparison.pages import script, write_page
from raymdm.comparison.runs import Runs
from raymdm.comparison.sections import main_metrics, sections
from raymdm.comparison.tables import counted

OPEN_VERDICTS = 4
"""Sentences about a method that are not folded."""
RESULT_COLUMNS = ["task", "model", "method", "seed", "metric", "value"]


def write_report(report: Report, runs: Runs, output: Path, *, latex: bool) -> Path:
    """Write the report's files into `output`, which is made, and return the path of report.html.

    report.tex only with `latex`. The files depend on the arguments alone.
    """
    output.mkdir(parents=True, exist_ok=True)
    runs.table[RESULT_COLUMNS].to_csv(output / "results.csv", index=False, na_rep="nan", lineterminator="\n")
    (output / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    if latex:
        write_latex(report, runs, output / "report.tex")
    context = _context(report, runs, output / "figures")
    write_page(output / "report.md", context)
    return write_page(output / "report.html", context)


def _context(report: Report, runs: Runs, figure_folder: Path) -> dict[str, Any]:
    figures: dict[str, list[Drawn]] = {}
    for figure in draw_figures(report, runs, main_metrics(report, runs), figure_folder):
        figures.setdefault(figure.section, []).append(figure)
    shown = [section for section in sections(report, runs) if section.blocks or section.name in figures]
    return {
        "report": report,
        "open_verdicts": OPEN_VERDICTS,
        "facts": _facts(report, runs),
        "sections": shown,
        "figures": figures,
        "provenance": sweep_tables.provenance_table(report, runs),
        "sweeps": [_sweep(runs, place) for place in range(len(runs.sweeps))],
        "metrics": level_tables.metrics_table(runs),
        "script": script("sort.js"),
    }


def _facts(report: Report, runs: Runs) -> list[str]:
    """What stands under the title."""
    if len(runs.sweeps) == 1:
        sweep = runs.sweeps[0]
        found = [sweep.recipe.description, sweep.info.created, sweep.info.status, sweep.info.hardware]
        return [fact for fact in found if fact]
    counts = [(len(runs.sweeps), "sweep"), (len(report.tasks), "task"), (len(report.labels), "method")]
    seeds = len(set(runs.table["seed"]))
    found = [report.source, *(counted(count, word) for count, word in [*counts, (seeds, "seed")] if count)]
    return [fact for fact in found if fact]


def _sweep(runs: Runs, place: int) -> dict[str, Any]:
    sweep = runs.sweeps[place]
    namesakes = sum(other.info.name == sweep.info.name for other in runs.sweeps)
    calibrations = sweep.calibrations
    return {
        "name": f"{sweep.info.name} ({sweep.folder.name})" if namesakes > 1 else sweep.info.name,
        "environment": sweep_tables.environment_table(sweep),
        "calibrations": sweep_tables.calibration_table(calibrations, sweep.recipe) if calibrations else None,
        "examples": sweep_tables.examples(sweep),
        "git_commit": sweep_tables.checkout(sweep),
        "recipe_text": sweep.recipe_text,
    }
