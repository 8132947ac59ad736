"""What the verbs that run a sweep share: run it, compare, and print."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from raymdm.comparison.runs import Runs
    from raymdm.comparison.samples import Asked
    from raymdm.config.criteria import Criterion
    from raymdm.config.schema import Recipe
    from raymdm.orchestrate.folder import SweepFolder

# heavy imports come inside the functions, so that --help and mistakes in a recipe answer at once

console = Console()


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def sweep_and_compare(verb: str, recipe: "Recipe", resume: bool, path: Path, overrides: list[str]) -> None:
    """Run, compare and print; exit status 130 when interrupted, 1 when runs failed."""
    from raymdm.orchestrate.sweep import sweep as run_sweep
    from raymdm.tracking.mlflow_connection import without_password

    uri = recipe.tracking.uri or ""  # its password is asked of the person again rather than printed
    again = shlex.join(["raymdm", verb, str(path), *(without_password(text, uri) for text in overrides), "--resume"])
    compare_after(lambda: run_sweep(recipe, resume, console), again, recipe.tracking.uri)


def compare_after(run: "Callable[[], SweepFolder]", again: str | None, uri: str | None = None) -> None:
    """Run a sweep, or part of one, and compare. again: the command that goes on with it; uri: with its password."""
    from raymdm.comparison.metrics import METRICS
    from raymdm.comparison.stats.spread import MARGIN
    from raymdm.orchestrate import compare as stage
    from raymdm.orchestrate.source import Source
    from raymdm.tracking.mlflow_connection import mlflow_command

    try:
        folder = run()
    except KeyboardInterrupt:
        say("interrupted before anything was trained")
        raise typer.Exit(130) from None
    state = folder.state()
    again = again or shlex.join(["raymdm", "sweep", str(folder.path / "recipe.yaml"), "--resume"])
    if state["status"] in ("interrupted", "running"):  # the latter where a full disk did not take the end
        say(f"interrupted; go on with: {again}")
        raise typer.Exit(130)
    if state["status"] == "failed":
        say(f"some runs failed: `raymdm status {folder.path}` says why; try them again with:")
        say(f"raymdm retry {folder.path} --failed")
        if not any(folder.path.glob("trials/*/scores.parquet")):
            raise typer.Exit(1)
    runs = stage.read(Source((folder.path,)), None, METRICS["accuracy"])
    report(runs, stage.asked(runs, []), MARGIN, folder.path, False, [])
    if state["mlflow_uri"]:
        stage.log_report(folder.path, folder.path, uri)
        say(f"MLflow: {state['mlflow_uri']}; open it with: {mlflow_command(state['mlflow_uri'])}")
    if state["status"] == "failed":
        raise typer.Exit(1)


def report(
    runs: "Runs", asked: "Asked", margin: float, folder: Path, latex: bool, questions: "Sequence[Criterion]"
) -> bool:
    """Analyse, write and print; whether everything that was asked holds."""
    from raymdm.comparison.analysis import analyse
    from raymdm.comparison.answers import answers
    from raymdm.comparison.report import write_report
    from raymdm.comparison.tables import terminal

    report = analyse(runs, asked, margin)
    found = [answers(report, question) for question in questions]
    console.print(terminal(report, runs))
    say(f"report: {write_report(report, runs, folder, latex=latex)}")
    for question, (holds, reasons) in zip(questions, found, strict=True):
        say(f"{'holds' if holds else 'does not hold'}: {question.text}")
        for reason in reasons:
            say(f"  {reason}")
    return all(holds for holds, _ in found)
