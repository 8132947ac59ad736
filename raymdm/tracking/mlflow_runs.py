"""A sweep's runs as they are kept for MLflow: what each still has to be told, and what MLflow holds of it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities import Run as MlflowRun

MAX_PARAM, MAX_TAG = 6000, 5000
"""Characters of one value (MLflow's own limit for tags is 8000)."""
LARGEST = 1.79e308
"""MLflow's SQL stores keep an infinite metric as the largest double."""


class Point(NamedTuple):
    """A metric's value; its time is fixed here, so that MLflow itself drops it if it is sent twice."""

    key: str
    value: float
    milliseconds: int
    step: int
    replace: bool
    """Log it over another value for the same step, as a summary is."""


class Latest(NamedTuple):
    """MLflow's latest point of a metric: the one of the highest step, of these the last in time."""

    step: int
    milliseconds: int
    value: float


@dataclass
class Run:
    """A run of MLflow and what it has not been told yet."""

    key: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    id: str | None = None
    current: bool = False
    """Whether MLflow has its parameters and tags and, unless its end is due, says that it is running."""
    ended: bool = False
    refused: bool = False
    """Whether MLflow has said that it will never take the run."""
    replayed: bool = False
    """Whether it had the same end in MLflow before this process told of it."""
    final: str | None = None
    """MLflow's status for the end of the run, once that is due."""
    error: str | None = None
    held_error: str | None = None
    points: list[Point] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    latest: dict[str, Latest] = field(default_factory=dict)
    """What MLflow held when the run was taken up, by metric."""
    seen: dict[str, dict[int, float]] = field(default_factory=dict)
    """Values by metric and step: the history of the metrics that had to be looked up, and what was sent since."""
    looked_up: set[str] = field(default_factory=set)
    clock: int = 0
    """Milliseconds of the last point; time does not run back within a run, though the machine's clock may."""

    def forget(self) -> None:
        """Assume nothing of what MLflow holds: it is looked up again before anything is sent."""
        self.current = False
        self.latest, self.seen, self.looked_up, self.clock = {}, {}, set(), 0

    def learn(self, found: "MlflowRun") -> None:
        """Remember what MLflow holds."""
        self.id = found.info.run_id
        self.held_error = found.data.tags.get("error")
        self.latest = {
            metric.key: Latest(metric.step, metric.timestamp, metric.value) for metric in found.data.to_proto().metrics
        }
        self.clock = max((latest.milliseconds for latest in self.latest.values()), default=0)

    def learn_history(self, key: str, points: Iterable["Metric"]) -> None:
        """Remember every value of a metric; what was sent since counts already."""
        history = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
        self.seen[key] = history | self.seen.get(key, {})
        self.looked_up.add(key)

    def needs_history(self, point: Point) -> bool:
        """Whether only the metric's history in MLflow tells if this point is there."""
        latest = self.latest.get(point.key)
        if latest is None or point.step >= latest.step or point.key in self.looked_up:
            return False
        return point.step not in self.seen.get(point.key, {})

    def fresh(self, points: Iterable[Point]) -> list[Point]:
        """The points that MLflow lacks, each step of a metric once.

        MLflow takes the last in time of a step's values for the valid one: a value that replaces another gets a later
        time. The same points after the same state get the same times, so that sending them again adds nothing.
        """
        chosen: dict[tuple[str, int], Point] = {}
        for point in points:
            held = self._held(point.key, point.step)
            if held is None or (point.replace and not _same(held, point.value)):
                self.seen.setdefault(point.key, {})[point.step] = point.value
                self.clock = max(point.milliseconds, self.clock + point.replace)
                chosen.pop((point.key, point.step), None)  # so that they stay in the order of time
                chosen[point.key, point.step] = point._replace(milliseconds=self.clock)
        return list(chosen.values())

    def _held(self, key: str, step: int) -> float | None:
        value = self.seen.get(key, {}).get(step)
        latest = self.latest.get(key)
        if value is None and latest and latest.step == step:
            return latest.value
        return value


def _same(held: float, value: float) -> bool:
    """Whether MLflow holds this value: it keeps NaN, and infinities as its largest number."""
    if math.isinf(value):
        return abs(held) > LARGEST and (held > 0) == (value > 0)
    return held == value or (math.isnan(held) and math.isnan(value))


def cut(text: str, limit: int) -> str:
    """The text, or its beginning with a note of its length."""
    note = f"... [cut, {len(text)} characters]"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags no longer than MLflow takes them."""
    return {name: cut(str(value), MAX_TAG) for name, value in tags.items()}


def as_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and text, as MLflow takes them."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= as_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{name}"] = cut(text, MAX_PARAM)
    return flat
