"""Sweeps' folders as runs to compare: one sweep, or several whose runs may stand in one table.

Shape legend: S seeds, E test examples.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raymdm.comparison import labels
from raymdm.comparison.document import Look
from raymdm.comparison.labels import Baseline
from raymdm.comparison.metrics import Metric
from raymdm.comparison.results import NO_RESULT, Sweep, load_sweep, planned_cells
from raymdm.comparison.runs import Runs, Scores
from raymdm.config.schema import Recipe
from raymdm.errors import UserError

CANNOT_MATTER = frozenset(
    {
        # names and places
        "name", "description", "output", "storage_path", "tracking",
        # the grid, and what a single run would be
        "sweep", "method", "seed",
        # what is asked of a model beside its training
        "diagnose",
        # restarts, and where and how many at once
        "train.max_failures", "train.checkpoint_every", "train.keep_checkpoints", "train.placement_strategy",
        "train.cpus_per_worker", "calibrate.num_actors", "calibrate.cpus_per_actor",
        "evaluate.num_actors", "evaluate.cpus_per_actor",
    }
)  # fmt: skip
"""Fields and sections of a recipe that cannot change what a run of one method and seed gives."""


def runs_of_sweeps(folders: list[Path], *, baseline: str | None, metric: Metric) -> Runs:
    """Read one or several sweeps as one set of runs; `baseline`: a label, or None for the sweeps' own.

    Raises UserError where a folder is no sweep; where sweeps hold the same run, or runs of one method under unlike
    settings, whose seeds must not be pooled; where runs of a task were scored on different examples; where one of
    several sweeps is adaptive; where the baselines differ or a given one has no result; where no run has the metric.
    """
    assert folders
    sweeps = [load_sweep(folder) for folder in folders]
    _refuse_adaptive_beside_others(sweeps)
    _refuse_same_runs(sweeps)
    _refuse_unlike_seeds(sweeps)
    _refuse_other_tests(sweeps)
    table = labels.add_labels(pd.concat([sweep.table for sweep in sweeps], ignore_index=True))
    names = dict.fromkeys(zip(table["label"], table["method"], table["model"], strict=True))
    methods = {label: method for label, method, _ in names}
    table = labels.in_order(pd.concat([table, *_equal_rows(sweeps, table)], ignore_index=True), list(methods))
    labels.require_metric(table, metric, ", ".join(map(str, folders)))
    chosen = _baseline(sweeps, baseline, methods)
    return Runs(
        name=" + ".join(dict.fromkeys(sweep.info.name for sweep in sweeps)),
        table=table,
        scores=_scores(sweeps, table),
        labels=list(methods),
        families={label: _specs(sweeps)[method].family for label, method in methods.items()},
        baseline=chosen.label,
        metric=metric,
        metrics=labels.known_metrics(table, metric),
        specs={label: _specs(sweeps)[method] for label, method in methods.items()},
        not_compared=chosen.not_compared,
        adaptive=bool(sweeps[0].info.rounds),
        looks=_looks(sweeps[0], {method: label for label, method in methods.items()}),
        notes=_notes(sweeps, table, chosen.label),
        failures=_failures(sweeps),
        sweeps=sweeps,
    )


def _refuse_adaptive_beside_others(sweeps: list[Sweep]) -> None:
    adaptive = [sweep.folder for sweep in sweeps if sweep.info.rounds]
    if adaptive and len(sweeps) > 1:
        raise UserError(
            f"{adaptive[0]} is an adaptive sweep: how many seeds it ran depends on their results, so it can only be "
            "compared by itself. Compare it alone"
        )


def _refuse_same_runs(sweeps: list[Sweep]) -> None:
    keys = ["task", "model", "method", "seed"]
    for first, second in combinations(sweeps, 2):
        shared = first.table[keys].drop_duplicates().merge(second.table[keys].drop_duplicates())
        if len(shared):
            runs = [f"{method}-s{seed}" for method, seed in shared[["method", "seed"]].itertuples(index=False)]
            raise UserError(
                f"{first.folder} and {second.folder} both hold {labels.first_few(runs)} of task "
                f"{shared['task'].iloc[0]}, so it would count twice. Leave one folder out"
            )


def _refuse_unlike_seeds(sweeps: list[Sweep]) -> None:
    """Seeds of one method are pooled only where they differ in the seed alone, and its name means one thing."""
    for first, second in combinations(sweeps, 2):
        for method in first.seeds.keys() & second.seeds.keys():
            parts = [_flat(sweep.recipe.spec(method).model_dump(exclude={"summary"})) for sweep in (first, second)]
            if changed := _differences(*parts):
                raise UserError(
                    f"{method} is composed of different parts in {first.folder} and {second.folder}: "
                    f"{'; '.join(changed)}. Give it another name in one of the recipes (`methods`), or compare the "
                    "sweeps one by one"
                )
        keys = ["task", "model", "method"]
        shared = first.table[keys].drop_duplicates().merge(second.table[keys].drop_duplicates())
        for method in shared["method"]:
            changed = _differences(_settings(first.recipe, method), _settings(second.recipe, method))
            if changed:
                raise UserError(
                    f"{method} was run under different settings in {first.folder} and {second.folder}, so its seeds "
                    f"cannot be pooled: {'; '.join(changed)}. Compare the sweeps one by one"
                )


def _refuse_other_tests(sweeps: list[Sweep]) -> None:
    """Within a task, all runs are scored on the same examples against the same references."""
    firsts: dict[str, tuple[str, pd.DataFrame]] = {}
    for name, task, answers in _answers(sweeps):
        first, expected = firsts.setdefault(task, (name, answers))
        ids, others = expected["example_id"], answers["example_id"]
        if not np.array_equal(ids, others):
            raise UserError(f"task {task}: {labels.other_examples(first, ids, name, others)}. Leave one of them out")
        ours, theirs = expected["reference"].to_numpy(), answers["reference"].to_numpy()
        other = (ours != theirs) & pd.notna(ours) & pd.notna(theirs)
        if other.any():
            place = int(other.argmax())
            raise UserError(
                f"task {task}: {first} and {name} were scored against different references on {other.sum():,} test "
                f"examples, such as example {ids.iloc[place]}: {ours[place]!r} and {theirs[place]!r}. They are "
                "different test sets under one task's name; leave one of them out"
            )


def _answers(sweeps: list[Sweep]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, task and answers (E rows, by example_id) of each finished run."""
    for sweep in sweeps:
        task = str(sweep.table["task"].iloc[0])
        for (method, seed), answers in sweep.answers.groupby(["method", "seed"], sort=False):
            yield f"{_prefix(sweep, sweeps)}{method}-s{seed}", task, answers


