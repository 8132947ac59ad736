"""What `raymdm compare` is asked to read, checked before anything heavy is imported."""

from pathlib import Path
from typing import NamedTuple

from raymdm.errors import UserError
from raymdm.orchestrate.folder import writable


class Source(NamedTuple):
    """Where runs come from: sweeps, a table, or MLflow."""

    sweeps: tuple[Path, ...] = ()
    results: Path | None = None
    scores: Path | None = None
    percent: bool = False
    mlflow: str | None = None
    experiment: str | None = None
    parent: str | None = None


def check(source: Source, output: Path | None, log: bool, margin: float) -> None:
    """Raise UserError unless the options name one source and fit together."""
    named = [bool(source.sweeps), source.results is not None, source.mlflow is not None]
    if sum(named) != 1:
        raise UserError(
            "compare needs one source: folders of sweeps, or --results FILE, or --mlflow URI --experiment NAME"
            + ("" if any(named) else "; `raymdm compare --help` says more")
        )
    if (source.scores or source.percent) and not source.results:
        raise UserError("--scores and --percent go with --results FILE")
    if (source.experiment or source.parent) and not source.mlflow:
        raise UserError("--experiment and --parent go with --mlflow URI")
    if source.mlflow and not source.experiment:
        raise UserError("--mlflow needs --experiment NAME")
    if output is None and len(source.sweeps) != 1:
        raise UserError("name a folder for the report: -o DIR (only a single sweep has one of its own)")
    writable(output or source.sweeps[0], "-o DIR")
    if log and len(source.sweeps) != 1:
        raise UserError("--log needs one sweep: it logs the report to that sweep's MLflow run")
    if not 1.01 <= margin <= 100:
        raise UserError(f"--margin {margin:g}: expected a ratio from 1.01 to 100, such as 1.5")
