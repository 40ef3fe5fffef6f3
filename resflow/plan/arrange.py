"""In which order an epoch's samples and batches come: at random, evenly spread, in lanes, or in turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.plan.budget import Ints
from resflow.plan.order import SampleIds, permute, words


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Which part of an epoch is planned by itself, and which samples it has; by default all of a dataset's.

    Args:
        first: samples of the epoch before it.
        used: samples that the whole epoch uses; None: as many as this part.
        first_step: batches of the epoch before it.
        key: sets its random bits apart from those of other parts.
        rows: int32 [n], rows of the index that the grouping's samples stand for; None: themselves.
        group: integer [n], the samples' source; given, each source's samples come evenly spread.
        repeats: int32 [n], as in `PlannedBatch`; samples of one source come in this order.
        lane: integer [n], in [0, lanes), which part of each batch a sample should be in.
        lanes: parts that a batch is to have.
    """

    first: int = 0
    used: int | None = None
    first_step: int = 0
    key: tuple[int, ...] = ()
    rows: SampleIds | None = None
    group: npt.NDArray[np.integer] | None = None
    repeats: SampleIds | None = None
    lane: npt.NDArray[np.integer] | None = None
    lanes: int = 1


def interleave(group: npt.NDArray[np.integer], source: np.random.PCG64 | None) -> npt.NDArray[np.int64]:
    """An order in which the members of each group are spread evenly, each group's own order kept.

    Member j of a group of n is at (j + u) / n, u random in [0, 1) or, without a source of bits, 1/2. Up to any time t
    in [0, 1] a group of n has given t n members, give or take one. So of any first x in this order, a group's share
    differs from its share of the whole by less than max(1, groups - 1) members.

    Args:
        group: integer [n], the group of each member.
        source: random bits; n words are taken.

    Returns:
        int64 [n], members in that order.
    """
    n = len(group)
    by_group = np.argsort(group, kind="stable")
    _, member_of, counts = np.unique(group[by_group], return_inverse=True, return_counts=True)
    place = np.arange(n) - (np.cumsum(counts) - counts)[member_of]
    jitter = 0.5 if source is None else (words(source, n) >> np.uint64(11)) * 2.0**-53
    return by_group[np.lexsort((member_of, (place + jitter) / counts[member_of]))]


def order_runs(
    order: SampleIds, ends: Ints, source: np.random.PCG64 | None, segment: Segment, batch_size: int
) -> SampleIds:
    """Shuffle the samples of each bucket's run or, without a source of bits, sort them by id.

    Samples of several sources are spread evenly over the run, of one source by repeat. With lanes, samples come in the
    parts of batches that are theirs.
    """
    arranged = np.empty_like(order)
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        run = order[first:end]
        run = np.sort(run) if source is None else permute(run, source)
        if segment.group is not None:
            if segment.repeats is not None:
                run = run[np.argsort(segment.repeats[run], kind="stable")]
            run = run[interleave(segment.group[run], source)]
        if segment.lane is not None and batch_size:
            run = into_lanes(run, segment.lane[run], batch_size, segment.lanes)
        arranged[first:end] = run
    return arranged


def into_lanes(run: SampleIds, lane: npt.NDArray[np.integer], batch_size: int, lanes: int) -> SampleIds:
    """Rearrange a run so that part l of each whole batch holds samples of lane l, as far as each lane goes round.

    Of a lane that has more than its part of the batches, the samples that are over fill what other lanes lack.

    Args:
        run: int32 [n].
        lane: integer [n], in [0, lanes).
        batch_size: a multiple of `lanes`.
        lanes: parts of a batch.

    Returns:
        int32 [n]; what is left after whole batches stays where it is.
    """
    steps, part = len(run) // batch_size, batch_size // lanes
    whole, slots = steps * batch_size, steps * part  # slots of each lane
    by_lane = np.argsort(lane[:whole], kind="stable")
    counts = np.bincount(lane[:whole], minlength=lanes)
    lasts = np.cumsum(counts)
    slot = np.arange(whole)  # of each in the order of lanes, if it fits among those of its lane
    slot += np.repeat(np.arange(lanes) * slots - (lasts - counts), counts)
    over = np.arange(whole) >= np.repeat(lasts - counts + slots, counts)
    free = np.ones(whole, dtype=np.bool_)
    free[slot[~over]] = False
    slot[over] = np.flatnonzero(free)
    arranged = np.empty(whole, dtype=run.dtype)
    arranged[slot] = run[by_lane]
    # [lanes, steps, part] -> [steps, lanes, part]
    arranged = arranged.reshape(lanes, steps, part).swapaxes(0, 1).reshape(-1)
    return np.concatenate([arranged, run[whole:]])


def order_batches(order: SampleIds, starts: Ints, sizes: Ints, unit: int, source: np.random.PCG64 | None) -> Ints:
    """int64 [T]: batches in random order or, without a source, by first sample; the short one, if any, last."""
    key = order[starts] if source is None else source.random_raw(len(starts))
    return np.lexsort((key, sizes % unit != 0))


def order_evenly(bucket: Ints, sizes: Ints, unit: int, source: np.random.PCG64 | None) -> Ints:
    """int64 [T]: batches in an order that spreads each bucket's evenly; the short one, if any, last."""
    full = np.flatnonzero(sizes % unit == 0)
    return np.append(full[interleave(bucket[full], source)], np.flatnonzero(sizes % unit))


def order_in_turns(
    bucket: Ints, firsts: SampleIds, sizes: Ints, unit: int, ranks: int, source: np.random.PCG64 | None
) -> Ints:
    """int64 [T]: batches in an order in which `ranks` in a row are of as many buckets as can be; the short one last.

    Batches sorted by bucket are dealt out like cards: turn t of n gets numbers t, t + n, t + 2n, ... What does not
    fill a turn, every so manieth batch, comes after them.
    """
    full = np.flatnonzero(sizes % unit == 0)
    count, turns = len(full), len(full) // ranks
    key = firsts[full] if source is None else words(source, count)
    by_bucket = full[np.lexsort((key, bucket[full]))]
    over = np.diff(np.arange(count + 1) * (count - turns * ranks) // max(count, 1)) > 0
    dealt = by_bucket[~over].reshape(ranks, turns).T  # [turns, ranks]
    rest, short = by_bucket[over], np.flatnonzero(sizes % unit)
    if source is None:
        dealt = np.take_along_axis(dealt, np.argsort(firsts[dealt], axis=1), axis=1)
        dealt, rest = dealt[np.argsort(firsts[dealt[:, 0]])], rest[np.argsort(firsts[rest])]
    else:
        dealt = np.take_along_axis(dealt, np.argsort(words(source, dealt.size).reshape(dealt.shape), axis=1), axis=1)
        dealt, rest = dealt[np.argsort(words(source, turns))], rest[np.argsort(words(source, len(rest)))]
    return np.concatenate([dealt.reshape(-1), rest, short])