def _prefix(sweep: Sweep, sweeps: list[Sweep]) -> str:
    return f"{sweep.folder}/" if len(sweeps) > 1 else ""


def _settings(recipe: Recipe, method: str) -> dict[str, Any]:
    """Dotted field -> value of what decides how a run of the method turns out, its seed aside."""
    spec = recipe.spec(method)
    tree = recipe.model_dump(exclude={"methods", "model", "arm_model"})
    tree["arm_model" if spec.family == "arm" else "model"] = recipe.model_for(method).model_dump()
    if not spec.calibrated:
        del tree["calibrate"], tree["train"]["refit_every"]
    return _flat(tree)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        field = f"{prefix}{name}"
        if field not in CANNOT_MATTER:
            flat |= _flat(value, f"{field}.") if isinstance(value, Mapping) else {field: value}
    return flat


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`train.lr: 0.001 and 0.002` for each field that differs."""
    return [
        f"{field}: {ours.get(field, '(none)')} and {theirs.get(field, '(none)')}"
        for field in dict.fromkeys([*ours, *theirs])
        if ours.get(field, "(none)") != theirs.get(field, "(none)")
    ]


def _baseline(sweeps: list[Sweep], given: str | None, methods: dict[str, str]) -> Baseline:
    """`methods`: label -> method."""
    if given is not None:
        return labels.given_baseline(given, methods)
    own = list(dict.fromkeys(sweep.recipe.sweep.baseline for sweep in sweeps))
    if len(own) > 1:
        raise UserError(
            f"the sweeps have different baselines: {', '.join(own)}. Name one with --baseline NAME: "
            f"{', '.join(methods)}"
        )
    label = labels.resolve(own[0], methods)
    if label is None:
        planned = any(own[0] in sweep.recipe.sweep.methods for sweep in sweeps)
        why = "none of its runs finished" if planned else "it is not among sweep.methods"
        return Baseline(None, f"No method is compared: the baseline {own[0]} (sweep.baseline) has no result, {why}.")
    return labels.alone_or(label, methods)


def _specs(sweeps: list[Sweep]) -> dict[str, Any]:
    return {method: sweep.recipe.spec(method) for sweep in reversed(sweeps) for method in sweep.seeds}


def _scores(sweeps: list[Sweep], table: pd.DataFrame) -> dict[tuple[str, str], Scores]:
    runs = table[["task", "model", "method", "label"]].drop_duplicates()
    names = {(task, model, method): label for task, model, method, label in runs.itertuples(index=False)}
    parts: dict[tuple[str, str], list[tuple[list[int], np.ndarray]]] = {}
    for sweep in sweeps:
        for task, model, method in sweep.table[["task", "model", "method"]].drop_duplicates().itertuples(index=False):
            key = task, names[task, model, method]
            parts.setdefault(key, []).append((sweep.seeds[method], sweep.scores(method)))
    return {
        key: Scores([seed for seeds, _ in found for seed in seeds], np.concatenate([values for _, values in found]))
        for key, found in parts.items()
    }


def _looks(sweep: Sweep, names: dict[str, str]) -> list[Look]:
    """The looks that an adaptive sweep has taken, each at the runs that had finished by then."""
    found: list[Look] = []
    for added in sweep.info.rounds:
        if added.finished is not None:
            seeds: dict[str, list[int]] = {}
            for method, seed in added.finished:
                seeds.setdefault(names.get(method, method), []).append(seed)
            found.append(Look(runs={label: len(own) for label, own in seeds.items()}, seeds=seeds, alpha=added.alpha))
    return found


def _equal_rows(sweeps: list[Sweep], table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows of `val_nll_equal_rows` for the table, a frame a sweep; see METRICS."""
    specs, keys = _specs(sweeps), ["task", "model", "method", "seed"]
    totals = table[table["metric"].isin(["model_rows", "steps"])].pivot(
        index=[*keys, "label"], columns="metric", values="value"
    )
    if set(totals) != {"model_rows", "steps"}:
        return
    totals = totals.dropna().reset_index()
    is_mdm = totals["method"].map(lambda method: specs[method].family == "mdm")
    taken = totals[is_mdm | ~is_mdm.groupby(totals["task"]).transform("any")]
    budget = taken.groupby("task")["model_rows"].transform("min")
    taken = taken.assign(step_limit=budget / taken["model_rows"] * taken["steps"])
    for sweep in sweeps:
        runs = taken.merge(sweep.table[keys].drop_duplicates())
        logged = sweep.curves[sweep.curves["metric"] == "val/nll"].drop(columns="metric").merge(runs)
        within = logged[logged["step"] <= logged["step_limit"] * (1 + 1e-9)]
        lowest = within.groupby([*keys, "label"], sort=False)["value"].min().reset_index()
        if len(lowest):
            yield lowest.assign(metric="val_nll_equal_rows")[table.columns]


