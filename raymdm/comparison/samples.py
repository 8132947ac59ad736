"""Which labels are compared, and on which of their runs.

Shape legend: S seeds, E test examples.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from raymdm.comparison.document import Role
from raymdm.comparison.results import LOGGED, Sweep
from raymdm.comparison.runs import Runs, finite
from raymdm.comparison.stats.intervals import variance
from raymdm.errors import UserError

Asked = Sequence[tuple[str, ...]]
"""Pairs of labels that somebody wants compared, in either order."""

_DROPOUT = re.compile(r"(?!classifier|summary).*(dropout|pdrop|layerdrop|dropout_prob)")
"""Fields of a model's config.json, those of heads that a language model lacks aside."""


class Pair(NamedTuple):
    """A method, what it is compared to, and why."""

    label: str
    reference: str
    role: Role


class Sample(NamedTuple):
    """One side of a comparison."""

    seeds: list[int]
    values: np.ndarray
    """(S,)."""
    scores: np.ndarray | None
    """(S, E), of the same seeds; None where they are not known or the metric is not their mean."""
    left_out: int
    """Runs whose seed the other side lacks."""

    def at(self, seeds: Sequence[int]) -> "Sample":
        """The runs of some of the seeds."""
        kept = [place for place, seed in enumerate(self.seeds) if seed in set(seeds)]
        scores = None if self.scores is None else self.scores[kept]
        return Sample([self.seeds[place] for place in kept], self.values[kept], scores, self.left_out)

    @property
    def repeats(self) -> bool:
        """Whether there are several runs, and all are the same."""
        return len(self.values) > 1 and variance(self.values) == 0


def runs_of(ours: Sample, theirs: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Scores where both sides have them, else values."""
    if ours.scores is None or theirs.scores is None:
        return ours.values, theirs.values
    return ours.scores, theirs.scores


def pairs(runs: Runs, asked: Asked = ()) -> list[Pair]:
    """Every method to the baseline and to each ARM, then what was asked for besides."""
    found: list[Pair] = []
    if runs.baseline is not None:
        found += [
            Pair(label, runs.baseline, "baseline")
            for label in runs.labels
            if label != runs.baseline and (runs.families[label] == "mdm" or runs.families[runs.baseline] == "arm")
        ]
        found += [
            Pair(label, arm, "arm")
            for arm in runs.arms
            for label in runs.labels
            if runs.families[label] == "mdm" and arm != runs.baseline
        ]
    known = {frozenset(pair[:2]) for pair in found}
    for two in asked:
        if len(two) == 2 and set(two) <= {*runs.labels} and frozenset(two) not in known:
            known.add(frozenset(two))
            found.append(Pair(two[0], two[1], "asked"))
    return found


def samples(runs: Runs, task: str, pair: Pair, metric: str) -> Iterator[tuple[Sample, Sample]]:
    """The two sides; nothing where a side has no run or one that is not finite.

    Where one side lacks seeds of the other, both are taken on those that both have. Seeds that were chosen apart, or
    added as needed, are all used: the sides are not paired. Runs that repeat one another differ by rounding alone, as
    GPUs round: each of them stands for their mean.
    """
    ours, theirs = runs.values(task, pair.label, metric), runs.values(task, pair.reference, metric)
    if not ours or not theirs or not finite([*ours.values(), *theirs.values()]):
        return
    if (len(ours), len(theirs)) != (runs.num_runs(task, pair.label), runs.num_runs(task, pair.reference)):
        return  # a mean without the run that did not report the metric would flatter its method
    incomplete = not runs.adaptive and (ours.keys() < theirs.keys() or theirs.keys() < ours.keys())
    if runs.families[pair.reference] == "arm" and repeat_one_run(runs, task, pair.reference, metric):
        incomplete = False  # a single run, whatever its seeds are called
    common = [seed for seed in ours if seed in theirs]
    sides = [
        _sample(runs, task, label, metric, {seed: values[seed] for seed in (common if incomplete else values)})
        for label, values in ((pair.label, ours), (pair.reference, theirs))
    ]
    yield sides[0], sides[1]


def _sample(runs: Runs, task: str, label: str, metric: str, values: dict[int, float]) -> Sample:
    seeds = list(values)
    left_out = runs.num_runs(task, label) - len(seeds)
    scores = runs.scores.get((task, label)) if metric == "accuracy" else None
    chosen = None if scores is None else scores.values[[scores.seeds.index(seed) for seed in seeds]]
    sample = Sample(seeds, np.array(list(values.values())), chosen, left_out)
    return _averaged(sample) if repeat_one_run(runs, task, label, metric) else sample


def _averaged(sample: Sample) -> Sample:
    """Each run in place of their mean."""
    values = np.full_like(sample.values, sample.values.mean())
    scores = sample.scores
    return sample._replace(values=values, scores=None if scores is None else np.tile(scores.mean(0), (len(scores), 1)))


def repeat_one_run(runs: Runs, task: str, label: str, metric: str) -> bool:
    """Whether a label has several runs, and they are one and the same: by their values, or by their recipes."""
    values = np.array([*runs.values(task, label, metric).values()])
    if len(values) < 2 or not finite(values):
        return False
    if variance(values) == 0:
        return True
    table = runs.table[(runs.table["task"] == task) & (runs.table["label"] == label)]
    own = {*zip(*(table[name] for name in ("task", "model", "method", "seed")), strict=True)}
    held = [run for sweep in runs.sweeps for run in _runs_of(sweep, own)]
    return len(held) == len(own) and all(_ignores_seed(*run) for run in held)


def _runs_of(sweep: Sweep, wanted: set[tuple[str, str, str, int]]) -> list[tuple[Sweep, str, int]]:
    """The sweep's runs that are among `wanted`: (task, model, method, seed)."""
    held = {*zip(*(sweep.table[name] for name in ("task", "model", "method", "seed")), strict=True)}
    return [(sweep, method, seed) for _, _, method, seed in sorted(held & wanted)]


def _ignores_seed(sweep: Sweep, method: str, seed: int) -> bool:
    """Whether nothing in a run's training depended on its seed; a model without a config.json drops nothing out."""
    if not sweep.recipe.ignores_seed(method):
        return False
    config = sweep.folder / "trials" / f"{method}-s{seed}" / "model" / "config.json"
    if not config.is_file():
        return True
    try:
        fields = LOGGED.validate_json(config.read_bytes())
    except ValidationError as error:
        raise UserError(f"{config}: not a model's config.json. Restore the file, or resume the sweep") from error
    return not any(value for name, value in fields.items() if _DROPOUT.fullmatch(name))
