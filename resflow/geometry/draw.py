"""Random numbers that belong to a sample: a function of (seed, epoch, sample id, purpose) and of nothing else.

NumPy's `SeedSequence` gives exactly that, at some ten microseconds of Python per sample. Here its hash runs over a
whole batch at once; the words that come out are the same, bit by bit.

Source: numpy.random.SeedSequence, after M. O'Neill, "Simple Portable C++ Seed Entropy" (2015).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

Words: TypeAlias = npt.NDArray[np.uint32]

_POOL = 4
_SHIFT = np.uint32(16)
_HASH_START, _HASH_STEP = 0x43B0D7E5, 0x931E8875
_STATE_START, _STATE_STEP = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_WORD = 0xFFFFFFFF


def uniforms(
    seed: int, epoch: int, sample_ids: npt.NDArray[np.int64], purpose: int, count: int
) -> npt.NDArray[np.float64]:
    """Uniform random numbers for each sample of a batch.

    Row b holds `SeedSequence((seed, epoch, sample_ids[b], purpose)).generate_state(count, uint64)`, its upper 53 bits
    scaled to [0, 1).

    Args:
        seed: the loader's seed, at least 0.
        epoch: at least 0.
        sample_ids: int64 [B], at least 0.
        purpose: what the numbers are for; different purposes give independent numbers.
        count: how many numbers a sample.

    Returns:
        float64 [B, count] in [0, 1).

    Raises:
        ConfigError: a negative seed, epoch, sample id or purpose.
    """
    if min(seed, epoch, purpose) < 0 or (len(sample_ids) and int(sample_ids.min()) < 0):
        raise ConfigError(f"seed, epoch, purpose and sample ids must be at least 0; got {seed}, {epoch}, {purpose}")
    result = np.empty((len(sample_ids), count), dtype=np.uint64)
    wide = sample_ids > _WORD
    for chosen in (~wide, wide):  # SeedSequence spends one word on small numbers, two on large ones
        if chosen.any():
            low = (sample_ids[chosen] & _WORD).astype(np.uint32)
            high = (sample_ids[chosen] >> 32).astype(np.uint32)
            ids = [low, high] if chosen is wide else [low]
            entropy = [*_constant(seed, low), *_constant(epoch, low), *ids, *_constant(purpose, low)]
            result[chosen] = _state(_mixed_pool(entropy), count)
    return (result >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _constant(value: int, like: Words) -> list[Words]:
    """The 32-bit words of one number, least first, each repeated for the batch."""
    words = []
    while True:
        words.append(np.full_like(like, value & _WORD))
        value >>= 32
        if not value:
            return words


def _mixed_pool(entropy: list[Words]) -> list[Words]:
    """Hash the entropy words into a pool of four, as SeedSequence does."""
    constant = _HASH_START

    def hashed(value: Words) -> Words:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * _HASH_STEP & _WORD
        value = value * np.uint32(constant)
        return value ^ (value >> _SHIFT)

    def mixed(left: Words, right: Words) -> Words:
        value: Words = _MIX_LEFT * left - _MIX_RIGHT * right
        return value ^ (value >> _SHIFT)

    zero = np.zeros_like(entropy[0])
    pool = [hashed(entropy[i] if i < len(entropy) else zero) for i in range(_POOL)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for extra in entropy[_POOL:]:
        for target in range(_POOL):
            pool[target] = mixed(pool[target], hashed(extra))
    return pool


def _state(pool: list[Words], count: int) -> npt.NDArray[np.uint64]:
    """uint64 [B, count] of output words from the pool."""
    words = np.empty((len(pool[0]), 2 * count), dtype=np.uint32)
    constant = _STATE_START
    for i in range(2 * count):
        value = pool[i % _POOL] ^ np.uint32(constant)
        constant = constant * _STATE_STEP & _WORD
        value = value * np.uint32(constant)
        words[:, i] = value ^ (value >> _SHIFT)
    return words[:, 0::2].astype(np.uint64) | (words[:, 1::2].astype(np.uint64) << np.uint64(32))
