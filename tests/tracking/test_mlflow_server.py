"""A tracking server that is not there, starts late, or dies while a sweep runs."""

import json
import logging
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raymdm.errors import UserError
from raymdm.tracking.mlflow_connection import client_settings, connect
from raymdm.tracking.mlflow_tracker import MlflowTracker

EXPERIMENT = {"experiment_id": "1", "name": "sorting", "artifact_location": "x", "lifecycle_stage": "active"}
RUN = {"info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING", "lifecycle_stage": "active"}, "data": {}}


class Handler(BaseHTTPRequestHandler):
    """As much of MLflow's REST interface as a sweep needs; remembers what was logged."""

    def _answer(self, body: dict | None = None, status: int = 200) -> None:
        content = json.dumps(body or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer({"experiment": EXPERIMENT})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status != 200:
            self._answer({"error_code": self.server.code, "message": "not now"}, self.server.status)
        elif self.path.endswith("log-batch"):
            self.server.logged += [(point["key"], int(point["step"])) for point in body.get("metrics", [])]
            self._answer()
        else:
            self._answer({"run": RUN} if self.path.endswith("runs/create") else {})

    def log_message(self, *arguments) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.logged: list[tuple[str, int]] = []
        self.status, self.code = 200, ""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def die(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.die()


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there_is_named_with_the_remedy(closed_port):
    with pytest.raises(UserError) as raised:
        connect(f"http://127.0.0.1:{closed_port}", "sorting", Path("artifacts"), patience=1)
    message = str(raised.value)
    assert message.startswith(
        f"tracking.uri: cannot use the MLflow store http://127.0.0.1:{closed_port}; start the server"
    )
    assert "tracking.uri=null" in message


def test_a_password_is_not_shown(closed_port):
    with pytest.raises(UserError) as raised:
        connect(f"http://me:secret@127.0.0.1:{closed_port}", "sorting", Path("artifacts"), patience=0)
    assert "secret" not in str(raised.value)


def test_a_server_that_starts_late_is_waited_for(closed_port):
    late: list[Server] = []
    timer = threading.Timer(0.3, lambda: late.append(Server(closed_port)))
    timer.start()
    connection = connect(f"http://127.0.0.1:{closed_port}", "sorting", Path("artifacts"), patience=30)
    timer.join()
    late[0].die()
    assert connection.experiment_id == "1"


def test_a_sweep_is_logged_over_http(server):
    tracker = MlflowTracker(connect(server.uri, "sorting", Path("artifacts")), "a")
    tracker.start("mirror-s1", {"lr": 0.1}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    assert server.logged == [("a", 1)]


def test_nothing_is_printed(server, capfd):
    tracker = MlflowTracker(connect(server.uri, "sorting", Path("artifacts")), "a")
    tracker.close("finished")
    assert capfd.readouterr() == ("", "")


def test_a_server_that_dies_raises_nothing_and_gets_the_rest_when_it_is_back(server, caplog):
    tracker = MlflowTracker(connect(server.uri, "sorting", Path("artifacts")), "a", retry_after=0)
    tracker.start("mirror-s1", {}, {})
    server.die()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.start("arm-s1", {}, {})
    tracker.log("arm-s1", [{"step": 1, "b": 1.0}])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    back = Server(server.server_port)
    tracker.log("mirror-s1", [{"step": 2, "a": 2.0}])
    back.die()
    assert back.logged == [("a", 1), ("a", 2), ("b", 1)]


def test_what_a_dead_server_lacks_is_counted_at_the_end(server, caplog, tmp_path):
    tracker = MlflowTracker(connect(server.uri, "sorting", Path("artifacts")), "a")
    tracker.start("mirror-s1", {}, {})
    server.die()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0, "b": 2.0}, {"step": 2, "a": 1.0}])
    tracker.artifacts("mirror-s1", [tmp_path])
    tracker.close("finished")
    assert "lacks 3 metric values, 1 artifacts and the end of 2 runs" in caplog.records[-1].message
    assert "metrics.jsonl" in caplog.records[-1].message


def test_a_server_in_trouble_is_left_alone_for_a_while(server):
    tracker = MlflowTracker(connect(server.uri, "sorting", Path("artifacts")), "a", retry_after=3600)
    tracker.start("mirror-s1", {}, {})
    server.status, server.code = 503, "TEMPORARILY_UNAVAILABLE"
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    server.status = 200
    tracker.log("mirror-s1", [{"step": 2, "a": 1.0}])
    assert server.logged == []
    tracker.close("finished")
    assert server.logged == [("a", 1), ("a", 2)]


def test_the_users_own_settings_are_kept_and_ours_are_taken_back(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with client_settings():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
