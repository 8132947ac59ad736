"""Runs from plain numbers, for tests of what is made of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from raymdm.comparison.metrics import METRICS
from raymdm.comparison.runs import COLUMNS, Runs, Scores
from raymdm.config.methods import METHODS

SEEDS = (42, 731, 20231, *range(1, 100))


def made(
    accuracies: Mapping[str, Sequence[float] | np.ndarray],
    /,
    baseline: str | None = "standard",
    seeds: Mapping[str, Sequence[int]] | None = None,
    others: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    **fields: Any,
) -> Runs:
    """Runs of one task from accuracies by label: values (S,), or scores (S, E). `others`: metric -> label -> values."""
    rows: list[tuple[Any, ...]] = []
    scores = {}
    for label, given in accuracies.items():
        own = list((seeds or {}).get(label, SEEDS[: len(given)]))
        array = np.asarray(given, dtype=float)
        if array.ndim == 2:
            scores["task", label] = Scores(own, array)
            array = array.mean(1)
        columns = {"accuracy": array.tolist()} | {m: list(by[label]) for m, by in (others or {}).items() if label in by}
        for metric, values in columns.items():
            rows += [
                ("task", label, "tiny", label, seed, metric, value) for seed, value in zip(own, values, strict=False)
            ]
    families: dict[str, Literal["mdm", "arm"]] = {
        label: "arm" if label.startswith("arm") else "mdm" for label in accuracies
    }
    return Runs(
        name="made",
        table=pd.DataFrame(rows, columns=COLUMNS),
        scores=scores,
        labels=list(accuracies),
        families=families,
        baseline=baseline,
        metric=METRICS["accuracy"],
        metrics={name: METRICS[name] for name in ("accuracy", *(others or {}))},
        specs={label: METHODS[label] for label in accuracies if label in METHODS},
        **fields,
    )
