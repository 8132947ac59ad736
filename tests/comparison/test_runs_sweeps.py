"""Sweeps as runs to compare: one, several together, and adaptive ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import CANNOT_MATTER, runs_of_sweeps
from raymdm.comparison.results import load_sweep, planned_cells
from raymdm.comparison.runs import COLUMNS, Runs
from raymdm.config.load import UNHASHED
from raymdm.errors import UserError

Build = Callable[..., Path]
Rewrite = Callable[..., None]
ACCURACY = METRICS["accuracy"]


def read(*folders: Path, baseline: str | None = None, metric: str = "accuracy") -> Runs:
    return runs_of_sweeps(list(folders), baseline=baseline, metric=METRICS[metric])


def edit(folder: Path, **changes: Any) -> None:
    """Set fields of the recipe; dots are written as `__`."""
    path = folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *sections, field = name.split("__")
        target = recipe
        for section in sections:
            target = target[section]
        target[field] = value
    path.write_text(yaml.safe_dump(recipe))


def tell(folder: Path, **fields: Any) -> None:
    """Set fields of sweep.json."""
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def relabel(folder: Path, **fields: Any) -> None:
    """Set fields of every result.json."""
    for path in folder.glob("trials/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def two(build: Build, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Two sweeps: `two(methods, seeds, others, other_seeds)`."""

    def make(
        methods: list[str], seeds: list[int] | None, others: list[str], other_seeds: list[int] | None
    ) -> tuple[Path, Path]:
        return build(tmp_path / "one", methods, seeds), build(tmp_path / "two", others, other_seeds)

    return make


def test_a_sweep_is_read_as_it_is(make_sweep: Build) -> None:
    runs = read(make_sweep(["p_pots", "standard", "arm"], [731, 42]))
    assert runs.name == "synthetic"
    assert list(runs.table) == COLUMNS
    assert runs.labels == ["p_pots", "standard", "arm"]
    assert runs.families == {"p_pots": "mdm", "standard": "mdm", "arm": "arm"}
    assert runs.baseline == "standard"
    assert runs.values("gsm8k", "p_pots", "accuracy") == pytest.approx({731: 0.64, 42: 0.60})
    assert runs.specs["p_pots"].density == "p_pots"
    assert (runs.not_compared, runs.notes, runs.failures, runs.looks) == ("", [], {}, [])
    assert [sweep.info.name for sweep in runs.sweeps] == ["synthetic"]


def test_scores_follow_the_seeds(make_sweep: Build) -> None:
    found = read(make_sweep(["standard"], [731, 42])).scores["gsm8k", "standard"]
    assert found.seeds == [731, 42]
    assert found.values.sum(1).tolist() == [30, 29]


def test_the_metric_must_be_there(make_sweep: Build) -> None:
    with pytest.raises(UserError, match=r"no run has the metric 'energy_wh'\. There are: accuracy, val_nll"):
        read(make_sweep(["standard"]), metric="energy_wh")


def test_energy_is_read_where_the_results_hold_it(make_sweep: Build, rewrite: Rewrite) -> None:
    folder = make_sweep(["standard"], [42])
    rewrite(folder, "standard", 42, metrics={"energy_wh": 12.5})
    runs = read(folder)
    assert runs.values("gsm8k", "standard", "energy_wh") == {42: 12.5}
    assert "energy_wh" in runs.metrics


# Baselines


def test_a_baseline_can_be_given(make_sweep: Build) -> None:
    assert read(make_sweep(["standard", "p_pots"]), baseline="p_pots").baseline == "p_pots"


def test_a_given_baseline_needs_a_result(make_sweep: Build) -> None:
    with pytest.raises(UserError, match=r"no run of 'mirror' has a result\. Name one of: standard, p_pots"):
        read(make_sweep(["standard", "p_pots"]), baseline="mirror")


@pytest.mark.parametrize(
    ("methods", "failed", "expected"),
    [
        (["p_pots"], None, "the baseline standard (sweep.baseline) has no result, it is not among sweep.methods."),
        (["p_pots", "standard"], "standard", "(sweep.baseline) has no result, none of its runs finished."),
        (["standard"], None, "No method is compared: only the baseline standard has a result."),
    ],
)
def test_why_nothing_is_compared(
    make_sweep: Build, rewrite: Rewrite, methods: list[str], failed: str | None, expected: str
) -> None:
    folder = make_sweep(methods, [42])
    if failed:
        rewrite(folder, failed, 42, status="failed", error="disk full")
    runs = read(folder)
    assert runs.baseline is None
    assert runs.not_compared.endswith(expected)


def test_different_baselines_ask_for_one(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["standard"], None, ["p_pots"], None)
    edit(other, sweep__baseline="p_pots")
    with pytest.raises(UserError, match=r"different baselines: standard, p_pots\. Name one with --baseline"):
        read(one, other)
    assert read(one, other, baseline="standard").baseline == "standard"


# Several sweeps


