"""A sweep in a real MLflow store on SQLite: runs, tags, histories, and going on after a crash."""

import logging
import math
import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

TAGS = {"method": "mirror", "seed": "1", "task": "sorting", "config_hash": "0123456789ab", "git_commit": "abc"}


@pytest.fixture
def started(store, sweep, track):
    """`started()`: another tracker of the sweep, with a trial that has begun."""

    def start(params=None):
        track.flush()
        tracker = track(store, sweep, tags={"config_hash": "0123456789ab"})
        tracker.start("mirror-s1", params or {"lr": 0.1}, TAGS)
        return tracker

    return start


def test_a_trial_is_a_child_run_with_its_tags(sweep, started, run):
    started()
    parent, child = run(sweep), run(f"{sweep}/mirror-s1")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags
    assert (parent.info.run_name, child.info.run_name) == (sweep, "mirror-s1")
    assert TAGS.items() <= child.data.tags.items()
    assert parent.data.tags["config_hash"] == "0123456789ab"
    assert child.info.status == parent.info.status == "RUNNING"


def test_parameters_are_flat_text(sweep, started, run):
    started({"train": {"lr": 1e-4, "max_steps": None}, "sweep": {"seeds": [1, 2]}, "name": "x"})
    assert run(f"{sweep}/mirror-s1").data.params == {
        "train.lr": "0.0001",
        "train.max_steps": "null",
        "sweep.seeds": "[1, 2]",
        "name": "x",
    }


def test_more_parameters_than_fit_one_request_are_all_logged(sweep, started, run):
    started({f"p{i}": i for i in range(205)})
    assert len(run(f"{sweep}/mirror-s1").data.params) == 205


def test_a_long_parameter_is_cut_and_says_so(sweep, started, run):
    started({"long": "x" * 7000, "fits": "y" * 6000})
    params = run(f"{sweep}/mirror-s1").data.params
    assert params["fits"] == "y" * 6000
    assert len(params["long"]) == 6000
    assert params["long"].endswith("x... [cut, 7000 characters]")


def test_every_record_is_in_the_history(sweep, started, history):
    tracker = started()
    tracker.log("mirror-s1", [{"step": 1, "train/loss": 2.0}, {"step": 1, "val/nll": 0.5}])
    tracker.log("mirror-s1", [{"step": 2, "train/loss": 1.5}])
    assert history(f"{sweep}/mirror-s1", "train/loss") == [(1, 2.0), (2, 1.5)]
    assert history(f"{sweep}/mirror-s1", "val/nll") == [(1, 0.5)]


def test_more_metrics_than_fit_one_request_are_all_logged(sweep, started, history):
    started().log("mirror-s1", [{"step": step, "a": float(step), "b": 0.0} for step in range(1001)])
    assert history(f"{sweep}/mirror-s1", "a") == [(step, float(step)) for step in range(1001)]
    assert len(history(f"{sweep}/mirror-s1", "b")) == 1001


def test_numbers_that_are_not_finite_do_not_stop_the_others(sweep, started, history):
    started().log("mirror-s1", [{"step": 1, "a": math.nan, "b": math.inf, "c": 1.0}])
    ((_, a),) = history(f"{sweep}/mirror-s1", "a")
    assert math.isnan(a)
    assert history(f"{sweep}/mirror-s1", "b")[0][1] > 1e308
    assert history(f"{sweep}/mirror-s1", "c") == [(1, 1.0)]


