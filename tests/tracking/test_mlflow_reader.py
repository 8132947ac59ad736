"""Reading an experiment back from a real MLflow store on SQLite that a sweep's tracker has filled."""

import math
import sqlite3

import pandas as pd
import pytest

from raymdm.comparison.longform import runs_of_frames
from raymdm.comparison.metrics import METRICS
from raymdm.config.load import UNHASHED
from raymdm.errors import UserError
from raymdm.orchestrate.observer import params
from raymdm.tracking.mlflow_connection import Connection, connect, sqlite_uri
from raymdm.tracking.mlflow_reader import LABELS, read_experiment
from raymdm.tracking.mlflow_tracker import MlflowTracker


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all tests, since making a schema takes seconds; each test has an experiment of its own."""
    folder = tmp_path_factory.mktemp("store")
    return connect(sqlite_uri(folder / "mlflow.db"), "other", folder / "artifacts")


@pytest.fixture
def name(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def connection(store, name, tmp_path):
    """The store with this test's experiment."""
    return Connection(store.client, connect(store.uri, name, tmp_path / "artifacts").experiment_id, store.uri)


@pytest.fixture
def log(connection, make_recipe, tmp_path):
    """`log(sweep, {(method, seed): metrics}, scores=None, **recipe)` fills the experiment as a sweep does."""

    def fill(sweep, runs, scores=None, status="finished", **changes):
        recipe = make_recipe(**changes)
        tracker = MlflowTracker(connection, sweep, recipe.model_dump(mode="json"))
        for (method, seed), metrics in runs.items():
            trial = f"{method}-s{seed}"
            tracker.start(trial, params(recipe, method, seed), {"task": "sorting", "method": method, "seed": str(seed)})
            tracker.log(trial, [{"step": 5, "train/loss": 2.0}, {"step": 5, "val/nll": 1.5}])
            tracker.log_summary(trial, metrics)
            if scores is not None:
                path = tmp_path / sweep / trial / "scores.parquet"
                path.parent.mkdir(parents=True)
                frame = pd.DataFrame({"example_id": [4, 7], "score": scores, "reference": "x", "output": "y"})
                frame.to_parquet(path)
                tracker.artifacts(trial, [path])
            tracker.finish(trial, status)
        tracker.close("finished")

    return fill


@pytest.fixture
def read(connection, name, tmp_path):
    return lambda parent=None: read_experiment(connection.uri, name, parent, tmp_path / "download")


HALF = {"accuracy": 0.5, "val_nll": 1.25}
GRID = {("standard", 1): HALF, ("mirror", 1): HALF | {"accuracy": 0.75}}


def test_results_are_the_final_metrics(log, read):
    log("a", GRID)
    results, scores = read()
    assert results.sort_values(["method", "metric"]).to_numpy().tolist() == [
        ["sorting", "tiny", "mirror", 1, "accuracy", 0.75],
        ["sorting", "tiny", "mirror", 1, "val_nll", 1.25],
        ["sorting", "tiny", "standard", 1, "accuracy", 0.5],
        ["sorting", "tiny", "standard", 1, "val_nll", 1.25],
    ]
    assert list(results) == ["task", "model", "method", "seed", "metric", "value"]
    assert list(scores) == ["task", "model", "method", "seed", "example_id", "score"]
    assert len(scores) == 0


def test_scores_come_from_the_runs_files(log, read):
    log("a", {("standard", 1): HALF, ("mirror", 2): HALF}, scores=[1.0, 0.0])
    _, scores = read()
    assert scores.sort_values(["method", "example_id"]).to_numpy().tolist() == [
        ["sorting", "tiny", "mirror", 2, 4, 1.0],
        ["sorting", "tiny", "mirror", 2, 7, 0.0],
        ["sorting", "tiny", "standard", 1, 4, 1.0],
        ["sorting", "tiny", "standard", 1, 7, 0.0],
    ]


def test_what_is_read_can_be_compared(log, read):
    log("a", {("standard", 1): HALF, ("mirror", 1): HALF}, scores=[1.0, 0.0])
    results, scores = read()
    runs = runs_of_frames(results, scores, name="a", baseline=None, metric=METRICS["accuracy"])
    assert set(runs.labels) == {"standard", "mirror"}
    assert runs.scores["sorting", "mirror"].values.tolist() == [[1.0, 0.0]]


