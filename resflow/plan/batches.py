"""What a plan says: the global batches of an epoch, and each rank's part of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, PlanError
from resflow.plan.buckets import read_only
from resflow.plan.budget import Ints, PixelBudget
from resflow.plan.order import SampleIds
from resflow.plan.world import World


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """One rank's part of one global batch.

    Args:
        epoch: at least 0.
        step: place of the batch in its epoch, at least 0.
        sample_ids: int64 [B], rows of the index; empty if the global batch has fewer samples than there are ranks.
        shape: height and width in pixels.
        resolution: pixels.
        seed: the run's seed, in [0, 2**64). Draws for a sample come from (seed, epoch, sample id), draws for a
            batch from (seed, epoch, step).
    """

    epoch: int
    step: int
    sample_ids: npt.NDArray[np.int64]
    shape: tuple[int, int]
    resolution: int
    seed: int

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """All global batches of one epoch, in order.

    Args:
        epoch: at least 0.
        seed: the run's seed, in [0, 2**64).
        sample_ids: int32 [S], rows of the index, batch after batch.
        offsets: int64 [T+1], where each batch begins in `sample_ids`, and S.
        shapes: int32 [T, 2], height and width of each batch in pixels.
        resolutions: int32 [T], pixels.
        batch_size: samples of a global batch, or the pixel budget.
        world_size: ranks the plan was made for; with a whole-number batch size it serves any number that divides
            it.

    Raises:
        ConfigError: arrays that do not belong together.
    """

    epoch: int
    seed: int
    sample_ids: SampleIds
    offsets: Ints
    shapes: npt.NDArray[np.int32]
    resolutions: npt.NDArray[np.int32]
    batch_size: int | PixelBudget
    world_size: int = 1

    def __post_init__(self) -> None:
        steps = len(self.resolutions)
        expected = {
            "sample_ids": (np.int32, (len(self.sample_ids),)),
            "offsets": (np.int64, (steps + 1,)),
            "shapes": (np.int32, (steps, 2)),
            "resolutions": (np.int32, (steps,)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ConfigError(
                    f"EpochPlan.{name} must be {np.dtype(dtype)} {list(shape)}; got {array.dtype} {list(array.shape)}"
                )
            object.__setattr__(self, name, read_only(array))
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.sample_ids) or (np.diff(self.offsets) < 1).any():
            raise ConfigError(f"EpochPlan.offsets must rise from 0 to {len(self.sample_ids)}, batch by batch")

    def __len__(self) -> int:
        return len(self.resolutions)

    def rank(self, world: World, *, even: bool = False) -> RankPlan:
        """One rank's part of each batch.

        Args:
            world: the rank.
            even: whether the short batch is filled up (see `RankPlan`).

        Returns:
            As many batches as the plan has, of the same shapes.

        Raises:
            PlanError: the plan cannot be divided among so many ranks.
        """
        return RankPlan(self, world, even)


@dataclass(frozen=True, slots=True, eq=False)
class RankPlan:
    """One rank's part of an epoch: a contiguous part of each global batch, even among the ranks to within one sample.

    Args:
        plan: the epoch's plan.
        world: the rank.
        even: repeat samples at the end of a short batch until every rank has equally many, for trainers that gather
            what the ranks computed and then cut off what was repeated.

    Raises:
        PlanError: the plan cannot be divided among so many ranks.
    """

    plan: EpochPlan
    world: World
    even: bool = False

    def __post_init__(self) -> None:
        check_world(self.plan.batch_size, self.world.size)
        if isinstance(self.plan.batch_size, PixelBudget) and self.plan.world_size != self.world.size:
            raise PlanError(
                f"with a pixel budget, batches depend on the number of ranks: this epoch was planned for world size "
                f"{self.plan.world_size}; got {self.world.size}. Plan it with world_size={self.world.size}."
            )

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[PlannedBatch]:
        return (self.batch(step) for step in range(len(self)))

    def batch(self, step: int) -> PlannedBatch:
        """This rank's part of the batch at a step; any step, in any order.

        Args:
            step: in [0, len).

        Returns:
            The planned batch.

        Raises:
            PlanError: there is no such step.
        """
        plan = self.plan
        if not 0 <= step < len(plan):
            raise PlanError(f"epoch {plan.epoch} has steps 0 to {len(plan) - 1}; got step {step}")
        first, end = int(plan.offsets[step]), int(plan.offsets[step + 1])
        ids, rank, ranks = plan.sample_ids[first:end], self.world.rank, self.world.size
        if self.even:
            ids = np.resize(ids, -(-len(ids) // ranks) * ranks)
        ids = ids[len(ids) * rank // ranks : len(ids) * (rank + 1) // ranks]
        height, width = plan.shapes[step].tolist()
        return PlannedBatch(
            plan.epoch, step, ids.astype(np.int64), (height, width), int(plan.resolutions[step]), plan.seed
        )


def check_world(batch_size: int | PixelBudget, world_size: int) -> None:
    """Refuse a whole-number batch size that does not divide evenly among the ranks.

    Args:
        batch_size: samples of a global batch, or a pixel budget.
        world_size: ranks.

    Raises:
        ConfigError: either is not at least 1.
        PlanError: the batch size is not a multiple of the world size.
    """
    if world_size < 1:
        raise ConfigError(f"world_size must be at least 1; got {world_size}")
    if isinstance(batch_size, PixelBudget):
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of at least 1 or a PixelBudget; got {batch_size!r}")
    if batch_size % world_size:
        above = -(-batch_size // world_size) * world_size
        raise PlanError(
            f"the global batch size must be a multiple of the world size; got batch size {batch_size} "
            f"over {world_size} ranks. Use {above}."
        )
