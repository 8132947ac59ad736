"""The `raymdm` command: one thin function a verb. Every verb takes RECIPE [dotted.override=value ...]."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raymdm.errors import UserError

# heavy imports (torch, ray, transformers) come inside the verbs, after the recipe is read, so that --help and mistakes
# in a recipe answer at once

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe; `raymdm recipes` lists them.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Dotted overrides, such as train.lr=1e-4.")
]


@app.command()
def recipes(folder: Annotated[Path, typer.Argument(help="Folder of recipes.")] = Path("jobs/recipes")) -> None:
    """List the recipes of a folder."""
    from raymdm.config.load import find_recipes

    table = Table("recipe", "name", "description")
    for path, name, description in find_recipes(folder):
        table.add_row(str(path), name, description)
    console.print(table)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Validate a recipe, its data and tokenizer, and that its resources can be had, without training."""
    from raymdm.config.load import config_hash, load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from raymdm.orchestrate.check import check as check_recipe

    for line in check_recipe(loaded):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"ok: {loaded.name} ({config_hash(loaded)})", highlight=False)


@app.command()
def calibrate(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the densities.")] = None,
) -> None:
    """Measure the loss over the masking rate and fit the density p(t), for each calibrated method of the recipe."""
    from raymdm.config.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from raymdm.orchestrate.stages import calibrate_recipe

    for path in calibrate_recipe(loaded, output, console):
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train and score one run: the recipe's `method` and `seed`."""
    from raymdm.config.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    grid = loaded.sweep.model_copy(update={"methods": [loaded.method], "seeds": [loaded.seed]})
    _sweep_and_compare(loaded.model_copy(update={"sweep": grid}), resume=False, command="")


@app.command()
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    model: Annotated[Path, typer.Option(help="Folder of a trained model (model.safetensors).")] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the scored rows go.")] = Path("scores.parquet"),
) -> None:
    """Score a trained model on the test split, one row an example."""
    from raymdm.config.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from raymdm.orchestrate.stages import evaluate_model

    score = evaluate_model(loaded, model, output, console)
    console.print(f"score {100 * score:.1f}%: {output}", highlight=False, soft_wrap=True)


@app.command()
def sweep(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the latest unfinished sweep.")] = False,
) -> None:
    """Run the grid of methods and seeds, then compare."""
    from raymdm.config.load import load_recipe

    command = " ".join(["raymdm sweep", str(recipe), *(overrides or []), "--resume"])
    _sweep_and_compare(load_recipe(recipe, overrides or []), resume, command)


@app.command()
def compare(
    sweep_dir: Annotated[Path, typer.Argument(metavar="SWEEP_DIR", help="Folder of a sweep.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the report.")] = None,
) -> None:
    """Compare the methods of a sweep: report.md, report.html, results.csv and figures."""
    from raymdm.comparison.report import compare as compare_sweep
    from raymdm.comparison.tables import summary_table

    console.print(summary_table(sweep_dir))
    console.print(f"report: {compare_sweep(sweep_dir, output)}", highlight=False, soft_wrap=True)


def _sweep_and_compare(recipe, resume: bool, command: str) -> None:  # type: ignore[no-untyped-def]
    from raymdm.comparison.report import compare as compare_sweep
    from raymdm.comparison.tables import summary_table
    from raymdm.orchestrate.sweep import sweep as run_sweep
    from raymdm.tracking.mlflow_connection import mlflow_command

    folder = run_sweep(recipe, resume, console)
    state = folder.state()
    if state["status"] == "interrupted":
        console.print(f"interrupted; go on with: {command}", highlight=False, soft_wrap=True)
        raise typer.Exit(130)
    report = compare_sweep(folder.path)
    console.print(summary_table(folder.path))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    if state["mlflow_uri"]:
        console.print(f"MLflow: {state['mlflow_uri']}; open it with: {mlflow_command(state['mlflow_uri'])}",
                      highlight=False, soft_wrap=True)  # fmt: skip
    if state["status"] == "failed":
        console.print(f"some runs failed (see the report); try them again with: {command}", soft_wrap=True)
        raise typer.Exit(1)


def job(verb: str) -> None:
    """Entry of the scripts in jobs/: `--recipe FILE` and the verb's own arguments.

    A submitted job's working directory is temporary, so a relative `output` is put under the home directory.
    """
    arguments = sys.argv[1:]
    if "--recipe" in arguments:
        arguments.remove("--recipe")
        given = [value for value in arguments if value.startswith("output=")]
        relative = "runs" if not given else given[-1].removeprefix("output=")
        arguments = [value for value in arguments if value not in given]
        arguments.append(f"output={Path.home() / relative}")
    main([verb, *arguments])


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


if __name__ == "__main__":
    main()
