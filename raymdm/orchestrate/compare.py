"""What `raymdm compare` reads, checks and asks; the report itself is written by its caller."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raymdm.comparison.longform import runs_of_frames, runs_of_table
from raymdm.comparison.metrics import Metric
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.comparison.results import SweepInfo, read_model
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Asked
from raymdm.config import criteria
from raymdm.config.criteria import Criterion
from raymdm.errors import UserError
from raymdm.orchestrate.source import Source
from raymdm.tracking.mlflow_connection import without_password
from raymdm.tracking.mlflow_reader import read_experiment
from raymdm.tracking.mlflow_report import log_to_sweep

REPORT_FILES = ("report.html", "report.md", "report.json", "results.csv")


def questions(texts: Sequence[str]) -> list[Criterion]:
    """Parsed `--assert` questions; raises UserError for one that cannot be read."""
    try:
        return [criteria.parse(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--assert: {error}") from None


def read(source: Source, baseline: str | None, metric: Metric) -> Runs:
    """The runs of a source; raises UserError for whatever is wrong with them."""
    if source.sweeps:
        runs = runs_of_sweeps(list(source.sweeps), baseline=baseline, metric=metric)
        return replace(runs, source=", ".join(folder.resolve().name for folder in source.sweeps))
    if source.results:
        runs = runs_of_table(source.results, source.scores, baseline=baseline, metric=metric, percent=source.percent)
        files = [_with_digest(path) for path in (source.results, source.scores) if path]
        return replace(runs, source=", ".join(files) + (", accuracies in percent" if source.percent else ""))
    assert source.mlflow and source.experiment
    with tempfile.TemporaryDirectory() as download:
        results, scores = read_experiment(source.mlflow, source.experiment, source.parent, Path(download))
    runs = runs_of_frames(results, scores, name=source.experiment, baseline=baseline, metric=metric)
    sweep = f", sweep {source.parent}" if source.parent else ""
    store = without_password(source.mlflow, source.mlflow)
    return replace(runs, source=f"MLflow experiment {source.experiment}{sweep} in {store}")


def _with_digest(path: Path) -> str:
    """A file's name and what tells this content of it from another."""
    with path.open("rb") as file:
        return f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def asked(runs: Runs, asserted: Sequence[Criterion]) -> Asked:
    """Pairs that `--assert` or a sweep's `stop_when` compares; each joins the family of claims.

    Raises UserError where `--assert` names a method that has no runs.
    """
    atoms = [atom for criterion in asserted for atom in criterion.atoms]
    for atom in atoms:
        for name in atom.methods:
            if name not in runs.labels:
                raise UserError(f"--assert {atom}: no method {name!r} in the results. Known: {', '.join(runs.labels)}")
    for sweep in runs.sweeps:
        seeds = sweep.recipe.sweep.seeds
        atoms += [] if isinstance(seeds, list) else seeds.criterion.atoms
    return [atom.methods for atom in atoms if len(atom.methods) == 2]


def log_report(sweep: Path, folder: Path, uri: str | None = None, *, latex: bool = False) -> bool:
    """Log the report in `folder` to the sweep's MLflow run, and say whether that worked; `uri` where sweep.json lacks
    its password. Raises UserError where the sweep was not tracked."""
    info = read_model(sweep / "sweep.json", SweepInfo)
    store = uri or info.mlflow_uri
    if store is None:
        raise UserError(f"{sweep}: this sweep was not tracked with MLflow, so there is no run to log the report to")
    # a report.tex of an earlier comparison may lie there: it belongs to this one only if it was asked for
    files = [folder / name for name in (*REPORT_FILES, *(["report.tex"] if latex else []))]
    return log_to_sweep(store, info.experiment, sweep.resolve().name, files, folder / "figures")