def test_scores_may_be_missing(log, read):
    log("a", {("standard", 1): HALF}, scores=[1.0, 0.0])
    log("b", {("mirror", 1): HALF})
    results, scores = read()
    runs = runs_of_frames(results, scores, name="a", baseline=None, metric=METRICS["accuracy"])
    assert list(runs.scores) == [("sorting", "standard")]


def test_scores_of_another_format_are_refused(log, read, tmp_path, monkeypatch):
    written = pd.DataFrame.to_parquet
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda frame, path: written(frame.rename(columns={"score": "points"}), path)
    )
    log("a", {("standard", 1): HALF}, scores=[1.0, 0.0])
    with pytest.raises(UserError, match=r"run standard-s1 .* its scores\.parquet has no columns example_id and score"):
        read()


def test_numbers_that_are_not_finite_are_kept(log, read):
    log("a", {("standard", 1): {"val_nll": math.inf, "accuracy": math.nan, "low": -math.inf}})
    results, _ = read()
    values = dict(zip(results["metric"], results["value"], strict=True))
    assert (values["val_nll"], values["low"]) == (math.inf, -math.inf)
    assert math.isnan(values["accuracy"])


def test_a_model_is_named_by_its_path(log, read):
    model = {"kind": "pretrained", "path": "org/mdm"}
    other = {"kind": "pretrained", "path": "org/arm"}
    log("a", {("standard", 1): HALF, ("arm", 1): HALF}, model=model, arm_model=other)
    results, _ = read()
    assert dict(zip(results["method"], results["model"], strict=True)) == {"standard": "org/mdm", "arm": "org/arm"}


def test_an_arm_without_a_model_of_its_own_has_the_common_one(log, read):
    log("a", {("arm", 1): HALF}, model={"kind": "pretrained", "path": "org/mdm"})
    assert set(read()[0]["model"]) == {"org/mdm"}


def test_runs_that_failed_are_left_out(log, read):
    log("a", {("standard", 1): HALF})
    log("b", {("mirror", 1): HALF}, status="failed")
    assert set(read()[0]["method"]) == {"standard"}


def test_runs_of_other_programs_are_left_out(log, read, connection):
    log("a", {("standard", 1): HALF})
    run = connection.client.create_run(connection.experiment_id).info.run_id
    connection.client.log_metric(run, "accuracy", 0.1)
    connection.client.set_terminated(run, "FINISHED")
    assert len(read()[0]) == 2


# Several sweeps


def test_sweeps_of_one_experiment_are_read_together(log, read):
    log("a", {("standard", 1): HALF})
    log("b", {("standard", 2): HALF, ("mirror", 1): HALF}, name="other", sweep__seeds=[2], train__max_failures=9)
    assert len(read()[0]) == 6


def test_a_parent_selects_its_runs(log, read):
    log("a", GRID)
    log("b", {("standard", 1): {"accuracy": 0.25}})
    assert read("b")[0]["value"].tolist() == [0.25]


def test_the_same_run_in_two_sweeps_asks_for_one(log, read):
    log("a", GRID)
    log("b", GRID)
    with pytest.raises(
        UserError, match=r"hold .*-s1 of task sorting twice \(a and b\)\. Choose .* --parent NAME: a, b"
    ):
        read()


def test_seeds_under_other_parameters_are_not_pooled(log, read):
    log("a", {("standard", 1): HALF})
    log("b", {("standard", 2): HALF}, train__lr=0.5)
    with pytest.raises(UserError, match=r"cannot be pooled \(a and b: train\.lr: 0\.003 and 0\.5\)\. Choose"):
        read()


def test_a_calibration_matters_to_a_calibrated_method_alone(log, read):
    log("a", {("standard", 1): HALF})
    log("b", {("standard", 2): HALF, ("p_pots", 1): HALF}, calibrate__masks=3)
    assert len(read()[0]) == 6
    log("c", {("p_pots", 2): HALF})
    with pytest.raises(UserError, match=r"ran p_pots under different parameters.* calibrate\.masks: 3 and 2"):
        read()


def test_what_is_no_parameter_of_a_run_is_what_the_recipes_hash_leaves_out():
    own = {"method", "methods", "seed"}
    assert {name.rstrip(".") for name in LABELS} == {name for name in UNHASHED if not name.startswith("sweep.")} | own


