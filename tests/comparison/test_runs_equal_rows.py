"""The lowest validation loss within the model rows that every run got to."""

import json
from collections.abc import Callable
from pathlib import Path

from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.comparison.runs import Runs

Build = Callable[..., Path]
Rewrite = Callable[..., None]


def read(folder: Path) -> Runs:
    return runs_of_sweeps([folder], baseline=None, metric=METRICS["accuracy"])


def log(folder: Path, method: str, losses: dict[int, float], seed: int = 42) -> None:
    lines = [json.dumps({"step": step, "val/nll": nll}) for step, nll in losses.items()]
    (folder / f"trials/{method}-s{seed}/metrics.jsonl").write_text("\n".join(lines))


def test_the_loss_at_equal_compute(make_sweep: Build) -> None:
    # 200 steps each: standard 6,400 rows, p_pots_mirror 12,800, so only its first 100 steps count
    folder = make_sweep(["standard", "p_pots_mirror", "arm"], [42])
    log(folder, "standard", {40: 3.0, 120: 2.0, 200: 2.5})
    log(folder, "p_pots_mirror", {40: 2.8, 100: 2.2, 101: 1.5, 200: 1.0})
    runs = read(folder)
    assert runs.values("gsm8k", "standard", "val_nll_equal_rows") == {42: 2.0}
    assert runs.values("gsm8k", "p_pots_mirror", "val_nll_equal_rows") == {42: 2.2}
    assert runs.values("gsm8k", "arm", "val_nll_equal_rows") == {}


def test_a_run_that_stopped_early_limits_the_others(make_sweep: Build, rewrite: Rewrite) -> None:
    folder = make_sweep(["standard", "p_pots"], [42])
    rewrite(folder, "p_pots", 42, metrics={"steps": 80, "model_rows": 2560})
    log(folder, "standard", {40: 3.0, 80: 2.5, 120: 2.0})
    log(folder, "p_pots", {40: 2.8, 80: 2.9})
    runs = read(folder)
    assert runs.values("gsm8k", "standard", "val_nll_equal_rows") == {42: 2.5}
    assert runs.values("gsm8k", "p_pots", "val_nll_equal_rows") == {42: 2.8}


def test_an_autoregressive_run_sets_no_limit(make_sweep: Build, rewrite: Rewrite) -> None:
    folder = make_sweep(["standard", "arm"], [42])
    rewrite(folder, "arm", 42, metrics={"steps": 20, "model_rows": 640})
    log(folder, "standard", {40: 3.0, 200: 2.5})
    assert read(folder).values("gsm8k", "standard", "val_nll_equal_rows") == {42: 2.5}


def test_autoregressive_runs_alone_have_it(make_sweep: Build) -> None:
    folder = make_sweep(["arm"], [42])
    log(folder, "arm", {40: 3.0, 200: 2.5})
    assert read(folder).values("gsm8k", "arm", "val_nll_equal_rows") == {42: 2.5}


def test_without_curves_it_is_absent(make_sweep: Build) -> None:
    folder = make_sweep(["standard"], [42])
    (folder / "trials/standard-s42/metrics.jsonl").unlink()
    runs = read(folder)
    assert runs.values("gsm8k", "standard", "val_nll_equal_rows") == {}
    assert "val_nll_equal_rows" not in runs.metrics