def test_seeds_of_two_sweeps_are_pooled(two: Callable[..., tuple[Path, Path]]) -> None:
    runs = read(*two(["standard", "p_pots"], [42], ["standard", "p_pots"], [20231, 731]))
    assert runs.values("gsm8k", "standard", "accuracy") == pytest.approx({42: 0.58, 20231: 0.62, 731: 0.60})
    assert runs.scores["gsm8k", "p_pots"].seeds == [42, 20231, 731]
    assert runs.scores["gsm8k", "p_pots"].values.sum(1).tolist() == [30, 34, 32]
    assert (runs.name, runs.notes) == ("synthetic", [])


def test_methods_of_two_sweeps_stand_side_by_side(two: Callable[..., tuple[Path, Path]]) -> None:
    runs = read(*two(["standard"], None, ["p_pots"], None))
    assert (runs.labels, runs.baseline, runs.notes) == (["standard", "p_pots"], "standard", [])


def test_a_run_in_two_sweeps_names_both(two: Callable[..., tuple[Path, Path]]) -> None:
    with pytest.raises(UserError, match=r"one and .*two both hold standard-s731 of task gsm8k"):
        read(*two(["standard"], [42, 731], ["standard"], [731, 20231]))


def test_a_failed_run_may_be_made_up_for_in_another_sweep(
    two: Callable[..., tuple[Path, Path]], rewrite: Rewrite
) -> None:
    one, other = two(["standard", "p_pots"], [42, 731], ["standard"], [731])
    rewrite(one, "standard", 731, status="failed", error="disk full")
    runs = read(one, other)
    assert list(runs.values("gsm8k", "standard", "accuracy")) == [42, 731]
    assert (runs.failures, runs.notes) == ({}, [])


def test_failures_of_several_sweeps_name_their_folder(two: Callable[..., tuple[Path, Path]], rewrite: Rewrite) -> None:
    one, other = two(["standard"], [42], ["p_pots"], [42, 731])
    rewrite(other, "p_pots", 731, status="failed", error="disk full")
    assert read(one, other).failures == {f"{other}/p_pots-s731": "disk full"}


def test_unlike_seeds_are_not_pooled(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["standard"], [42], ["standard"], [731])
    edit(other, train__lr=0.25, evaluate__steps=64)
    with pytest.raises(
        UserError, match=r"cannot be pooled: train\.lr: 5e-05 and 0\.25; evaluate\.steps: 128 and 64\. Compare"
    ):
        read(one, other)


def test_what_cannot_matter_may_differ(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["standard"], [42], ["standard"], [731])
    edit(
        other, name="second", train__max_failures=9, diagnose__masks=3, tracking__mlflow=False, sweep__max_concurrent=1
    )
    # a calibration is none of standard's business
    edit(other, calibrate__masks=7, train__refit_every=5)
    tell(other, name="second")
    runs = read(one, other)
    assert (runs.name, runs.notes) == ("synthetic + second", [])


def test_a_calibration_matters_to_a_calibrated_method(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["p_pots"], [42], ["p_pots"], [731])
    edit(other, calibrate__masks=7)
    with pytest.raises(UserError, match=r"calibrate\.masks: 4 and 7"):
        read(one, other)


def test_a_name_means_one_composition(two: Callable[..., tuple[Path, Path]]) -> None:
    folders = two(["standard"], [42], ["standard"], [42])
    for folder, views, seed in zip(folders, (2, 3), (42, 731), strict=True):
        edit(folder, methods={"own": {"views": views}}, sweep__methods=["own"], sweep__seeds=[seed])
        (folder / "trials/standard-s42").rename(folder / f"trials/own-s{seed}")
        relabel(folder, method="own", seed=seed)
    with pytest.raises(UserError, match=r"own is composed of different parts .*: views: 2 and 3"):
        read(*folders)


def test_settings_that_differ_between_methods_are_noted(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["standard"], None, ["p_pots"], None)
    edit(other, train__lr=0.25)
    tell(other, raymdm_version="0.2.0")
    assert read(one, other).notes == [
        "one and two differ in more than their methods, and so does every difference between their runs: "
        "raymdm: 0.1.0 and 0.2.0; train.lr: 5e-05 and 0.25."
    ]


def test_what_is_left_out_is_what_the_recipes_hash_leaves_out() -> None:
    own = {"sweep", "method", "seed"}
    assert {field for field in UNHASHED if not field.startswith("sweep.")} | own == CANNOT_MATTER


def test_a_method_of_two_models_is_labelled_with_them(two: Callable[..., tuple[Path, Path]]) -> None:
    one, other = two(["standard"], None, ["standard", "p_pots"], None)
    edit(other, model__hidden_size=32)
    relabel(other, model="large")
    with pytest.raises(UserError, match=r"standard was run with several models.*standard \(tiny\), standard \(large\)"):
        read(one, other)
    runs = read(one, other, baseline="standard (large)")
    assert runs.labels == ["standard (tiny)", "standard (large)", "p_pots"]
    assert "model.hidden_size: 64 and 32" in runs.notes[0]


