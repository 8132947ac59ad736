"""Looking at the results more than once: how much of alpha each look may spend, and where the next seeds go.

The error of testing again at every look is held by a union bound: look k tests at level alpha_k, and the alpha_k, fixed
before the first run, add up to alpha. So at most alpha of null differences are ever called real, whatever the looks
have in common and whatever the earlier ones led to, as long as each look's own test holds its level.
"""

from collections.abc import Mapping, Sequence

import numpy as np

POWER = 3.0
"""Of the spending function alpha f^3 at information fraction f (Kim and DeMets 1987): early looks, where seeds are few
and tests of skewed runs least to be trusted, spend little."""


def spending(initial: int, most: int, looks: int, alpha: float) -> list[float]:
    """alpha_k for each of `looks` looks: seeds a method grow evenly from `initial` at the first to `most` at the last.

    They add up to alpha.
    """
    fractions = np.linspace(initial, most, looks) / most
    return (alpha * np.diff(fractions**POWER, prepend=0.0)).tolist()


def round_size(look: int, players: int, initial: int, most: int, looks: int) -> int:
    """Seeds to add after look `look` (1 is the first): an even share of all that `players` methods may still take."""
    budget = players * (most - initial)
    return round(budget * look / (looks - 1)) - round(budget * (look - 1) / (looks - 1))


def sequential_p(p: Sequence[float], alphas: Sequence[float], alpha: float) -> float:
    """One p-value for all looks, at most 1: the smallest of p_k alpha / alpha_k.

    It is at most alpha exactly where some look's p_k is at most its alpha_k. `p` may end before `alphas` does.
    """
    return min(1.0, *(p_k * alpha / alpha_k for p_k, alpha_k in zip(p, alphas, strict=False)))


def share_out(cells: int, sd: Mapping[str, float], seeds: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of `cells` further seeds each method gets; methods in the order of `sd`.

    One by one, each goes where it takes most off the sum of sd^2 / n, the variance of the means (Neyman's allocation:
    in the end n is proportional to sd). No method gets more than `most` seeds in all; what nobody can take is left.
    """
    more = dict.fromkeys(sd, 0)
    for _ in range(cells):
        gain = {
            name: sd[name] ** 2 / ((seeds[name] + more[name]) * (seeds[name] + more[name] + 1))
            for name in sd
            if seeds[name] + more[name] < most
        }
        if not gain:
            break
        more[max(gain, key=lambda name: gain[name])] += 1
    return more


def shrunk_sd(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Standard deviations over seeds, each drawn towards the pooled one by two further degrees of freedom.

    Three seeds may agree by chance; without this their method would get no further seed. Methods with fewer than two
    seeds have the pooled one. All are 1 where nothing varies.
    """
    free = {name: max(0, len(found) - 1) for name, found in values.items()}
    squares = {
        name: float(np.sum((np.asarray(v) - np.mean(v)) ** 2)) if len(v) > 1 else 0.0 for name, v in values.items()
    }
    total = sum(free.values())
    pooled = sum(squares.values()) / total if total else 0.0
    if pooled == 0:
        return dict.fromkeys(values, 1.0)
    return {name: float(np.sqrt((squares[name] + 2 * pooled) / (free[name] + 2))) for name in values}
