"""What each method's runs have on average, how far apart they lie, and what they cost."""

from collections.abc import Iterator

import numpy as np

from raymdm.comparison.claims import estimate, optional
from raymdm.comparison.document import Cost, Estimate, Level, Profile
from raymdm.comparison.metrics import Metric
from raymdm.comparison.runs import Runs, finite
from raymdm.comparison.stats import bootstrap, intervals
from raymdm.comparison.stats.bootstrap import REPLICATES

SEED = 20_251_118
THRESHOLDS = 61
"""Points of a performance profile."""

MEANS = ("model_rows", "measured_rows", "steps", "best_step", "train_seconds", "evaluate_seconds", "wall_seconds",
         "energy_wh")  # fmt: skip


def levels(runs: Runs, level: float) -> tuple[list[Level], list[Profile]]:
    """Of every metric that has a better end or a spread worth a figure, and profiles of the report's metric.

    A method with a run that lacks the metric, or whose number is not finite, has none: a mean without the diverged run
    would flatter it.
    """
    found: list[Level] = []
    profiles: list[Profile] = []
    for task in runs.tasks:
        weights = _weights(runs, task)
        thresholds = _thresholds(runs, task)
        for label in runs.labels:
            for metric in runs.metrics:
                values = complete(runs, task, label, metric)
                if values is None:
                    continue
                scores = runs.scores.get((task, label)) if metric == "accuracy" else None
                sample = np.array(list(values.values())) if scores is None else scores.values
                draws = bootstrap.seed_draws(len(values), REPLICATES, np.random.default_rng([SEED, len(values)]))
                here = None if scores is None else weights
                found.append(_level(task, label, runs.metrics[metric], values, sample, draws, here, level))
                if metric == runs.metric.key and len(values) > 1 and len(thresholds):
                    band = bootstrap.profile(sample, thresholds, draws, here, level)
                    profiles.append(
                        Profile(
                            task=task, label=label, metric=metric, thresholds=thresholds.tolist(),
                            share=band.share.tolist(), low=band.low.tolist(), high=band.high.tolist(),
                        )
                    )  # fmt: skip
    return found, profiles


def complete(runs: Runs, task: str, label: str, metric: str) -> dict[int, float] | None:
    """Seed -> value; None where no run has the metric, one lacks it, or one's is not finite."""
    values = runs.values(task, label, metric)
    if not values or not finite(values.values()):
        return None
    return values if len(values) == runs.num_runs(task, label) else None


def _level(
    task: str,
    label: str,
    metric: Metric,
    values: dict[int, float],
    sample: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray | None,
    level: float,
) -> Level:
    own = np.array(list(values.values()))

    def within(found: intervals.Interval) -> Estimate:
        """Cut off where no value can be, which takes nothing from what the interval covers."""
        if found.low is None or found.high is None:
            return estimate(found)
        return estimate(found._replace(low=max(found.low, metric.lowest), high=min(found.high, metric.highest)))

    return Level(
        task=task,
        label=label,
        metric=metric.key,
        seeds=list(values),
        values=own.tolist(),
        mean=within(intervals.mean_interval(sample, level)),
        over_seeds=within(intervals.mean_interval(own, level)),
        median=within(bootstrap.statistic_interval(bootstrap.median, sample, draws, weights, level)),
        iqm=within(bootstrap.statistic_interval(bootstrap.iqm, sample, draws, weights, level)),
        sd=optional(intervals.sd_interval(own, level)),
        low=float(own.min()),
        high=float(own.max()),
        range=_possible_range(intervals.range_interval(own, level), metric),
    )


def _possible_range(found: intervals.Interval | None, metric: Metric) -> Estimate | None:
    """No range is wider than all values that the metric can have."""
    if found is None or found.high is None:
        return optional(found)
    return estimate(found._replace(high=min(found.high, metric.highest - metric.lowest)))


def _weights(runs: Runs, task: str) -> np.ndarray | None:
    """One resampling of the task's test examples, for all its methods."""
    for (of_task, _), scores in runs.scores.items():
        if of_task == task:
            return bootstrap.example_weights(scores.values.shape[1], REPLICATES, np.random.default_rng(SEED))
    return None


def _thresholds(runs: Runs, task: str) -> np.ndarray:
    """From below the worst run of the task to its best, evenly."""
    found = [complete(runs, task, label, runs.metric.key) for label in runs.labels]
    values = np.array([value for run in found if run for value in run.values()])
    if not len(values) or np.ptp(values) == 0:
        return np.empty(0)
    return np.linspace(values.min() - 0.05 * np.ptp(values), values.max(), THRESHOLDS)


def costs(runs: Runs) -> Iterator[Cost]:
    """Means over runs; rows and variances also over the baseline's.

    A batch's variance falls with its sequences, so at equal compute a method of two views pays a factor of two.
    """
    for task in runs.tasks:
        base = runs.baseline
        for label in runs.labels:
            if not runs.num_runs(task, label):
                continue
            means = {metric: _mean(runs, task, label, metric) for metric in MEANS}
            rows = means["model_rows"]
            base_rows = None if base is None else _mean(runs, task, base, "model_rows")
            yield Cost(
                task=task,
                label=label,
                views=runs.specs[label].views if label in runs.specs else None,
                relative_rows=rows / base_rows if rows and base_rows else None,
                calibration_rows=_calibration_rows(runs, label),
                loss_variance=_relative_variance(runs, task, label, "loss_variance"),
                backprop_variance=_relative_variance(runs, task, label, "backprop_variance"),
                **means,
            )


def _calibration_rows(runs: Runs, label: str) -> float | None:
    """Of the first sweep that calibrated the method's density."""
    spec = runs.specs.get(label)
    if spec is None or not spec.calibrated:
        return None
    found = [sweep.calibrations[spec.calibration] for sweep in runs.sweeps if spec.calibration in sweep.calibrations]
    return found[0].rows if found else None


def _mean(runs: Runs, task: str, label: str, metric: str) -> float | None:
    values = complete(runs, task, label, metric)
    return float(np.mean([*values.values()])) if values else None


def _relative_variance(runs: Runs, task: str, label: str, metric: str) -> float | None:
    base = runs.baseline
    if base is None or not {label, base} <= runs.specs.keys() or runs.families[label] != runs.families[base]:
        return None
    ours, theirs = _mean(runs, task, label, metric), _mean(runs, task, base, metric)
    if ours is None or not theirs:
        return None
    return ours / theirs * runs.specs[label].views / runs.specs[base].views
