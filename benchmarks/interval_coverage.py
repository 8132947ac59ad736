"""Coverage of the reported intervals and size of the reported tests over few seeds, by simulation, as Markdown tables.

Populations of runs have mean 0 and standard deviation 1: normal; right-skewed (a shifted lognormal); and with bad runs,
one in ten 4 standard deviations worse before scaling. Scores are binary, runs crossed with examples: the logit of
success is method + run + example + method x example. What an interval has to cover is the value over all seeds and, for
scores, all examples. A share p of N simulations is known to sqrt(p (1 - p) / N): 0.005 at 0.95 and 2,000.
`python benchmarks/interval_coverage.py [--simulations 2000] [--seed 0] [--tables a,b,c,d,e,f,g]`
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from raymdm.comparison.stats import bootstrap, effects, intervals, permutation, power, spread

SEEDS = (3, 5, 10)
LEVEL, ALPHA, MARGIN = 0.95, 0.05, 1.5
REPLICATES = 1_000
RUNS = ("normal", "skewed", "bad runs")
LARGE = 100_000
"""Splits above which a permutation test gets half of the simulations: 10 against 10 seeds."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS /= WEIGHTS.sum()


def runs(population: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Runs of mean 0 and standard deviation 1."""
    noise = rng.normal(size=shape)
    if population == "skewed":
        width = 0.7
        return (np.exp(width * noise) - np.exp(width**2 / 2)) / np.sqrt((np.exp(width**2) - 1) * np.exp(width**2))
    if population == "bad runs":
        return (noise - 4 * (rng.random(shape) < 0.1) + 0.4) / np.sqrt(1 + 16 * 0.09)
    return noise


@lru_cache
def reference(population: str) -> np.ndarray:
    """Enough runs to take a population's median or range from."""
    return runs(population, np.random.default_rng(1), (1_000_000,))


class Method(NamedTuple):
    """Logit of success: 0.63 + shift + run + example + method x example, normal with these standard deviations."""

    shift: float = 0.0
    run: float = 0.1
    example: float = 1.5
    own: float = 0.5

    def accuracy(self, runs: np.ndarray | float) -> np.ndarray:
        """Of runs with these logits, over all examples."""
        examples = np.hypot(self.example, self.own) * NODES
        return special.expit(0.63 + self.shift + np.asarray(runs)[..., None] + examples) @ WEIGHTS

    def mean(self) -> float:
        return float(self.accuracy(self.run * NODES) @ WEIGHTS)

    def sd(self) -> float:
        return float(np.sqrt((self.accuracy(self.run * NODES) - self.mean()) ** 2 @ WEIGHTS))

    def draw(self, examples: np.ndarray, num_seeds: int, rng: np.random.Generator) -> np.ndarray:
        """Scores (S, E) on examples, standard normal (E,)."""
        own = self.own * rng.normal(size=len(examples))
        logits = 0.63 + self.shift + self.run * rng.normal(size=(num_seeds, 1)) + self.example * examples + own
        return (rng.random(logits.shape) < special.expit(logits)).astype(float)


Bounds = tuple[float | None, float | None]


def cell(found: list[Bounds], target: float, digits: int = 2) -> str:
    """Share of intervals that hold the target, and their mean length; no interval and NaN do not hold it."""
    bounds = np.array([[np.nan if b is None else b for b in pair] for pair in found], float)
    inside = (bounds[:, 0] <= target) & (target <= bounds[:, 1])
    length = np.nanmean(np.clip(bounds[:, 1] - bounds[:, 0], None, 1e6))
    return f"{inside.mean():.3f} ({length:.{digits}f})"


def table(title: str, header: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def percentile(replicates: np.ndarray) -> Bounds:
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bca(values: np.ndarray) -> list[Bounds]:
    """BCa intervals of the mean over the last axis of (N, S)."""
    found = stats.bootstrap(
        (values,), np.mean, axis=1, n_resamples=REPLICATES, batch=100, confidence_level=LEVEL, rng=3
    ).confidence_interval
    return list(zip(found.low, found.high, strict=True))


def bounds(found: intervals.Interval) -> Bounds:
    return found.low, found.high


def means(simulations: int, rng: np.random.Generator) -> None:
    header = ["Runs", "Seeds", "t over seeds (reported)", "Percentile bootstrap", "BCa bootstrap"]

    def values() -> Iterator[list[str]]:
        for population in RUNS:
            for count in SEEDS:
                sample = runs(population, rng, (simulations, count))
                draws = [bootstrap.seed_draws(count, REPLICATES, rng) for _ in range(simulations)]
                found = [percentile(v[d].mean(axis=1)) for v, d in zip(sample, draws, strict=True)]
                reported = [bounds(intervals.mean_interval(v, LEVEL)) for v in sample]
                yield [population, str(count), cell(reported, 0), cell(found, 0), cell(bca(sample), 0)]

    table("Mean of runs: coverage of 95% intervals (mean length)", header, values())
    header = ["Examples", "Seeds", "t over seeds", "Percentile, seeds", "BCa, seeds", "Percentile, crossed", "Reported"]

    def scores() -> Iterator[list[str]]:
        method = Method()
        for num_examples in (200, 1000):
            for count in SEEDS:
                found, sample = [list[Bounds]() for _ in range(4)], []
                for index in range(simulations):
                    if index % 50 == 0:
                        weights = bootstrap.example_weights(num_examples, REPLICATES, rng)
                    drawn = method.draw(rng.normal(size=num_examples), count, rng)
                    draws = bootstrap.seed_draws(count, REPLICATES, rng)
                    sample.append(drawn.mean(axis=1))
                    found[0].append(bounds(intervals.mean_interval(sample[-1], LEVEL)))
                    found[1].append(percentile(sample[-1][draws].mean(axis=1)))
                    found[2].append(percentile(bootstrap.resampled(drawn, draws, weights).mean(axis=1)))
                    found[3].append(bounds(intervals.mean_interval(drawn, LEVEL)))
                found.insert(2, bca(np.array(sample)))
                yield [f"{num_examples:,}", str(count), *(cell(column, method.mean(), 3) for column in found)]

    table("Mean accuracy over seeds and examples: coverage of 95% intervals (mean length)", header, scores())


def other_statistics(simulations: int, rng: np.random.Generator) -> None:
    kinds = (bootstrap.median, bootstrap.iqm)

    def values() -> Iterator[list[str]]:
        for population in RUNS:
            everyone = reference(population)
            targets = [np.median(everyone), stats.trim_mean(everyone, 0.25)]
            for count in SEEDS:
                sample = runs(population, rng, (simulations, count))
                draws = bootstrap.seed_draws(count, REPLICATES, rng)
                cells = [
                    cell([bounds(bootstrap.statistic_interval(kind, v, draws, None, LEVEL)) for v in sample], target)
                    for kind, target in zip(kinds, targets, strict=True)
                ]
                cells.append(cell([bounds(intervals.sd_interval(v, LEVEL)) for v in sample], 1))
                expected = float(np.ptp(everyone[: len(everyone) // count * count].reshape(-1, count), axis=1).mean())
                cells.append(cell([bounds(intervals.range_interval(v, LEVEL)) for v in sample], expected))
                yield [population, str(count), *cells]

    header = ["Runs", "Seeds", "Median", "IQM", "Standard deviation", "Range"]
    table("Other statistics of runs, as reported: coverage of 95% intervals (mean length)", header, values())

    def scores() -> Iterator[list[str]]:
        method = Method()
        middle = method.run * stats.norm.ppf(0.25 + (np.arange(1000) + 0.5) / 2000)
        targets = [float(method.accuracy(0.0)), float(method.accuracy(middle).mean())]
        for num_examples in (200, 1000):
            weights = bootstrap.example_weights(num_examples, REPLICATES, rng)
            for count in SEEDS:
                found = [list[Bounds](), list[Bounds]()]
                draws = bootstrap.seed_draws(count, REPLICATES, rng)
                for _ in range(simulations):
                    drawn = method.draw(rng.normal(size=num_examples), count, rng)
                    for column, kind in zip(found, kinds, strict=True):
                        column.append(bounds(bootstrap.statistic_interval(kind, drawn, draws, weights, LEVEL)))
                yield [f"{num_examples:,}", str(count), *map(cell, found, targets, [3, 3])]

    title = "Median and IQM of accuracy, as reported: coverage of 95% intervals (mean length)"
    table(title, ["Examples", "Seeds", "Median", "IQM"], scores())


EQUAL = [(3, 3, 1.0), (5, 5, 1.0), (10, 10, 1.0), (3, 10, 1.0)]
DESIGNS = [*EQUAL, (3, 3, 3.0), (5, 5, 3.0), (10, 10, 3.0), (3, 10, 3.0), (5, 10, 3.0), (10, 3, 3.0)]
"""Seeds of both, and the first's standard deviation over the second's."""


def differences(simulations: int, rng: np.random.Generator) -> None:
    def rows() -> Iterator[list[str]]:
        for num_ours, num_theirs, wider in DESIGNS:
            cells = []
            for population in RUNS:
                ours = wider * runs(population, rng, (simulations, num_ours))
                theirs = runs(population, rng, (simulations, num_theirs))
                found = [bounds(intervals.welch(x, y, LEVEL).interval) for x, y in zip(ours, theirs, strict=True)]
                cells.append(cell(found, 0))
            for num_examples in (200, 1000):
                a, b = Method(shift=0.2, run=0.1 * wider), Method()
                seeds_alone, reported = [], []
                for _ in range(simulations):
                    examples = rng.normal(size=num_examples)
                    x, y = a.draw(examples, num_ours, rng), b.draw(examples, num_theirs, rng)
                    seeds_alone.append(bounds(intervals.welch(x.mean(axis=1), y.mean(axis=1), LEVEL).interval))
                    reported.append(bounds(intervals.difference_interval(x, y, LEVEL)))
                cells += [cell(found, a.mean() - b.mean(), 3) for found in (seeds_alone, reported)]
            yield [f"{num_ours}, {num_theirs}", f"{wider:g}", *cells]

    header = ["Seeds", "sd ratio", *(f"Welch, {population}" for population in RUNS)]
    header += ["Welch, 200 examples", "Reported, 200 examples", "Welch, 1,000 examples", "Reported, 1,000 examples"]
    table("Difference of means: coverage of 95% intervals (mean length)", header, rows())


Test = Callable[[np.ndarray, np.ndarray], permutation.Permutation | None]


def permuted(test: Test, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """p of the rows of (N, n) and (N, m): (N,), or (N / 2,) where a test takes long."""
    few = len(permutation.splits(ours.shape[1], theirs.shape[1])) <= LARGE
    number = len(ours) if few else len(ours) // 2
    found = [test(x, y) for x, y in zip(ours[:number], theirs[:number], strict=True)]
    return np.array([1.0 if result is None else result.p for result in found])


def share(p: np.ndarray) -> str:
    """Rejected; p that is ALPHA but for rounding is."""
    return f"{np.mean(p <= ALPHA * (1 + 1e-9)):.3f}"


def mean_sizes(simulations: int, rng: np.random.Generator) -> None:
    def values() -> Iterator[list[str]]:
        others = [*EQUAL, (5, 5, 3.0), (3, 10, 3.0)]
        for population, designs in zip(RUNS, (DESIGNS, others, others), strict=True):
            for num_ours, num_theirs, wider in designs:
                ours = wider * runs(population, rng, (simulations, num_ours))
                theirs = runs(population, rng, (simulations, num_theirs))
                p = permuted(permutation.mean_test, ours, theirs)
                welch = stats.ttest_ind(ours, theirs, axis=1, equal_var=False).pvalue
                ranks = stats.mannwhitneyu(ours, theirs, axis=1).pvalue
                shares = map(share, (p, welch, np.maximum(p, welch[: len(p)]), ranks))
                yield [population, f"{num_ours}, {num_theirs}", f"{wider:g}", *shares]

    header = ["Runs", "Seeds", "sd ratio", "Permutation of Welch's t", "Welch", "Larger p of both", "Mann–Whitney"]
    table("Tests of equal means that are equal: rejected at 0.05", header, values())

    def scores() -> Iterator[list[str]]:
        method = Method(own=0.0)
        for num_examples in (200, 1000, 5000):
            for count in SEEDS:
                ours, theirs, paired = [], [], []
                for _ in range(simulations // 2 if num_examples == 5000 else simulations):
                    examples = rng.normal(size=num_examples)
                    x, y = method.draw(examples, count, rng), method.draw(examples, count, rng)
                    paired.append(stats.ttest_1samp(x.mean(axis=0) - y.mean(axis=0), 0).pvalue)
                    ours.append(x.mean(axis=1))
                    theirs.append(y.mean(axis=1))
                p = stats.ttest_ind(ours, theirs, axis=1, equal_var=False).pvalue
                yield [f"{num_examples:,}", str(count), share(np.array(paired)), share(p)]

    header = ["Examples", "Seeds", "Paired t over examples, read as of methods", "Welch over seeds"]
    table(f"Methods that are equal, runs of sd {Method(own=0.0).sd():.3f}: rejected at 0.05", header, scores())


def spread_sizes(simulations: int, rng: np.random.Generator) -> None:
    def sizes() -> Iterator[list[str]]:
        for population in RUNS:
            for count in SEEDS:
                ours = 2 + runs(population, rng, (simulations, count))
                theirs = runs(population, rng, (simulations, count))
                pairs = list(zip(ours, theirs, strict=True))
                brown_forsythe = np.array([spread.brown_forsythe(x, y) for x, y in pairs], float)
                below = stats.f.cdf(np.var(ours, axis=1) / np.var(theirs, axis=1), count - 1, count - 1)
                p = (permuted(permutation.spread_test, ours, theirs), brown_forsythe, 2 * np.minimum(below, 1 - below))
                ratios = [bounds(ratio) for x, y in pairs if (ratio := spread.ratio(x, y, LEVEL))]
                yield [population, str(count), *map(share, p), cell(ratios, 1)]

    header = ["Runs", "Seeds", "Permutation", "Brown–Forsythe", "F", "Ratio: coverage (length)"]
    table("Tests of equal spread that is equal, means 2 sd apart: rejected at 0.05", header, sizes())

    def equivalences() -> Iterator[list[str]]:
        for population in RUNS:
            for count in (10, 20, 40, 100):
                shares = []
                for true in (MARGIN, 1.0):
                    ours = true * runs(population, rng, (simulations, count))
                    theirs = runs(population, rng, (simulations, count))
                    p = [spread.equivalence(x, y, MARGIN).p for x, y in zip(ours, theirs, strict=True)]
                    squared, free = np.var(ours, axis=1) / np.var(theirs, axis=1), (count - 1, count - 1)
                    plain = np.maximum(stats.f.cdf(squared / MARGIN**2, *free), stats.f.sf(squared * MARGIN**2, *free))
                    shares += [share(np.array(p)), share(plain)]
                yield [population, str(count), *shares]

    header = ["Runs", "Seeds", "True ratio 1.5, reported", "True ratio 1.5, F", "Equal, reported", "Equal, F"]
    table("Equivalence of spread at margin 1.5: called equivalent at 0.05", header, equivalences())


def improvements(simulations: int, rng: np.random.Generator) -> None:
    def rows() -> Iterator[list[str]]:
        for probability in (0.5, 0.76, 0.95):
            shift = np.sqrt(2) * stats.norm.ppf(probability)
            for count in SEEDS:
                score, resampled = [], []
                for _ in range(simulations):
                    ours, theirs = rng.normal(shift, 1, count), rng.normal(size=count)
                    score.append(bounds(effects.improvement(ours, theirs, LEVEL, higher_is_better=True)))
                    wins = (ours[:, None] > theirs).astype(float)
                    x, y = (bootstrap.seed_draws(count, REPLICATES, rng) for _ in range(2))
                    shares = (np.eye(count)[x].mean(axis=1) @ wins * np.eye(count)[y].mean(axis=1)).sum(axis=1)
                    resampled.append(percentile(shares))
                yield [f"{probability:g}", str(count), cell(score, probability), cell(resampled, probability)]

    header = ["P", "Seeds", "Newcombe (reported)", "Percentile bootstrap"]
    table("Probability of improvement, normal runs: coverage of 95% intervals (mean length)", header, rows())


def powers(simulations: int, rng: np.random.Generator) -> None:
    def rows() -> Iterator[list[str]]:
        for wider in (1.0, 3.0):
            for count in (4, 5, 6, 8):
                difference = power.detectable(wider, 1, count, count, ALPHA)
                assert difference is not None
                sides = [[scale * runs(name, rng, (simulations, count)) for scale in (wider, 1)] for name in RUNS]
                shares = [share(permuted(permutation.mean_test, x + difference, y)) for x, y in sides]
                yield [str(count), f"{wider:g}", f"{difference:.2f}", *shares]

    header = ["Seeds", "sd ratio", "Detectable difference", *RUNS]
    table("Power of the permutation test at the difference said to be detectable with 0.8", header, rows())


ALL = (means, other_statistics, differences, mean_sizes, spread_sizes, improvements, powers)
TABLES = dict(zip("abcdefg", ALL, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="a cell; half for permutations of 10 against 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", default=",".join(TABLES), help="of a,b,c,d,e,f,g")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of equal runs, which binary scores give now and then
    print(f"{arguments.simulations:,} simulations a cell, seed {arguments.seed}")
    for name in arguments.tables.split(","):
        TABLES[name](arguments.simulations, np.random.default_rng([arguments.seed, ord(name)]))


if __name__ == "__main__":
    main()
