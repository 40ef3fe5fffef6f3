"""An epoch's plan: which samples form which batch at which shape, for all ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resflow.checks import whole
from resflow.errors import ConfigError, PlanError
from resflow.plan.arrange import Segment, order_batches, order_evenly, order_in_turns, order_runs
from resflow.plan.batches import EpochPlan, check_world
from resflow.plan.buckets import Buckets
from resflow.plan.budget import Ints, PixelBudget, cut_changing, cut_level
from resflow.plan.order import Grouping, SampleIds, bits, leave_out, run_ends
from resflow.plan.schedule import Schedule

_SAMPLES, _BATCHES, _DROPPED, _WALK = range(4)  # purposes of random bits
_BLOCK = 1 << 18  # positions a schedule is asked for at a time


_ALL = Segment()


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
    decorrelate: bool = False,
    segment: Segment = _ALL,
) -> EpochPlan:
    """Decide all batches of one epoch: a pure function of its arguments.

    Every sample is used once; with `drop_last` fewer than one global batch are left out (random ones if shuffled,
    else the last of the dataset), and then no batch is short; otherwise at most one is, the last. Samples that do
    not fill a batch of their bucket move to a neighbouring bucket (`run_ends`), in each epoch those nearest to it
    in aspect ratio. Shuffled, samples are in random order within their bucket, batches in random order over all.
    Not shuffled, samples are in dataset order within their bucket, batches in order of their first samples. The
    resolution of a batch is schedule(epoch * S + samples before it in the epoch), where S is the number of samples
    an epoch uses. With a whole-number batch size the plan does not depend on the world size.

    Decorrelated, W = `world_size` batches in a row come from as many buckets as the counts allow: of n batches, a
    bucket with c of them has floor or ceil of c W / n, give or take one. Then the order depends on the world size.
    (With a pixel budget while the resolution changes, and with several sources, the order is as otherwise.)

    Args:
        grouping: sizes, buckets and order (`group_samples`).
        schedule: resolution by progress.
        batch_size: samples of a GLOBAL batch, over all ranks; or a pixel budget per rank.
        seed: the run's seed, in [0, 2**64).
        epoch: at least 0.
        shuffle: whether samples and batches come in random order.
        drop_last: whether to leave out samples rather than have a short batch.
        world_size: ranks.
        decorrelate: whether the ranks take turns (see `RankPlan`).
        segment: the part of the epoch that the grouping's samples make up.

    Returns:
        The plan.

    Raises:
        ConfigError: an argument is out of range.
        PlanError: the batch size does not suit the dataset or the world, a budget is too small for one image, or
            the buckets lack a resolution of the schedule.
    """
    check_seed(seed, epoch)
    used, unit = batches_of(len(grouping), batch_size, drop_last, world_size)
    counts, levels, order, ends = _divide(
        grouping, schedule, batch_size, used, unit, drop_last, seed, epoch, shuffle, segment
    )

    def random(purpose: int) -> np.random.PCG64 | None:
        return bits(seed, epoch, purpose, *segment.key) if shuffle else None

    mixed = segment.group is not None
    bucket, sizes, in_order = _cut(
        grouping.buckets, counts, levels, batch_size, unit, None if mixed else random(_WALK), mixed
    )
    order = order_runs(order, ends, random(_SAMPLES), segment, 0 if isinstance(batch_size, PixelBudget) else unit)

    # [T]: where each batch begins in `order`; batches of one bucket follow one another there
    by_bucket = np.argsort(bucket, kind="stable")
    starts = np.empty(len(sizes), dtype=np.int64)
    starts[by_bucket] = np.cumsum(sizes[by_bucket]) - sizes[by_bucket]
    if not in_order:
        source = random(_BATCHES)
        if mixed:
            step = order_evenly(bucket, sizes, unit, source)
        elif decorrelate:
            step = order_in_turns(bucket, order[starts], sizes, unit, world_size, source)
        else:
            step = order_batches(order, starts, sizes, unit, source)
        bucket, starts, sizes = bucket[step], starts[step], sizes[step]
    offsets = np.append(0, np.cumsum(sizes))
    place = np.repeat((starts - offsets[:-1]).astype(np.int32), sizes)
    place += np.arange(used, dtype=np.int32)
    total = segment.used or used
    resolutions = schedule(epoch * total + segment.first + offsets[:-1], total, seed)
    chosen = order[place]
    return EpochPlan(
        epoch=epoch,
        seed=seed,
        sample_ids=chosen if segment.rows is None else segment.rows[chosen],
        offsets=offsets,
        shapes=grouping.buckets.shape(bucket, resolutions),
        resolutions=resolutions,
        batch_size=batch_size,
        world_size=world_size,
        decorrelate=decorrelate,
        first_step=segment.first_step,
        repeats=None if segment.repeats is None else segment.repeats[chosen],
    )


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
    decorrelate: bool = False,
    segment: Segment = _ALL,
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
        decorrelate: as for `plan_epoch`; makes no difference here.
        segment: as for `plan_epoch`.

    Returns:
        Batches of the epoch, the same on every rank.

    Raises:
        ConfigError: as `plan_epoch`.
        PlanError: as `plan_epoch`.
    """
    check_seed(seed, epoch)
    used, unit = batches_of(len(grouping), batch_size, drop_last, world_size)
    if not isinstance(batch_size, PixelBudget):
        return -(-used // unit)
    counts, levels, _, _ = _divide(grouping, schedule, batch_size, used, unit, drop_last, seed, epoch, shuffle, segment)
    mixed = segment.group is not None
    walk = bits(seed, epoch, _WALK, *segment.key) if shuffle and not mixed else None
    return len(_cut(grouping.buckets, counts, levels, batch_size, unit, walk, mixed)[0])


def check_seed(seed: int, epoch: int) -> None:
    """Refuse a seed or epoch out of range with a ConfigError."""
    if whole(seed, 0, (1 << 64) - 1) is None:
        raise ConfigError(f"seed must be a whole number in [0, 2**64); got {seed!r}")
    if epoch < 0:
        raise ConfigError(f"epoch must be at least 0; got {epoch}")


def checked_epoch(epoch: object) -> int:
    """The number of an epoch; ConfigError unless it is a whole number of at least 0."""
    if (number := whole(epoch, 0)) is None:
        raise ConfigError(f"epoch must be a whole number of at least 0; got {epoch!r}")
    return number


def batches_of(n: int, batch_size: int | PixelBudget, drop_last: bool, world_size: int) -> tuple[int, int]:
    """Samples that n samples' batches use, and the unit that sizes of full batches are multiples of."""
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


def _divide(
    grouping: Grouping,
    schedule: Schedule,
    batch_size: int | PixelBudget,
    used: int,
    unit: int,
    drop_last: bool,
    seed: int,
    epoch: int,
    shuffle: bool,
    segment: Segment,
) -> tuple[Ints, npt.NDArray[np.int32], SampleIds, Ints]:
    """Samples of each bucket, resolutions, samples by ratio, and where each bucket's run of them ends."""
    gone = bits(seed, epoch, _DROPPED, *segment.key) if shuffle else None
    order, ends = leave_out(grouping, len(grouping) - used, gone)
    total = segment.used or used
    levels = _levels(schedule, batch_size, epoch * total + segment.first, used, total, unit, seed)
    ends = run_ends(grouping, order, ends, unit, int(levels[0]))
    return np.diff(ends, prepend=0), levels, order, ends


def _levels(
    schedule: Schedule, batch_size: int | PixelBudget, first: int, used: int, total: int, unit: int, seed: int
) -> npt.NDArray[np.int32]:
    """The resolution after `first` samples; with a budget, after each unit of the `used` samples from there on."""
    if not isinstance(batch_size, PixelBudget):
        return schedule(np.array([first]), total, seed)
    blocks = range(0, used, _BLOCK * unit)  # to spare memory
    positions = (np.arange(block, min(block + _BLOCK * unit, used), unit) for block in blocks)
    return np.concatenate([schedule(first + position, total, seed) for position in positions])


def _cut(
    buckets: Buckets,
    counts: Ints,
    levels: npt.NDArray[np.int32],
    batch_size: int | PixelBudget,
    unit: int,
    walk: np.random.PCG64 | None,
    evenly: bool,
) -> tuple[Ints, Ints, bool]:
    """Bucket and size of each batch, and whether they are in the order of the steps."""
    if not isinstance(batch_size, PixelBudget):
        return *cut_level(counts, np.full(len(counts), unit), unit), False
    ranks = unit // batch_size.multiple_of
    if (levels == levels[0]).all() and not evenly:
        shapes = [buckets.shape(bucket, int(levels[0])) for bucket in range(len(buckets))]
        limits = np.array([batch_size.limit(shape) * ranks for shape in shapes])
        return *cut_level(counts, limits, unit), False
    return *cut_changing(counts, levels, batch_size, buckets, ranks, walk), True
