"""What a plan says: the global batches of an epoch, and each rank's part of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from resflow.checks import is_whole
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
        sample_ids: int64 [B], rows of the index.
        shape: height and width in pixels.
        resolution: pixels.
        seed: the run's seed, in [0, 2**64). Draws for a sample come from (seed, epoch, draw id), draws for a
            batch from (seed, epoch, step).
        repeats: int64 [B], how often each sample was used before in this epoch, as far as its source repeats within
            an epoch (`Mixture`); None: never.
    """

    epoch: int
    step: int
    sample_ids: npt.NDArray[np.int64]
    shape: tuple[int, int]
    resolution: int
    seed: int
    repeats: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def draw_ids(self) -> npt.NDArray[np.int64]:
        """int64 [B]: the sample ids, but another number for each repeat, so that views are drawn anew for it."""
        return self.sample_ids if self.repeats is None else self.sample_ids | self.repeats << 32


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """All global batches of one epoch, or of one block of it, in order.

    Args:
        epoch: at least 0.
        seed: the run's seed, in [0, 2**64).
        sample_ids: int32 [S], rows of the index, batch after batch.
        offsets: int64 [T+1], where each batch begins in `sample_ids`, and S.
        shapes: int32 [T, 2], height and width of each batch in pixels.
        resolutions: int32 [T], pixels.
        batch_size: samples of a global batch, or the pixel budget.
        world_size: ranks the plan was made for; with a whole-number batch size it serves any number that divides
            it, unless it is decorrelated.
        decorrelate: whether ranks take their parts of consecutive batches in turn (see `RankPlan`).
        first_step: place of the first batch in its epoch.
        repeats: int32 [S], as in `PlannedBatch`; None where no sample is used twice.

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
    decorrelate: bool = False
    first_step: int = 0
    repeats: SampleIds | None = None

    def __post_init__(self) -> None:
        steps = len(self.resolutions)
        expected = {
            "sample_ids": (np.int32, (len(self.sample_ids),)),
            "offsets": (np.int64, (steps + 1,)),
            "shapes": (np.int32, (steps, 2)),
            "resolutions": (np.int32, (steps,)),
        }
        if self.repeats is not None:
            expected["repeats"] = (np.int32, (len(self.sample_ids),))
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

    def locate(self, step: int) -> tuple[EpochPlan, int]:
        """The plan that holds a step, which is this one, and the batch's place in it."""
        return self, step - self.first_step

    def turns(self, place: int) -> tuple[int, int]:
        """Which batches ranks take in turn.

        Args:
            place: of a batch in this plan.

        Returns:
            (first, end) of the batches that `place` is among; where ranks do not take turns, of itself alone.
        """
        if not self.decorrelate:
            return place, place + 1
        unit = self.batch_size
        unit = unit.multiple_of * self.world_size if isinstance(unit, PixelBudget) else unit
        full = len(self) - bool((self.offsets[-1] - self.offsets[-2]) % unit)  # the short batch stays by itself
        if place >= full:
            return place, place + 1
        first = place // self.world_size * self.world_size
        return first, min(first + self.world_size, full)

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


class Steps(Protocol):
    """Global batches that are divided among ranks: an `EpochPlan`, or an epoch planned block by block."""

    @property
    def epoch(self) -> int:
        """The epoch."""

    @property
    def batch_size(self) -> int | PixelBudget:
        """Samples of a global batch, or the pixel budget."""

    @property
    def world_size(self) -> int:
        """Ranks the plan was made for."""

    @property
    def decorrelate(self) -> bool:
        """Whether ranks take turns."""

    def __len__(self) -> int: ...

    def locate(self, step: int) -> tuple[EpochPlan, int]:
        """The plan that holds a step of the epoch, and the batch's place in it."""


@dataclass(frozen=True, slots=True, eq=False)
class RankPlan:
    """One rank's part of an epoch: a contiguous part of each global batch, even among the ranks to within one sample.

    At each step all ranks have the same shape. In a decorrelated plan the ranks take turns instead: of W batches in a
    row, rank r takes its part of number (step + r) mod W, so that at each step the ranks have parts of W different
    batches, and after W steps the same samples were used as otherwise. Fewer than W batches at the end of a plan or
    block go round in the same way, a short batch is divided as ever. No rank is left without a sample: where a batch
    has fewer samples than there are ranks, they are repeated until each rank has one.

    Args:
        plan: the epoch's plan.
        world: the rank.
        even: repeat samples at the end of a short batch until every rank has equally many, for trainers that gather
            what the ranks computed and then cut off what was repeated.

    Raises:
        PlanError: the plan cannot be divided among so many ranks.
    """

    plan: Steps
    world: World
    even: bool = False

    def __post_init__(self) -> None:
        plan = self.plan
        check_world(plan.batch_size, self.world.size)
        why = "with a pixel budget, batches depend" if isinstance(plan.batch_size, PixelBudget) else ""
        why = why or ("decorrelated, batches depend" if plan.decorrelate else "")
        if why and plan.world_size != self.world.size:
            raise PlanError(
                f"{why} on the number of ranks: this epoch was planned for world size "
                f"{plan.world_size}; got {self.world.size}. Plan it with world_size={self.world.size}."
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
        if not 0 <= step < len(self.plan):
            raise PlanError(f"epoch {self.plan.epoch} has steps 0 to {len(self.plan) - 1}; got step {step}")
        plan, place = self.plan.locate(step)
        rank, ranks = self.world.rank, self.world.size
        first, end = plan.turns(place)
        place = first + (place - first + rank) % (end - first)
        members = np.arange(plan.offsets[place], plan.offsets[place + 1])
        few = len(members) < ranks
        if few and rank == 0 and not self.even:
            warnings.warn(
                f"the short batch of an epoch has {len(members)} sample(s) for {ranks} ranks: samples of it are "
                "repeated, so that every rank has one. drop_last=True leaves them out; another batch size may avoid "
                "it.",
                stacklevel=2,
            )
        if self.even or few:
            members = np.resize(members, -(-len(members) // ranks) * ranks)
        members = members[len(members) * rank // ranks : len(members) * (rank + 1) // ranks]
        height, width = plan.shapes[place].tolist()
        return PlannedBatch(
            plan.epoch,
            step,
            plan.sample_ids[members].astype(np.int64),
            (height, width),
            int(plan.resolutions[place]),
            plan.seed,
            None if plan.repeats is None else plan.repeats[members].astype(np.int64),
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
    if not is_whole(batch_size):
        raise ConfigError(f"batch_size must be a whole number of at least 1 or a PixelBudget; got {batch_size!r}")
    if batch_size % world_size:
        above = -(-batch_size // world_size) * world_size
        raise PlanError(
            f"the global batch size must be a multiple of the world size; got batch size {batch_size} "
            f"over {world_size} ranks. Use {above}."
        )
