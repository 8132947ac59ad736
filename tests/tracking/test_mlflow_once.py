"""Each step of each metric is in MLflow once, and none is missing, whoever died when."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from raymdm.tracking.mlflow_connection import connect

METRICS = [f"m{k}" for k in range(8)]
EVERY = 200
RECORDS = [{"step": step, **{name: float(step) for name in METRICS}} for step in range(1, EVERY + 1)]


def steps(connection, key, metric="a"):
    """Steps of a metric's points, in their order, of the only run with a key."""
    (run,) = connection.client.search_runs([connection.experiment_id], f"tags.raymdm_key = '{key}'")
    return sorted(point.step for point in connection.client.get_metric_history(run.info.run_id, metric))


def until_it_stands_still(connection, key):
    """A server may be at work on the last call of a driver that was killed: wait until nothing changes for a second."""
    query, before, now = f"tags.raymdm_key LIKE '{key}%'", None, []
    while now != before:
        time.sleep(1)
        found = connection.client.search_runs([connection.experiment_id], query)
        before, now = now, [str(run.to_proto()) for run in found]


# A server that is killed


class Deadly:
    """Kills the server before the third `log_batch` and a moment after every fifth has begun, and brings it back."""

    def __init__(self, monkeypatch, killable, client) -> None:
        self.kills = self.failures = self._calls = 0
        self._killable, self._rng, self._log_batch = killable, random.Random(3), client.log_batch
        monkeypatch.setattr(client, "log_batch", self)

    def __call__(self, *arguments, **named):
        self._calls += 1
        timer = threading.Timer(self._rng.uniform(0, 0.08), self._kill)
        if self._calls == 3:
            self._killable.kill()
        if self._calls % 5 == 0:
            timer.start()
        try:
            return self._log_batch(*arguments, **named)
        except MlflowException:
            self.failures += 1
            raise
        finally:
            if self._calls == 3:
                self._killable.come_back()
            if self._calls % 5 == 0:
                timer.join()

    def _kill(self) -> None:
        self.kills += 1
        self._killable.kill()
        self._killable.come_back()


def test_a_server_killed_at_random_moments_holds_each_step_once(killable, track, sweep, monkeypatch):
    connection = connect(killable.uri, "sorting", Path("artifacts"), patience=60)
    deadly = Deadly(monkeypatch, killable, connection.client)
    tracker = track(connection, sweep, retry_after=0.01)
    trials = ["mirror-s1", "arm-s1"]
    for trial in trials:
        tracker.start(trial, {"lr": 0.1}, {})
    for number, record in enumerate(RECORDS, start=1):
        for trial in trials:
            tracker.log(trial, [record])
        if number % 8 == 0:
            tracker.flush(10)
    for trial in trials:
        tracker.finish(trial, "finished")
    tracker.close("finished")
    for trial in trials:
        for metric in METRICS:
            assert steps(connection, f"{sweep}/{trial}", metric) == list(range(1, EVERY + 1))
    assert tracker.lacking() == (0, 0, 0)
    assert deadly.failures > 0


# A driver that is killed

