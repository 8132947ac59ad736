"""Runs of any origin, ready to be compared: a sweep, several, MLflow, a table.

Shape legend: S seeds, E test examples.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from raymdm.comparison.document import Look
from raymdm.comparison.metrics import Metric
from raymdm.comparison.results import Sweep
from raymdm.config.schema import MethodSpec

COLUMNS = ["task", "label", "model", "method", "seed", "metric", "value"]


LARGEST = 1e60
"""A value beyond it is one of a run that diverged: squares of squares would not fit."""


def finite(values: Iterable[float]) -> bool:
    """Whether all values are numbers that statistics can be made of."""
    return all(abs(value) <= LARGEST for value in values)


class Scores(NamedTuple):
    """Scores of one method's runs on the examples of one task."""

    seeds: list[int]
    values: np.ndarray
    """(S, E); examples in the same order for every method of the task."""


@dataclass(frozen=True)
class Runs:
    """What the statistics take. A label names a method, and its model too where one method has several."""

    name: str
    table: pd.DataFrame
    """COLUMNS; one row for each finished run and metric. `value` may be NaN or infinite where a run diverged; a metric
    that a run did not report has no row. Labels in the order of `labels`, seeds in the order they were planned."""
    scores: dict[tuple[str, str], Scores]
    """By (task, label), where every run of it has scores of every example."""
    labels: list[str]
    families: dict[str, Literal["mdm", "arm"]]
    baseline: str | None
    """A label, or None: nothing is compared, and `not_compared` says why."""
    metric: Metric
    """The metric of the claims."""
    metrics: dict[str, Metric]
    """Every metric of the table that is known, `metric` among them."""
    specs: dict[str, MethodSpec] = field(default_factory=dict)
    """Parts of each label's method, where they are known."""
    not_compared: str = ""
    source: str = ""
    """Where they come from, in words: folders, files, a store without its password."""
    adaptive: bool = False
    """Whether seeds were added as needed: tests then count at the looks alone."""
    looks: list[Look] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the reader has to say: missing cells, recipes that differ."""
    failures: dict[str, str] = field(default_factory=dict)
    sweeps: list[Sweep] = field(default_factory=list)
    """Where curves, calibrations, answers, recipe and environment come from."""

    def values(self, task: str, label: str, metric: str) -> dict[int, float]:
        """Seed -> value, of the runs that reported the metric; may hold NaN."""
        return self._cells.get((task, label, metric), {})

    def num_runs(self, task: str, label: str) -> int:
        """Finished runs, whatever they reported."""
        return self._counts.get((task, label), 0)

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], dict[int, float]]:
        cells: dict[tuple[str, str, str], dict[int, float]] = {}
        columns = (self.table[name].tolist() for name in ("task", "label", "metric", "seed", "value"))
        for task, label, metric, seed, value in zip(*columns, strict=True):
            cells.setdefault((task, label, metric), {})[seed] = value
        return cells

    @cached_property
    def _counts(self) -> dict[tuple[str, str], int]:
        return Counter((task, label) for task, label, _ in {
            *zip(*(self.table[name].tolist() for name in ("task", "label", "seed")), strict=True)
        })  # fmt: skip

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.table["task"]))

    @property
    def arms(self) -> list[str]:
        return [label for label in self.labels if self.families[label] == "arm"]
