"""The `raymdm` command: one thin function a verb."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raymdm.errors import UserError
from raymdm.reporting import compare_after, console, report, say, sweep_and_compare

if TYPE_CHECKING:
    from raymdm.config.schema import Recipe

# heavy imports (torch, ray, transformers) come inside the verbs, after the recipe is read, so that --help and mistakes
# in a recipe answer at once

HELP = (
    "Train masked diffusion language models with less variance, and compare the methods over seeds.\n\n"
    "A RECIPE is a YAML file; values after it replace fields of it: raymdm sweep RECIPE train.lr=1e-4\n\n"
    "The exit code is 0 for success, 1 when runs of a sweep failed or an --assert does not hold, 2 for a mistake that "
    "you can mend, 130 when you interrupted."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe; `raymdm recipes` lists them.")]
SweepPath = Annotated[Path, typer.Argument(metavar="SWEEP_DIR", help="Folder of a sweep.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the latest unfinished sweep, or add methods and seeds to a finished one."
    ),
]
ResumeRun = Annotated[bool, typer.Option("--resume", help="Go on with this run, where it was interrupted.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Dotted overrides, such as train.lr=1e-4.")
]


def _version(asked: bool) -> None:
    if asked:
        from raymdm import __version__

        say(f"raymdm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What may stand before a verb; the help above all verbs is HELP."""


@app.command()
def recipes(folder: Annotated[Path, typer.Argument(help="Folder of recipes.")] = Path("jobs/recipes")) -> None:
    """List the recipes of a folder."""
    from raymdm.config.load import find_recipes

    table = Table()
    table.add_column("recipe", no_wrap=True, overflow="ignore")  # a path that is cut off names no file
    table.add_column("name", overflow="fold")
    table.add_column("description")
    for path, name, description in find_recipes(folder):
        if console.is_terminal:
            table.add_row(escape(str(path)), escape(name), escape(description))
        else:
            say(f"{path}  {name}  {description}")
    if console.is_terminal:
        console.print(table)


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only what needs no data, no network and none of the GPUs.")
    ] = False,
) -> None:
    """Validate a recipe, its data, tokenizer and model files, and that its resources can be had, without training."""
    from raymdm.config.load import config_hash

    loaded = _load(recipe, overrides)
    from raymdm.orchestrate.check import check as check_recipe

    for line in check_recipe(loaded, offline):
        say(line)
    say(f"ok: {loaded.name} ({config_hash(loaded)})")


@app.command()
def calibrate(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the densities.")] = None,
) -> None:
    """Measure the loss over the masking rate and fit the density p(t), for each calibrated method of the recipe."""
    loaded = _load(recipe, overrides)
    from raymdm.orchestrate.stages import calibrate_recipe

    for path in calibrate_recipe(loaded, _lasting(output) if output else None, console):
        say(str(path))


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None, resume: ResumeRun = False) -> None:
    """Train and score one run: the recipe's `method` and `seed`."""
    loaded = _load(recipe, overrides)
    grid = loaded.sweep.model_copy(update={"methods": [loaded.method], "seeds": [loaded.seed]})
    sweep_and_compare("train", loaded.model_copy(update={"sweep": grid}), resume, recipe, overrides or [])


@app.command()
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    model: Annotated[Path, typer.Option(help="Folder of a model, trained or not.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the rows go.")] = None,
    nll: Annotated[bool, typer.Option("--nll", help="The negative log-likelihood of the responses instead.")] = False,
) -> None:
    """Score a model on the test split, one row an example: scores.parquet, or nll.parquet with --nll."""
    from raymdm.models.folder import require_model

    loaded = _load(recipe, overrides)
    require_model(model, "--model")
    from raymdm.orchestrate.stages import evaluate_model, evaluate_nll

    output = _lasting(output or Path("nll.parquet" if nll else "scores.parquet"))
    if nll:
        say(f"{evaluate_nll(loaded, model, output, console)}: {output}")
    else:
        say(f"score {100 * evaluate_model(loaded, model, output, console):.1f}%: {output}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder of a model, trained or downloaded.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="New folder.")],
    to: Annotated[
        Literal["llama", "llada"], typer.Option(help="llada: LLaDA's own names and config; llama: transformers'.")
    ] = "llama",
    shard_size: Annotated[str, typer.Option(help="Largest file.")] = "5GB",
    base: Annotated[str | None, typer.Option(help="An adapter's base model, where it is not the one it names.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer; without it, MODEL_DIR.")] = None,
) -> None:
    """Convert a model between LLaDA's layout and transformers', with an adapter merged into it."""
    from raymdm.models.folder import require_source

    require_source(source)
    from raymdm.models.convert import convert as convert_model

    for note in convert_model(source, target, to, shard_size, base, tokenizer):
        say(note)
    say(str(target))


@app.command()
def diagnose(
    recipe: RecipePath,
    overrides: Overrides = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of a trained model; without it, the model before training.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the diagnosis.")] = None,
) -> None:
    """Measure every method's variance on this model and data, and recommend one: before any training."""
    loaded = _load(recipe, overrides)
    if checkpoint:
        from raymdm.models.folder import require_model

        require_model(checkpoint, "--checkpoint")
    from raymdm.comparison.diagnosis import load_diagnosis
    from raymdm.comparison.diagnosis_report import write_report
    from raymdm.comparison.diagnosis_tables import terminal
    from raymdm.orchestrate.diagnose import diagnose as diagnose_recipe

    folder = diagnose_recipe(loaded, checkpoint, _lasting(output) if output else None, console)
    console.print(terminal(load_diagnosis(folder)))
    say(f"report: {write_report(folder)}")


