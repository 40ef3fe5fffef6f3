"""Epochs planned block by block: the laws of plans over them, and that one block is what it was without blocks."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resflow import testing
from resflow.errors import ConfigError, PlanError
from resflow.plan import (
    BlockPlan,
    Constant,
    Index,
    Layout,
    Linear,
    Mixture,
    PixelBudget,
    RandomMultiScale,
    Schedule,
    World,
    epoch_length,
    group_samples,
    lay_out,
    learn_buckets,
    plan_epoch,
)
from resflow.plan.arrange import interleave, into_lanes
from resflow.plan.layout import cut_runs
from resflow.plan.order import bits

SCHEDULES: list[Schedule] = [
    Constant(128),
    Linear(96, 160, epochs=2, within_epoch=True),
    RandomMultiScale((96, 128, 160)),
]
BUDGET = PixelBudget(160 * 160 * 9, multiple_of=2)


def make_index(n: int, per_shard: int = 17, seed: int = 0) -> Index:
    rng = np.random.default_rng(seed)
    height = rng.integers(100, 900, n)
    size = np.stack([height, np.maximum(1, height * np.exp(rng.normal(0.1, 0.4, n)))], axis=1).astype(np.int32)
    return Index((np.arange(n) // per_shard).astype(np.int32), np.zeros(n, np.int64), np.ones(n, np.int64), size, "x")


BUCKETS = learn_buckets(make_index(200).size, 4, resolutions=[96, 128, 160], stride=32)


def make_layout(n: int, block: int, mixture: Mixture | None = None) -> Layout:
    return lay_out(make_index(n), BUCKETS, mixture, block=block, run=40)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("n", [201, 1003])
def test_the_laws_hold_over_blocks(schedule: Schedule, n: int) -> None:
    layout = make_layout(n, 200)
    for batch_size, shuffle, drop_last, epoch in itertools.product((7, 64, 256, BUDGET), (0, 1), (0, 1), (0, 1)):
        unit = batch_size if isinstance(batch_size, int) else 2
        if drop_last and unit > n:
            continue
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": bool(shuffle), "drop_last": bool(drop_last)}
        plan = BlockPlan(layout, schedule, seed=5, epoch=epoch, **options)
        whole = plan.whole()
        assert len(plan) == len(whole)
        testing.check_exactly_once(whole, n, dropped=n % unit if drop_last else 0)
        testing.check_shapes(whole, BUCKETS)
        testing.check_resolutions(whole, schedule)
        odd = np.flatnonzero(np.diff(whole.offsets) % unit).tolist()
        assert odd == ([len(whole) - 1] if n % unit and not drop_last else [])
        if isinstance(batch_size, int):
            testing.check_one_short(whole, batch_size, drop_last=bool(drop_last))
        rank = plan.rank(World())
        assert np.concatenate([batch.sample_ids for batch in rank]).tolist() == whole.sample_ids.tolist()
        assert [batch.step for batch in rank] == list(range(len(plan)))
        for step in np.random.default_rng(epoch).permutation(len(plan))[:9].tolist():  # any step, in any order
            again = BlockPlan(layout, schedule, seed=5, epoch=epoch, **options).rank(World()).batch(step)
            assert again.sample_ids.tolist() == rank.batch(step).sample_ids.tolist()
            assert again.shape == rank.batch(step).shape


@pytest.mark.parametrize("batch_size", [12, 64, BUDGET])
def test_one_block_is_planned_as_without_blocks(batch_size: int | PixelBudget) -> None:
    index = make_index(333)
    grouping = group_samples(index.size, BUCKETS)
    for shuffle, drop_last, schedule in itertools.product((False, True), (False, True), SCHEDULES):
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "epoch": 2}
        plan = BlockPlan(lay_out(index, BUCKETS, block=333), schedule, **options)
        testing.check_same_plan(plan_epoch(grouping, schedule, **options), plan.whole())
        assert len(plan) == epoch_length(grouping, schedule, **options)


def test_a_block_has_other_samples_in_each_epoch_and_whole_runs() -> None:
    layout = make_layout(1003, 200)
    blocks = [
        [
            set(BlockPlan(layout, Constant(128), batch_size=8, shuffle=True, epoch=epoch).block(k).sample_ids.tolist())
            for k in range(6)
        ]
        for epoch in range(2)
    ]
    for epoch in blocks:
        assert [len(block) for block in epoch] == [200, 200, 200, 200, 200, 3]
        for first, end in itertools.pairwise(layout.runs[0].tolist()):
            parts = [number for number, block in enumerate(epoch) if block & set(range(first, end))]
            assert parts in ([parts[0]], [parts[0], parts[0] + 1])  # within a block, or two in a row
    together = sum(len(one & other) for one, other in zip(*blocks, strict=True))
    assert together < 600  # by chance a fifth of 1003 stay in the same block


def test_unshuffled_blocks_follow_the_dataset() -> None:
    plan = BlockPlan(make_layout(1003, 200), Constant(128), batch_size=8)
    for number in range(5):
        assert sorted(plan.block(number).sample_ids.tolist()) == list(range(200 * number, 200 * number + 200))


def test_planning_a_block_takes_no_other_samples() -> None:
    """A rank that goes to a step plans its block alone: sizes elsewhere are not even looked at."""
    index = make_index(1003)
    plan = BlockPlan(lay_out(index, BUCKETS, block=200, run=40), Constant(128), batch_size=8)
    wanted = [batch.sample_ids.tolist() for batch in itertools.islice(plan.rank(World()), 50, 75)]
    index.size[:400], index.size[600:] = 0, 0  # refused, where looked at
    got = [plan.rank(World()).batch(step).sample_ids.tolist() for step in range(50, 75)]
    assert got == wanted
    with pytest.raises(ConfigError, match="size must be positive"):
        plan.rank(World()).batch(0)


def test_arguments_are_checked_when_a_plan_is_opened() -> None:
    layout = make_layout(300, 200)
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        BlockPlan(layout, Constant(128), batch_size=8, seed=-1)
    with pytest.raises(PlanError, match="with drop_last no batch is left"):
        BlockPlan(layout, Constant(128), batch_size=512, drop_last=True)
    with pytest.raises(PlanError, match="epoch 0 has steps 0 to 37; got step 38"):
        BlockPlan(layout, Constant(128), batch_size=8).rank(World()).batch(38)


@pytest.mark.parametrize("per_shard", [1, 7, 17, 40, 41, 100, 1003])
def test_runs_are_whole_shards_or_parts_of_one(per_shard: int) -> None:
    shard = make_index(1003, per_shard).shard
    runs = cut_runs(shard, 40)
    assert runs[0] == 0
    assert runs[-1] == 1003
    assert (np.diff(runs) > 0).all()
    assert np.diff(runs).max() < 80
    for first, end in itertools.pairwise(runs.tolist()):
        if per_shard <= 40:
            assert first % per_shard == 0
        elif end - first > 40:
            assert shard[first] == shard[end - 1]
    mixed_up = np.random.default_rng(0).permutation(shard)
    runs = cut_runs(mixed_up, 40)
    assert (np.diff(runs) > 0).all()
    assert (runs[0], runs[-1]) == (0, 1003)


@pytest.mark.parametrize("shuffle", [False, True])
def test_groups_are_spread_evenly(shuffle: bool) -> None:
    rng = np.random.default_rng(0)
    for groups in (1, 2, 3, 6):
        group = rng.choice(groups, 999, p=rng.dirichlet(np.ones(groups)))
        order = interleave(group, bits(0, 0, 0) if shuffle else None)
        assert sorted(order.tolist()) == list(range(999))
        for number in range(groups):
            own = order[group[order] == number]
            assert (np.diff(own) > 0).all()  # a group's own order is kept
            done = np.cumsum(group[order] == number)
            assert np.abs(done - np.arange(1, 1000) * len(own) / 999).max(initial=0) <= max(1, groups - 1)
    assert interleave(np.zeros(0, np.int64), None).tolist() == []


def test_lanes_get_their_own_samples_as_far_as_they_go_round() -> None:
    rng = np.random.default_rng(0)
    for n, batch, lanes in ((1000, 64, 8), (64, 64, 64), (63, 64, 8), (4096, 128, 128)):
        run = rng.permutation(n).astype(np.int32)
        lane = rng.integers(0, lanes, n).astype(np.int16)
        got = into_lanes(run, lane[run], batch, lanes)
        whole = n // batch * batch
        assert sorted(got.tolist()) == sorted(run.tolist())
        assert got[whole:].tolist() == run[whole:].tolist()
        parts = lane[got[:whole]].reshape(-1, lanes, batch // lanes)
        at_home = sum(int((parts[:, number] == number).sum()) for number in range(lanes))
        slots = whole // lanes
        assert at_home == np.minimum(np.bincount(lane[run[:whole]], minlength=lanes), slots).sum()


def test_ranks_of_a_large_dataset_read_from_few_runs() -> None:
    """Of a batch, each of 8 ranks has samples of its own eighth of the block's runs, but for a few."""
    layout = lay_out(make_index(40_000, 50), BUCKETS, block=20_000, run=100)
    plan = BlockPlan(layout, Constant(128), batch_size=128, shuffle=True, world_size=8)
    rows: npt.NDArray[np.int32] = plan.block(0).sample_ids.reshape(-1, 8, 16)
    runs = [np.bincount(rows[:, rank].reshape(-1) // 100, minlength=400) for rank in range(8)]
    largest = [int((count > 50).sum()) for count in runs]
    own = [count[count > 50].sum() / count.sum() for count in runs]
    assert max(largest) <= 27  # of 200 in the block
    assert min(own) > 0.85


MIXTURE = Mixture((900, 103), (2, 1), 1500)


def check_mixture(plan: BlockPlan, mixture: Mixture, buckets: int, batch: int) -> None:
    """The two promises of a mixture within an epoch: its shares, and how far any first steps are from them."""
    whole = plan.whole()
    starts = np.cumsum([0, *mixture.counts])
    source = np.searchsorted(starts, whole.sample_ids, side="right") - 1
    used = len(whole.sample_ids)
    bound = buckets * batch + buckets * (len(mixture.counts) - 1)
    for number, share in enumerate(mixture.shares):
        done = np.cumsum(source == number)
        if used == mixture.epoch_size and done[-1] != share:
            raise AssertionError(f"source {number} has {done[-1]} samples in the epoch, expected {share}")
        ends = whole.offsets[1:]
        off = np.abs(done[ends - 1] - ends * share / mixture.epoch_size)
        if off.max() >= bound:
            raise AssertionError(f"after step {off.argmax()} source {number} is off by {off.max()}, allowed {bound}")


def check_rounds(ids: npt.NDArray[np.integer], mixture: Mixture, epochs: int) -> None:
    """After whole epochs, each sample of a source was used as often as any other, give or take one."""
    starts = np.cumsum([0, *mixture.counts])
    uses = np.bincount(ids, minlength=starts[-1])
    for source, (first, end) in enumerate(itertools.pairwise(starts.tolist())):
        least = epochs * mixture.shares[source] // mixture.counts[source]
        wrong = np.flatnonzero((uses[first:end] < least) | (uses[first:end] > least + 1))
        if len(wrong) or uses[first:end].sum() != epochs * mixture.shares[source]:
            raise AssertionError(
                f"source {source}: uses {np.unique(uses[first:end])} after {epochs} epochs: {wrong[:3]}"
            )


@pytest.mark.parametrize("block", [1 << 22, 200])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [12, 64, BUDGET])
def test_the_laws_of_mixtures(block: int, shuffle: bool, batch_size: int | PixelBudget) -> None:
    layout = make_layout(1003, block, MIXTURE)
    most = batch_size if isinstance(batch_size, int) else BUDGET.limit((64, 64))
    seen = []
    for epoch in range(5):
        plan = BlockPlan(layout, SCHEDULES[1], batch_size=batch_size, shuffle=shuffle, epoch=epoch)
        check_mixture(plan, MIXTURE, len(BUCKETS), most)
        whole = plan.whole()
        testing.check_resolutions(whole, SCHEDULES[1])
        testing.check_shapes(whole, BUCKETS)
        unit = batch_size if isinstance(batch_size, int) else 2
        assert (np.diff(whole.offsets)[:-1] % unit == 0).all()
        assert whole.repeats is not None
        drawn = whole.repeats.astype(np.int64) << 32 | whole.sample_ids
        assert len(np.unique(drawn)) == 1500  # no view is drawn twice in an epoch
        seen.append(whole.sample_ids)
        check_rounds(np.concatenate(seen), MIXTURE, epoch + 1)
    assert (seen[0] != seen[1]).any()


def test_rounds_come_one_after_the_other_in_each_bucket() -> None:
    plan = BlockPlan(make_layout(1003, 1 << 22, MIXTURE), Constant(128), batch_size=12, shuffle=True).whole()
    assert plan.repeats is not None
    small = plan.sample_ids >= 900
    shape = np.repeat(plan.shapes[:, 0] * 10_000 + plan.shapes[:, 1], np.diff(plan.offsets))
    for bucket in np.unique(shape):
        assert (np.diff(plan.repeats[small & (shape == bucket)]) >= 0).all()


def test_a_mixture_by_size_uses_each_sample_once() -> None:
    mixture = Mixture((900, 103), (900.0, 103.0), 1003)
    plan = BlockPlan(make_layout(1003, 1 << 22, mixture), Constant(128), batch_size=12, shuffle=True, epoch=3).whole()
    assert plan.repeats is None
    testing.check_exactly_once(plan, 1003)


def test_a_source_of_one_sample_is_no_burden() -> None:
    mixture = Mixture((1002, 1), (1, 1), 200_000)
    plan = BlockPlan(make_layout(1003, 1 << 22, mixture), Constant(128), batch_size=100, shuffle=True).whole()
    assert int((plan.sample_ids == 1002).sum()) == 100_000


def test_a_mixture_that_is_off_is_caught() -> None:
    layout = make_layout(1003, 1 << 22, MIXTURE)
    plan = BlockPlan(layout, Constant(128), batch_size=12, shuffle=True)
    ids = plan.whole().sample_ids.copy()
    place = int(np.flatnonzero(ids >= 900)[0])

    class Planted(BlockPlan):
        def whole(self) -> Any:
            import dataclasses

            return dataclasses.replace(super().whole(), sample_ids=ids)

    planted = Planted(layout, Constant(128), batch_size=12, shuffle=True)
    check_mixture(planted, MIXTURE, len(BUCKETS), 12)
    check_rounds(ids, MIXTURE, 1)
    ids[place] = ids[place] - 900  # lost from one source, repeated in the other
    with pytest.raises(AssertionError, match="source 0 has 1001 samples in the epoch, expected 1000"):
        check_mixture(planted, MIXTURE, len(BUCKETS), 12)
    with pytest.raises(AssertionError, match="source 0: uses"):
        check_rounds(ids, MIXTURE, 1)
    ids[:] = np.sort(plan.whole().sample_ids)  # reordered: one source after the other
    with pytest.raises(AssertionError, match=r"after step \d+ source 0 is off by"):
        check_mixture(planted, MIXTURE, len(BUCKETS), 12)
