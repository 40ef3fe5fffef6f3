"""The laws of plans, over grids; and that each checker sees the faults it is there for."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from resflow import testing
from resflow.plan import (
    Buckets,
    Constant,
    EpochPlan,
    Grouping,
    Linear,
    PixelBudget,
    RandomMultiScale,
    Schedule,
    World,
    epoch_length,
    group_samples,
    learn_buckets,
    plan_epoch,
)

SCHEDULES: list[Schedule] = [
    Constant(128),
    Linear(96, 160, epochs=3),
    Linear(96, 160, epochs=2, within_epoch=True),
    RandomMultiScale((96, 128, 160)),
]


def make_sizes(n: int, seed: int = 0) -> npt.NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    height = rng.integers(100, 900, n)
    return np.stack([height, np.maximum(1, height * np.exp(rng.normal(0.1, 0.4, n)))], axis=1).astype(np.int32)


def make_grouping(n: int, k: int, seed: int = 0) -> Grouping:
    size = make_sizes(n, seed)
    return group_samples(size, learn_buckets(make_sizes(200), k, resolutions=[96, 128, 160], stride=32))


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 64, 333])
def test_laws_with_a_batch_size(schedule: Schedule, k: int, n: int) -> None:
    grouping = make_grouping(n, k)
    for batch_size, shuffle, drop_last, epoch in itertools.product((1, 4, 12, 64, 500), (0, 1), (0, 1), (0, 2)):
        if drop_last and batch_size > n:
            continue
        options = {"batch_size": batch_size, "shuffle": bool(shuffle), "drop_last": bool(drop_last), "epoch": epoch}
        plan = plan_epoch(grouping, schedule, seed=5, **options)  # type: ignore[arg-type]
        assert len(plan) == (n // batch_size if drop_last else -(-n // batch_size))
        assert epoch_length(grouping, schedule, seed=5, **options) == len(plan)  # type: ignore[arg-type]
        testing.check_exactly_once(plan, n, dropped=n % batch_size if drop_last else 0)
        testing.check_one_short(plan, batch_size, drop_last=bool(drop_last))
        testing.check_shapes(plan, grouping.buckets)
        testing.check_resolutions(plan, schedule)
        testing.check_same_plan(plan, plan_epoch(grouping, schedule, seed=5, **options))  # type: ignore[arg-type]
        for world_size in (1, 2, 4):
            if batch_size % world_size == 0:
                testing.check_ranks(plan, world_size)
                other = plan_epoch(grouping, schedule, seed=5, world_size=world_size, **options)  # type: ignore[arg-type]
                testing.check_same_plan(plan, other)


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 64, 333])
@pytest.mark.parametrize(
    "budget", [PixelBudget(160 * 160 * 9), PixelBudget(160 * 160 * 9, max_batch=10, multiple_of=4)], ids=repr
)
def test_laws_with_a_pixel_budget(schedule: Schedule, k: int, n: int, budget: PixelBudget) -> None:
    grouping = make_grouping(n, k)
    for world_size, shuffle, drop_last, epoch in itertools.product((1, 2, 3), (0, 1), (0, 1), (0, 1)):
        unit = budget.multiple_of * world_size
        if drop_last and unit > n:
            continue
        options = {"batch_size": budget, "shuffle": bool(shuffle), "drop_last": bool(drop_last), "epoch": epoch}
        plan = plan_epoch(grouping, schedule, world_size=world_size, **options)  # type: ignore[arg-type]
        assert epoch_length(grouping, schedule, world_size=world_size, **options) == len(plan)  # type: ignore[arg-type]
        testing.check_exactly_once(plan, n, dropped=n % unit if drop_last else 0)
        testing.check_shapes(plan, grouping.buckets)
        testing.check_resolutions(plan, schedule)
        testing.check_ranks(plan, world_size)
        odd = np.flatnonzero(np.diff(plan.offsets) % unit).tolist()
        assert odd == ([len(plan) - 1] if n % unit and not drop_last else [])
        for rank in range(world_size):
            for batch in plan.rank(World(rank, world_size)):
                assert 1 <= len(batch) <= budget.limit(batch.shape)
                assert len(batch) * batch.shape[0] * batch.shape[1] <= budget.pixels


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_budget_cuts_a_bucket_into_nearly_equal_batches(shuffle: bool) -> None:
    grouping = make_grouping(1000, 3)
    budget = PixelBudget(128 * 128 * 20)
    plan = plan_epoch(grouping, Constant(128), batch_size=budget, shuffle=shuffle)
    counts = Counter(grouping.buckets.assign(grouping.size).tolist())
    of_batch = grouping.buckets.assign(grouping.size[plan.sample_ids[plan.offsets[:-1]]])
    for bucket, count in counts.items():
        sizes = np.diff(plan.offsets)[of_batch == bucket]
        assert len(sizes) == -(-count // budget.limit(grouping.buckets.shape(bucket, 128)))
        assert sizes.max() - sizes.min() <= 1


def test_batches_are_larger_while_the_resolution_is_low() -> None:
    grouping = make_grouping(3000, 3)
    schedule = Linear(96, 160, epochs=1, within_epoch=True)
    plan = plan_epoch(grouping, schedule, batch_size=PixelBudget(160 * 160 * 16), shuffle=True)
    assert np.diff(plan.offsets)[:5].min() > np.diff(plan.offsets)[-10:-3].max()
    assert (np.diff(plan.resolutions) >= 0).all()


def test_shuffled_epochs_and_seeds_differ() -> None:
    grouping = make_grouping(333, 4)
    plans = [
        plan_epoch(grouping, Constant(128), batch_size=16, shuffle=True, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1 << 63, 0))
    ]
    for one, other in itertools.combinations(plans, 2):
        with pytest.raises(AssertionError, match="should have sample"):
            testing.check_same_plan(one, other)
        assert Counter(one.sample_ids.tolist()) == Counter(other.sample_ids.tolist())


def test_a_shuffle_is_uniform() -> None:
    size = np.full((4, 2), 100, dtype=np.int32)
    grouping = group_samples(size, learn_buckets(size, 1, resolutions=[128], stride=32))
    orders = Counter(
        tuple(plan_epoch(grouping, Constant(128), batch_size=4, shuffle=True, epoch=e).sample_ids.tolist())
        for e in range(2400)
    )
    assert len(orders) == 24
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 50  # chi-squared, 23 degrees: p = 0.001


def test_drop_last_leaves_out_the_last_or_random_ones() -> None:
    grouping = make_grouping(103, 4)
    plan = plan_epoch(grouping, Constant(128), batch_size=10, drop_last=True)
    assert sorted(plan.sample_ids.tolist()) == list(range(100))
    left_out = Counter[int]()
    for epoch in range(400):
        plan = plan_epoch(grouping, Constant(128), batch_size=10, drop_last=True, shuffle=True, epoch=epoch)
        left_out.update(np.setdiff1d(np.arange(103), plan.sample_ids).tolist())
    assert left_out.total() == 1200
    assert min(left_out[sample] for sample in range(103)) > 0
    assert max(left_out.values()) < 35


def test_batches_of_different_buckets_are_mixed() -> None:
    grouping = make_grouping(4000, 4)
    plan = plan_epoch(grouping, Constant(128), batch_size=10, shuffle=True)
    same = (plan.shapes[1:] == plan.shapes[:-1]).all(axis=1).mean()
    shares = np.array(list(Counter(map(tuple, plan.shapes.tolist())).values())) / len(plan)
    assert same == pytest.approx((shares**2).sum(), abs=0.08)


@pytest.mark.parametrize("batch_size", [7, 16, PixelBudget(128 * 128 * 8)])
def test_unshuffled_is_dataset_order_within_a_bucket(batch_size: int | PixelBudget) -> None:
    grouping = make_grouping(301, 4)
    plan = plan_epoch(grouping, Constant(128), batch_size=batch_size)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for shape, first, end in zip(plan.shapes.tolist(), plan.offsets[:-1], plan.offsets[1:], strict=True):
        by_shape.setdefault(tuple(shape), []).extend(plan.sample_ids[first:end].tolist())
    for ids in by_shape.values():
        assert ids == sorted(ids)
    firsts = plan.sample_ids[plan.offsets[:-2]].tolist()  # all but the short batch
    assert firsts == sorted(firsts)


def test_ids_are_those_of_one_bucket_but_for_leftovers() -> None:
    grouping = make_grouping(2000, 8)
    for batch_size in (8, 32, 100):
        plan = plan_epoch(grouping, Constant(128), batch_size=batch_size, shuffle=True)
        own = grouping.buckets.shape(grouping.buckets.assign(grouping.size[plan.sample_ids]), 128)
        given = np.repeat(plan.shapes, np.diff(plan.offsets), axis=0)
        moved = (own != given).any(axis=1)
        assert moved.sum() <= (len(grouping.buckets) - 1) * batch_size
        place = np.argsort(grouping.order)[plan.sample_ids]  # rank by ratio: moved ones lie within a batch of an end
        gap = np.abs(place[moved][:, None] - grouping.ends[None, :]).min(axis=1)
        assert gap.max(initial=0) <= batch_size


@pytest.fixture
def plan() -> EpochPlan:
    return plan_epoch(make_grouping(100, 3), Constant(128), batch_size=8, shuffle=True)


def with_ids(plan: EpochPlan, ids: npt.NDArray[np.int32]) -> EpochPlan:
    return dataclasses.replace(plan, sample_ids=ids.astype(np.int32))


def test_a_lost_sample_is_caught(plan: EpochPlan) -> None:
    lost = int(plan.sample_ids[-1])
    offsets = plan.offsets.copy()
    offsets[-1] -= 1
    short = dataclasses.replace(plan, sample_ids=plan.sample_ids[:-1], offsets=offsets)
    with pytest.raises(AssertionError, match=rf"leaves out 1 samples, expected 0; the first is \[{lost}\]"):
        testing.check_exactly_once(short, 100)


def test_a_repeated_sample_is_caught(plan: EpochPlan) -> None:
    ids = plan.sample_ids.copy()
    ids[20] = ids[3]
    with pytest.raises(AssertionError, match=rf"sample {ids[3]} is used 2 times in epoch 0, at steps \[0, 2\]"):
        testing.check_exactly_once(with_ids(plan, ids), 100)


def test_a_foreign_sample_is_caught(plan: EpochPlan) -> None:
    ids = plan.sample_ids.copy()
    ids[9] = 100
    with pytest.raises(AssertionError, match="place 1 of step 1 of epoch 0 has sample 100"):
        testing.check_exactly_once(with_ids(plan, ids), 100)


def test_a_reordered_sample_is_caught(plan: EpochPlan) -> None:
    ids = plan.sample_ids.copy()
    ids[[17, 30]] = ids[[30, 17]]
    with pytest.raises(AssertionError, match=rf"place 1 of step 2 .* should have sample {ids[30]}; got {ids[17]}"):
        testing.check_same_plan(plan, with_ids(plan, ids))


def test_other_shapes_resolutions_and_offsets_are_caught(plan: EpochPlan) -> None:
    buckets: Buckets = make_grouping(100, 3).buckets
    shapes = plan.shapes.copy()
    shapes[4] = 999
    with pytest.raises(AssertionError, match=r"step 4 of epoch 0 has shape \[999, 999\]"):
        testing.check_shapes(dataclasses.replace(plan, shapes=shapes), buckets)
    with pytest.raises(AssertionError, match="step 4 of epoch 0: shapes should be"):
        testing.check_same_plan(plan, dataclasses.replace(plan, shapes=shapes))
    with pytest.raises(AssertionError, match="step 0 of epoch 0 is at resolution 128, the schedule says 160"):
        testing.check_resolutions(plan, Constant(160))
    offsets = plan.offsets.copy()
    offsets[5] -= 2
    with pytest.raises(AssertionError, match="step 5 of epoch 0 has 10 samples"):
        testing.check_one_short(dataclasses.replace(plan, offsets=offsets), 8)
    offsets = np.append(offsets[:5], offsets[6:])
    with pytest.raises(AssertionError, match="step 5 of epoch 0: offsets should be 40; got 48"):
        testing.check_same_plan(
            plan, dataclasses.replace(plan, offsets=offsets, shapes=shapes[1:], resolutions=plan.resolutions[1:])
        )


def test_two_short_batches_are_caught(plan: EpochPlan) -> None:
    cut = dataclasses.replace(
        plan,
        offsets=np.insert(plan.offsets, 1, 3),
        shapes=np.insert(plan.shapes, 0, plan.shapes[0], axis=0),
        resolutions=np.append(plan.resolutions, plan.resolutions[0]),
    )
    with pytest.raises(
        AssertionError, match="step 1 of epoch 0 has 5 samples, the batch size is 8 and one may be short"
    ):
        testing.check_one_short(cut, 8)
    with pytest.raises(AssertionError, match=r"step 12 .* has 4 samples, the batch size is 8 and none may be short"):
        testing.check_one_short(plan, 8, drop_last=True)


@pytest.mark.parametrize("fault", ["lost", "repeated", "reordered"])
def test_faults_of_a_rank_are_caught(plan: EpochPlan, fault: str) -> None:
    ranks = [list(plan.rank(World(rank, 4))) for rank in range(4)]
    ids = ranks[2][6].sample_ids.copy()
    expected = int(ids[0]) if fault != "lost" else int(ids[1])
    ids = {"lost": ids[:1], "repeated": ids[[1, 1]], "reordered": ids[::-1]}[fault]
    ranks[2][6] = dataclasses.replace(ranks[2][6], sample_ids=ids)
    with pytest.raises(
        AssertionError, match=f"step 6 of epoch 0: the ranks together should have sample {expected} at place"
    ):
        testing.check_rank_batches(plan, ranks)


def test_ranks_out_of_step_are_caught(plan: EpochPlan) -> None:
    ranks = [list(plan.rank(World(rank, 2))) for rank in range(2)]
    with pytest.raises(AssertionError, match="rank 1 has 12 batches in epoch 0, expected 13"):
        testing.check_rank_batches(plan, [ranks[0], ranks[1][:-1]])
    ranks[1][3] = dataclasses.replace(ranks[1][3], shape=(1, 1))
    with pytest.raises(AssertionError, match=r"step 3 of epoch 0, rank 1: .*; got .*\(1, 1\)\)"):
        testing.check_rank_batches(plan, ranks)
    ranks = [list(plan.rank(World(rank, 2))) for rank in range(2)]
    whole = np.concatenate([ranks[0][0].sample_ids, ranks[1][0].sample_ids])
    for rank, part in enumerate((whole[:6], whole[6:])):
        ranks[rank][0] = dataclasses.replace(ranks[rank][0], sample_ids=part)
    with pytest.raises(AssertionError, match=r"step 0 of epoch 0: the ranks have uneven batches of \[6, 2\] samples"):
        testing.check_rank_batches(plan, ranks)
