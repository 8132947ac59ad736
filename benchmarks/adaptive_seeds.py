"""How often an adaptive sweep is wrong, and what it costs: `python benchmarks/adaptive_seeds.py [--sweeps 2000]`.

Simulated sweeps of two methods, or of four against a baseline, go through the looks, the spending of alpha, the sharing
out of seeds, the tests and Holm's correction that `raymdm sweep` uses. Under the null all methods draw from
populations with one mean: a sweep that decides anything is wrong, and at most 5% may be. Under a difference: how often
it is found and after how many seeds, against the same test once, at the largest number of seeds.
"""

import argparse
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from rich.console import Console
from rich.table import Table

from raymdm.comparison.stats import permutation
from raymdm.comparison.stats.means import difference_test, holm
from raymdm.comparison.stats.sequential import round_size, sequential_p, share_out, shrunk_sd, spending
from raymdm.comparison.tested import ALPHA

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Accuracies of so many runs."""

BASE = "standard"


def normal(mean: float, sd: float) -> Draw:
    return lambda rng, count: rng.normal(mean, sd, count)


def skewed(mean: float, sd: float, shape: float = 0.5) -> Draw:
    """Lognormal turned over: a tail of bad runs. Skewness -1.75, at a shape of 0.7 -2.9."""
    centre, width = np.exp(shape**2 / 2), np.sqrt((np.exp(shape**2) - 1) * np.exp(shape**2))
    return lambda rng, count: mean - sd * (rng.lognormal(0, shape, count) - centre) / width


def bad_runs(mean: float, sd: float) -> Draw:
    """One run in ten lies 4 sd lower."""

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        low = rng.random(count) < 0.1
        return np.asarray(mean + 0.4 * sd + rng.normal(0, sd, count) - 4 * sd * low)

    return draw


def collapsing(mean: float, sd: float) -> Draw:
    """One run in ten collapses, by 8 sd; the mean is kept."""

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.asarray(mean + 0.8 * sd + rng.normal(0, sd, count) - 8 * sd * (rng.random(count) < 0.1))

    return draw


def counted(mean: float, sd: float, examples: int = 200) -> Draw:
    """Shares of 200 test examples, so that runs may tie."""
    return lambda rng, count: rng.binomial(examples, np.clip(rng.normal(mean, sd, count), 0, 1)) / examples


def simulate(
    rng: np.random.Generator, draws: dict[str, Draw], initial: int, most: int, looks: int
) -> tuple[dict[str, bool], dict[str, int]]:
    """One sweep, which ends when every method is decided; returns whether each was, and the seeds used."""
    alphas = spending(initial, most, looks, ALPHA)
    runs = {name: draw(rng, most) for name, draw in draws.items()}
    seeds, history = dict.fromkeys(draws, initial), {name: list[float]() for name in draws if name != BASE}
    for look in range(1, looks + 1):
        for name, p in history.items():
            tested = difference_test(runs[name][: seeds[name]], runs[BASE][: seeds[BASE]])
            assert tested is not None
            p.append(tested.p)
        adjusted = holm([sequential_p(p, alphas, ALPHA) for p in history.values()])
        decided = {name: p <= ALPHA for name, p in zip(history, adjusted, strict=True)}
        if all(decided.values()) or look == looks:
            break
        wanted = [name for name in draws if name == BASE or not decided[name]]
        sd = shrunk_sd({name: runs[name][: seeds[name]].tolist() for name in wanted})
        more = share_out(round_size(look, len(draws), initial, most, looks), sd, seeds, most)
        seeds = {name: seeds[name] + more.get(name, 0) for name in seeds}
    return decided, seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--initial", type=int, default=3)
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--looks", type=int, default=6)
    options = parser.parse_args()
    # thousands of sweeps in minutes: fewer random splits in place of all of them, which is as valid a test
    permutation.MOST_SPLITS, permutation.RANDOM_SPLITS = 2_000, 1_999
    permutation.splits = lru_cache(maxsize=None)(permutation.splits.__wrapped__)
    console, design = Console(width=120), (options.initial, options.most, options.looks)

    table = Table("under the null", "sweeps that decide anything", "seeds a sweep")
    for name, draws in nulls().items():
        rng = np.random.default_rng(options.seed)
        found = [simulate(rng, draws, *design) for _ in range(options.sweeps)]
        wrong = np.mean([any(decided.values()) for decided, _ in found])
        table.add_row(name, f"{wrong:.3f}", f"{np.mean([sum(seeds.values()) for _, seeds in found]):.1f}")
    console.print(table)

    table = Table("difference, sds", "decided", "seeds a sweep", f"decided by one test at {options.most} each")
    for effect in (1.0, 2.0, 3.0, 5.0):
        draws = {BASE: normal(0.5, 0.03), "a": normal(0.5 + 0.03 * effect, 0.03)}
        rng = np.random.default_rng(options.seed)
        found = [simulate(rng, draws, *design) for _ in range(options.sweeps // 4)]
        once = [fixed(rng, draws, options.most) for _ in range(options.sweeps // 4)]
        shares = np.mean([decided["a"] for decided, _ in found]), np.mean(once)
        seeds = np.mean([sum(seeds.values()) for _, seeds in found])
        table.add_row(f"{effect:g}", f"{shares[0]:.2f}", f"{seeds:.1f} of {2 * options.most}", f"{shares[1]:.2f}")
    console.print(table)


def nulls() -> dict[str, dict[str, Draw]]:
    sds = {BASE: 0.03, "a": 0.03, "b": 0.03, "c": 0.06, "d": 0.01}
    return {
        "normal, equal sd": {BASE: normal(0.5, 0.03), "a": normal(0.5, 0.03)},
        "normal, sd 1 : 3": {BASE: normal(0.5, 0.03), "a": normal(0.5, 0.01)},
        "skewed, equal sd": {BASE: skewed(0.5, 0.03), "a": skewed(0.5, 0.03)},
        "skewed, sd 1 : 3": {BASE: skewed(0.5, 0.03), "a": skewed(0.5, 0.01)},
        "more skewed, sd 1 : 3": {BASE: skewed(0.5, 0.03, 0.7), "a": skewed(0.5, 0.01, 0.7)},
        "one bad run in ten": {BASE: bad_runs(0.5, 0.03), "a": bad_runs(0.5, 0.03)},
        "a baseline that collapses, a steady method": {BASE: collapsing(0.5, 0.03), "a": normal(0.5, 0.03)},
        "200 test examples": {BASE: counted(0.5, 0.01), "a": counted(0.5, 0.01)},
        "four methods against a baseline": {name: normal(0.5, sd) for name, sd in sds.items()},
    }


def fixed(rng: np.random.Generator, draws: dict[str, Draw], most: int) -> bool:
    tested = difference_test(draws["a"](rng, most), draws[BASE](rng, most))
    assert tested is not None
    return tested.p <= ALPHA


if __name__ == "__main__":
    main()
