"""Trackers whose threads end with the test, and an MLflow server that can be killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes import free_port

from raymdm.tracking.mlflow_connection import Connection, connect, sqlite_uri
from raymdm.tracking.mlflow_tracker import MlflowTracker

NURSERY = """
import os, sys
from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR
uri, root, port = sys.argv[1:]
os.environ |= {BACKEND_STORE_URI_ENV_VAR: uri, ARTIFACT_ROOT_ENV_VAR: root}
from mlflow.server import app
from werkzeug.serving import make_server

while True:
    child = os.fork()
    if child == 0:
        server = make_server("127.0.0.1", int(port), app, threaded=True)
        print(os.getpid(), flush=True)
        server.serve_forever()
    os.waitpid(child, 0)
    sys.stdin.readline()
"""
"""Serves MLflow in a child; when that dies, a line on stdin brings the next, without importing MLflow again."""


class Killable:
    """MLflow's own server on a SQLite file, in a process that can be killed at any moment and comes back at once."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-W", "ignore", "-c", NURSERY]
        arguments = [f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), str(port)]
        with (folder / "server.log").open("w") as log:
            self._nursery = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._pid = self._begun()

    def kill(self) -> None:
        """As `kill -9` does."""
        os.kill(self._pid, signal.SIGKILL)

    def come_back(self) -> None:
        self._nursery.stdin.write("\n")
        self._nursery.stdin.flush()
        self._pid = self._begun()

    def end(self) -> None:
        self._nursery.kill()
        os.kill(self._pid, signal.SIGKILL)
        self._nursery.communicate()

    def _begun(self) -> int:
        return int(self._nursery.stdout.readline())


@pytest.fixture(scope="session")
def killable(store: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    folder = tmp_path_factory.mktemp("server")
    path = store.uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(folder / "mlflow.db")) as copy:
        source.backup(copy)  # with the schema, which takes long to make
    server = Killable(folder)
    yield server
    server.end()


class Trackers:
    """Makes trackers, and waits for them."""

    def __init__(self) -> None:
        self._made: list[MlflowTracker] = []

    def __call__(self, *arguments, **named) -> MlflowTracker:
        self._made.append(MlflowTracker(*arguments, **{"patience": 60.0} | named))
        return self._made[-1]

    def flush(self) -> None:
        for tracker in self._made:
            assert tracker.flush(60)

    def abandon(self) -> None:
        """Leave the trackers as a driver does that is killed."""
        for tracker in self._made:
            tracker._stop()
        self._made.clear()

    def close(self) -> None:
        for tracker in self._made:
            tracker.close("finished")


@pytest.fixture
def track() -> Iterator[Trackers]:
    """`track(connection, sweep, ...)` makes a tracker, whose thread ends with the test."""
    trackers = Trackers()
    yield trackers
    trackers.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    """One SQLite store for many tests, since making a schema takes seconds; each test logs another sweep."""
    folder = tmp_path_factory.mktemp("store")
    return connect(sqlite_uri(folder / "mlflow.db"), "sorting", folder / "artifacts")


@pytest.fixture
def sweep(request):
    return request.node.name


@pytest.fixture
def runs(store, track):
    """`runs(key)`: the runs with a key, when MLflow has been told everything."""

    def find(key):
        track.flush()
        return store.client.search_runs([store.experiment_id], f'tags.raymdm_key = "{key}"')

    return find


@pytest.fixture
def run(runs):
    def find(key):
        (only,) = runs(key)
        return only

    return find


@pytest.fixture
def history(store, run):
    """`history(key, metric)`: steps and values, in the order of steps."""

    def find(key, metric):
        found = store.client.get_metric_history(run(key).info.run_id, metric)
        return [(point.step, point.value) for point in sorted(found, key=lambda point: point.step)]

    return find
