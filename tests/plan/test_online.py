from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from resflow.errors import ConfigError, PlanError
from resflow.plan import (
    Buckets,
    Constant,
    Linear,
    OnlineBucketer,
    PixelBudget,
    PlannedBatch,
    RandomMultiScale,
    Steps,
    learn_buckets,
)
from resflow.plan.online import UNKNOWN_EPOCH, default_learn

STRIDE = 8


def sizes(count: int, seed: int = 0) -> np.ndarray:
    """int32 [count, 2] of many aspect ratios."""
    rng = np.random.default_rng(seed)
    return np.maximum(1, np.exp(rng.normal(4.5, 0.5, (count, 2)))).astype(np.int32)


def known(k: int, resolutions: tuple[int, ...] = (64,)) -> Buckets:
    return learn_buckets(sizes(500, 9), k, resolutions=resolutions, stride=STRIDE)


def run(bucketer: OnlineBucketer, size: np.ndarray, start: int = 0) -> tuple[list[PlannedBatch], int]:
    """All batches, and the most samples that ever waited, the arriving one included."""
    batches: list[PlannedBatch] = []
    most = 0
    for number, (height, width) in enumerate(size.tolist(), start):
        most = max(most, len(bucketer) + 1)
        batches += bucketer.add(number, height, width)
    return batches + bucketer.finish(), most


def reference(size: np.ndarray, buckets: Buckets, batch_size: int) -> list[tuple[list[int], int]]:
    """(samples, bucket) of each full batch in turn, the slow and plain way."""
    lists: dict[int, list[int]] = {}
    batches = []
    for number, (height, width) in enumerate(size.tolist()):
        ratio = np.float32(width / height)
        bucket = sum(ratio >= edge for edge in buckets.edges)
        lists.setdefault(bucket, []).append(number)
        if len(lists[bucket]) == batch_size:
            batches.append((lists.pop(bucket), bucket))
    return batches


def check_exactly_once(batches: list[PlannedBatch], count: int) -> None:
    assert Counter(i for batch in batches for i in batch.sample_ids.tolist()) == Counter(range(count))


def check_short(batches: list[PlannedBatch], batch_size: int) -> None:
    counts = [len(batch) for batch in batches]
    assert max(counts, default=0) <= batch_size
    assert all(count == batch_size for count in counts[:-1]), counts


GRID = [(n, k, b) for n in (0, 1, 7, 64, 333) for k in (1, 2, 8) for b in (1, 3, 16)]


@pytest.mark.parametrize(("n", "k", "b"), GRID)
def test_every_sample_comes_once_in_full_batches_and_at_most_one_short_one(n: int, k: int, b: int) -> None:
    bucketer = OnlineBucketer(Constant(64), b, buckets=known(k))
    batches, most = run(bucketer, sizes(n))
    check_exactly_once(batches, n)
    check_short(batches, b)
    assert most <= bucketer.bound == len(known(k)) * (b - 1) + 1
    assert [batch.step for batch in batches] == list(range(len(batches)))
    assert len(bucketer) == 0


@pytest.mark.parametrize("fault", ["lost", "repeated", "second short one"])
def test_the_checks_catch_a_planted_fault(fault: str) -> None:
    batches, _ = run(OnlineBucketer(Constant(64), 4, buckets=known(2)), sizes(21))
    broken = list(batches)
    first = broken[0]
    ids = {"lost": first.sample_ids[1:], "repeated": broken[1].sample_ids, "second short one": first.sample_ids[:3]}
    broken[0] = PlannedBatch(first.epoch, first.step, ids[fault], first.shape, first.resolution, first.seed)
    with pytest.raises(AssertionError):
        check_exactly_once(broken, 21)
    if fault != "repeated":
        with pytest.raises(AssertionError):
            check_short(broken, 4)


