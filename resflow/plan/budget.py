"""Pixel budgets: more images a batch when they are small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.checks import check_whole
from resflow.errors import ConfigError, PlanError
from resflow.plan.buckets import Buckets

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """Pixels that a rank's part of a batch may hold; stands wherever a batch size does.

    A rank's batch of shape (H, W) holds at most `limit((H, W))` images: pixels // (H W), at most `max_batch`,
    rounded down to `multiple_of`. In each epoch, samples are counted in units of multiple_of x world size; buckets
    hold whole units (leftovers move to the neighbour), except that one takes the odd samples, fewer than a unit.
    While the resolution stays the same, a bucket of n samples gives ceil(n / limit) batches whose sizes differ by
    at most one unit. While it changes, each batch is as large as ceil(rest of the bucket / ceil(rest / limit)) in
    units, at the resolution it begins at. With odd samples, the batch that has them is the last of the epoch; all
    others divide evenly among the ranks. `drop_last` leaves the odd samples out.

    Args:
        pixels: pixels of all images of a rank's batch, at least 1.
        max_batch: images in a rank's batch at most; None: no limit but the budget.
        multiple_of: a rank's batches hold multiples of this many images.

    Raises:
        ConfigError: a number is out of range.
    """

    pixels: int
    max_batch: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name in ("pixels", "max_batch", "multiple_of"):
            value = getattr(self, name)
            if value is None and name == "max_batch":
                continue
            object.__setattr__(self, name, check_whole(f"PixelBudget.{name}", value))
        if self.max_batch is not None and self.max_batch < self.multiple_of:
            raise ConfigError(
                f"PixelBudget.max_batch must be at least multiple_of; got {self.max_batch} and {self.multiple_of}"
            )

    def limit(self, shape: tuple[int, int]) -> int:
        """Images of a shape that a rank's batch holds at most.

        Args:
            shape: height and width in pixels.

        Returns:
            A multiple of `multiple_of`, at least that.

        Raises:
            PlanError: not even `multiple_of` images fit.
        """
        area = shape[0] * shape[1]
        images = self.pixels // area
        if self.max_batch is not None:
            images = min(images, self.max_batch)
        if images < self.multiple_of:
            raise PlanError(
                f"a budget of {self.pixels} pixels does not hold {self.multiple_of} image(s) "
                f"of shape {shape[0]}x{shape[1]}, {self.multiple_of * area} pixels. Raise PixelBudget.pixels or lower "
                "the resolution."
            )
        return images // self.multiple_of * self.multiple_of


def cut_level(counts: Ints, limits: Ints, unit: int) -> tuple[Ints, Ints]:
    """Cut each bucket into the fewest nearly equal batches, at a resolution that stays the same.

    Args:
        counts: int64 [K], samples of each bucket; at most one is not a multiple of `unit`.
        limits: int64 [K], most samples of a global batch, multiples of `unit`.
        unit: samples.

    Returns:
        (bucket, batch size), int64 [T] each, bucket by bucket; a bucket's odd samples are in its last batch.
    """
    batches = -(-counts // limits)
    bucket = np.repeat(np.arange(len(counts)), batches)
    place = np.arange(len(bucket)) - np.repeat(np.cumsum(batches) - batches, batches)  # within the bucket
    units = -(-counts // unit)
    sizes = (units[bucket] // batches[bucket] + (place >= batches[bucket] - units[bucket] % batches[bucket])) * unit
    lasts = np.cumsum(batches)[counts > 0] - 1
    sizes[lasts] -= (units * unit - counts)[counts > 0]
    return bucket, sizes


def cut_changing(
    counts: Ints,
    levels: npt.NDArray[np.int32],
    budget: PixelBudget,
    buckets: Buckets,
    world_size: int,
    source: np.random.PCG64 | None,
) -> tuple[Ints, Ints]:
    """Cut buckets into batches while the resolution changes, walking through the epoch.

    At each step a bucket is chosen, at random in proportion to the samples it still has or, without a source, the
    one with the smallest share of its samples used.

    Args:
        counts: int64 [K], samples of each bucket; at most one is not a multiple of the unit.
        levels: int32 [units], the resolution after each whole unit of the epoch.
        budget: the budget.
        buckets: the buckets.
        world_size: ranks.
        source: random bits.

    Returns:
        (bucket, batch size), int64 [T] each, in the order of the steps.
    """
    unit = budget.multiple_of * world_size
    rest, total = counts.tolist(), int(counts.sum())
    odd = int(np.argmax(counts % unit)) if (counts % unit).any() else -1
    limits = {
        level: [budget.limit(buckets.shape(k, level)) * world_size for k in range(len(buckets))]
        for level in np.unique(levels).tolist()
    }
    chosen, sizes, used = [], [], 0
    while used < total:
        limit = limits[int(levels[used // unit])]
        open_ = [left if k != odd or left > limit[k] else 0 for k, left in enumerate(rest)]
        if not any(open_):
            open_ = rest  # only the last batch of the bucket with the odd samples is left
        if source is None:
            k = min((k for k, left in enumerate(open_) if left), key=lambda k: (1.0 - rest[k] / counts[k], k))
        else:
            draw, k = int(source.random_raw()) % sum(open_), 0
            while draw >= open_[k]:
                draw, k = draw - open_[k], k + 1
        units, batches = -(-rest[k] // unit), -(-rest[k] // limit[k])
        size = min(-(-units // batches) * unit, rest[k])
        chosen.append(k)
        sizes.append(size)
        rest[k] -= size
        used += size
    return np.array(chosen, dtype=np.int64), np.array(sizes, dtype=np.int64)
