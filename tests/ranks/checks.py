"""Checks of what ranks were handed, as ordered lists; each names the place at fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import TypeAlias

Step: TypeAlias = tuple[int, int, list[int], list[int]]
"""Epoch, step, sample ids and shape of one batch of one rank."""
Leg: TypeAlias = Sequence[Sequence[Step]]
"""What each rank was handed between two changes of the number of ranks."""


def check_in_step(leg: Leg) -> None:
    """Check that all ranks have equally many batches, at each step the same shape, and parts of even size."""
    lengths = [len(rank) for rank in leg]
    if len(set(lengths)) > 1:
        raise AssertionError(f"ranks have {lengths} batches")
    for parts in zip(*leg, strict=True):
        at = [tuple(part[:2]) for part in parts]
        if len(set(at)) > 1:
            raise AssertionError(f"ranks are at {at}")
        where = f"step {parts[0][1]} of epoch {parts[0][0]}"
        shapes = [part[3] for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise AssertionError(f"{where}: ranks have shapes {shapes}")
        sizes = [len(part[2]) for part in parts]
        if max(sizes) - min(sizes) > 1:
            raise AssertionError(f"{where}: ranks have {sizes} samples")


def global_order(legs: Sequence[Leg]) -> list[list[int]]:
    """Sample ids of each global batch, in the order of steps and ranks."""
    return [[sample for part in parts for sample in part[2]] for leg in legs for parts in zip(*leg, strict=True)]


def check_order(legs: Sequence[Leg], expected: Sequence[Sequence[int]]) -> None:
    """Check that the ranks together were handed exactly the batches expected, in order.

    Raises:
        AssertionError: names a sample that is lost or repeated, else the first place out of order.
    """
    got = global_order(legs)
    wanted, found = (Counter(sample for batch in batches for sample in batch) for batches in (expected, got))
    for what, samples in (("lost", wanted - found), ("repeated", found - wanted)):
        if samples:
            sample, times = min(samples.items())
            steps = [step for step, batch in enumerate(got) if sample in batch]
            raise AssertionError(
                f"{samples.total()} samples are {what}, sample {sample} {times} time(s); got at {steps}"
            )
    for step, (batch, other) in enumerate(zip_longest(expected, got, fillvalue=())):
        if list(batch) != list(other):
            raise AssertionError(f"batch {step} should be {list(batch)}; got {list(other)}")


def check_turns(leg: Leg, expected: Sequence[Sequence[int]]) -> None:
    """Check ranks that take turns: equally many batches, together each sample as often as expected, in its place.

    Each rank has its part of every batch expected, in whatever order of batches, with its samples in order.

    Raises:
        AssertionError: names a rank, a sample that is lost or repeated, or a part that is out of order.
    """
    for rank, steps in enumerate(leg):
        places = [(step[0], step[1]) for step in steps]
        if places != [(step[0], step[1]) for step in leg[0]] or places != sorted(set(places)):
            raise AssertionError(f"rank {rank} is at {places}, rank 0 at {[step[:2] for step in leg[0]]}")
    wanted = Counter(sample for batch in expected for sample in batch)
    found = Counter(sample for steps in leg for step in steps for sample in step[2])
    for what, samples in (("lost", wanted - found), ("repeated", found - wanted)):
        if samples:
            raise AssertionError(f"{samples.total()} samples are {what}, the first is {min(samples)}")
    for rank, steps in enumerate(leg):
        cuts = [(len(batch) * rank // len(leg), len(batch) * (rank + 1) // len(leg)) for batch in expected]
        parts = Counter(tuple(batch[first:end]) for batch, (first, end) in zip(expected, cuts, strict=True))
        odd = Counter(tuple(step[2]) for step in steps) - parts
        if odd:
            raise AssertionError(f"rank {rank} has {list(min(odd))}, which is its part of no batch: out of order")