DRIVER = """
import sys
from pathlib import Path
from raymdm.tracking.mlflow_connection import connect
from raymdm.tracking.mlflow_tracker import MlflowTracker

uri, sweep = sys.argv[1:]
tracker = MlflowTracker(connect(uri, "sorting", Path("artifacts"), patience=60), sweep)
tracker.start("mirror-s1", {}, {})
print(flush=True)
for step in range(1, 201):
    tracker.log("mirror-s1", [{"step": step, **{f"m{k}": float(step) for k in range(8)}}])
    tracker.flush(0.005)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_driver_killed_at_a_random_moment_leaves_each_step_once(store, killable, track, sweep, kind):
    connection = connect(killable.uri if kind == "server" else store.uri, "sorting", Path("artifacts"), patience=60)
    command = [sys.executable, "-c", DRIVER, connection.uri, sweep]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    driver.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        driver.wait(timeout=random.Random(5).uniform(0.5, 1.5))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    until_it_stands_still(connection, sweep)

    tracker = track(connection, sweep)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", RECORDS)
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    for metric in METRICS:
        assert steps(connection, f"{sweep}/mirror-s1", metric) == list(range(1, EVERY + 1))


def test_what_a_server_still_does_for_a_killed_driver_is_not_done_again(killable, track, sweep, monkeypatch):
    connection = connect(killable.uri, "sorting", Path("artifacts"), patience=60)
    first = track(connection, sweep)
    first.start("mirror-s1", {}, {})
    first.log("mirror-s1", [{"step": 1, "a": 1.0}])
    track.flush()
    track.abandon()
    (run,) = connection.client.search_runs([connection.experiment_id], f"tags.raymdm_key = '{sweep}/mirror-s1'")
    search, late = connection.client.search_runs, [2, 3]

    def look(*arguments, **named):
        """What the driver sent comes in after each of the first two looks at its runs."""
        found = search(*arguments, **named)
        if late and any(other.info.run_id == run.info.run_id for other in found):
            connection.client.log_metric(run.info.run_id, "a", 1.0, step=late.pop(0))
        return found

    monkeypatch.setattr(connection.client, "search_runs", look)
    tracker = track(connection, sweep)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": step, "a": 1.0} for step in (1, 2, 3, 4)])
    tracker.close("finished")
    assert late == []
    assert steps(connection, f"{sweep}/mirror-s1") == [1, 2, 3, 4]


# An answer that is lost


class Lost(threading.Event):
    """Carries a call of the client out and loses its answer, once."""

    def __init__(self, monkeypatch, client, name: str) -> None:
        super().__init__()
        call = getattr(client, name)

        def lose(*arguments, **named):
            answer = call(*arguments, **named)
            if self.is_set():
                return answer
            self.set()
            raise MlflowException("timeout")

        monkeypatch.setattr(client, name, lose)


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "update_run", "set_tag"])
def test_a_call_whose_answer_is_lost_is_not_carried_out_twice(store, track, sweep, monkeypatch, call):
    first = track(store, sweep)
    if call in ("update_run", "set_tag"):  # those of a trial that goes on
        first.start("mirror-s1", {}, {})
        first.finish("mirror-s1", "failed", "lost worker")
    first.close("failed")
    lost = Lost(monkeypatch, store.client, call)
    tracker = track(store, sweep, retry_after=0.01)
    tracker.start("mirror-s1", {"lr": 0.1}, {"seed": "1"})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}])
    tracker.log_summary("mirror-s1", {"accuracy": 0.5})
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    assert lost.is_set()
    assert steps(store, f"{sweep}/mirror-s1") == [1, 2]
    assert steps(store, f"{sweep}/mirror-s1", "accuracy") == [0]
    (run,) = store.client.search_runs([store.experiment_id], f"tags.raymdm_key = '{sweep}/mirror-s1'")
    assert run.info.status == "FINISHED"


# Attempts, replays, and runs of one key


def test_a_resumed_sweep_that_tells_everything_again_adds_nothing(store, track, sweep, monkeypatch, tmp_path):
    (tmp_path / "scores.parquet").write_bytes(b"scores")

    def tell():
        tracker = track(store, sweep, {"name": "x"}, {"task": "sorting"})
        for trial in ("mirror-s1", "arm-s1"):
            tracker.start(trial, {"lr": 0.1}, {"method": "mirror"})
            tracker.log(trial, RECORDS)
            tracker.log_summary(trial, {"accuracy": 0.5, "val_nll": float("nan"), "loss": float("inf")})
            tracker.artifacts(trial, [tmp_path / "scores.parquet"])
            tracker.finish(trial, *(("finished",) if trial == "arm-s1" else ("failed", "lost worker")))
        tracker.close("finished")
        return tracker

    tell()
    before = {run.info.run_id: run.to_dictionary() for run in store.client.search_runs([store.experiment_id])}
    for name in ("log_batch", "create_run", "set_tag", "delete_tag", "log_artifact"):
        monkeypatch.delattr(type(store.client), name)
    assert tell().lacking() == (0, 0, 0)
    after = {run.info.run_id: run.to_dictionary() for run in store.client.search_runs([store.experiment_id])}
    for run in (*before.values(), *after.values()):
        run["info"].pop("end_time")  # that of the sweep's own run, which is open while it is told
    assert str(after) == str(before)  # as text, in which NaN is equal to itself


def test_of_two_runs_with_one_key_the_oldest_goes_on(store, track, sweep, caplog):
    key = f"{sweep}/mirror-s1"
    made = [
        store.client.create_run(store.experiment_id, start_time=time, tags={"raymdm_key": key}).info.run_id
        for time in (2000, 1000, 3000)
    ]
    tracker = track(store, sweep)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    runs = [store.client.get_run(run_id) for run_id in made]
    assert [run.data.metrics for run in runs] == [{}, {"a": 1.0}, {}]
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED", "KILLED"]
    assert f"several runs {key}: the oldest is used" in caplog.text


def test_an_empty_run_does_not_replace_one_that_holds_points(store, track, sweep):
    key = f"{sweep}/mirror-s1"
    empty, full = [
        store.client.create_run(store.experiment_id, start_time=time, tags={"raymdm_key": key}).info.run_id
        for time in (1000, 2000)
    ]
    store.client.log_metric(full, "a", 1.0, step=1)
    tracker = track(store, sweep)
    tracker.start("mirror-s1", {}, {})
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}, {"step": 2, "a": 1.0}])
    tracker.close("finished")
    assert store.client.get_run(empty).data.metrics == {}
    assert len(store.client.get_metric_history(full, "a")) == 2


# A clock that jumps back


@pytest.fixture
def clock(monkeypatch):
    """`clock(*seconds)`: what the tracker's clock shows, one reading after the other."""

    def show(*seconds):
        times = iter(seconds)
        shown = SimpleNamespace(time=lambda: next(times), monotonic=time.monotonic)
        monkeypatch.setattr("raymdm.tracking.mlflow_tracker.time", shown)

    return show


def test_a_clock_that_jumps_back_leaves_the_last_summary_valid(store, track, sweep, run, clock):
    clock(2e9, 1e9, 5e8, 5e8)
    for values in ([0.9], [0.5], [0.7, 0.6]):
        tracker = track(store, sweep)
        tracker.start("mirror-s1", {}, {})
        for value in values:
            tracker.log_summary("mirror-s1", {"accuracy": value})
            assert run(f"{sweep}/mirror-s1").data.metrics == {"accuracy": value}
        tracker.close("finished")


def test_time_does_not_run_back_within_a_run(store, track, sweep, run, clock):
    clock(2e9, 1e9, 1e9, 3e9)
    for step in (1, 3):
        tracker = track(store, sweep)
        tracker.start("mirror-s1", {}, {})
        for more in (0, 1):
            tracker.log("mirror-s1", [{"step": step + more, "a": 1.0}])
            track.flush()
    points = store.client.get_metric_history(run(f"{sweep}/mirror-s1").info.run_id, "a")
    times = [point.timestamp for point in sorted(points, key=lambda point: point.step)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (2e12, 3e12)
