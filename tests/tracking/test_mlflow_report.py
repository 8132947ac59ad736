"""A report beside its sweep's runs."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raymdm.tracking.mlflow_connection import Connection, connect
from raymdm.tracking.mlflow_report import log_to_sweep
from raymdm.tracking.mlflow_tracker import MlflowTracker


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def connection(store: Connection, experiment: str, tmp_path: Path) -> Connection:
    """An experiment of the test's own, with the finished sweep `sweep-1`."""
    connection = connect(store.uri, experiment, tmp_path / "artifacts")
    MlflowTracker(connection, "sweep-1").close("finished")
    return connection


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text("<p>report")
    (folder / "figures" / "accuracy.png").write_bytes(b"png")
    return folder


def test_the_report_is_an_artifact_of_the_sweep_s_run(connection: Connection, experiment: str, report: Path) -> None:
    assert log_to_sweep(connection.uri, experiment, "sweep-1", [report / "report.html"], report / "figures")
    client = MlflowClient(connection.uri)
    (run,) = client.search_runs([connection.experiment_id])
    assert [item.path for item in client.list_artifacts(run.info.run_id, "report")] == [
        "report/figures",
        "report/report.html",
    ]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "report/figures")] == [
        "report/figures/accuracy.png"
    ]
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(("other", "sweep"), [("", "sweep-2"), ("another", "sweep-1")])
def test_a_run_that_is_not_there_is_a_warning(
    connection: Connection, experiment: str, report: Path, caplog: pytest.LogCaptureFixture, other: str, sweep: str
) -> None:
    name = other or experiment
    assert not log_to_sweep(connection.uri, name, sweep, [report / "report.html"], report / "figures")
    assert f"no run of {sweep} in experiment {name}" in caplog.text


def test_an_error_without_a_word_is_a_warning(
    connection: Connection,
    experiment: str,
    report: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(MlflowClient, "log_artifact", fail)
    assert not log_to_sweep(connection.uri, experiment, "sweep-1", [report / "report.html"], report / "figures")
    assert caplog.messages[-1].endswith(": TimeoutError")


def test_a_dead_server_is_a_warning_without_its_password(report: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = "http://user:secret@127.0.0.1:9"
    assert not log_to_sweep(uri, "experiment", "sweep-1", [report / "report.html"], report / "figures")
    assert "the report is not logged to MLflow at http://***@127.0.0.1:9" in caplog.text
    assert "secret" not in caplog.text
