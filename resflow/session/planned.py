"""A loader over a plan: the plan, and the position in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypedDict

import torch

from resflow.batch import Batch
from resflow.errors import ConfigError, StateError
from resflow.pipeline import Pipeline
from resflow.plan import (
    BlockPlan,
    Cursor,
    EpochPlan,
    PixelBudget,
    PlannedBatch,
    RankPlan,
    Sampling,
    World,
    lay_out,
)
from resflow.plan.epoch import checked_epoch
from resflow.session.builder import decodes_on_gpu
from resflow.session.finalize import Failure
from resflow.session.passes import Passes
from resflow.session.plan_inputs import draws_of, learned_buckets, most_samples, weights_of
from resflow.session.plan_sampler import PlanSampler
from resflow.session.planned_dataset import PlannedDataset
from resflow.session.planned_pass import PlannedPass
from resflow.session.prefetch import Prefetcher, prefetched
from resflow.session.sampler_order import SamplerOrder, check_sampler
from resflow.session.skip import SkipReport, without
from resflow.session.world import Ranks
from resflow.skip import Skip, Skipped
from resflow.sources import Mix, Source


class _Order(TypedDict):
    """What a plan is told of the order of samples."""

    batch_size: int | PixelBudget
    seed: int
    shuffle: bool
    drop_last: bool
    world_size: int
    decorrelate: bool


class PlannedSession:
    """The plan of a loader and the place in it.

    Args:
        source: where the samples are.
        pipeline: what is done to them.
        batch_size: samples in a rank's batch, or a pixel budget.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether samples are left out rather than a batch be short.
        seed: everything random follows from it.
        world: the rank; None asks at each turn, as a trainer may form the group of processes after the loader was made.
        threads: decoding threads in this process.
        prefetch: batches ahead where this process decodes in a thread.
        even: whether the short batch is filled up by repeating samples until all ranks have equally many.
        decorrelate: whether the ranks take batches of different buckets at a step.
        sampler: gives the order, where it is not planned.
        batch_sampler: the same by the batch.
        sampling: how often samples come in an epoch; None: once.

    Raises:
        ConfigError: a batch size that is neither a positive whole number nor a budget.
        PlanError: no plan satisfies what is asked for.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        *,
        batch_size: int | PixelBudget,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        world: World | None,
        threads: int,
        prefetch: int,
        even: bool = False,
        decorrelate: bool = False,
        sampler: Any = None,
        batch_sampler: Any = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.pipeline, self.prefetch = pipeline, prefetch
        self._seed, self._shuffle, self.ranks = seed, shuffle, Ranks(world)
        self.buckets = learned_buckets(pipeline, source)
        self._mixture = source.mixture if isinstance(source, Mix) else None
        if sampling is None and len(self.buckets) > 1:
            sampling, sampler = weights_of(sampler)
        self._draws = None if sampling is None else draws_of(sampling, source, mixed=self._mixture is not None)
        self._layout = lay_out(source.index, self.buckets, self._mixture, draws=self._draws)
        self._decorrelate = decorrelate
        self._planned: tuple[int, _Order, BlockPlan | EpochPlan] | None = None
        self.in_this_process = decodes_on_gpu(pipeline)
        self.dataset = PlannedDataset(
            source,
            pipeline,
            seed=seed,
            max_batch=most_samples(batch_size, self.buckets),
            threads=threads,
        )
        self.batch_size, self.drop_last, self._even = batch_size, drop_last, even
        self.source = source
        self._given = None if sampler is None and batch_sampler is None else self._order_of(sampler, batch_sampler)
        self.epoch = self.step = self._start = 0
        self._begun = False
        self.passes: Passes[PlannedPass] = Passes()
        self.told = 0
        """How often the place was set from outside."""
        self._skip = pipeline.on_error if isinstance(pipeline.on_error, Skip) else None
        self._report = SkipReport(self._skip)
        self.sampler = PlanSampler(self)
        if self._given is None:
            self.length(0)  # a plan that cannot be made is refused now, not at the first pass

    @property
    def world(self) -> World:
        """The rank."""
        return self.ranks.world

    @property
    def even(self) -> bool:
        """Whether the short batch is filled up for all ranks: on request, or as Accelerate expects it in evaluation."""
        return self._even or (self.ranks.fills and not self._shuffle)

    def _batches_alone(self) -> int:
        """Batches of the epoch if one process went through all of it, as PyTorch's loader tells before `prepare`."""
        size, samples = self.batch_size, self.samples
        if isinstance(size, PixelBudget) or (self._given is not None and self._given.batches):
            return self.length(self.epoch)
        return samples // size if self.drop_last else -(-samples // size)

    @property
    def _order(self) -> _Order:
        world, size = self.world, self.batch_size
        if self.ranks.split and not isinstance(size, PixelBudget) and size % world.size:
            raise ConfigError(
                "with Accelerator(split_batches=True), batch_size is shared by all ranks; got "
                f"{size} for {world.size}. Pass a multiple of the number of ranks."
            )
        return {
            "batch_size": size if isinstance(size, PixelBudget) or self.ranks.split else size * world.size,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "drop_last": self.drop_last,
            "world_size": world.size,
            "decorrelate": self._decorrelate,
        }

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch; of a sampler that knows its rank, those of this rank."""
        planned = self._blocks(checked_epoch(epoch))
        return planned if isinstance(planned, EpochPlan) else planned.whole()

    def length(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self._blocks(epoch)) if self._given is None else self._given.length(self.world.size)

    def told_length(self) -> int:
        """Batches of an epoch, as the loader tells them."""
        self.ranks.told(length := len(self.sampler))
        return length

    def asked(self, frame: FrameType) -> None:
        """Learn who asks for the length, the batches, or whether the loader is prepared (see `Ranks`)."""
        self.ranks.asked(frame)
        if self.ranks.prepared:
            self.ranks.check(self._batches_alone())

    def begin(self, **_options: Any) -> bool:
        """Start a pass: the rest of a restored epoch, the epoch that was set, or the one after the last pass.

        Returns:
            False: workers that persist learn all they need from the requests.
        """
        asked = None if self._given is None else self._given.asked_epoch()
        if asked is not None or self._begun:
            self._set(self.epoch + 1 if asked is None else asked)
        self.ranks.warn_of_repeats()
        self._begun = True
        self.step = self._start
        if self._start == 0:
            self._report = SkipReport(self._skip)
        self._report.begin(resumes=True)
        return False

    def cancel(self) -> None:
        """Undo `begin` where no batch could be handed out: the next pass is the same one."""
        self._begun = False

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The bad samples that this rank has skipped in the pass under way, or the last one."""
        return tuple(self._report.records)

    @property
    def start(self) -> tuple[int, int]:
        """Epoch and step at which the next pass begins, or the last one began."""
        return self.epoch, self._start

    @property
    def report(self) -> SkipReport:
        """What this rank has skipped in the pass under way."""
        return self._report

    @property
    def rank_samples(self) -> int:
        """Samples of this rank's part of an epoch."""
        return self.samples // self.world.size

    def advance(self, epoch: int, step: int, report: SkipReport) -> None:
        """Note that a batch is handed out."""
        self.epoch, self.step, self._report = epoch, step, report

    def end(self, epoch: int) -> None:
        """Note that a pass over an epoch has come to its end."""
        self._set(epoch + 1)
        self.passes.settle()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored place in that epoch is kept."""
        self.told += 1
        self._set(epoch)
        self.passes.settle()

    def _set(self, epoch: int) -> None:
        number = checked_epoch(epoch)
        untouched = number == self.epoch and self.step == self._start  # no batch was handed out since
        self._go(number, self._start if untouched else 0)

    def state(self) -> dict[str, object]:
        """The place, what the plan was made of, and what this rank has skipped: plain JSON values, for any rank."""
        order = {} if self._given is None else {"sampler": self._given.state(self.epoch)}
        return self._cursor().to_json() | order | (self._report.state() if self.step > 0 else {})

    def _cursor(self) -> Cursor:
        # With a pixel budget the plan depends on the number of ranks, too, and so it does decorrelated.
        left_out = {"seed"} if self.global_batch_size is None or self._decorrelate else {"seed", "world_size"}
        left_out |= set() if self._decorrelate else {"decorrelate"}
        mixture = {} if self._mixture is None else {"mixture": repr(self._mixture)}
        mixture |= {} if self._draws is None else {"sampling": self._draws.fingerprint()}
        given = {} if self._given is None else {"sampler": self._given.describe()}
        return Cursor(
            epoch=self.epoch,
            step=self.step,
            seed=self._seed,
            global_batch_size=self.global_batch_size,
            fingerprint=self.source.index.fingerprint,
            config=self.pipeline.describe()
            | {name: repr(value) for name, value in self._order.items() if name not in left_out}
            | mixture
            | given,
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state` gave, in this session or another of the same plan.

        Args:
            state: what `state` gave.

        Raises:
            StateError: it is damaged, or belongs to another plan.
        """
        cursor = Cursor.from_json(without(state, "skipped", "sampler"))
        cursor.check(self._cursor())
        if self._given is not None:
            self._given.restore(cursor.epoch, state.get("sampler"))
        length = self.length(cursor.epoch)
        if cursor.step > length:
            raise StateError(
                f"saved state: step is {cursor.step}, but epoch {cursor.epoch} has {length} batches. "
                "The state is damaged; use an earlier one."
            )
        self._report = SkipReport(self._skip)
        self._report.restore(state)
        self.told += 1
        self._go(cursor.epoch, cursor.step)
        self.passes.settle()
        if self._report.records:
            self._report.keep(self._own)
        self.sampler.restored = cursor.epoch, cursor.step == length

    def batches(self) -> Iterator[PlannedBatch]:
        """This rank's planned batches from the session's place on; the source is told what will be read next."""
        planned = self._part()
        return map(self._announced, map(planned.batch, range(self._start, len(planned))))

    @property
    def global_batch_size(self) -> int | None:
        """Samples of a global batch, None with a pixel budget."""
        batch_size = self._order["batch_size"]
        return None if isinstance(batch_size, PixelBudget) else batch_size

    def remainder(self) -> int:
        """Samples of the epoch's last global batch where it was filled up; 0 where nothing is repeated."""
        whole = self.global_batch_size
        return self.samples % whole if whole and self.even and not self.drop_last else 0

    def steps_left(self) -> int | None:
        """Batches from the session's place to the end of its epoch; None: a sampler does not tell."""
        try:
            return self.length(self.epoch) - self.step
        except TypeError:
            return None

    def walk(self, batches: Iterator[Any]) -> Iterator[Batch]:
        """A pass's batches, each counted as it is handed out.

        Args:
            batches: what workers, thread or this process make.
        """
        return PlannedPass(self, batches)

    def prefetched(self) -> Iterator[Batch | Failure]:
        """The batches of a pass, made ahead by two threads of this process: one reads, the other decodes."""
        read = Prefetcher(self.sampler, self.dataset.read, self.prefetch)
        return prefetched(read, self.dataset.make, self.prefetch, torch.device(self.pipeline.device))

    @property
    def _own(self) -> Callable[[Skipped], bool]:
        """Whether a sample skipped in the epoch is of this rank's part, which another rank's may be now."""
        planned = self._part()
        ids = functools.cache(lambda step: frozenset(planned.batch(step).sample_ids.tolist()))
        return lambda one: one.epoch == self.epoch and one.step < self.step and one.sample_id in ids(one.step)

    @property
    def samples(self) -> int:
        """Samples of an epoch over all ranks."""
        return len(self._layout) if self._given is None else self._given.samples()

    def _order_of(self, sampler: Any, batch_sampler: Any) -> SamplerOrder:
        check_sampler(self.buckets, sampler if batch_sampler is None else batch_sampler, stride=self.pipeline.stride)
        wrong = {
            "a PixelBudget": isinstance(self.batch_size, PixelBudget),
            "shuffle": self._shuffle,
            "decorrelate": self._decorrelate,
            "rf.sources.Mix": self._mixture is not None,
            "sampling": self._draws is not None,
        }
        for name, given in wrong.items():
            if given:
                raise ConfigError(f"{name} and a sampler both decide the order of samples; drop one of them")
        return SamplerOrder(
            sampler,
            batch_sampler,
            batch_size=int(self.batch_size),  # type: ignore[arg-type]
            drop_last=self.drop_last,
            seed=self._seed,
            count=len(self.source.index),
        )

    def _part(self) -> RankPlan:
        """This rank's part of the epoch's plan."""
        planned = self._blocks(self.epoch)
        if self._given is not None and isinstance(planned, EpochPlan):
            return self._given.rank(planned, self.world, even=self.even)
        return planned.rank(self.world, even=self.even)

    def _blocks(self, epoch: int) -> BlockPlan | EpochPlan:
        """The plan of an epoch; the last one is kept, as long as nothing that it depends on changes."""
        order, last = self._order, self._planned
        if self._given is not None:
            return self._given.plan(epoch, self.buckets, self.pipeline.schedule, self.world)
        if last is None or last[:2] != (epoch, order):
            last = self._planned = epoch, order, BlockPlan(self._layout, self.pipeline.schedule, epoch=epoch, **order)
        return last[2]

    def _announced(self, batch: PlannedBatch) -> PlannedBatch:
        self.dataset.announce(batch)
        return batch

    def _go(self, epoch: int, step: int) -> None:
        self.epoch = epoch
        self.step = self._start = step
        self._begun = False
