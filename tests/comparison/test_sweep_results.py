"""Reading a sweep's folder, and what it says of a broken one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymdm.comparison.results import load_sweep
from raymdm.comparison.sweep_tables import checkout, environment_table
from raymdm.errors import UserError

MakeSweep = Callable[..., Path]


def test_scores_are_seeds_by_examples_in_the_recipes_order(make_sweep: MakeSweep) -> None:
    scores = load_sweep(make_sweep(["standard", "p_pots"], [731, 42])).scores("p_pots")
    assert scores.shape == (2, 50)
    assert scores.sum(1).tolist() == [32, 30]
    # the first examples are the right ones, whatever the order in the file
    assert scores[0].tolist() == [1.0] * 32 + [0.0] * 18


def test_values_follow_the_seeds(make_sweep: MakeSweep) -> None:
    sweep = load_sweep(make_sweep(["standard"]))
    assert sweep.values("standard", "val_nll") == pytest.approx([1.80, 1.81, 1.82])
    assert sweep.values("standard", "accuracy") == pytest.approx([0.58, 0.60, 0.62])


def test_a_metric_of_the_future_is_kept(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard"])
    rewrite(folder, "standard", 42, metrics={"probe": 3.5})
    assert load_sweep(folder).values("standard", "probe").tolist() == [3.5]


def test_of_a_step_logged_twice_the_last_line_counts(make_sweep: MakeSweep) -> None:
    folder = make_sweep(["standard"], [42])
    lines = [{"step": 10, "train/loss": 9.0}, {"step": 20, "train/loss": 8.0}, {"step": 20, "train/loss": 7.0}]
    (folder / "trials/standard-s42/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_sweep(folder).curves["value"].tolist() == [9.0, 7.0]


def test_failed_and_missing_trials_are_kept_as_failures(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard", "p_pots"])
    rewrite(folder, "p_pots", 42, status="failed", error="out of memory")
    (folder / "trials/p_pots-s731/result.json").unlink()
    sweep = load_sweep(folder)
    assert sweep.seeds == {"standard": [42, 731, 20231], "p_pots": [20231]}
    assert sweep.failures[0] == ("p_pots-s42", "out of memory")
    assert sweep.failures[1][0] == "p_pots-s731"


def test_a_report_names_every_commit_and_package_that_its_runs_came_from(
    make_sweep: MakeSweep, rewrite: Callable[..., None]
) -> None:
    folder = make_sweep(["standard"])
    start = {"git_commit": "0123abc", "raymdm_version": "0.1.0", "environment": {"torch": "2.13.0", "ray": "2.58.0"}}
    later = start | {"git_commit": "4567def", "environment": {"torch": "2.14.0", "ray": "2.58.0"}}
    rewrite(folder, "standard", 731, origins=[start, later])
    sweep = load_sweep(folder)
    rows = dict(environment_table(sweep).rows)
    assert rows["Git commit"] == "0123abc and 4567def (the runs are of several)"
    assert rows["Packages"] == "ray 2.58.0, torch 2.13.0 and 2.14.0 (the runs are of several)"
    assert rows["raymdm"] == "0.1.0"
    assert checkout(sweep) == "0123abc  # other runs: 4567def"


def test_runs_of_one_commit_are_told_by_it_alone(make_sweep: MakeSweep) -> None:
    sweep = load_sweep(make_sweep(["standard"]))
    rows = dict(environment_table(sweep).rows)
    assert (rows["Git commit"], rows["Packages"]) == ("0123abc", "ray 2.58.0, torch 2.13.0")
    assert checkout(sweep) == "0123abc"


def test_trials_outside_the_recipe_are_left_out(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard"])
    rewrite(folder, "arm", 42)
    sweep = load_sweep(folder)
    assert list(sweep.seeds) == ["standard"]
    assert sweep.strangers == ["arm-s42"]


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a sweep"):
        load_sweep(tmp_path)


def test_no_finished_trial_shows_the_first_error(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard"], [42])
    rewrite(folder, "standard", 42, status="failed", error="disk full")
    with pytest.raises(UserError, match=r"no finished trial.*standard-s42: disk full"):
        load_sweep(folder)


@pytest.mark.parametrize("examples", [49, 60])
def test_different_test_sets(make_sweep: MakeSweep, rescore: Callable[..., None], examples: int) -> None:
    folder = make_sweep(["standard", "p_pots"], [42])
    rescore(folder, "p_pots", 42, 30, examples=examples)
    with pytest.raises(UserError, match=rf"p_pots-s42.*{examples} test examples, standard-s42 on 50"):
        load_sweep(folder)


def test_accuracy_that_its_scores_deny(make_sweep: MakeSweep, rescore: Callable[..., None]) -> None:
    folder = make_sweep(["standard"], [42])
    rescore(folder, "standard", 42, 10)
    with pytest.raises(UserError, match=r"accuracy 0\.58, but the scores beside it have mean 0\.2"):
        load_sweep(folder)


def test_a_result_in_anothers_folder(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard"])
    rewrite(folder, "standard", 42, seed=731)
    with pytest.raises(UserError, match="seed 731; its folder is for 'standard', seed 42"):
        load_sweep(folder)


def test_missing_scores_are_named(make_sweep: MakeSweep) -> None:
    folder = make_sweep(["standard"], [42])
    (folder / "trials/standard-s42/scores.parquet").unlink()
    with pytest.raises(UserError, match=r"scores\.parquet is missing"):
        load_sweep(folder)


@pytest.mark.parametrize("score", [np.nan, 2.0])
def test_scores_outside_zero_and_one(make_sweep: MakeSweep, score: float) -> None:
    folder = make_sweep(["standard"], [42])
    path = folder / "trials/standard-s42/scores.parquet"
    frame = pd.read_parquet(path)
    frame.loc[3, "score"] = score
    frame.to_parquet(path)
    with pytest.raises(UserError, match="score between 0 and 1"):
        load_sweep(folder)


def test_a_broken_line_of_metrics_is_named(make_sweep: MakeSweep) -> None:
    folder = make_sweep(["standard"], [42])
    path = folder / "trials/standard-s42/metrics.jsonl"
    path.write_text('{"step": 10, "train/loss": 1.0}\n{"step": 20, "tra')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        load_sweep(folder)


@pytest.mark.parametrize(("name", "text"), [("sweep.json", "{}"), ("recipe.yaml", "name: [")])
def test_broken_descriptions_are_named(make_sweep: MakeSweep, name: str, text: str) -> None:
    folder = make_sweep(["standard"], [42])
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=name):
        load_sweep(folder)
