"""Seeded mutations of an input: bytes flipped, cut, repeated, replaced by numbers at the edge of their range."""

from __future__ import annotations

import numpy as np

from fuzz.edits import MARK

_EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"]
_WORDS = [
    b"9" * 30,
    b"-1",
    b"1e999",
    b"NaN",
    b'""',
    b"null",
    b"[]",
    b"{}",
    b"!!int",
    b"&a",
    b"*a",
    b"../",
    b"\xed\xa0\x80",
]


def mutations(seeds: list[bytes], count: int, seed: int, most: int = 1 << 16) -> list[bytes]:
    """Inputs made of seeds, the same for the same numbers.

    Args:
        seeds: inputs to begin with.
        count: of the result.
        seed: everything random follows from it.
        most: bytes of the longest result.
    """
    rng = np.random.default_rng(seed)
    return [_made(seeds[int(rng.integers(len(seeds)))], rng)[:most] for _ in range(count)]


def _made(seed: bytes, rng: np.random.Generator) -> bytes:
    if seed[:1] == MARK:
        return MARK + rng.bytes(int(rng.integers(4, 12)))
    return _mutated(seed, rng)


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(made) + 1))
        # Half of the time near the start, where headers are.
        place = place % 64 if rng.random() < 0.5 else place
        length = int(rng.integers(1, 9))
        kind = int(rng.integers(6))
        if kind == 0:
            made[place : place + 1] = rng.bytes(1)
        elif kind == 1:
            edge = _EDGES[int(rng.integers(len(_EDGES)))]
            made[place : place + len(edge)] = edge
        elif kind == 2:
            made[place : place + length] = b""
        elif kind == 3:
            made[place:place] = made[place : place + length] * int(rng.integers(1, 20))
        elif kind == 4:
            made[place:place] = _WORDS[int(rng.integers(len(_WORDS)))]
        else:
            del made[int(rng.integers(len(made) + 1)) :]
    return bytes(made)