@pytest.mark.parametrize(("k", "b"), [(1, 4), (3, 5), (8, 16)])
def test_full_batches_are_those_of_a_plain_loop_over_lists(k: int, b: int) -> None:
    buckets, size = known(k), sizes(400, 1)
    expected = reference(size, buckets, b)
    batches, _ = run(OnlineBucketer(Constant(64), b, buckets=buckets), size)
    for batch, (ids, bucket) in zip(batches, expected, strict=False):
        assert batch.sample_ids.tolist() == ids
        assert batch.shape == buckets.shape(bucket, 64)
    assert len(batches) - len(expected) == -(-(400 - b * len(expected)) // b)


@pytest.mark.parametrize(("k", "b"), [(2, 2), (4, 3), (8, 16), (8, 64)])
def test_the_bound_is_reached_by_the_worst_order_and_never_passed(k: int, b: int) -> None:
    """Fill each bucket to one short of a batch; then one more sample must complete one."""
    buckets = known(k)
    pool = sizes(20_000, 2)
    bucket = buckets.assign(pool)
    adversary = np.concatenate([pool[bucket == i][: b - 1] for i in range(len(buckets))])
    bucketer = OnlineBucketer(Constant(64), b, buckets=buckets)
    assert [bucketer.add(number, *row) for number, row in enumerate(adversary.tolist())] == [[]] * len(adversary)
    assert len(bucketer) + 1 == bucketer.bound == len(buckets) * (b - 1) + 1
    for number, row in enumerate(pool.tolist(), len(adversary)):
        assert len(bucketer) + 1 <= bucketer.bound
        bucketer.add(number, *row)
    # orders that keep one bucket starved, or come bucket by bucket
    for order in (np.argsort(bucket, kind="stable"), np.argsort(-bucket, kind="stable"), np.arange(len(pool))):
        under_test = OnlineBucketer(Constant(64), b, buckets=buckets)
        _, most = run(under_test, pool[order])
        assert most <= under_test.bound


def test_a_bound_that_is_too_low_would_be_noticed() -> None:
    class Hoarder(OnlineBucketer):
        def _full(self) -> int | None:
            return None if len(self) < 2 * self.bound else super()._full()

    under_test = Hoarder(Constant(64), 4, buckets=known(3))
    assert run(under_test, sizes(200))[1] > under_test.bound


@pytest.mark.parametrize("n", [3, 40, 41, 300])
def test_learned_buckets_are_those_of_the_first_samples_and_change_no_batch(n: int) -> None:
    size = sizes(n, 4)
    learning = OnlineBucketer(Constant(64), 4, buckets=5, stride=STRIDE, learn=40)
    assert learning.bound == 40
    batches, most = run(learning, size)
    assert most <= learning.bound
    expected = learn_buckets(size[:40], 5, resolutions=(64,), stride=STRIDE)
    assert learning.buckets is not None
    assert learning.buckets.shapes.tolist() == expected.shapes.tolist()
    assert learning.buckets.edges.tolist() == expected.edges.tolist()
    known_before, _ = run(OnlineBucketer(Constant(64), 4, buckets=expected), size)
    assert [(b.sample_ids.tolist(), b.shape) for b in batches] == [
        (b.sample_ids.tolist(), b.shape) for b in known_before
    ]


def test_the_number_of_samples_to_learn_from_is_small_and_bounded() -> None:
    assert [default_learn(size) for size in (1, 64, 256, 100_000)] == [256, 256, 1024, 4096]
    assert default_learn(PixelBudget(1)) == 256
    assert OnlineBucketer(Constant(64), 4).bound == 256
    assert OnlineBucketer(Constant(64), 1000).bound == 8 * 999 + 1


def test_leftovers_are_cut_by_ratio_and_lie_where_they_waste_least() -> None:
    buckets, b = known(6), 8
    size = sizes(45, 5)
    batches, _ = run(OnlineBucketer(Constant(64), b, buckets=buckets), size)
    full = len(reference(size, buckets, b))
    rest = batches[full:]
    ratio = size[:, 1] / size[:, 0]
    for left, right in itertools.pairwise(rest):
        assert ratio[left.sample_ids].max() <= ratio[right.sample_ids].min()
    for batch in rest:
        assert batch.sample_ids.tolist() == sorted(batch.sample_ids.tolist())
        waste = {}
        for height, width in buckets.shapes[0].tolist():
            contained = [min(height / h, width / w) for h, w in size[batch.sample_ids].tolist()]
            used = sum(s * s * h * w for s, (h, w) in zip(contained, size[batch.sample_ids].tolist(), strict=True))
            waste[height, width] = height * width * len(batch) - used
        assert waste[batch.shape] == pytest.approx(min(waste.values()))


@pytest.mark.parametrize("n", [16, 17, 30])
def test_drop_last_leaves_out_less_than_a_batch(n: int) -> None:
    batches, _ = run(OnlineBucketer(Constant(64), 4, buckets=known(3), drop_last=True), sizes(n))
    assert [len(batch) for batch in batches] == [4] * (n // 4)


def test_without_an_epochs_size_schedules_move_by_epochs() -> None:
    for schedule in (Linear(32, 64, epochs=3, step=16), Linear(32, 64, epochs=3, step=16, within_epoch=True)):
        buckets = known(3, schedule.resolutions)
        for epoch in range(4):
            batches, _ = run(OnlineBucketer(schedule, 4, buckets=buckets, epoch=epoch), sizes(100))
            expected = schedule(np.array([epoch * UNKNOWN_EPOCH]), UNKNOWN_EPOCH, 0)
            assert {batch.resolution for batch in batches} == set(expected.tolist())


def test_random_scales_are_drawn_by_samples_in_every_epoch() -> None:
    schedule = RandomMultiScale((32, 48, 64), every=16)
    buckets = known(3, schedule.resolutions)
    drawn = []
    for epoch in range(2):
        batches, _ = run(OnlineBucketer(schedule, 4, buckets=buckets, epoch=epoch, seed=7), sizes(200))
        before = np.cumsum([0] + [len(batch) for batch in batches[:-1]])
        expected = schedule(epoch * UNKNOWN_EPOCH + before, UNKNOWN_EPOCH, 7)
        assert [batch.resolution for batch in batches] == expected.tolist()
        drawn.append([batch.resolution for batch in batches])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("streams", [1, 4])
def test_with_an_epochs_size_the_resolution_follows_samples_and_stops_at_the_epochs_end(streams: int) -> None:
    schedule = Linear(32, 64, epochs=2, step=8, within_epoch=True)
    buckets = known(3, schedule.resolutions)
    bucketer = OnlineBucketer(schedule, 4, buckets=buckets, epoch=1, epoch_size=400, streams=streams)
    batches, _ = run(bucketer, sizes(600 // streams))  # half as many again as announced
    before = np.cumsum([0] + [len(batch) for batch in batches[:-1]]) * streams
    assert [b.resolution for b in batches] == schedule(400 + np.minimum(before, 399), 400, 0).tolist()
    assert len({batch.resolution for batch in batches}) > 1


@pytest.mark.parametrize("schedule", [Constant(64), Steps({0: 64}), RandomMultiScale((32, 48, 64), every=8)])
def test_a_pixel_budget_is_kept_and_bounds_what_waits(schedule: Constant | Steps | RandomMultiScale) -> None:
    buckets = known(4, schedule.resolutions)
    budget = PixelBudget(40_000, max_batch=24)
    for order in (sizes(700), sizes(700)[np.argsort(buckets.assign(sizes(700)), kind="stable")]):
        under_test = OnlineBucketer(schedule, budget, buckets=buckets)
        batches, most = run(under_test, order)
        check_exactly_once(batches, 700)
        assert all(len(batch) <= budget.limit(batch.shape) for batch in batches)
        assert most <= under_test.bound
        limits = [sum(budget.limit(buckets.shape(k, r)) - 1 for k in range(4)) + 1 for r in schedule.resolutions]
        assert under_test.bound == max(limits)
    assert OnlineBucketer(schedule, budget, buckets=4).bound >= max(limits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ({"buckets": 0}, "buckets must be a whole number of at least 1; got 0"),
        ({"learn": 0}, "learn must be a whole number of at least 1; got 0"),
        ({"streams": 1.5}, r"streams must be a whole number of at least 1; got 1\.5"),
        ({"epoch_size": -3}, "epoch_size must be a whole number of at least 1; got -3"),
        ({"epoch": -1}, r"epoch in \[0, 4194304\); got 0 and -1"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*64\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OnlineBucketer(Constant(64), arguments.pop("batch_size", 4), **arguments)


def test_a_size_of_nothing_and_buckets_without_the_resolution_are_refused() -> None:
    with pytest.raises(ConfigError, match="height and width must be at least 1; got 0 and 5 for sample 3"):
        OnlineBucketer(Constant(64), 4).add(3, 0, 5)
    with pytest.raises(PlanError, match="no shapes at resolution 96"):
        OnlineBucketer(Constant(96), 4, buckets=known(2))
