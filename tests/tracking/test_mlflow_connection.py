"""Reaching a store: SQLite made ready, experiments found and made, settings, and a server that need not answer."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raymdm.errors import UserError
from raymdm.tracking.mlflow_connection import (
    client_settings,
    connect,
    mlflow_command,
    reason,
    sqlite_uri,
    without_password,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("an mlflow?store%20")


@pytest.fixture(scope="module")
def said():
    """What MLflow said on its logger while the store was made."""
    return []


@pytest.fixture(scope="module")
def store(folder, said):
    """One store for all tests, since making a schema takes seconds; each test logs another sweep."""
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("mlflow").addHandler(handler)
    try:
        return connect(sqlite_uri(folder / "deep" / "mlflow.db"), "sorting", folder / "artifacts")
    finally:
        logging.getLogger("mlflow").removeHandler(handler)


def test_connecting_again_finds_the_experiment(store):
    assert connect(store.uri, "sorting", Path("elsewhere")).experiment_id == store.experiment_id


def test_the_artifact_folder_is_absolute(store, folder):
    location = store.client.get_experiment(store.experiment_id).artifact_location
    assert location == (folder / "artifacts").as_uri()


def test_a_deleted_experiment_is_refused_with_the_remedy(store):
    other = connect(store.uri, "gone", Path("artifacts"))
    store.client.delete_experiment(other.experiment_id)
    with pytest.raises(UserError, match=r"'gone' was deleted.*mlflow experiments restore"):
        connect(store.uri, "gone", Path("artifacts"))


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("no database\n" * 100)
    with pytest.raises(UserError, match="cannot be used as a SQLite file: file is not a database"):
        connect(sqlite_uri(path), "sorting", tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as a SQLite file"):
        connect(sqlite_uri(tmp_path / "file" / "mlflow.db"), "sorting", tmp_path)


@pytest.mark.parametrize("uri", ["nonsense://x", "mlruns"])
def test_a_kind_of_store_that_mlflow_does_not_take_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"tracking\.uri: cannot use the MLflow store {uri}"):
        connect(uri, "sorting", tmp_path)


def test_a_store_is_made_where_it_should_be_and_without_a_word(store, folder, said):
    assert (folder / "deep" / "mlflow.db").stat().st_size > 0
    assert said == []


def test_importing_the_trackers_does_not_import_mlflow():
    program = (
        "import raymdm.tracking.mlflow_tracker, raymdm.tracking.jsonl, sys;"
        "print([name for name in ('mlflow', 'ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:////a/b.db", "mlflow ui --backend-store-uri sqlite:////a/b.db --host 127.0.0.1 --port 5000"),
        ("sqlite:////a b.db", "mlflow ui --backend-store-uri 'sqlite:////a b.db' --host 127.0.0.1 --port 5000"),
        ("http://me:secret@host:5000", "open http://***@host:5000 in a browser"),
    ],
)
def test_the_command_that_shows_a_store(uri, command):
    assert mlflow_command(uri) == command


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cr/et@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("postgresql://me:s3cr#et@db/mlflow", "postgresql://***@db/mlflow"),
        ("mysql+pymysql://me:s3cr?et@db/mlflow", "mysql+pymysql://***@db/mlflow"),
        ("postgresql://me:s3cr@et@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://me:s3cr[et@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://db/mlflow?user=me&password=s3cr/et&x=1", "postgresql://db/mlflow?user=me&password=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://me:s3cret@host:5000/path@x", "http://***@host:5000/path@x"),
        ("http://me:s3cr/et@host:5000", "http://***@host:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://[nonsense", "http://[nonsense"),
        ("http://host:5000/team@place", "http://host:5000/team@place"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(uri, shown):
    assert without_password(uri, uri) == shown
    assert without_password(f"cannot use {uri}!", uri) == f"cannot use {shown}!"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://me:s3cr%2Fet@db/x", "authentication failed: s3cr/et"),
        ("postgresql://me:s3cret@db/x", "cannot use me:s3cret@db"),
        ("postgresql://db/x?password=s3cret", "invalid dsn: password=s3cret"),
        ("postgresql://me:s3cr@etet@db/x", 'could not translate host name "etet@db"'),
    ],
)
def test_a_driver_s_error_is_told_without_the_password(uri, said):
    told = reason(ValueError(said), uri)
    assert not any(part in told for part in ("s3cr", "etet"))


def test_a_store_that_cannot_be_reached_is_named_without_its_password(tmp_path):
    """No driver for it is installed."""
    with pytest.raises(UserError, match=r"cannot use the MLflow store oracle://\*\*\*@db/x") as error:
        connect("oracle://me:s3cr/[et@db/x", "sorting", tmp_path)
    assert "s3cr" not in str(error.value)


def test_an_error_without_a_word_is_told_by_its_kind():
    assert reason(TimeoutError(), "http://host") == "TimeoutError"


def test_a_relative_store_is_shown_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"sqlite:///{tmp_path}/mlflow.db" in mlflow_command("sqlite:///mlflow.db")


@pytest.fixture
def nobody_else():
    """Threads of trackers that earlier tests closed or abandoned have let go of the settings, which all share."""
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.mark.usefixtures("nobody_else")
def test_the_users_own_settings_are_kept_and_ours_are_taken_back(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with client_settings():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@pytest.mark.usefixtures("nobody_else")
def test_settings_last_as_long_as_anybody_needs_them(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    first, second = client_settings(timeout=3), client_settings(timeout=4)
    with first:
        second.__enter__()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    second.__exit__(None, None, None)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
