import itertools
import warnings

import numpy as np
import pytest

from resflow.errors import ConfigError, PlanError
from resflow.plan import (
    Buckets,
    Constant,
    EpochPlan,
    Grouping,
    PixelBudget,
    RankPlan,
    World,
    epoch_length,
    group_samples,
    plan_epoch,
)
from resflow.plan.order import bits, permute, run_ends

BUCKETS = Buckets(
    np.array([0.8, 1.2]),
    np.array([96, 128], dtype=np.int32),
    np.array([[[128, 96], [96, 96], [96, 128]], [[160, 96], [128, 128], [96, 160]]], dtype=np.int32),
    32,
)


def make_grouping(counts: tuple[int, int, int], seed: int = 0) -> Grouping:
    """So many samples of each bucket, in random order."""
    rng = np.random.default_rng(seed)
    ratio = np.concatenate(
        [
            rng.uniform(low, high, n)
            for (low, high), n in zip([(0.4, 0.79), (0.81, 1.19), (1.21, 2.5)], counts, strict=True)
        ]
    )
    rng.shuffle(ratio)
    height = np.full(len(ratio), 10_000)
    return group_samples(np.stack([height, np.rint(height * ratio)], axis=1).astype(np.int32), BUCKETS)


def make_plan(n: int = 20, batch_size: int | PixelBudget = 8, **options: int) -> EpochPlan:
    return plan_epoch(make_grouping((n // 2, n - n // 2, 0)), Constant(128), batch_size=batch_size, **options)  # type: ignore[arg-type]


def test_grouping_against_python() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(1, 60, (3000, 2), dtype=np.int32)
    grouping = group_samples(size, BUCKETS)
    assert grouping.order.tolist() == sorted(range(3000), key=lambda i: (np.float32(size[i, 1] / size[i, 0]), i))
    bucket = BUCKETS.assign(size)
    assert grouping.ends.tolist() == [int((bucket <= k).sum()) for k in range(3)]
    assert (np.diff(bucket[grouping.order]) >= 0).all()


def total_loss(grouping: Grouping, ends: list[int], resolution: int) -> float:
    """Padded pixels when runs of `order` up to each end take the buckets' shapes."""
    bucket = np.searchsorted(ends, np.arange(len(grouping)), side="right")
    shapes = BUCKETS.shape(bucket, resolution).astype(float)
    size = grouping.size[grouping.order]
    scale = (shapes / size).min(axis=1)
    return float((shapes.prod(axis=1) - size.prod(axis=1, dtype=float) * scale**2).sum())


@pytest.mark.parametrize("counts", [(10, 30, 20), (1, 1, 50), (0, 40, 5), (23, 0, 22), (3, 3, 3), (60, 2, 1)])
@pytest.mark.parametrize("unit", [1, 4, 7, 16, 200])
def test_leftovers_move_where_they_hurt_least(counts: tuple[int, int, int], unit: int) -> None:
    grouping = make_grouping(counts)
    n = len(grouping)
    got = run_ends(grouping, grouping.order, grouping.ends, unit, 128).tolist()

    def near(end: int, odd: int) -> list[int]:
        floor = (end - odd) // unit * unit + odd
        return [place for place in (floor, floor + unit) if 0 <= place <= n]

    first, second = grouping.ends[:-1].tolist()
    choices = [
        [a, b, n]
        for odds in ((0, 0), (0, n % unit), (n % unit, n % unit))
        for a, b in itertools.product(near(first, odds[0]), near(second, odds[1]))
        if a <= b
    ]
    least = min(total_loss(grouping, ends, 128) for ends in choices)
    assert got in choices
    assert total_loss(grouping, got, 128) == pytest.approx(least)
    assert sum(count % unit != 0 for count in np.diff(got, prepend=0)) <= 1


def test_full_batches_leave_buckets_alone() -> None:
    grouping = make_grouping((16, 32, 8))
    assert run_ends(grouping, grouping.order, grouping.ends, 8, 128).tolist() == [16, 48, 56]
    assert run_ends(grouping, grouping.order, grouping.ends, 1, 128).tolist() == [16, 48, 56]


def test_a_permutation_from_raw_bits_stays_the_same() -> None:
    values = np.arange(12, dtype=np.int32)
    assert permute(values, bits(2024, 3, 0)).tolist() == [4, 8, 0, 3, 1, 10, 9, 11, 2, 7, 6, 5]
    words = bits(2024, 3, 0).random_raw(12)
    assert permute(values, bits(2024, 3, 0)).tolist() == np.argsort(words, kind="stable").tolist()
    assert permute(values[:0], bits(0, 0, 0)).tolist() == []
    assert permute(values[5:6], bits(0, 0, 0)).tolist() == [5]


def test_batches_of_a_rank_at_any_step() -> None:
    plan = make_plan(20, 8, shuffle=True, seed=9, epoch=3)
    for rank in range(4):
        ranked = plan.rank(World(rank, 4))
        assert isinstance(ranked, RankPlan)
        assert len(ranked) == len(plan) == 3
        for step in (2, 0, 1):
            batch = ranked.batch(step)
            first, end = plan.offsets[step], plan.offsets[step + 1]
            part = plan.sample_ids[first:end][(end - first) * rank // 4 : (end - first) * (rank + 1) // 4]
            assert batch.sample_ids.dtype == np.int64
            assert batch.sample_ids.tolist() == part.tolist()
            assert (batch.epoch, batch.step, batch.seed, batch.resolution) == (3, step, 9, 128)
            assert batch.shape == tuple(plan.shapes[step].tolist())
        assert [batch.step for batch in ranked] == [0, 1, 2]
    for step in (-1, 3):
        with pytest.raises(PlanError, match=f"epoch 3 has steps 0 to 2; got step {step}"):
            plan.rank(World()).batch(step)


@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("size", [840, PixelBudget(128 * 128 * 40)])
def test_every_rank_has_a_sample_of_the_short_batch(ranks: int, size: int | PixelBudget) -> None:
    for short in range(1, 10):
        plan = make_plan(840 + short, size, shuffle=True, world_size=ranks)
        few = short if isinstance(size, int) else int(plan.offsets[-1] - plan.offsets[-2])
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            parts = [plan.rank(World(rank, ranks)).batch(len(plan) - 1).sample_ids.tolist() for rank in range(ranks)]
        assert all(parts)
        whole = plan.sample_ids[plan.offsets[-2] :].tolist()
        assert [sample for part in parts for sample in part] == np.resize(whole, max(few, ranks)).tolist()
        said = [str(one.message) for one in seen]
        assert [f"{few} sample(s) for {ranks} ranks" in text and "drop_last=True" in text for text in said] == (
            [True] if few < ranks else []
        )


def test_a_plan_cannot_be_written_to() -> None:
    plan = make_plan()
    with pytest.raises(ValueError, match="read-only"):
        plan.sample_ids[0] = 3


def test_a_batch_size_that_does_not_divide_is_refused() -> None:
    message = "multiple of the world size; got batch size 8 over 3 ranks. Use 9."
    with pytest.raises(PlanError, match=message):
        make_plan(20, 8, world_size=3)
    with pytest.raises(PlanError, match=message):
        make_plan(20, 8).rank(World(0, 3))


def test_a_budget_serves_one_world_size() -> None:
    plan = make_plan(20, PixelBudget(100_000), world_size=2)
    assert len(plan.rank(World(1, 2))) == len(plan)
    with pytest.raises(PlanError, match=r"planned for world size 2; got 4. Plan it with world_size=4"):
        plan.rank(World(0, 4))


def test_more_batch_than_data() -> None:
    assert np.diff(make_plan(20, 64).offsets).tolist() == [20]
    message = (
        "no batch is left: the global batch size is 64 and the dataset has 20 .*Use at most 20, or drop_last=False"
    )
    with pytest.raises(PlanError, match=message):
        make_plan(20, 64, drop_last=True)
    with pytest.raises(PlanError, match=message):
        epoch_length(make_grouping((10, 10, 0)), Constant(128), batch_size=64, drop_last=True)
    with pytest.raises(PlanError, match="multiple_of times the world size is 32 and the dataset has 20"):
        make_plan(20, PixelBudget(10**7, multiple_of=16), world_size=2, drop_last=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1 or a PixelBudget; got 0"),
        ({"batch_size": 2.5}, "batch_size must be .*; got 2.5"),
        ({"batch_size": True}, "batch_size must be .*; got True"),
        ({"seed": -1}, r"seed must be a whole number in \[0, 2\*\*64\); got -1"),
        ({"seed": 1 << 64}, "seed must be a whole number in"),
        ({"epoch": -1}, "epoch must be at least 0; got -1"),
        ({"world_size": 0}, "world_size must be at least 1; got 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(**options)
    with pytest.raises(ConfigError, match=message):
        epoch_length(make_grouping((10, 10, 0)), Constant(128), **({"batch_size": 8} | options))  # type: ignore[arg-type]


def test_no_samples_and_bad_sizes_are_refused() -> None:
    with pytest.raises(PlanError, match="no epoch can be planned over no samples"):
        group_samples(np.empty((0, 2), dtype=np.int32), BUCKETS)
    with pytest.raises(ConfigError, match="size must be positive; got 0 for sample 1"):
        group_samples(np.array([[3, 4], [0, 4]], dtype=np.int32), BUCKETS)
    with pytest.raises(ConfigError, match=r"size must be int32 \[N,2\], height and width; got float64 \[1, 2\]"):
        group_samples(np.ones((1, 2)), BUCKETS)  # type: ignore[arg-type]


def test_a_resolution_without_shapes_is_refused() -> None:
    with pytest.raises(PlanError, match=r"no shapes at resolution 224; they have \[96, 128\]"):
        plan_epoch(make_grouping((9, 9, 9)), Constant(224), batch_size=4)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    plan = make_plan()
    fields = {name: getattr(plan, name) for name in EpochPlan.__slots__}
    for change, message in (
        ({"sample_ids": plan.sample_ids.astype(np.int64)}, "EpochPlan.sample_ids must be int32"),
        ({"shapes": plan.shapes[1:]}, r"EpochPlan.shapes must be int32 \[3, 2\]; got int32 \[2, 2\]"),
        ({"offsets": plan.offsets + 1}, "EpochPlan.offsets must rise from 0 to 20"),
    ):
        with pytest.raises(ConfigError, match=message):
            EpochPlan(**(fields | change))


def test_ends_agree_with_assign_at_the_edges_themselves() -> None:
    size = np.array([[h, w] for h in range(1, 130) for w in range(1, 130)], dtype=np.int32)
    for edges in ([0.1, 4 / 3], [2 / 3, 1.0], [1 / 3, 1.1], [np.nextafter(0.75, 0), np.nextafter(0.75, 1)]):
        buckets = Buckets(np.array(edges), BUCKETS.resolutions, BUCKETS.shapes, 32)
        counts = np.bincount(buckets.assign(size), minlength=3)
        assert np.diff(group_samples(size, buckets).ends, prepend=0).tolist() == counts.tolist()
