"""An epoch planned block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from resflow.plan.batches import EpochPlan, RankPlan
from resflow.plan.budget import PixelBudget
from resflow.plan.epoch import batches_of, check_seed, epoch_length, plan_epoch
from resflow.plan.layout import Layout
from resflow.plan.schedule import Schedule
from resflow.plan.world import World

_Decided = TypeVar("_Decided")


class BlockPlan:
    """All global batches of one epoch, planned block by block as they are asked for; one block is kept at a time.

    Blocks are of as many whole global batches as they hold, so no batch is short for their sake: as in `plan_epoch`, at
    most one of the epoch is, the last, and with `drop_last` fewer than one global batch are left out, of the last
    block. Of what a block holds see `layout`. An epoch of one block is what `plan_epoch` makes of it.

    With a whole-number batch size the place of each block follows from arithmetic. With a `PixelBudget` the number of
    batches in a block follows from its samples, so that the blocks are counted, one by one, when the length or a step
    beyond the first block is asked for.

    Args:
        layout: the dataset.
        schedule: resolution by progress.
        batch_size: samples of a global batch, or a pixel budget for each rank.
        seed: as for `plan_epoch`.
        epoch: as for `plan_epoch`.
        shuffle: as for `plan_epoch`.
        drop_last: as for `plan_epoch`.
        world_size: as for `plan_epoch`.
        decorrelate: as for `plan_epoch`.

    Raises:
        ConfigError: as `plan_epoch`.
        PlanError: as `plan_epoch`.
    """

    def __init__(
        self,
        layout: Layout,
        schedule: Schedule,
        *,
        batch_size: int | PixelBudget,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        world_size: int = 1,
        decorrelate: bool = False,
    ) -> None:
        check_seed(seed, epoch)
        self.epoch, self.batch_size, self.world_size, self.decorrelate = epoch, batch_size, world_size, decorrelate
        self._layout, self._schedule = layout, schedule
        self._seed, self._shuffle, self._drop_last = seed, shuffle, drop_last
        n = len(layout)
        self._used, unit = batches_of(n, batch_size, drop_last, world_size)
        whole = n if n <= layout.block else max(layout.block // unit, 1) * unit
        self._starts = [*range(0, self._used, whole), n]  # samples before each block
        self._steps = [0]  # batches before each block, as far as they are known
        if not isinstance(batch_size, PixelBudget):
            self._steps = [*(start // unit for start in self._starts[:-1]), -(-self._used // unit)]
        self._kept: tuple[int, EpochPlan] | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._starts) - 1

    def __len__(self) -> int:
        self._count(self.blocks)
        return self._steps[-1]

    def block(self, number: int) -> EpochPlan:
        """The batches of one block; their steps go on from those of the block before.

        Args:
            number: in [0, blocks).
        """
        kept = self._kept
        if kept is None or kept[0] != number:
            kept = self._kept = None  # not two at a time
            kept = self._kept = number, self._planned(number)
        return kept[1]

    def locate(self, step: int) -> tuple[EpochPlan, int]:
        """The block that holds a step of the epoch, planned, and the batch's place in it."""
        while len(self._steps) <= self.blocks and self._steps[-1] <= step:
            self._count(len(self._steps))
        number = min(int(np.searchsorted(self._steps, step, side="right")), self.blocks) - 1
        return self.block(number), step - self._steps[number]

    def rank(self, world: World, *, even: bool = False) -> RankPlan:
        """One rank's part of each batch (see `EpochPlan.rank`)."""
        return RankPlan(self, world, even)

    def whole(self) -> EpochPlan:
        """The batches of all blocks as one plan, which takes memory for all samples; ranks do not take turns in it."""
        if self.blocks == 1:
            return self.block(0)
        plans = [self._planned(number) for number in range(self.blocks)]
        samples = np.cumsum([0, *(len(plan.sample_ids) for plan in plans)])
        offsets = [plan.offsets[:-1] + before for plan, before in zip(plans, samples, strict=False)]
        mixed = [np.zeros(len(p.sample_ids), np.int32) if p.repeats is None else p.repeats for p in plans]
        return replace(
            plans[0],
            sample_ids=np.concatenate([plan.sample_ids for plan in plans]),
            offsets=np.append(np.concatenate(offsets), samples[-1]),
            shapes=np.concatenate([plan.shapes for plan in plans]),
            resolutions=np.concatenate([plan.resolutions for plan in plans]),
            repeats=np.concatenate(mixed) if any(plan.repeats is not None for plan in plans) else None,
            decorrelate=False,
        )

    def _count(self, blocks: int) -> None:
        """Count the batches of as many blocks."""
        for number in range(len(self._steps) - 1, blocks):
            self._steps.append(self._steps[-1] + self._apply(epoch_length, number))

    def _planned(self, number: int) -> EpochPlan:
        self._count(number)
        return self._apply(plan_epoch, number)

    def _apply(self, decide: Callable[..., _Decided], number: int) -> _Decided:
        """Plan or count one block."""
        first, end = self._starts[number : number + 2]
        size = self.batch_size
        grouping, segment = self._layout.part(
            first,
            end,
            epoch=self.epoch,
            seed=self._seed,
            shuffle=self._shuffle,
            batch_size=0 if isinstance(size, PixelBudget) else size,
        )
        key = (number,) if self.blocks > 1 else ()
        return decide(
            grouping,
            self._schedule,
            batch_size=size,
            seed=self._seed,
            epoch=self.epoch,
            shuffle=self._shuffle,
            drop_last=self._drop_last,
            world_size=self.world_size,
            decorrelate=self.decorrelate,
            segment=replace(segment, first=first, used=self._used, first_step=self._steps[number], key=key),
        )
