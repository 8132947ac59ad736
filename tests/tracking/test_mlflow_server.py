"""A tracking server that is not there, starts late, or dies while a sweep runs."""

import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from processes import free_port

from raymdm.errors import UserError
from raymdm.tracking.mlflow_connection import connect

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
        self.server.gate.wait()
        if self.server.status != 200:
            self._answer({"error_code": self.server.code, "message": "not now"}, self.server.status)
        elif "get-by-name" in self.path:
            self._answer({"experiment": EXPERIMENT | {"lifecycle_stage": self.server.stage}})
        else:
            self._answer({"run": RUN})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.status  # as it is when it is asked
        self.server.asked.release()
        self.server.gate.wait()
        if status != 200:
            self._answer({"error_code": self.server.code, "message": "not now"}, status)
        elif self.path.endswith("log-batch"):
            self.server.batches += bool(body.get("metrics"))
            self.server.logged += [(point["key"], int(point["step"])) for point in body.get("metrics", [])]
            self._answer()
        else:
            self._answer({"run": RUN} if self.path.endswith("runs/create") else {})

    def log_message(self, *arguments) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.logged: list[tuple[str, int]] = []
        self.batches = 0
        self.status, self.code, self.stage = 200, "", "active"
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def die(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def server():
    server = Server(free_port())  # one that nobody else gets when it dies
    yield server
    server.die()


@pytest.fixture
def closed_port():
    return free_port()


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


def test_a_sweep_is_logged_over_http(server, track):
    tracker = track(connect(server.uri, "sorting", Path("artifacts")), "a")
    tracker.start("mirror-s1", {"lr": 0.1}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    assert server.logged == [("a", 1)]
    assert tracker.lacking() == (0, 0, 0)


def test_nothing_is_printed(server, track, capfd):
    track(connect(server.uri, "sorting", Path("artifacts")), "a").close("finished")
    assert capfd.readouterr() == ("", "")


def test_a_server_that_hangs_delays_nothing(server, track):
    connection = connect(server.uri, "sorting", Path("artifacts"))
    server.gate.clear()
    tracker = track(connection, "a")
    server.asked.acquire()  # the thread waits for an answer
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.log_summary("mirror-s1", {"b": 1.0})
    tracker.artifacts("mirror-s1", [])
    tracker.finish("mirror-s1", "finished")
    assert server.logged == []  # all calls have returned before the server answers
    server.gate.set()
    tracker.close("finished")
    assert server.logged == [("a", 1), ("b", 0)]


def test_what_waited_is_sent_in_one_batch(server, track):
    connection = connect(server.uri, "sorting", Path("artifacts"))
    server.gate.clear()
    tracker = track(connection, "a")
    server.asked.acquire()
    tracker.start("mirror-s1", {}, {})
    for step in range(50):
        tracker.log("mirror-s1", [{"step": step, "a": 1.0}])
    server.gate.set()
    track.flush()
    assert server.batches == 1
    assert len(server.logged) == 50


def test_a_call_costs_no_more_when_there_are_many_trials(server, track):
    tracker = track(connect(server.uri, "sorting", Path("artifacts")), "a")
    for number in range(30):
        tracker.start(f"mirror-s{number}", {}, {})
    track.flush()
    while server.asked.acquire(blocking=False):
        pass
    tracker.log("mirror-s7", [{"step": 1, "a": 1.0}])
    track.flush()
    assert server.asked.acquire(blocking=False)
    assert not server.asked.acquire(blocking=False)


def test_a_server_that_dies_raises_nothing_and_gets_the_rest_when_it_is_back(server, track, caplog):
    tracker = track(connect(server.uri, "sorting", Path("artifacts")), "a", retry_after=0.01)
    tracker.start("mirror-s1", {}, {})
    track.flush()
    server.die()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.start("arm-s1", {}, {})
    tracker.log("arm-s1", [{"step": 1, "b": 1.0}])
    assert not tracker.flush(0.2)
    deadline = time.monotonic() + 30
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    back = Server(server.server_port)
    tracker.log("mirror-s1", [{"step": 2, "a": 2.0}])
    tracker.close("finished")
    back.die()
    assert sorted(back.logged) == [("a", 1), ("a", 2), ("b", 1)]


def test_what_a_dead_server_lacks_is_counted_at_the_end(server, track, caplog, tmp_path):
    tracker = track(connect(server.uri, "sorting", Path("artifacts")), "a", patience=0.1)
    tracker.start("mirror-s1", {}, {})
    track.flush()
    server.die()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0, "b": 2.0}, {"step": 2, "a": 1.0}])
    tracker.artifacts("mirror-s1", [tmp_path])
    tracker.close("finished")
    assert "lacks 3 metric values, 1 artifacts and the end of 2 runs" in caplog.records[-1].message
    assert caplog.records[-1].message.endswith("run: raymdm sync SWEEP_DIR")
    assert tracker.lacking() == (3, 1, 2)


def test_a_server_in_trouble_is_left_alone_for_a_while(server, track):
    tracker = track(connect(server.uri, "sorting", Path("artifacts")), "a", retry_after=3600)
    tracker.start("mirror-s1", {}, {})
    track.flush()
    server.status, server.code = 503, "TEMPORARILY_UNAVAILABLE"
    while server.asked.acquire(blocking=False):
        pass
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    server.asked.acquire()
    server.status = 200
    tracker.log("mirror-s1", [{"step": 2, "a": 1.0}])
    assert server.logged == []
    tracker.close("finished")  # tries again without that pause
    assert server.logged == [("a", 1), ("a", 2)]


# A server that is not required


def test_a_sweep_starts_without_a_server_and_tells_it_all_when_it_comes(closed_port, track, caplog):
    connection = connect(f"http://127.0.0.1:{closed_port}", "sorting", Path("artifacts"), patience=0, required=False)
    assert connection.experiment_id is None
    tracker = track(connection, "a", retry_after=0.01)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    assert not tracker.flush(0.1)
    late = Server(closed_port)
    tracker.close("finished")
    late.die()
    assert late.logged == [("a", 1)]
    assert "does not answer; the sweep goes on" in caplog.records[0].message


def test_neither_warning_of_a_missing_server_shows_a_password(closed_port, track, caplog):
    uri = f"http://me:secret@127.0.0.1:{closed_port}"
    tracker = track(connect(uri, "sorting", Path("artifacts"), patience=0, required=False), "a", patience=0.1)
    tracker.flush(0.1)
    tracker.close("finished")
    assert len(caplog.records) >= 2
    assert "secret" not in caplog.text


def test_a_server_that_answers_is_not_excused(server):
    server.status, server.code = 403, "PERMISSION_DENIED"
    with pytest.raises(UserError, match=r"tracking\.uri: cannot use the MLflow store"):
        connect(server.uri, "sorting", Path("artifacts"), patience=0, required=False)
    server.status, server.stage = 200, "deleted"
    with pytest.raises(UserError, match="'sorting' was deleted"):
        connect(server.uri, "sorting", Path("artifacts"), patience=0, required=False)


def test_an_experiment_that_turns_out_deleted_is_told_and_nothing_is_waited_for(closed_port, track, caplog):
    connection = connect(f"http://127.0.0.1:{closed_port}", "sorting", Path("artifacts"), patience=0, required=False)
    late = Server(closed_port)
    late.stage = "deleted"
    tracker = track(connection, "a", patience=3600)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.close("finished")
    late.die()
    assert "nothing is logged to MLflow" in caplog.text
    assert "'sorting' was deleted" in caplog.text
    assert tracker.lacking() == (1, 0, 2)