def test_a_resumed_trial_keeps_its_run_and_repeats_no_step(store, sweep, started, runs, run, history):
    started().log("mirror-s1", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}])
    before = run(f"{sweep}/mirror-s1")
    store.client.set_terminated(before.info.run_id, "FAILED")

    tracker = started()
    assert run(f"{sweep}/mirror-s1").info.status == "RUNNING"
    tracker.log("mirror-s1", [{"step": 2, "a": 2.5}, {"step": 2, "b": 7.0}, {"step": 3, "a": 3.0}])
    assert run(f"{sweep}/mirror-s1").info.run_id == before.info.run_id
    assert history(f"{sweep}/mirror-s1", "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history(f"{sweep}/mirror-s1", "b") == [(2, 7.0)]
    assert len(runs(sweep)) == 1


def test_a_trial_started_again_by_one_tracker_repeats_no_step(sweep, started, run, history):
    tracker = started()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.finish("mirror-s1", "failed", "lost worker")
    assert run(f"{sweep}/mirror-s1").data.tags["error"] == "lost worker"
    tracker.start("mirror-s1", {"lr": 0.1}, TAGS)
    tracker.log("mirror-s1", [{"step": 1, "a": 1.5}])
    tracker.finish("mirror-s1", "finished")
    child = run(f"{sweep}/mirror-s1")
    assert child.info.status == "FINISHED"
    assert "error" not in child.data.tags
    assert history(f"{sweep}/mirror-s1", "a") == [(1, 1.0)]


def test_a_parameter_that_changed_keeps_its_first_value_with_a_warning(sweep, started, run, caplog):
    started({"cpus": 1, "lr": 0.1})
    started({"cpus": 2, "lr": 0.1})
    assert run(f"{sweep}/mirror-s1").data.params == {"cpus": "1", "lr": "0.1"}
    assert "parameter cpus" in caplog.text
    assert "parameter lr" not in caplog.text


def test_a_summary_told_again_is_the_last_one_told(sweep, started, run, history):
    tracker = started()
    tracker.log_summary("mirror-s1", {"accuracy": 0.5, "steps": 9})
    tracker.log_summary("mirror-s1", {"accuracy": 0.5, "steps": 10})
    assert run(f"{sweep}/mirror-s1").data.metrics == {"accuracy": 0.5, "steps": 10.0}
    assert history(f"{sweep}/mirror-s1", "accuracy") == [(0, 0.5)]


def test_a_summary_leaves_out_what_could_not_be_measured(sweep, started, run):
    tracker = started()
    tracker.log_summary("mirror-s1", {"grad_norm_std": None, "grad_norm": 0.5})
    assert run(f"{sweep}/mirror-s1").data.metrics == {"grad_norm": 0.5}


def test_files_and_folders_are_kept_with_the_run(store, sweep, started, run, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("report.html", "figures/a.png"):
        (tmp_path / name).write_text("x")
    started().artifacts("mirror-s1", [tmp_path / "report.html", tmp_path / "figures"])
    run_id = run(f"{sweep}/mirror-s1").info.run_id
    assert sorted(file.path for file in store.client.list_artifacts(run_id)) == ["figures", "report.html"]
    assert Path(store.client.download_artifacts(run_id, "figures/a.png")).read_text() == "x"


def test_a_missing_file_is_named_and_stops_nothing(sweep, started, history, tmp_path, caplog):
    tracker = started()
    tracker.artifacts("mirror-s1", [tmp_path / "none"])
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    assert history(f"{sweep}/mirror-s1", "a") == [(1, 1.0)]
    assert "none does not exist" in caplog.text


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_closing_ends_the_sweep_and_what_is_still_running(sweep, started, run, status, expected, caplog):
    tracker = started()
    tracker.start("arm-s1", {}, {})
    tracker.finish("arm-s1", "finished")
    tracker.close(status)
    assert run(sweep).info.status == expected
    assert run(f"{sweep}/mirror-s1").info.status == "KILLED"
    assert run(f"{sweep}/arm-s1").info.status == "FINISHED"
    assert caplog.text == ""


def test_a_metric_that_mlflow_refuses_is_named_and_the_others_are_logged(sweep, started, run, caplog):
    tracker = started()
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0, "not allowed: $": 2.0, "b": 3.0}])
    assert run(f"{sweep}/mirror-s1").data.metrics == {"a": 1.0, "b": 3.0}
    assert "MLflow refused metrics not allowed: $" in caplog.text
    tracker.close("finished")
    assert "lacks 1 metric values" in caplog.text


def test_a_run_deleted_by_hand_stops_nothing(store, sweep, started, run, history, caplog):
    tracker = started()
    store.client.delete_run(run(f"{sweep}/mirror-s1").info.run_id)
    tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
    tracker.finish("mirror-s1", "finished")
    tracker.start("arm-s1", {}, {})
    tracker.log("arm-s1", [{"step": 1, "a": 2.0}])
    tracker.close("finished")
    assert history(f"{sweep}/arm-s1", "a") == [(1, 2.0)]
    assert run(sweep).info.status == "FINISHED"
    assert "MLflow refused metrics a" in caplog.text


def test_an_outage_keeps_records_and_warns_once(store, sweep, track, history, caplog, monkeypatch):
    tracker = track(store, sweep, retry_after=0.01)
    tracker.start("mirror-s1", {}, {})
    track.flush()
    tried = threading.Semaphore(0)

    def down(*arguments, **named):
        tried.release()
        raise MlflowException("disk full\n[SQL: INSERT]")

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "log_batch", down)
        tracker.log("mirror-s1", [{"step": 1, "a": 1.0}])
        tracker.log("mirror-s1", [{"step": 2, "a": 2.0}])
        for _ in range(3):
            tried.acquire()
    assert history(f"{sweep}/mirror-s1", "a") == [(1, 1.0), (2, 2.0)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].message.endswith("disk full")
