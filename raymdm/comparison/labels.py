"""What to call runs of any origin, which of them is the baseline, and what is missing among them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from raymdm.comparison.metrics import METRICS, Metric
from raymdm.comparison.runs import COLUMNS
from raymdm.errors import UserError


class Baseline(NamedTuple):
    label: str | None
    not_compared: str
    """Why there is none."""


def add_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The long table with a column `label`: the method, or `method (model)` where a task has several models of it.

    Raises UserError where two methods would be called alike.
    """
    pairs = table[["task", "method", "model"]].drop_duplicates()
    models = pairs.groupby(["task", "method"], sort=False)["model"].nunique()
    several = set(models[models > 1].index.get_level_values("method"))
    names = {
        (method, model): f"{method} ({model})" if method in several else method
        for method, model in pairs[["method", "model"]].itertuples(index=False)
    }
    _refuse_same_label(names)
    labels = [names[key] for key in zip(table["method"], table["model"], strict=True)]
    return table.assign(label=labels)[COLUMNS]


def _refuse_same_label(names: Mapping[tuple[str, str], str]) -> None:
    """`names`: (method, model) -> label."""
    methods: dict[str, str] = {}
    for (method, _), label in names.items():
        if methods.setdefault(label, method) != method:
            raise UserError(
                f"methods {methods[label]!r} and {method!r} would both be called {label!r}, the one as a method's own "
                "name, the other as method and model. Rename one of them"
            )


def in_order(table: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Rows by task as they come, then by label; seeds and metrics stay as they are."""
    tasks = {task: place for place, task in enumerate(dict.fromkeys(table["task"]))}
    places = {label: place for place, label in enumerate(labels)}
    order = np.lexsort((table["label"].map(places).to_numpy(), table["task"].map(tasks).to_numpy()))
    return table.iloc[order].reset_index(drop=True)


def resolve(name: str, methods: Mapping[str, str]) -> str | None:
    """The label that a label's or method's name means; `methods`: label -> method. None where there is no such.

    Raises UserError where several models were trained by the method.
    """
    if name in methods:
        return name
    meant = [label for label, method in methods.items() if method == name]
    if len(meant) > 1:
        raise UserError(
            f"baseline: {name} was run with several models, so name one of them, as in --baseline '{meant[0]}': "
            f"{', '.join(meant)}"
        )
    return meant[0] if meant else None


def given_baseline(name: str, methods: Mapping[str, str]) -> Baseline:
    """The baseline that a user named; raises UserError where it has no result."""
    label = resolve(name, methods)
    if label is None:
        near = difflib.get_close_matches(name, methods, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"baseline: no run of {name!r} has a result.{hint} Name one of: {', '.join(methods)}")
    return alone_or(label, methods)


def alone_or(label: str, methods: Mapping[str, str]) -> Baseline:
    """The baseline, unless it is all there is."""
    if len(methods) > 1:
        return Baseline(label, "")
    return Baseline(None, f"No method is compared: only the baseline {label} has a result.")


def require_metric(table: pd.DataFrame, metric: Metric, where: str) -> None:
    """Raise UserError where no run has the metric of the claims."""
    present = list(dict.fromkeys(table["metric"]))
    if metric.key not in present:
        near = difflib.get_close_matches(metric.key, present, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where}: no run has the metric {metric.key!r}.{hint} There are: {', '.join(present)}")


def known_metrics(table: pd.DataFrame, metric: Metric) -> dict[str, Metric]:
    """By key, METRICS in their order as far as the table has them, and the metric of the claims."""
    present = set(table["metric"])
    found = {key: known for key, known in METRICS.items() if key in present}
    return found | {metric.key: metric}


def missing_seeds(table: pd.DataFrame, why: Mapping[tuple[str, str, int], str]) -> list[str]:
    """A sentence for each label that lacks seeds which others of its task have.

    `why`: (task, label, seed) -> the reason where it is known, such as `its run failed`.
    """
    runs = table[["task", "label", "seed"]].drop_duplicates()
    tasks = list(dict.fromkeys(runs["task"]))
    seeds = {task: list(dict.fromkeys(runs.loc[runs["task"] == task, "seed"].tolist())) for task in tasks}
    notes = []
    for label, own in runs.groupby("label", sort=False):
        lacking: dict[tuple[str, ...], list[str]] = {}
        for task, held in own.groupby("task", sort=False)["seed"]:
            missing = [seed for seed in seeds[str(task)] if seed not in set(held)]
            if missing:
                texts = tuple(_seed_text(seed, why.get((str(task), str(label), seed))) for seed in missing)
                lacking.setdefault(texts, []).append(str(task))
        if lacking:
            several = len(tasks) > 1
            parts = [_lack(texts, where if several else []) for texts, where in lacking.items()]
            notes.append(
                f"{label} lacks {'; '.join(parts)}, which others have: it is compared on the seeds that both have, on "
                "all where they share none."
            )
    return notes


def without_baseline(table: pd.DataFrame, baseline: str | None) -> list[str]:
    """A note that names the tasks on which the baseline has no run, if there are any."""
    if baseline is None:
        return []
    held = set(table.loc[table["label"] == baseline, "task"])
    lost = [task for task in dict.fromkeys(table["task"]) if task not in held]
    return [f"{_and(lost)}: no run of the baseline {baseline}, so no difference to it is tested there."] if lost else []


def several_models(table: pd.DataFrame) -> list[str]:
    """A note for each label that stands for different models on different tasks."""
    notes = []
    for label, rows in table[["label", "model", "task"]].drop_duplicates().groupby("label", sort=False):
        if rows["model"].nunique() > 1:
            parts = [f"{model} on {_and(list(own['task']))}" for model, own in rows.groupby("model", sort=False)]
            notes.append(f"{label} trained different models: {', '.join(parts)}.")
    return notes


def different_models(table: pd.DataFrame) -> list[str]:
    """A note for the tasks on which runs of different models are compared and some label does not say its model."""
    found: dict[str, list[str]] = {}
    pairs = table[["task", "label", "method", "model"]].drop_duplicates()
    for task, rows in pairs.groupby("task", sort=False):
        if rows["model"].nunique() > 1 and (rows["label"] == rows["method"]).any():
            models = [f"{_and(list(own['label']))} trained {model}" for model, own in rows.groupby("model", sort=False)]
            found.setdefault("; ".join(models), []).append(str(task))
    return [
        f"{_and(tasks)}: {models}. A difference between runs of two models is one of model and method together."
        for models, tasks in found.items()
    ]


def other_examples(first: str, ids: Iterable[object], second: str, others: Iterable[object]) -> str:
    """What to say of two runs scored on different examples."""
    ours, theirs = set(ids), set(others)
    return (
        f"{second} was scored on {len(theirs):,} test examples, {first} on {len(ours):,}, of which "
        f"{len(ours & theirs):,} are the same. Only runs scored on the same examples can be compared"
    )


def first_few(items: Sequence[object], most: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    text = ", ".join(map(str, items[:most]))
    return f"{text} and {len(items) - most:,} more" if len(items) > most else text


def _seed_text(seed: int, reason: str | None) -> str:
    return f"{seed} ({reason})" if reason else f"{seed}"


def _lack(seeds: Sequence[str], tasks: Sequence[str]) -> str:
    on = f" on {_and(tasks)}" if tasks else ""
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {_and(seeds)}{on}"


def _and(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
