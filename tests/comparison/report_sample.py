"""A comparison made by hand that fills every field of report.json, with the runs it is written from.

Its statistics are plausible numbers, not those of the runs: what is tested with it is how they are shown.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from raymdm.comparison.document import (
    Cost,
    Difference,
    Estimate,
    Level,
    Look,
    Power,
    Profile,
    Report,
    Spread,
)
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.results import Calibration, Sweep, SweepInfo
from raymdm.comparison.runs import COLUMNS, Runs
from raymdm.config.schema import METHODS, MethodSpec, Recipe

EQUAL = "val_nll_equal_rows"
METRIC_KEYS = ("accuracy", "val_nll", "backprop_variance", "loss_variance", EQUAL)
WHY = "p 0.10 after Holm over 20 claims; with 3 + 3 seeds no p below 0.10 can be had, so this many seeds cannot tell."
FINDINGS = ("better", "worse", "not distinguishable", "not supported by this many seeds", "not tested")
SPREAD_FINDINGS = ("smaller", "larger", "not distinguishable", "not supported by this many seeds", "not tested")
EQUIVALENCE = ("equivalent", "not shown equivalent", "not supported by this many seeds", "not tested")
MDM = {"standard": "standard", "p_pots": "p_pots", "fixed_size_p_pots_mirror": "fixed_size_p_pots_mirror",
       "half_nested": "stable"}  # fmt: skip
ARM = {"arm (tiny)": "arm", "arm (gpt2-medium)": "arm"}
TASKS = ("gsm8k", "countdown")


def est(value: float, spread: float, how: str = "t over seeds") -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread, how=how)


def sample(
    labels: dict[str, str] | None = None,
    arms: dict[str, str] | None = None,
    tasks: tuple[str, ...] = TASKS,
    seeds: int = 3,
    text: str = "3 + 4 = 7\n#### 7",
) -> tuple[Report, Runs]:
    """`labels` and `arms`: label -> preset; the first label is the baseline. `text` stands wherever data has text."""
    labels, arms = MDM if labels is None else labels, ARM if arms is None else arms
    presets = labels | arms
    runs = _runs(presets, tasks, list(range(1, seeds + 1)), text)
    names, baseline = list(presets), next(iter(presets))
    references = [(baseline, "baseline"), *((arm, "arm") for arm in arms)]
    pairs = [
        (task, label, reference, role)
        for (reference, role), task, label in product(references, tasks, names)
        if label != reference
    ]
    compared = [(place, pair, metric) for place, (metric, pair) in enumerate(product(METRIC_KEYS, pairs))]
    report = Report(
        name=runs.name,
        baseline=baseline,
        metric="accuracy",
        alpha=0.05,
        confidence=0.95,
        tasks=list(tasks),
        labels=names,
        families={label: "arm" if label in arms else "mdm" for label in names},
        headline=f"Accuracy against {baseline}: 1 better, 1 worse, 2 not distinguishable, 1 not tested.",
        verdicts={
            label: [f"{label} has accuracy +4.0 points: better than {baseline}.", WHY]
            for label in names
            if label != baseline
        },
        notes=[f"Seeds change masks alone: {text}", "Runs that shared a machine slowed each other."],
        levels=[_level(runs, task, label, metric) for metric, task, label in product(METRIC_KEYS, tasks, names)],
        differences=[_difference(place, *pair, metric, seeds) for place, pair, metric in compared],
        spreads=[_spread(place, *pair, metric, seeds) for place, pair, metric in compared],
        costs=[_cost(place, task, label, presets[label]) for task in tasks for place, label in enumerate(names)],
        profiles=[_profile(runs, task, label) for task in tasks for label in names],
        looks=[
            Look(runs=dict.fromkeys(names, 3), alpha=0.01),
            Look(runs=dict.fromkeys(names, 3) | {baseline: 5}, alpha=0.04),
        ],
        failures={f"{baseline}-s9": f"out of memory: {text}"},
    )
    return report, runs


def _runs(presets: dict[str, str], tasks: tuple[str, ...], seeds: list[int], text: str) -> Runs:
    noise = np.random.default_rng(5)
    rows = []
    for task, (place, label), seed in product(tasks, enumerate(presets), seeds):
        model = f"model {text[:20]}" if "(" in label else "tiny"
        cell = (task, label, model, presets[label], seed)
        rows.append((*cell, "accuracy", round(0.6 + 0.02 * place + noise.normal(0, 0.02), 2)))
        rows.append((*cell, "val_nll", 1.2 + 0.1 * place + noise.normal(0, 0.01)))
        rows.append((*cell, "backprop_variance", 8 / 2**place + noise.uniform(0, 0.1)))
        rows.append((*cell, "loss_variance", 4 / 2**place + noise.uniform(0, 0.1)))
        rows.append((*cell, EQUAL, 1.25 + 0.1 * place + noise.normal(0, 0.01)))
    table = pd.DataFrame(rows, columns=COLUMNS)
    arms = [label for label, preset in presets.items() if METHODS[preset].family == "arm"]
    return Runs(
        name="Two tasks, six methods" if text.startswith("3") else text,
        table=table,
        scores={},
        labels=list(presets),
        families={label: "arm" if label in arms else "mdm" for label in presets},
        baseline=next(iter(presets)),
        metric=METRICS["accuracy"],
        metrics={key: METRICS[key] for key in METRIC_KEYS},
        specs={label: _spec(label, preset) for label, preset in presets.items()},
        sweeps=[_sweep(table, task, seeds, text) for task in tasks],
    )


def _spec(label: str, preset: str) -> MethodSpec:
    """A composed method has no sentence of its own."""
    return METHODS[preset] if label in METHODS else METHODS[preset].model_copy(update={"summary": ""})


def _sweep(table: pd.DataFrame, task: str, seeds: list[int], text: str) -> Sweep:
    mine = table[table["task"] == task]
    methods = list(dict.fromkeys(mine["method"]))
    recipe = Recipe.model_validate(
        {
            "name": "sweep",
            "data": {"task": "gsm8k", "path": "data"},
            "model": {"kind": "tiny", "tokenizer": {"kind": "bpe"}},
            "sweep": {"methods": methods, "seeds": seeds},
        }
    )
    info = SweepInfo(
        name=f"{task} sweep" if text.startswith("3") else text,
        config_hash="3f9a1c",
        git_commit="0123abc",
        created="2026-01-02T03:04:05+00:00",
        status="finished",
        raymdm_version="0.1.0",
        hardware=f"1 node, 2 CPUs {text[:20]}",
        environment={"torch": "2.13.0", "ray": "2.58.0"},
        wall_seconds=3725.0,
    )
    return Sweep(
        folder=Path("sweep"),
        info=info,
        recipe=recipe,
        recipe_text=yaml.safe_dump({"name": task, "description": text}),
        seeds=dict.fromkeys(methods, seeds),
        table=mine.drop(columns="label"),
        answers=pd.DataFrame(
            [(e, 1.0, "7", text, m, s) for m, s, e in product(methods, seeds, range(3))],
            columns=["example_id", "score", "reference", "output", "method", "seed"],
        ),
        curves=_curves(methods, seeds),
        calibrations={"bernoulli": _calibration(), "fixed_size_gradient": _calibration()},
        failures=[],
        strangers=[],
    )


def _curves(methods: list[str], seeds: list[int]) -> pd.DataFrame:
    noise = np.random.default_rng(6)
    rows = []
    for (place, method), seed, step in product(enumerate(methods), seeds, range(10, 201, 10)):
        loss = 1 + 0.1 * place + 2.5 * np.exp(-step / 60)
        rows.append((method, seed, step, "train/loss", loss * noise.lognormal(0, 0.1)))
        rows += [(method, seed, step, "val/nll", loss + noise.normal(0, 0.02))] if step % 40 == 0 else []
    return pd.DataFrame(rows, columns=["method", "seed", "step", "metric", "value"])


def _calibration() -> Calibration:
    t = np.linspace(0.01, 0.99, 80)
    fitted = 0.5 + 0.9 * (1 - t) ** 4 + 0.8 * t**2
    return Calibration(
        kind="epr",
        params={"a": 0.41, "kappa": 0.33},
        eps=1e-3,
        uniform_mix=0.0,
        kl=0.0041,
        weight_min=0.43,
        weight_max=2.1,
        variance={"epr": 2.2, "optimum": 2.0, "uniform": 8.0},
        grid=t.tolist(),
        fitted=fitted.tolist(),
        optimum=(1.03 * fitted).tolist(),
        seconds=31.5,
        rows=10240,
    )


def _level(runs: Runs, task: str, label: str, metric: str) -> Level:
    found = runs.values(task, label, metric)
    values = list(found.values())
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = sd or 0.01
    return Level(
        task=task,
        label=label,
        metric=metric,
        seeds=list(found),
        values=values,
        mean=est(mean, 2.5 * spread, "t, seeds and examples" if metric == "accuracy" else "t over seeds"),
        median=est(float(np.median(values)), 2 * spread, "bootstrap over seeds"),
        iqm=est(mean, 2 * spread, "bootstrap over seeds"),
        sd=None if sd is None else Estimate(value=sd, low=0.5 * sd, high=6.3 * sd, how="chi-squared, normal runs"),
        low=min(values),
        high=max(values),
        range=None if sd is None else est(max(values) - min(values), 0.5 * spread, "bootstrap over seeds"),
    )


def _difference(place: int, task: str, label: str, reference: str, role: str, metric: str, seeds: int) -> Difference:
    value, tested = (0.04, -0.031, 0.002, 0.013, -0.2)[place % 5], place % 5 < 4
    p = (0.0004, 0.031, 0.42, 0.1, None)[place % 5]
    return Difference.model_validate(
        {
            "task": task,
            "label": label,
            "reference": reference,
            "role": role,
            "metric": metric,
            "seeds": (seeds, seeds),
            "difference": est(value, 0.03, "Welch's t, seeds and examples"),
            "welch": est(value, 0.05, "Welch's t over seeds") if tested else None,
            "effect_size": est(40 * value, 1.3, "noncentral t") if tested else None,
            "p": p,
            "p_permutation": p,
            "exact": place % 5 != 1,
            "p_welch": p,
            "p_crossed": p if metric == "accuracy" else None,
            "p_examples": p if metric == "accuracy" else None,
            "p_holm": p if p is None else min(1.0, 3 * p),
            "claims": 20,
            "improvement": est(0.78, 0.2, "bootstrap over seeds"),
            "gap": value - 0.05,
            "gap_back": -value - 0.05,
            "higher_is_better": metric == "accuracy",
            "finding": FINDINGS[place % 5],
            "why": WHY,
            "power": Power(
                smallest_p=0.1,
                sds=(0.021, 0.018),
                detectable=0.061,
                seeds_needed=None if place % 3 else 12,
                target=0.8,
                alpha=0.0025,
            )
            if tested
            else None,
        }
    )


def _spread(place: int, task: str, label: str, reference: str, role: str, metric: str, seeds: int) -> Spread:
    tested = place % 5 < 4
    return Spread.model_validate(
        {
            "task": task,
            "label": label,
            "reference": reference,
            "role": role,
            "metric": metric,
            "seeds": (seeds, seeds),
            "ratio": Estimate(value=0.71, low=0.2, high=2.6, how="F, normal runs") if tested else None,
            "p": 0.41 if tested else None,
            "p_permutation": 0.3 if tested else None,
            "exact": True,
            "p_brown_forsythe": 0.41 if tested else None,
            "p_holm": 1.0 if tested else None,
            "claims": 20,
            "smallest_p": 0.1,
            "finding": SPREAD_FINDINGS[place % 5],
            "margin": 1.5,
            "p_equivalence": 0.38 if tested else None,
            "p_equivalence_holm": 1.0 if tested else None,
            "equivalence": EQUIVALENCE[place % 4],
            "equivalence_seeds": 54,
            "why": "p 0.30; 3 + 3 seeds.",
        }
    )


def _cost(place: int, task: str, label: str, preset: str) -> Cost:
    views = METHODS[preset].views
    return Cost(
        task=task,
        label=label,
        views=views,
        model_rows=6400.0 * views,
        relative_rows=float(views),
        measured_rows=120.0 * place,
        steps=200.0,
        best_step=160.0,
        train_seconds=100.0 * views + 7 * place,
        evaluate_seconds=20.0,
        wall_seconds=125.0 * views + 7 * place,
        energy_wh=4.2 * views,
        loss_variance=1 / 2**place,
        backprop_variance=views / 2**place,
    )


def _profile(runs: Runs, task: str, label: str) -> Profile:
    values = np.array(list(runs.values(task, label, "accuracy").values()))
    thresholds = np.linspace(0.5, 0.8, 61)
    share = (values[:, None] > thresholds).mean(0)
    return Profile(
        task=task,
        label=label,
        metric="accuracy",
        thresholds=thresholds.tolist(),
        share=share.tolist(),
        low=np.clip(share - 0.2, 0, 1).tolist(),
        high=np.clip(share + 0.2, 0, 1).tolist(),
    )
