"""Philox4x64-10 for many counters at once: the random numbers of `numpy.random.Philox`, row by row.

A plan gives every video its own stream, keyed by (seed, epoch, video). One numpy generator object
a video would cost more than the numbers; this computes the blocks of all rows together and yields,
bit for bit, what `numpy.random.Philox(key=key, counter=[0, row, 0, 0]).random_raw` yields (a test
compares them). Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = NDArray[np.uint64]


def philox_rows(key: tuple[int, int], rows: NDArray[np.int64], words: int) -> Words:
    """Draw `words` random 64-bit words for each row; a row's words depend on nothing but its value.

    Args:
        key: the two key words, here (seed, epoch), each in [0, 2**64).
        rows: [B] counter values, here video numbers, each >= 0.
        words: how many words a row gets.

    Returns:
        [B, words] uint64.
    """
    num_blocks = -(-words // 4)
    # numpy counts up before it draws, so its first block has the counter 1.
    blocks = np.arange(1, num_blocks + 1, dtype=np.uint64)
    shape = (len(rows), num_blocks)
    counter = (
        np.broadcast_to(blocks, shape),
        np.broadcast_to(rows.astype(np.uint64)[:, None], shape),
        np.zeros(shape, np.uint64),
        np.zeros(shape, np.uint64),
    )
    return np.stack(_philox(counter, key), axis=-1).reshape(len(rows), 4 * num_blocks)[:, :words]


def uniform(words: Words) -> NDArray[np.float64]:
    """Turn random words into floats in [0, 1), on the 2**-53 grid that numpy's generators use."""
    draws: NDArray[np.float64] = (words >> np.uint64(11)) * np.float64(2.0**-53)
    return draws


def _philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    c0, c1, c2, c3 = counter
    for round_number in range(_ROUNDS):
        k0, k1 = (
            np.uint64((word + round_number * step) % 2**64)
            for word, step in zip(key, _WEYL, strict=True)
        )
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def _multiply(a: Words, b: np.uint64) -> tuple[Words, Words]:
    """High and low 64 bits of the 128-bit product, from four 32-bit products."""
    a_high, a_low = a >> _HALF, a & _LOW
    b_high, b_low = b >> _HALF, b & _LOW
    middle = a_high * b_low + (a_low * b_low >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF), a * b
