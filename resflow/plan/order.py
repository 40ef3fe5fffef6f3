"""Order of samples: sorted by aspect ratio once, shuffled from a hash in each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, PlanError
from resflow.plan.buckets import Buckets, Sizes, aspect_ratio, fit_loss, read_only

SampleIds = npt.NDArray[np.int32]
"""int32 [S]: rows of the index."""

_CHUNK = 1 << 20  # samples handled at a time, so that temporaries stay small
_ID_BITS = np.uint64(31)
_ID_MASK = (np.uint64(1) << _ID_BITS) - np.uint64(1)

MOST_SAMPLES = int(_ID_MASK)
"""Samples that an index or an epoch may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """All samples in order of aspect ratio, and where each bucket ends; `group_samples` makes it once for all epochs.

    Args:
        size: int32 [N, 2], height and width of each sample in pixels.
        buckets: the buckets.
        order: int32 [N], sample ids by ascending aspect ratio, equal ratios by id.
        ends: int64 [K], position in `order` after the last sample of each bucket.
    """

    size: Sizes
    buckets: Buckets
    order: SampleIds
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)


def group_samples(size: Sizes, buckets: Buckets) -> Grouping:
    """Sort samples by aspect ratio and bucket.

    Args:
        size: int32 [N, 2], height and width of each sample in pixels (`Index.size`).
        buckets: the buckets.

    Returns:
        The grouping; it depends on nothing else and can be reused for all epochs.

    Raises:
        ConfigError: sizes of another shape, or not positive.
        PlanError: no samples, or 2**31 or more.
    """
    if size.ndim != 2 or size.shape[1] != 2 or not np.issubdtype(size.dtype, np.integer):
        raise ConfigError(f"size must be int32 [N,2], height and width; got {size.dtype} {list(size.shape)}")
    if not len(size):
        raise PlanError("no epoch can be planned over no samples; got size [0,2]. Name a dataset with images in it.")
    if len(size) > MOST_SAMPLES:
        raise PlanError(f"an index holds at most {MOST_SAMPLES} samples; got {len(size)}. Split the dataset.")
    if int(size.min()) < 1:
        raise ConfigError(f"size must be positive; got {int(size.min())} for sample {int(size.min(axis=1).argmin())}")
    # The bits of a positive float32 are in the order of its value: one sort of ratio bits over sample id.
    keys = np.empty(len(size), dtype=np.uint64)
    for start in range(0, len(size), _CHUNK):
        part = slice(start, start + _CHUNK)
        keys[part] = aspect_ratio(size[part]).view(np.uint32)
    keys <<= np.uint64(32)
    keys |= np.arange(len(size), dtype=np.uint64)
    keys.sort()
    edges = buckets.edges.astype(np.float32)  # the least float32 at or above each edge, as `Buckets.assign` compares
    edges = np.where(edges < buckets.edges, np.nextafter(edges, np.float32(np.inf)), edges)
    ends = np.searchsorted(keys, edges.view(np.uint32).astype(np.uint64) << np.uint64(32))
    order = np.bitwise_and(keys, _ID_MASK, out=keys).astype(np.int32)
    return Grouping(size, buckets, read_only(order), np.append(ends, len(size)).astype(np.int64))


def bits(seed: int, epoch: int, purpose: int, *more: int) -> np.random.PCG64:
    """A stream of random bits for one purpose of one epoch, and of whatever `more` numbers.

    Only raw bits and `SeedSequence` are used in plans: NumPy keeps those the same in all versions.
    """
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, purpose, *more)))


def words(source: np.random.PCG64, count: int) -> npt.NDArray[np.uint64]:
    """uint64 [count]: random words."""
    return np.asarray(source.random_raw(count), dtype=np.uint64)