def test_tasks_are_tables_of_their_own(two: Callable[..., tuple[Path, Path]], rescore: Rewrite) -> None:
    one, other = two(["standard"], [42], ["standard", "p_pots"], [42])
    edit(other, data__max_length=64)
    relabel(other, task="sorting")
    rescore(other, "standard", 42, 29, examples=60)
    rescore(other, "p_pots", 42, 30, examples=60)
    for method, correct in (("standard", 29), ("p_pots", 30)):
        path = other / f"trials/{method}-s42/result.json"
        result = json.loads(path.read_text())
        result["metrics"]["accuracy"] = correct / 60
        path.write_text(json.dumps(result))
    runs = read(one, other)
    assert (runs.tasks, runs.labels, runs.notes) == (["gsm8k", "sorting"], ["standard", "p_pots"], [])
    assert runs.scores["sorting", "standard"].values.shape == (1, 60)


def test_other_examples_of_a_task(two: Callable[..., tuple[Path, Path]], rescore: Rewrite, rewrite: Rewrite) -> None:
    one, other = two(["standard"], [42], ["p_pots"], [42])
    rescore(other, "p_pots", 42, 30, examples=60)
    rewrite(other, "p_pots", 42, metrics={"accuracy": 0.5})
    with pytest.raises(
        UserError, match=r"two/p_pots-s42 was scored on 60 test examples, .*one/standard-s42 on 50, of which 50 are"
    ):
        read(one, other)


def test_other_references_of_a_task(make_sweep: Build) -> None:
    folder = make_sweep(["standard", "p_pots"], [42])
    path = folder / "trials/p_pots-s42/scores.parquet"
    frame = pd.read_parquet(path).sort_values("example_id", ignore_index=True)
    frame.loc[[0, 3], "reference"] = [None, "8"]
    frame.to_parquet(path)
    with pytest.raises(
        UserError, match=r"standard-s42 and p_pots-s42 .* different references on 1 test.*example 9: '7' and '8'"
    ):
        read(folder)


# Seeds that are missing, and rounds


def test_a_missing_seed_is_noted_with_its_reason(make_sweep: Build, rewrite: Rewrite) -> None:
    folder = make_sweep(["standard", "p_pots", "arm"])
    rewrite(folder, "p_pots", 731, status="failed", error="disk full")
    (folder / "trials/arm-s42/result.json").unlink()
    runs = read(folder)
    assert runs.notes == [
        "p_pots lacks seed 731 (its run failed), which others have: it is compared "
        "on the seeds that both have, on all where they share none.",
        "arm lacks seed 42 (no result yet), which others have: it is compared "
        "on the seeds that both have, on all where they share none.",
    ]
    assert runs.failures["p_pots-s731"] == "disk full"


ROUNDS = [
    {"cells": [["standard", 42], ["p_pots", 42], ["standard", 731], ["p_pots", 731]], "alpha": 0.01},
    {"cells": [["p_pots", 20231]], "alpha": 0.04},
]


@pytest.fixture
def adaptive(build: Build, tmp_path: Path) -> Path:
    """standard has 42 and 731, p_pots 42, 731 and in the second round 20231."""
    folder = build(tmp_path / "adaptive", ["standard", "p_pots"])
    tell(folder, rounds=ROUNDS)
    return folder


def test_the_grid_of_an_adaptive_sweep_is_its_rounds(adaptive: Path) -> None:
    sweep = load_sweep(adaptive)
    assert planned_cells(sweep.recipe, sweep.info) == [
        ("standard", 42), ("p_pots", 42), ("standard", 731), ("p_pots", 731), ("p_pots", 20231),
    ]  # fmt: skip
    assert sweep.seeds == {"standard": [42, 731], "p_pots": [42, 731, 20231]}
    assert sweep.strangers == ["standard-s20231"]


def test_looks_are_at_the_runs_that_had_finished_by_then(adaptive: Path, rewrite: Rewrite) -> None:
    rewrite(adaptive, "standard", 731, status="failed", error="disk full")
    seen = [["standard", 42], ["p_pots", 42], ["p_pots", 731]]
    tell(adaptive, rounds=[ROUNDS[0] | {"finished": seen}, ROUNDS[1]])  # the second round is running
    runs = read(adaptive)
    assert runs.adaptive
    (look,) = runs.looks
    assert (look.runs, look.alpha) == ({"standard": 1, "p_pots": 2}, 0.01)
    assert look.seeds == {"standard": [42], "p_pots": [42, 731]}
    assert list(runs.failures) == ["standard-s731"]


def test_seeds_differ_by_design_in_an_adaptive_sweep(adaptive: Path) -> None:
    assert read(adaptive).notes == []


def test_an_adaptive_sweep_is_compared_alone(adaptive: Path, build: Build, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adaptive is an adaptive sweep.*Compare it alone"):
        read(build(tmp_path / "one", ["arm"]), adaptive)


def test_rounds_of_another_sweep_are_refused(adaptive: Path) -> None:
    tell(adaptive, rounds=[{"cells": [["mirror", 1]], "alpha": 0.05}])
    with pytest.raises(UserError, match=r"its rounds name mirror, which recipe\.yaml does not have"):
        read(adaptive)