def _failures(sweeps: list[Sweep]) -> dict[str, str]:
    """Name -> error of the runs that have no result in any of the sweeps."""
    failed = {}
    for sweep in sweeps:
        for (_, _, method, seed), error in _failed_runs(sweep, sweeps).items():
            failed[f"{_prefix(sweep, sweeps)}{method}-s{seed}"] = error
    return failed


def _failed_runs(sweep: Sweep, sweeps: list[Sweep]) -> dict[tuple[str, str, str, int], str]:
    """(task, model, method, seed) -> error, of the sweep's runs without a result, unless another sweep has it."""
    keys = ["task", "model", "method", "seed"]
    done = {run for other in sweeps for run in other.table[keys].itertuples(index=False, name=None)}
    errors, task = dict(sweep.failures), str(sweep.table["task"].iloc[0])
    runs = {
        (task, sweep.recipe.model_for(method).path or "tiny", method, seed): errors[f"{method}-s{seed}"]
        for method, seed in planned_cells(sweep.recipe, sweep.info)
        if f"{method}-s{seed}" in errors
    }
    return {run: error for run, error in runs.items() if run not in done}


def _notes(sweeps: list[Sweep], table: pd.DataFrame, baseline: str | None) -> list[str]:
    names = {(task, model, method): label for task, label, model, method, *_ in table.itertuples(index=False)}
    why = {
        (task, names[task, model, method], seed): "no result yet" if error == NO_RESULT else "its run failed"
        for sweep in sweeps
        for (task, model, method, seed), error in _failed_runs(sweep, sweeps).items()
        if (task, model, method) in names
    }
    adaptive = any(sweep.info.rounds for sweep in sweeps)  # there the numbers of seeds differ by design
    return [
        *_confounded(sweeps),
        *([] if adaptive else labels.missing_seeds(table, why)),
        *labels.without_baseline(table, baseline),
        *labels.several_models(table),
        *labels.different_models(_without_arm_models(sweeps, table)),
    ]


def _without_arm_models(sweeps: list[Sweep], table: pd.DataFrame) -> pd.DataFrame:
    """Without ARMs where a recipe gives them a model of their own: a note speaks of it."""
    specs = _specs(sweeps)
    own = any(sweep.recipe.arm_model for sweep in sweeps)
    return table[[not own or specs[method].family != "arm" for method in table["method"]]]


def _confounded(sweeps: list[Sweep]) -> Iterator[str]:
    """What differs between sweeps of one task beside their methods."""
    for first, second in combinations(sweeps, 2):
        if first.table["task"].iloc[0] != second.table["task"].iloc[0]:
            continue
        ours, theirs = (_sections([_settings(sweep.recipe, m) for m in sweep.seeds]) for sweep in (first, second))
        changed = [text for part in ours.keys() & theirs.keys() for text in _differences(ours[part], theirs[part])]
        if first.info.raymdm_version != second.info.raymdm_version:
            changed.append(f"raymdm: {first.info.raymdm_version} and {second.info.raymdm_version}")
        if changed:
            yield (
                f"{first.folder.name} and {second.folder.name} differ in more than their methods, and so does every "
                f"difference between their runs: {'; '.join(sorted(changed))}."
            )


def _sections(settings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of a sweep's methods together, by the recipe's section; a refit belongs to the calibration."""
    found: dict[str, dict[str, Any]] = {}
    for fields in settings:
        for field, value in fields.items():
            section = "calibrate" if field == "train.refit_every" else field.partition(".")[0]
            found.setdefault(section, {})[field] = value
    return found
