"""An epoch's plan: which samples form which batch at which shape, for all ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, PlanError
from resflow.plan.batches import EpochPlan, check_world
from resflow.plan.buckets import Buckets
from resflow.plan.budget import Ints, PixelBudget, cut_changing, cut_level
from resflow.plan.order import Grouping, SampleIds, bits, leave_out, permute, run_ends
from resflow.plan.schedule import Schedule

_SAMPLES, _BATCHES, _DROPPED, _WALK = range(4)  # purposes of random bits
_BLOCK = 1 << 18  # positions a schedule is asked for at a time


def plan_epoch(
    grouping: Grouping,
    schedule: Schedule,
    *,
    batch_size: int | PixelBudget,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    world_size: int = 1,
) -> EpochPlan:
    """Decide all batches of one epoch: a pure function of its arguments.

    Every sample is used once; with `drop_last` fewer than one global batch are left out (random ones if shuffled,
    else the last of the dataset), and then no batch is short; otherwise at most one is, the last. Samples that do
    not fill a batch of their bucket move to a neighbouring bucket (`run_ends`), in each epoch those nearest to it
    in aspect ratio. Shuffled, samples are in random order within their bucket, batches in random order over all.
    Not shuffled, samples are in dataset order within their bucket, batches in order of their first samples. The
    resolution of a batch is schedule(epoch * S + samples before it in the epoch), where S is the number of samples
    an epoch uses. With a whole-number batch size the plan does not depend on the world size.

    Args:
        grouping: sizes, buckets and order (`group_samples`).
        schedule: resolution by progress.
        batch_size: samples of a GLOBAL batch, over all ranks; or a pixel budget per rank.
        seed: the run's seed, in [0, 2**64).
        epoch: at least 0.
        shuffle: whether samples and batches come in random order.
        drop_last: whether to leave out samples rather than have a short batch.
        world_size: ranks.

    Returns:
        The plan.

    Raises:
        ConfigError: an argument is out of range.
        PlanError: the batch size does not suit the dataset or the world, a budget is too small for one image, or
            the buckets lack a resolution of the schedule.
    """
    _check(seed, epoch)
    used, unit = _used(len(grouping), batch_size, drop_last, world_size)
    order, ends = leave_out(grouping, len(grouping) - used, bits(seed, epoch, _DROPPED) if shuffle else None)
    levels = _levels(schedule, batch_size, used, unit, seed, epoch)
    ends = run_ends(grouping, order, ends, unit, int(levels[0]))
    counts, walk = np.diff(ends, prepend=0), bits(seed, epoch, _WALK) if shuffle else None
    bucket, sizes, in_order = _cut(grouping.buckets, counts, levels, batch_size, unit, walk)
    order = _order_runs(order, ends, bits(seed, epoch, _SAMPLES) if shuffle else None)

    # [T]: where each batch begins in `order`; batches of one bucket follow one another there
    by_bucket = np.argsort(bucket, kind="stable")
    starts = np.empty(len(sizes), dtype=np.int64)
    starts[by_bucket] = np.cumsum(sizes[by_bucket]) - sizes[by_bucket]
    if not in_order:
        step = _order_batches(order, starts, sizes, unit, bits(seed, epoch, _BATCHES) if shuffle else None)
        bucket, starts, sizes = bucket[step], starts[step], sizes[step]
    offsets = np.append(0, np.cumsum(sizes))
    place = np.repeat((starts - offsets[:-1]).astype(np.int32), sizes)
    place += np.arange(used, dtype=np.int32)
    resolutions = schedule(epoch * used + offsets[:-1], used, seed)
    shapes = grouping.buckets.shape(bucket, resolutions)
    return EpochPlan(epoch, seed, order[place], offsets, shapes, resolutions, batch_size, world_size)


def epoch_length(
    grouping: Grouping,
    schedule: Schedule,
    *,
    batch_size: int | PixelBudget,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    world_size: int = 1,
) -> int:
    """Number of batches `plan_epoch` makes of the same arguments, without planning.

    With a whole-number batch size that is samples / batch_size, rounded up, or down with `drop_last`. With a pixel
    budget the samples of each bucket are counted and cut, but not ordered.

    Args:
        grouping: as for `plan_epoch`.
        schedule: as for `plan_epoch`.
        batch_size: as for `plan_epoch`.
        seed: as for `plan_epoch`.
        epoch: as for `plan_epoch`.
        shuffle: as for `plan_epoch`.
        drop_last: as for `plan_epoch`.
        world_size: as for `plan_epoch`.

    Returns:
        Batches of the epoch, the same on every rank.

    Raises:
        ConfigError: as `plan_epoch`.
        PlanError: as `plan_epoch`.
    """
    _check(seed, epoch)
    used, unit = _used(len(grouping), batch_size, drop_last, world_size)
    if not isinstance(batch_size, PixelBudget):
        return -(-used // unit)
    order, ends = leave_out(grouping, len(grouping) - used, bits(seed, epoch, _DROPPED) if shuffle else None)
    levels = _levels(schedule, batch_size, used, unit, seed, epoch)
    ends = run_ends(grouping, order, ends, unit, int(levels[0]))
    counts, walk = np.diff(ends, prepend=0), bits(seed, epoch, _WALK) if shuffle else None
    return len(_cut(grouping.buckets, counts, levels, batch_size, unit, walk)[0])


def _check(seed: int, epoch: int) -> None:
    """Refuse a seed or epoch out of range."""
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed must be a whole number in [0, 2**64); got {seed!r}")
    if epoch < 0:
        raise ConfigError(f"epoch must be at least 0; got {epoch}")


def _used(n: int, batch_size: int | PixelBudget, drop_last: bool, world_size: int) -> tuple[int, int]:
    """Samples the epoch uses, and the unit that sizes of full batches are multiples of."""
    check_world(batch_size, world_size)
    budget = isinstance(batch_size, PixelBudget)
    unit = batch_size.multiple_of * world_size if isinstance(batch_size, PixelBudget) else int(batch_size)
    if not drop_last:
        return n, unit
    if n < unit:
        what = "multiple_of times the world size" if budget else "the global batch size"
        raise PlanError(
            f"with drop_last no batch is left: {what} is {unit} and the dataset has {n} sample(s). "
            f"Use at most {n}, or drop_last=False."
        )
    return n // unit * unit, unit


def _levels(
    schedule: Schedule, batch_size: int | PixelBudget, used: int, unit: int, seed: int, epoch: int
) -> npt.NDArray[np.int32]:
    """The resolution at the start of an epoch of `used` samples; with a budget, after each unit of it."""
    first = epoch * used
    if not isinstance(batch_size, PixelBudget):
        return schedule(np.array([first]), used, seed)
    blocks = range(0, used, _BLOCK * unit)  # to spare memory
    positions = (np.arange(block, min(block + _BLOCK * unit, used), unit) for block in blocks)
    return np.concatenate([schedule(first + position, used, seed) for position in positions])


def _cut(
    buckets: Buckets,
    counts: Ints,
    levels: npt.NDArray[np.int32],
    batch_size: int | PixelBudget,
    unit: int,
    walk: np.random.PCG64 | None,
) -> tuple[Ints, Ints, bool]:
    """Bucket and size of each batch, and whether they are in the order of the steps."""
    if not isinstance(batch_size, PixelBudget):
        return *cut_level(counts, np.full(len(counts), unit), unit), False
    ranks = unit // batch_size.multiple_of
    if (levels == levels[0]).all():
        shapes = [buckets.shape(bucket, int(levels[0])) for bucket in range(len(buckets))]
        limits = np.array([batch_size.limit(shape) * ranks for shape in shapes])
        return *cut_level(counts, limits, unit), False
    return *cut_changing(counts, levels, batch_size, buckets, ranks, walk), True


def _order_runs(order: SampleIds, ends: Ints, source: np.random.PCG64 | None) -> SampleIds:
    """Shuffle the samples of each bucket's run or, without a source of bits, sort them by id."""
    arranged = np.empty_like(order)
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        run = order[first:end]
        arranged[first:end] = np.sort(run) if source is None else permute(run, source)
    return arranged


def _order_batches(order: SampleIds, starts: Ints, sizes: Ints, unit: int, source: np.random.PCG64 | None) -> Ints:
    """int64 [T]: batches in random order or, without a source, by first sample; the short one, if any, last."""
    key = order[starts] if source is None else source.random_raw(len(starts))
    return np.lexsort((key, sizes % unit != 0))
