"""Keyed random numbers: every draw is a pure function of (seed, purpose, step, index).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), vectorised over rows, so that
a row's noise depends on its key alone: not on the worker, the micro-batch or what was drawn before.

Shape legend: R rows, N numbers a row.
"""

import hashlib

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    """Encrypt 128-bit counters (4, ...) of 32-bit words held in uint64 into as many random words."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = _M0 * x0, _M1 * x2
        x0, x1, x2, x3 = (p1 >> _32) ^ x1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _32) ^ x3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3])


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 64-bit integer from a seed and the words that say what it is for."""
    text = "/".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(
    seed: int, purpose: str, step: int | np.ndarray, index: np.ndarray, n: int, draw: int | np.ndarray = 0
) -> np.ndarray:
    """Uniform numbers in the open interval (0, 1), float64 of shape (R, n), one row for each entry of `index` (R,).

    `step` and `draw` are one number or (R,); `draw` tells apart several draws of one purpose for one row. They and
    `index` must fit in 32 bits. Entry [r, j] depends on (seed, purpose, step[r], index[r], draw[r], j) and on nothing
    else, `n` included.
    """
    derived = derive_seed(seed, purpose)
    blocks = -(-n // 4)
    rows = np.stack([np.broadcast_to(np.asarray(x, dtype=np.uint64), (len(index),)) for x in (index, step, draw)])
    counter = np.empty((4, len(index), blocks), dtype=np.uint64)
    counter[0] = np.arange(blocks, dtype=np.uint64)
    counter[1:] = rows[:, :, None]
    words = philox4x32(counter, (derived & 0xFFFFFFFF, derived >> 32))
    flat = np.moveaxis(words, 0, -1).reshape(len(index), blocks * 4)[:, :n]
    return (flat.astype(np.float64) + 0.5) / 2.0**32


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for a purpose that is drawn once, such as a split or an epoch's order."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *purpose)))
