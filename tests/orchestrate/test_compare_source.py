"""What `raymdm compare` takes for a source."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raymdm.config.criteria import parse
from raymdm.errors import UserError
from raymdm.orchestrate.compare import log_report, questions
from raymdm.orchestrate.source import Source, check
from raymdm.tracking.mlflow_connection import connect, sqlite_uri
from raymdm.tracking.mlflow_tracker import MlflowTracker

SWEEP, FILE, OUT = (Path("a"),), Path("r.csv"), Path("out")


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (Source(SWEEP), None),
        (Source((Path("a"), Path("b"))), OUT),
        (Source(results=FILE, scores=FILE, percent=True), OUT),
        (Source(mlflow="sqlite:///x.db", experiment="e", parent="p"), OUT),
    ],
)
def test_one_source_is_enough(source: Source, output: Path | None) -> None:
    check(source, output, log=False, margin=1.5)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        (Source(), OUT, "compare needs one source"),
        (Source(SWEEP, results=FILE), OUT, "compare needs one source"),
        (Source(results=FILE, mlflow="u"), OUT, "compare needs one source"),
        (Source(SWEEP, scores=FILE), OUT, "--scores and --percent go with --results"),
        (Source(SWEEP, percent=True), OUT, "--scores and --percent go with --results"),
        (Source(SWEEP, experiment="e"), OUT, "--experiment and --parent go with --mlflow"),
        (Source(mlflow="u"), OUT, "--mlflow needs --experiment NAME"),
        (Source(results=FILE), None, "name a folder for the report: -o DIR"),
        (Source((Path("a"), Path("b"))), None, "name a folder for the report: -o DIR"),
    ],
)
def test_what_does_not_fit_together_is_said(source: Source, output: Path | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(source, output, log=False, margin=1.5)


@pytest.mark.parametrize("margin", [1.0, 0.5, -2.0, 1e200, float("nan"), float("inf")])
def test_a_margin_is_a_ratio_above_one_that_can_be_tested(margin: float) -> None:
    with pytest.raises(UserError, match=r"expected a ratio from 1\.01 to 100"):
        check(Source(SWEEP), None, log=False, margin=margin)


def test_only_a_sweep_has_a_run_to_log_to() -> None:
    with pytest.raises(UserError, match="--log needs one sweep"):
        check(Source(results=FILE), OUT, log=True, margin=1.5)


def test_questions_are_parsed_before_anything_is_read() -> None:
    assert questions(["decided(a, b)"]) == [parse("decided(a, b)")]
    with pytest.raises(UserError, match=r"--assert: 'decided\(a' cannot be read"):
        questions(["decided(a"])


def told(folder: Path, **fields: object) -> Path:
    """A sweep's folder of which sweep.json alone is there, and a report."""
    info = {"name": "s", "config_hash": "0", "git_commit": None, "created": "now", "status": "finished",
            "raymdm_version": "0", "hardware": "h", "environment": {}, "wall_seconds": 1.0}  # fmt: skip
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(info | fields))
    for name in ("report.html", "report.md", "report.json", "results.csv", "report.tex"):
        (folder / name).write_text(name)
    return folder


def test_the_report_is_logged_to_the_sweep_s_run(tmp_path: Path) -> None:
    store = connect(sqlite_uri(tmp_path / "mlflow.db"), "e", tmp_path / "artifacts")
    MlflowTracker(store, "s-1").close("finished")
    folder = told(tmp_path / "s-1", mlflow_uri=store.uri, experiment="e")
    client = MlflowClient(store.uri)
    (run,) = client.search_runs([store.experiment_id])

    def logged() -> set[str]:
        return {item.path.removeprefix("report/") for item in client.list_artifacts(run.info.run_id, "report")}

    assert log_report(folder, folder)
    assert logged() == {"report.html", "report.md", "report.json", "results.csv"}
    assert log_report(folder, folder, latex=True)
    assert "report.tex" in logged()


def test_a_sweep_without_mlflow_has_no_run_to_log_to(tmp_path: Path) -> None:
    folder = told(tmp_path / "s-1", mlflow_uri=None)
    with pytest.raises(UserError, match="was not tracked with MLflow"):
        log_report(folder, folder)
