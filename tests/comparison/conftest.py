"""A synthetic sweep folder with known numbers, in the format that `raymdm sweep` writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_sample
import yaml

from raymdm.comparison.document import Report
from raymdm.comparison.runs import Runs
from raymdm.config.schema import METHODS, Recipe

EXAMPLES = 50
# of 50 test examples, by seed: standard has mean 60 %, p_pots 64 %, p_pots_mirror 72 %
CORRECT = {
    "standard": [29, 30, 31],
    "p_pots": [30, 32, 34],
    "p_pots_mirror": [35, 36, 37],
    "fixed_size": [25, 30, 35],
    "arm": [40, 41, 42],
}
VARIANCE = {"standard": 8.0, "p_pots": 2.0, "p_pots_mirror": 1.5, "fixed_size": 1.0, "arm": 0.25}
SEEDS = [42, 731, 20231]


def write_scores(folder: Path, correct: int, output: str = "3 + 4 = 7\n#### 7", examples: int = EXAMPLES) -> None:
    """The first `correct` examples are right; rows lie in descending order of example_id."""
    scores = (np.arange(examples) < correct).astype(float)
    frame = pd.DataFrame(
        {
            "example_id": np.arange(examples) * 3,
            "score": scores,
            "prediction": ["7" if score else None for score in scores],
            "reference": "7",
            "output": output,
            "new_tokens": np.int32(9),
        }
    )
    frame[::-1].to_parquet(folder / "scores.parquet")


def write_result(folder: Path, method: str, seed: int, /, **changes: Any) -> None:
    place, views = SEEDS.index(seed), METHODS[method].views
    metrics = {
        "accuracy": CORRECT[method][place] / EXAMPLES,
        "val_nll": 1.0 + VARIANCE[method] / 10 + 0.01 * place,
        "loss_variance": VARIANCE[method] / 2 + 0.1 * place,
        "backprop_variance": VARIANCE[method] + 0.1 * place,
        "grad_norm": 0.9 + 0.05 * place,
        "train_seconds": 100.0 * views + place,
        "evaluate_seconds": 20.0,
        "model_rows": 6400 * views,
        "steps": 200,
        "best_step": 160 + 10 * place,
        "wall_seconds": 125.0 * views,
    }
    result = {
        "task": "gsm8k",
        "model": "tiny",
        "method": method,
        "seed": seed,
        "status": "finished",
        "error": None,
        "metrics": metrics | changes.pop("metrics", {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result | changes))


def write_curves(folder: Path, method: str, seed: int) -> None:
    noise = np.random.default_rng(seed)
    lines = []
    for step in range(10, 201, 10):
        fall = np.exp(-step / 60)
        loss = (1.1 + 2.5 * fall) * noise.lognormal(0, 0.08 * VARIANCE[method] ** 0.5)
        lines.append({"step": step, "train/loss": loss, "train/lr": 5e-5, "train/model_rows": 32 * step})
        if step % 40 == 0:
            lines.append({"step": step, "val/nll": 1 + VARIANCE[method] / 10 + 2 * fall + noise.normal(0, 0.02)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_calibration(folder: Path, scale: float) -> None:
    t = np.linspace(0.01, 0.99, 80)
    fitted = 0.4 + 0.9 * (1 - t) ** 4 + 0.8 * t**2
    fitted /= np.trapezoid(fitted, t)
    optimum = fitted * np.random.default_rng(0).lognormal(0, 0.05, len(t))
    density = {
        "kind": "epr",
        "params": {"a": 0.41, "b": 1.2, "A": 0.6, "kappa": 0.33, "m": 2.0, "q": 4.1, "r": 1.7},
        "eps": 1e-3,
        "uniform_mix": 0.0,
        "kl": 0.0041,
        "weight_min": float((1 / fitted).min()),
        "weight_max": float((1 / fitted).max()),
        "variance": {"epr": 2.2 * scale, "optimum": 2.0 * scale, "uniform": 8.0 * scale},
        "decomposition": {
            "epr": {"masks": 1.1 * scale, "rate": 0.8 * scale, "data": 0.3 * scale},
            "uniform": {"masks": 4.7 * scale, "rate": 3.0 * scale, "data": 0.3 * scale},
        },
        "mean_loss": 2.4,
        "grid": t.tolist(),
        "w": fitted.tolist(),
        "fitted": fitted.tolist(),
        "optimum": optimum.tolist(),
        "seconds": 31.5,
        "rows": 10240,
        "mask": folder.name,
    }
    folder.mkdir(parents=True)
    (folder / "density.json").write_text(json.dumps(density))


def build_sweep(folder: Path, methods: list[str], seeds: list[int] | None = None, **sweep: Any) -> Path:
    """Write a sweep of the given methods; `sweep` overrides fields of the recipe's sweep section."""
    seeds = seeds or SEEDS
    recipe = Recipe.model_validate(
        {
            "name": "synthetic",
            "description": "Numbers made up for the tests",
            "data": {"task": "gsm8k", "path": "data/gsm8k"},
            "model": {"kind": "tiny", "tokenizer": {"kind": "bpe"}},
            "sweep": {"methods": methods, "seeds": seeds, **sweep},
        }
    )
    info = {
        "name": "synthetic",
        "config_hash": "3f9a1c",
        "git_commit": "0123abc",
        "created": "2026-01-02T03:04:05+00:00",
        "status": "finished",
        "raymdm_version": "0.1.0",
        "hardware": "1 node, 2 CPUs",
        "environment": {"torch": "2.13.0", "ray": "2.58.0"},
        "wall_seconds": 3725.0,
        "mlflow_uri": None,
        "experiment": "synthetic",
        "slots": 2,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    (folder / "sweep.json").write_text(json.dumps(info))
    for mask in sorted({METHODS[name].calibration for name in methods if METHODS[name].calibrated}):
        write_calibration(folder / "calibrations" / mask, 0.6 if "mirrored" in mask else 1.0)
    for method in methods:
        for seed in seeds:
            trial = folder / "trials" / f"{method}-s{seed}"
            write_result(trial, method, seed)
            write_scores(trial, CORRECT[method][SEEDS.index(seed)])
            write_curves(trial, method, seed)
    return folder


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """`build(folder, methods, seeds=None, **sweep)`, for fixtures that outlive a test."""
    return build_sweep


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """`make_sweep(methods, seeds=None, **sweep)` builds a sweep folder and returns its path."""

    def make(methods: list[str], seeds: list[int] | None = None, **sweep: Any) -> Path:
        return build_sweep(tmp_path / "sweep", methods, seeds, **sweep)

    return make


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """`rewrite(sweep, method, seed, **changes)` writes a trial's result.json again, with changes."""

    def change(sweep: Path, method: str, seed: int, /, **changes: Any) -> None:
        write_result(sweep / "trials" / f"{method}-s{seed}", method, seed, **changes)

    return change


@pytest.fixture(scope="session")
def rescore() -> Callable[..., None]:
    """`rescore(sweep, method, seed, correct, **changes)` writes a trial's scores.parquet again, with changes."""

    def change(sweep: Path, method: str, seed: int, correct: int, **changes: Any) -> None:
        write_scores(sweep / "trials" / f"{method}-s{seed}", correct, **changes)

    return change


def estimate(value: float, spread: float = 0.1) -> dict[str, float]:
    """An estimate with an interval of `spread` times the value to both sides."""
    return {"value": value, "low": value - spread * abs(value), "high": value + spread * abs(value)}


def source_variance(masks: float, rate: float, data: float, relative: float, spread: float = 0.1) -> dict[str, Any]:
    """A, B and C of a method without strata; `relative` is the variance at equal compute."""
    total = masks + rate + data
    parts = {"mean": 2.5, "masks": masks, "rate": rate, "data": data, "total": total, "batch": total}
    return {name: estimate(value) for name, value in parts.items()} | {"relative": estimate(relative, spread)}


def method_row(name: str, loss: float, gradient: float | None, spread: float = 0.1, **changes: Any) -> dict[str, Any]:
    """A method of one row a sequence; `loss` and `gradient` are its variances at equal compute."""
    return {
        "name": name,
        "summary": f"what {name} is",
        "rows": 1,
        "biased": None,
        "warning": None,
        "calibration": None,
        "masking": "bernoulli",
        "loss": source_variance(1.2 * loss, 0.5 * loss, 0.3 * loss, loss, spread),
        "gradient": None
        if gradient is None
        else source_variance(3.1 * gradient, 0.7 * gradient, 0.2 * gradient, gradient, spread),
        "bias": {
            "loss_difference": 0.011,
            "loss_error": 0.01,
            "loss_z": 1.1,
            "loss_p": 0.27,
            "gradient_difference": 0.034,
            "gradient_z": 0.4,
            "gradient_p": 0.3,
        },
    } | changes


def diagnosis_data(*methods: dict[str, Any], gradient: bool = True, **changes: Any) -> dict[str, Any]:
    """The content of a diagnose.json: `standard`, then the given methods."""
    t = np.linspace(0.01, 0.99, 25)
    fitted = 0.4 + 0.9 * (1 - t) ** 4 + 0.8 * t**2
    standard = method_row("standard", 1.0, 1.0 if gradient else None, spread=0.0, bias=None)

    def curve(level: float) -> dict[str, Any]:
        mean, variance = 4 * t**2 + 0.2, level / (t + 0.02) * (1 - t)
        return {
            "t": t.tolist(),
            "mean": mean.tolist(),
            "variance": variance.tolist(),
            "second_moment": (mean**2 + variance).tolist(),
            "gradient_t": t[::4].tolist() if gradient else [],
            "gradient_second_moment": (level / (t[::4] + 0.05)).tolist() if gradient else [],
        }

    density = {"t": t.tolist(), "p": fitted.tolist(), "optimum": (1.03 * fitted).tolist(), "kl": 0.0041}
    density |= {"weight_min": 0.43, "weight_max": 2.1, "variance_excess": 0.012, "warnings": []}
    return {
        "name": "synthetic",
        "created": "2026-01-02T03:04:05+00:00",
        "hardware": "1 node, 2 CPUs",
        "git_commit": "0123abc",
        "raymdm_version": "0.1.0",
        "model": "tiny",
        "checkpoint": None,
        "task": "gsm8k",
        "family": "mdm",
        "parameters": 1_300_000,
        "sequences": 48,
        "rates": 25,
        "gradient_rates": 7 if gradient else 0,
        "masks": 6,
        "gradient_masks": 2 if gradient else 0,
        "gradient_sequences": 16 if gradient else 0,
        "batch_size": 32,
        "sketch": None,
        "seconds": {"losses": 61.0, "gradients": 30.5, "fits": 2.0, "total": 95.0},
        "rows": 14_400,
        "seed": 7,
        "replicates": 1000,
        "curves": {"bernoulli": curve(0.2), "fixed_size": curve(0.05)},
        "densities": {
            "bernoulli": density | {"target": "loss"},
            "fixed_size_gradient": density | {"target": "gradient", "warnings": ["the fit is poor: KL 0.03"]},
        },
        "methods": [standard, *methods],
        "warnings": [],
    } | changes


@pytest.fixture(scope="session")
def row() -> Callable[..., dict[str, Any]]:
    """`row(name, loss, gradient, spread=0.1, **changes)`: a method of a diagnosis."""
    return method_row


@pytest.fixture(scope="session")
def diagnosis_json() -> Callable[..., dict[str, Any]]:
    """`diagnosis_json(*rows, gradient=True, **changes)`: the content of a diagnose.json, `standard` added in front."""
    return diagnosis_data


@pytest.fixture(scope="session")
def without_variance() -> Callable[..., dict[str, Any]]:
    """`without_variance(kind, *rows)`: a diagnose.json whose baseline's `kind` has a variance below 0."""

    def make(kind: str, *rows: dict[str, Any]) -> dict[str, Any]:
        data = diagnosis_data(*rows)
        data["methods"][0][kind]["batch"] = {"value": -0.1}
        for method in data["methods"]:
            method[kind]["relative"] = None
        return data

    return make


@pytest.fixture(scope="session")
def sample() -> Callable[..., tuple[Report, Runs]]:
    """`sample(labels, arms, tasks, seeds, text)`: a comparison that fills every field, see report_sample.py."""
    return report_sample.sample
