"""How often a finding is wrong on other test examples: `python benchmarks/other_examples.py [--simulations 1000]`.

Two methods are equal over all examples that there are, but each is better on some. Runs are crossed with examples: the
logit of success is example + method x example + run. Tests over seeds alone take the choice of test examples for a
difference of methods, the more surely the more seeds there are; the reported p is the largest of them and of the t test
over seeds and examples.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from raymdm.comparison.stats import permutation
from raymdm.comparison.stats.means import difference_test
from raymdm.comparison.tested import ALPHA

DESIGNS = ((200, 5), (200, 10), (1000, 10), (1000, 20))
EXAMPLE, OWN, RUN = 1.5, 0.5, 0.1
"""Standard deviations of logits."""


def scores(examples: np.ndarray, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Of one method's runs on examples of this difficulty (E,): (S, E)."""
    logits = 0.63 + EXAMPLE * examples + OWN * rng.normal(size=len(examples)) + RUN * rng.normal(size=(seeds, 1))
    return (rng.random((seeds, len(examples))) < 1 / (1 + np.exp(-logits))).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    permutation.MOST_SPLITS = 2_000  # random splits in place of all of them: as valid, and done in minutes
    rng = np.random.default_rng(options.seed)
    table = Table("examples", "seeds", "finding by tests over seeds alone", "finding as reported")
    for count, seeds in DESIGNS:
        found = []
        for _ in range(options.simulations):
            examples = rng.normal(size=count)
            test = difference_test(scores(examples, seeds, rng), scores(examples, seeds, rng), 1_999)
            assert test is not None
            found.append((max(test.p_permutation, test.p_welch) <= ALPHA, test.p <= ALPHA))
        table.add_row(f"{count:,}", str(seeds), *(f"{share:.3f}" for share in np.mean(found, axis=0)))
    Console().print(table)


if __name__ == "__main__":
    main()