def test_other_methods_may_have_other_parameters(log, read):
    log("a", {("standard", 1): HALF})
    log("b", {("mirror", 1): HALF}, train__lr=0.5)
    assert len(read()[0]) == 4


def test_an_adaptive_sweep_is_compared_by_its_folder(log, read):
    seeds = {"initial": 2, "max": 5, "stop_when": "decided(mirror, standard)"}
    log("a", GRID, sweep__seeds=seeds, sweep__methods=["standard", "mirror"])
    message = r"sweep a added seeds as needed; its looks at the results are in its folder: compare the folder"
    with pytest.raises(UserError, match=rf"{message} \(raymdm compare SWEEP_DIR\)$"):
        read()
    log("b", {("standard", 2): HALF})
    with pytest.raises(UserError, match=rf"{message}.*--parent NAME: b$"):
        read()
    with pytest.raises(UserError, match=message):
        read("a")
    assert set(read("b")[0]["seed"]) == {2}


def test_large_seeds_are_told_apart(log, read):
    first, second = 2**63, 2**63 + 1
    log("a", {("standard", first): HALF, ("standard", second): HALF, ("standard", 1): HALF}, scores=[1.0, 0.0])
    results, scores = read()
    runs = runs_of_frames(results, scores, name="a", baseline=None, metric=METRICS["accuracy"])
    assert sorted(runs.scores["sorting", "standard"].seeds) == [1, first, second]


def test_an_unknown_parent(log, read):
    log("a", GRID)
    with pytest.raises(UserError, match=r"no sweep 'c' with a finished run\. There are: a"):
        read("c")


# What cannot be read


def test_no_finished_run(log, read):
    log("a", GRID, status="failed")
    with pytest.raises(UserError, match="has no finished run of a sweep"):
        read()


def test_runs_without_final_metrics(log, read):
    log("a", {("standard", 1): {}})
    with pytest.raises(UserError, match="have no final metrics"):
        read()


def test_an_unknown_experiment_lists_near_names_and_makes_none(store, tmp_path):
    connect(store.uri, "gsm8k-llada", tmp_path)
    with pytest.raises(UserError, match=r"has no experiment 'gsm8k-lada'\. Did you mean gsm8k-llada"):
        read_experiment(store.uri, "gsm8k-lada", None, tmp_path)
    assert store.client.get_experiment_by_name("gsm8k-lada") is None


def test_a_deleted_experiment_says_how_to_restore_it(connection, name, tmp_path):
    connection.client.delete_experiment(connection.experiment_id)
    with pytest.raises(UserError, match=r"was deleted.*mlflow experiments restore"):
        read_experiment(connection.uri, name, None, tmp_path)


def test_a_missing_file_is_not_made(tmp_path):
    with pytest.raises(UserError, match=r"mlflow\.db: no such file"):
        read_experiment(sqlite_uri(tmp_path / "mlflow.db"), "sorting", None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_stays_empty(tmp_path):
    path = tmp_path / "mlflow.db"
    path.touch()
    with pytest.raises(UserError, match="without MLflow's tables"):
        read_experiment(sqlite_uri(path), "sorting", None, tmp_path)
    assert path.stat().st_size == 0


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database\n" * 100)
    with pytest.raises(UserError, match="cannot be read as a SQLite file: file is not a database"):
        read_experiment(sqlite_uri(tmp_path / "mlflow.db"), "sorting", None, tmp_path)


def test_another_programs_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "own.db") as database:
        database.execute("CREATE TABLE mine (a)")
    database.close()
    with pytest.raises(UserError, match="without MLflow's tables"):
        read_experiment(sqlite_uri(tmp_path / "own.db"), "sorting", None, tmp_path)


def test_a_server_that_is_not_there_hides_the_password(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the MLflow store http://\*\*\*@127\.0\.0\.1:9; start the server"):
        read_experiment("http://me:secret@127.0.0.1:9", "sorting", None, tmp_path)


def test_reading_leaves_the_working_directory_alone(log, connection, name, tmp_path, monkeypatch):
    log("a", GRID)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    read_experiment(connection.uri, name, None, tmp_path / "download")
    assert list((tmp_path / "here").iterdir()) == []
