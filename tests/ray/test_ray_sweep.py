"""A small sweep from data to report, resumed, tracked and compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from raymdm.comparison.analysis import analyse
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.comparison.report import write_report
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]
METHODS = ["standard", "mirror", "p_pots_mirror", "arm"]


@pytest.fixture(scope="module")
def recipe(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make_recipe(
        output=str(tmp_path_factory.mktemp("runs")), sweep__methods=METHODS, sweep__seeds=[1], tracking__mlflow=True
    )


@pytest.fixture(scope="module")
def swept(recipe: Recipe, run_sweep: RunSweep) -> tuple[SweepFolder, str]:
    return run_sweep(recipe)


def _result(folder: SweepFolder, method: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder.trial(method, 1) / "result.json").read_text())
    return result


def _runs(folder: SweepFolder) -> list[Any]:
    client = mlflow.MlflowClient(folder.state()["mlflow_uri"])
    experiment = client.get_experiment_by_name("tiny-test")
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_every_cell_has_its_files(swept: tuple[SweepFolder, str]) -> None:
    folder, _ = swept
    assert folder.state()["status"] == "finished"
    for method in METHODS:
        assert _result(folder, method)["status"] == "finished"
        scores = pd.read_parquet(folder.trial(method, 1) / "scores.parquet")
        assert len(scores) == 12
        assert scores["example_id"].is_monotonic_increasing
        assert scores["score"].mean() == pytest.approx(_result(folder, method)["metrics"]["accuracy"])
        assert (folder.trial(method, 1) / "model" / "model.safetensors").exists()
    assert not [path for path in (folder.path / "train").iterdir() if path.is_dir()]


def test_compute_is_counted(swept: tuple[SweepFolder, str]) -> None:
    rows = {method: _result(swept[0], method)["metrics"]["model_rows"] for method in METHODS}
    assert rows == {"standard": 12 * 8, "mirror": 2 * 12 * 8, "p_pots_mirror": 2 * 12 * 8, "arm": 12 * 8}


def test_the_calibration_is_that_of_the_method_s_mask(swept: tuple[SweepFolder, str]) -> None:
    folder, _ = swept
    assert [path.name for path in folder.calibrations.iterdir()] == ["bernoulli_mirrored"]
    density = json.loads((folder.calibrations / "bernoulli_mirrored" / "density.json").read_text())
    assert density["rows"] == 70 * 3 * 2 * 2
    assert (folder.calibrations / "bernoulli_mirrored" / "density.png").stat().st_size > 1000
    moments = pd.read_parquet(folder.calibrations / "bernoulli_mirrored" / "moments.parquet")
    assert len(moments) == 70 * 3


def test_progress_was_shown(swept: tuple[SweepFolder, str]) -> None:
    assert "4/4 runs" in swept[1]
    assert "calibrating p(t) for bernoulli_mirrored" in swept[1]


def test_mlflow_holds_a_parent_and_a_run_a_cell(swept: tuple[SweepFolder, str]) -> None:
    folder, _ = swept
    runs = _runs(folder)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 5
    assert {run.data.tags["method"] for run in children} == set(METHODS)
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.data.tags["seed"] == "1"
        assert len(run.data.tags["config_hash"]) == 12
        assert run.data.params["train.lr"] == "0.003"
        assert {"accuracy", "val_nll", "train/loss", "val/nll"} <= set(run.data.metrics)


def test_a_run_s_metrics_have_every_step_once(swept: tuple[SweepFolder, str]) -> None:
    folder, _ = swept
    client = mlflow.MlflowClient(folder.state()["mlflow_uri"])
    for run in _runs(folder):
        if "mlflow.parentRunId" in run.data.tags:
            assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [5, 10, 12]


def test_the_report_is_made_from_it(swept: tuple[SweepFolder, str], tmp_path: Path) -> None:
    runs = runs_of_sweeps([swept[0].path], baseline=None, metric=METRICS["accuracy"])
    page = write_report(analyse(runs), runs, tmp_path, latex=False).read_text()
    assert "p_pots_mirror" in page
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table["method"]) == set(METHODS)


def test_resume_runs_only_what_is_missing_and_gets_the_same(
    recipe: Recipe, swept: tuple[SweepFolder, str], run_sweep: RunSweep
) -> None:
    folder, _ = swept
    before = {method: _result(folder, method) for method in METHODS}
    scores = pd.read_parquet(folder.trial("p_pots_mirror", 1) / "scores.parquet")
    shutil.rmtree(folder.trial("p_pots_mirror", 1))
    folder.update(status="interrupted")
    resumed, text = run_sweep(recipe, resume=True)
    assert resumed == folder and folder.state()["status"] == "finished"
    assert "3 of 4 runs are done already" in text
    after = _result(folder, "p_pots_mirror")["metrics"]
    for name in ("accuracy", "val_nll", "loss_variance", "backprop_variance", "grad_norm", "model_rows"):
        assert after[name] == before["p_pots_mirror"]["metrics"][name]
    pd.testing.assert_frame_equal(pd.read_parquet(folder.trial("p_pots_mirror", 1) / "scores.parquet"), scores)
    assert _result(folder, "standard") == before["standard"]
    assert len(_runs(folder)) == 5


def test_two_workers_train_what_one_does(
    make_recipe: MakeRecipe, swept: tuple[SweepFolder, str], run_sweep: RunSweep, tmp_path: Path
) -> None:
    recipe = make_recipe(
        output=str(tmp_path), train__num_workers=2, train__cpus_per_worker=0.49, train__micro_batch_size=3,
        sweep__methods=["mirror"],
    )  # fmt: skip
    metrics = [_result(folder, "mirror")["metrics"] for folder in (swept[0], run_sweep(recipe)[0])]
    for name in ("val_nll", "loss_variance", "grad_norm"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-4)
    assert metrics[0]["model_rows"] == metrics[1]["model_rows"]


def test_a_dead_mlflow_ends_the_sweep_before_training(
    make_recipe: MakeRecipe, run_sweep: RunSweep, tmp_path: Path
) -> None:
    recipe = make_recipe(output=str(tmp_path), tracking__mlflow=True, tracking__uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        run_sweep(recipe)
    assert not list(tmp_path.glob("*/trials/*"))
    assert not list(tmp_path.glob("*/calibrations/*"))


def test_a_run_that_diverges_fails_alone(make_recipe: MakeRecipe, run_sweep: RunSweep, tmp_path: Path) -> None:
    recipe = make_recipe(
        output=str(tmp_path), train__lr=1e30, train__max_failures=0, sweep__max_failures=0, sweep__seeds=[1, 2]
    )
    folder, text = run_sweep(recipe)
    assert folder.state()["status"] == "failed"
    for seed in (1, 2):
        result = json.loads((folder.trial("standard", seed) / "result.json").read_text())
        assert result["status"] == "failed"
        assert "not finite, more than train.max_skipped_steps=3" in result["error"]
        assert "Lower train.lr" in result["error"]
    assert "standard-s1: failed" in text