def permute(values: SampleIds, source: np.random.PCG64) -> SampleIds:
    """Distinct non-negative values in random order.

    Args:
        values: int32 [n], distinct, at least 0.
        source: random bits; n 64-bit words are taken.

    Returns:
        int32 [n]: sorted by 33 random bits each, the rare tie by value.
    """
    keys = np.asarray(source.random_raw(len(values)), dtype=np.uint64)
    keys &= ~_ID_MASK
    keys |= values.astype(np.uint64)
    keys.sort()
    return np.bitwise_and(keys, _ID_MASK, out=keys).astype(np.int32)


def leave_out(grouping: Grouping, drop: int, source: np.random.PCG64 | None) -> tuple[SampleIds, npt.NDArray[np.int64]]:
    """Leave `drop` samples out of an epoch: any, at random, or without a source the last of the dataset.

    Returns:
        (order, ends) as in `Grouping`, without them.
    """
    if not drop:
        return grouping.order, grouping.ends
    n = len(grouping)
    if source is None:
        gone = np.flatnonzero(grouping.order >= n - drop)
    else:  # the positions of the least random words
        words = np.asarray(source.random_raw(n), dtype=np.uint64)
        gone = np.argpartition(words, drop - 1)[:drop]
        gone.sort()
    return np.delete(grouping.order, gone), grouping.ends - np.searchsorted(gone, grouping.ends)


def run_ends(
    grouping: Grouping, order: SampleIds, ends: npt.NDArray[np.int64], unit: int, resolution: int
) -> npt.NDArray[np.int64]:
    """Move the ends of the buckets so that all but one hold whole units of samples.

    Buckets are runs of `order`. Leftovers go to a neighbouring run: each inner end moves down or up to a multiple
    of `unit` or, after the run that takes the odd samples, to n minus one. Among these choices, the one that adds
    the least area-weighted padding and cropping at `resolution` is found by dynamic programming over the K-1 inner
    ends. So it is always the samples nearest to a neighbouring bucket that move.

    Args:
        grouping: sizes and buckets.
        order: int32 [n], sample ids by ascending aspect ratio.
        ends: int64 [K], ends of the buckets in `order`.
        unit: samples a whole batch (or the smallest part of one) holds.
        resolution: pixels.

    Returns:
        int64 [K], the new ends, ascending; the last is n. Buckets may become empty.
    """
    n = len(order)
    shapes = grouping.buckets.shape(np.arange(len(grouping.buckets)), resolution)
    # A state is (end, has the run with the odd samples passed?) with the cost and the ends of the best way there.
    states: list[tuple[int, bool, float, tuple[int, ...]]] = [(0, n % unit == 0, 0.0, ())]
    for bucket, end in enumerate(ends[:-1].tolist()):
        reached = []
        for passed, offset in ((False, 0), (True, n % unit)):
            floor = (end - offset) // unit * unit + offset
            for place in (floor, floor + unit):
                ways = [s for s in states if s[0] <= place and s[1] <= passed]
                if not 0 <= place <= n or not ways:
                    continue
                best = min(ways, key=lambda s: s[2])
                cost = best[2] + _move_cost(
                    grouping, order[min(place, end) : max(place, end)], shapes, bucket, place < end
                )
                reached.append((place, passed, cost, (*best[3], place)))
        states = reached
    best = min(states, key=lambda s: s[2])
    return np.array([*best[3], n], dtype=np.int64)


def _move_cost(grouping: Grouping, moved: SampleIds, shapes: npt.NDArray[np.int32], bucket: int, up: bool) -> float:
    """What it costs to move samples from `bucket` to the next (`up`), or from the next to `bucket`, in pixels."""
    if not len(moved):
        return 0.0
    size = grouping.size[moved]
    ratio = np.log(size[:, 1] / size[:, 0])
    pair = shapes[bucket : bucket + 2].astype(np.float64)
    padded, cropped = fit_loss(ratio[:, None], np.log(pair[:, 1] / pair[:, 0])[None, :], grouping.buckets.max_crop)
    lower, upper = ((padded + cropped) * pair.prod(axis=1)).sum(axis=0).tolist()
    return float(upper - lower if up else lower - upper)