@app.command()
def sweep(recipe: RecipePath, overrides: Overrides = None, resume: Resume = False) -> None:
    """Run the grid of methods and seeds, then compare."""
    sweep_and_compare("sweep", _load(recipe, overrides), resume, recipe, overrides or [])


@app.command()
def compare(
    sweeps: Annotated[list[Path] | None, typer.Argument(metavar="[SWEEP_DIR]...", help="Folders of sweeps.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="CSV or Parquet instead: task, model, method, seed, metric, value.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="With --results: task, model, method, seed, example_id, score.")
    ] = None,
    percent: Annotated[bool, typer.Option("--percent", help="Accuracies of --results are percent.")] = False,
    mlflow: Annotated[str | None, typer.Option(metavar="URI", help="Runs from an MLflow store instead.")] = None,
    experiment: Annotated[str | None, typer.Option(help="With --mlflow: the experiment.")] = None,
    parent: Annotated[str | None, typer.Option(help="With --mlflow: the sweep's run, where there are several.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the report.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The method that the others are compared to.")] = None,
    metric: Annotated[str, typer.Option(help="Metric of the claims: NAME, or NAME:higher, NAME:lower.")] = "accuracy",
    margin: Annotated[float, typer.Option(help="Ratio within which two spreads are equivalent.")] = 1.5,
    latex: Annotated[bool, typer.Option("--latex", help="Write report.tex too.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Log the report to the sweep's MLflow run.")] = False,
    assertions: Annotated[
        list[str] | None,
        typer.Option(
            "--assert", metavar="QUESTION", help="Exit with 1 unless it holds, such as better(stable, standard)."
        ),
    ] = None,
) -> None:
    """Compare methods over seeds, from sweeps, a table or MLflow: report.html, .md, .json, results.csv and figures."""
    from raymdm.orchestrate.source import Source
    from raymdm.orchestrate.source import check as check_source

    source = Source(tuple(sweeps or ()), results, scores, percent, mlflow, experiment, parent)
    check_source(source, output, log, margin)
    from raymdm.comparison.metrics import parse_metric
    from raymdm.orchestrate import compare as stage

    questions = stage.questions(assertions or [])
    folder = _lasting(output) if output else source.sweeps[0]
    runs = stage.read(source, baseline, parse_metric(metric))
    held = report(runs, stage.asked(runs, questions), margin, folder, latex, questions)
    logged = stage.log_report(source.sweeps[0], folder, latex=latex) if log else True
    if not (held and logged):
        raise typer.Exit(1)


@app.command()
def status(
    sweep: SweepPath,
    all_runs: Annotated[bool, typer.Option("--all", help="Show finished runs of a large sweep too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a sweep is, what failed and why, and how long it will take."""
    from raymdm.orchestrate.status import render
    from raymdm.orchestrate.status import status as read_status

    found = read_status(sweep)
    if as_json:
        say(found.model_dump_json(indent=1))
    else:
        console.print(render(found, every=all_runs), soft_wrap=True)  # paths and commands stay whole


@app.command()
def retry(
    sweep: SweepPath,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN | FIELD=VALUE]...", help="Such as mirror-s42.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All runs that failed.")] = False,
) -> None:
    """Run failed runs of a sweep again, then compare; earlier errors are kept."""
    given = runs or []
    names, overrides = [run for run in given if "=" not in run], [run for run in given if "=" in run]
    if failed == bool(names):
        raise UserError("retry: name runs, such as mirror-s42, or give --failed for all that failed")
    from raymdm.orchestrate.retry import retry as retry_runs

    uri = next((text.partition("=")[2] for text in overrides if text.startswith("tracking.uri=")), None)
    compare_after(lambda: retry_runs(sweep, names, overrides, console), None, uri)


@app.command()
def sync(sweep: SweepPath, overrides: Overrides = None) -> None:
    """Bring MLflow up to date with a sweep's folder: after an outage, or when the sweep's process was killed."""
    from raymdm.orchestrate.sync import sync as sync_sweep

    say(sync_sweep(sweep, overrides or []))


def _load(path: Path, overrides: list[str] | None) -> "Recipe":
    """The recipe; in a submitted job, whose working directory is temporary, a relative `output` moves to the home."""
    from raymdm.config.load import load_recipe

    recipe = load_recipe(path, overrides or [])
    return recipe.model_copy(update={"output": str(_lasting(Path(recipe.output)))})


def _lasting(path: Path) -> Path:
    """A path that outlives this process: in a submitted job, a relative one is taken from the home directory."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if not in_job or path.is_absolute():
        return path
    say(f"a job's working directory is temporary: {path} becomes {Path.home() / path}")
    return Path.home() / path


def job(verb: str) -> None:
    """Entry of the scripts in jobs/: `--recipe FILE` and the verb's own arguments."""
    main([verb, *(argument for argument in sys.argv[1:] if argument != "--recipe")])


def main(arguments: list[str] | None = None) -> None:
    """Run a verb; a user's mistake prints one message and exits with 2, an interrupt with 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(arguments)
    except UserError as error:
        console.file.flush()
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True, style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from raymdm.orchestrate.refusals import told

        refused = told(error)
        if refused is None:
            raise
        Console(stderr=True).print(f"error: {refused}", highlight=False, markup=False, soft_wrap=True, style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
