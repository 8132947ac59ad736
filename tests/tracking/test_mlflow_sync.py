"""MLflow agrees with the sweep's folder once a tracker has been told what the folder holds, whatever a crash left."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raymdm.tracking.mlflow_connection import connect


@pytest.fixture(params=["file", "server"])
def connection(request, store, killable):
    return connect(killable.uri if request.param == "server" else store.uri, "sorting", Path("artifacts"), patience=60)


@pytest.fixture
def crashed(connection, track, sweep):
    """A sweep whose driver died: it and two trials say RUNNING; one trial was never told of, one has finished."""
    tracker = track(connection, sweep, {"name": "x"})
    for trial in ("mirror-s1", "mirror-s2", "arm-s1"):
        tracker.start(trial, {"lr": 0.1}, {"method": trial[:-3]})
        tracker.log(trial, [{"step": 1, "train/loss": 1.0}])
    tracker.log_summary("arm-s1", {"accuracy": 0.5})
    tracker.finish("arm-s1", "finished")
    track.flush()
    track.abandon()


def told(track, connection, sweep, **trials):
    """Tell of each trial as a replay does: its losses and, unless it has not ended, how it did."""
    tracker = track(connection, sweep, {"name": "x"})
    for name, (losses, status) in trials.items():
        trial = name.replace("_", "-")
        tracker.start(trial, {"lr": 0.1}, {"method": trial[:-3]})
        tracker.log(trial, [{"step": step, "train/loss": loss} for step, loss in enumerate(losses, start=1)])
        if status:
            tracker.log_summary(trial, {"accuracy": 0.5})
            tracker.finish(trial, status, "lost worker" if status == "failed" else None)
    return tracker


def held(connection, sweep):
    """MLflow's runs of a sweep: key -> status, metrics, how many losses."""
    client = MlflowClient(connection.uri)
    runs = [run for run in client.search_runs([connection.experiment_id]) if sweep in run.data.tags["raymdm_key"]]
    return {
        run.data.tags["raymdm_key"].removeprefix(sweep): (
            run.info.status,
            run.data.metrics,
            len(client.get_metric_history(run.info.run_id, "train/loss")),
        )
        for run in runs
    }


def test_what_the_folder_holds_is_what_mlflow_says(connection, crashed, track, sweep):
    told(
        track,
        connection,
        sweep,
        mirror_s1=([1.0, 0.9, 0.8], "finished"),
        mirror_s2=([1.0, 0.9], None),
        arm_s1=([1.0], "finished"),
        arm_s2=([2.0, 1.0], "failed"),
    ).close("interrupted")
    assert held(connection, sweep) == {
        "": ("KILLED", {}, 0),
        "/mirror-s1": ("FINISHED", {"train/loss": 0.8, "accuracy": 0.5}, 3),
        "/mirror-s2": ("KILLED", {"train/loss": 0.9}, 2),
        "/arm-s1": ("FINISHED", {"train/loss": 1.0, "accuracy": 0.5}, 1),
        "/arm-s2": ("FAILED", {"train/loss": 1.0, "accuracy": 0.5}, 2),
    }


def test_a_run_that_nobody_runs_is_ended_though_it_is_not_told_of(connection, crashed, track, sweep):
    told(track, connection, sweep).close("failed")
    statuses = {key: status for key, (status, _, _) in held(connection, sweep).items()}
    assert statuses == {"": "FAILED", "/mirror-s1": "KILLED", "/mirror-s2": "KILLED", "/arm-s1": "FINISHED"}


def test_runs_of_a_sweep_with_a_similar_name_are_left_alone(connection, track, sweep):
    other = sweep.replace("_", "-")  # in a search, _ stands for any character
    tracker = track(connection, other)
    tracker.start("mirror-s1", {}, {})
    track.flush()
    told(track, connection, sweep).close("finished")
    assert held(connection, other)["/mirror-s1"][0] == "RUNNING"
    tracker.close("finished")


def test_a_trial_whose_run_was_deleted_is_made_anew(connection, crashed, track, sweep):
    client = MlflowClient(connection.uri)
    (run,) = client.search_runs([connection.experiment_id], f"tags.raymdm_key = '{sweep}/arm-s1'")
    client.delete_run(run.info.run_id)
    told(track, connection, sweep, arm_s1=([1.0], "finished")).close("finished")
    assert held(connection, sweep)["/arm-s1"] == ("FINISHED", {"train/loss": 1.0, "accuracy": 0.5}, 1)
