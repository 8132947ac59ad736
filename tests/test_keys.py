"""Keyed random numbers against published vectors, NumPy and the properties that training relies on."""

import numpy as np
import pytest
from scipy import stats

from raymdm.keys import derive_seed, generator, philox4x32, uniforms

# Known answers published with Random123 for philox4x32-10: counter, key, result.
VECTORS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = philox4x32(np.array(counter, dtype=np.uint64)[:, None], (key[0], key[1]))
    assert words[:, 0].tolist() == expected


def test_a_row_depends_on_its_key_alone() -> None:
    together = uniforms(42, "mask", 7, np.arange(10), 13)
    alone = uniforms(42, "mask", 7, np.array([4]), 5)
    assert np.array_equal(together[4, :5], alone[0])


def test_steps_and_draws_may_differ_by_row() -> None:
    mixed = uniforms(1, "mask", np.array([3, 9]), np.array([5, 6]), 8, np.array([0, 2]))
    assert np.array_equal(mixed[0], uniforms(1, "mask", 3, np.array([5]), 8)[0])
    assert np.array_equal(mixed[1], uniforms(1, "mask", 9, np.array([6]), 8, 2)[0])


@pytest.mark.parametrize(
    "other",
    [
        uniforms(43, "mask", 7, np.arange(4), 8),
        uniforms(42, "rate", 7, np.arange(4), 8),
        uniforms(42, "mask", 8, np.arange(4), 8),
        uniforms(42, "mask", 7, np.arange(4, 8), 8),
        uniforms(42, "mask", 7, np.arange(4), 8, draw=1),
    ],
    ids=["seed", "purpose", "step", "index", "draw"],
)
def test_every_part_of_the_key_changes_every_number(other: np.ndarray) -> None:
    assert not np.any(uniforms(42, "mask", 7, np.arange(4), 8) == other)


def test_numbers_are_uniform_in_the_open_interval() -> None:
    u = uniforms(0, "test", 0, np.arange(2000), 50).ravel()
    assert 0 < u.min() and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 0.001


def test_seeds_of_different_purposes_differ() -> None:
    assert derive_seed(1, "order", 0) != derive_seed(1, "order", 1) != derive_seed(1, "split")


def test_generator_repeats() -> None:
    assert np.array_equal(generator(5, "order", 1).permutation(9), generator(5, "order", 1).permutation(9))
