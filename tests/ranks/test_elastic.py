"""Any number of ranks: one global order; resume with another number in mid-epoch, nothing lost, nothing repeated."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

import resflow as rf
from resflow.errors import PlanError, StateError
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
    lay_out,
    learn_buckets,
)
from tests.ranks.checks import Step, check_in_step, check_order, check_turns
from tests.shards import make_shards

pytestmark = pytest.mark.filterwarnings("ignore:the short batch of an epoch has")

WORLDS = (1, 2, 3, 4, 8)
BATCH = 24  # over all ranks
COUNT = 1003


def make_layout(block: int = 1 << 22, mixture: Mixture | None = None) -> Layout:
    rng = np.random.default_rng(0)
    height = rng.integers(100, 900, COUNT)
    size = np.stack([height, height * np.exp(rng.normal(0.1, 0.4, COUNT))], axis=1).astype(np.int32)
    shard = np.repeat(np.arange(60), 17)[:COUNT].astype(np.int32)
    index = Index(shard, np.zeros(COUNT, np.int64), np.ones(COUNT, np.int64), size, "x")
    return lay_out(index, learn_buckets(size, 5, resolutions=[96, 128], stride=32), mixture, block=block, run=40)


LAYOUTS = {
    "one block": make_layout(),
    "blocks": make_layout(200),
    "mixture": make_layout(mixture=Mixture((900, 103), (2, 1), 700)),
    "mixture in blocks": make_layout(200, Mixture((900, 103), (2, 1), 700)),
}


def handed(plan: BlockPlan, world: int, steps: range | None = None) -> list[list[Step]]:
    """What each rank gets."""
    ranks = [plan.rank(rf.World(rank, world)) for rank in range(world)]
    every = range(len(plan)) if steps is None else steps
    got = [[rank.batch(step) for step in every] for rank in ranks]
    return [[(b.epoch, b.step, b.sample_ids.tolist(), list(b.shape)) for b in rank] for rank in got]


def expected(plan: BlockPlan) -> list[list[int]]:
    whole = plan.whole()
    return [part.tolist() for part in np.split(whole.sample_ids, whole.offsets[1:-1])]


def shared(order: list[list[int]], world: int) -> list[list[int]]:
    """The batches that ranks are handed: the last one repeats samples until every rank has one."""
    return [*order[:-1], np.resize(order[-1], max(len(order[-1]), world)).tolist()]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("schedule", [Constant(128), RandomMultiScale((96, 128))], ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_global_order_is_that_of_one_rank(layout: Layout, schedule: Schedule, drop_last: bool) -> None:
    def plan(world: int) -> BlockPlan:
        return BlockPlan(
            layout, schedule, batch_size=BATCH, seed=3, epoch=1, shuffle=True, drop_last=drop_last, world_size=world
        )

    order = expected(plan(1))
    assert sum(map(len, order)) == (len(layout) // BATCH * BATCH if drop_last else len(layout))
    for world in WORLDS:
        leg = handed(plan(world), world)
        check_in_step(leg)
        check_order([leg], shared(order, world))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_another_number_of_ranks_goes_on_at_every_step(layout: Layout) -> None:
    plan = BlockPlan(layout, Linear(96, 128, epochs=3), batch_size=BATCH, shuffle=True, epoch=1)
    order, steps = expected(plan), len(plan)
    legs = {world: handed(plan, world) for world in WORLDS}
    for step, (one, other) in itertools.product(range(steps + 1), itertools.permutations(WORLDS, 2)):
        last = other if step < steps else one
        check_order([[rank[:step] for rank in legs[one]], [rank[step:] for rank in legs[other]]], shared(order, last))
    rng = np.random.default_rng(1)
    for _ in range(20):
        cuts = sorted(rng.integers(0, steps + 1, 3).tolist())
        parts = list(itertools.pairwise([0, *cuts, steps]))
        worlds = (4, 2, 8, 1)
        four = [handed(plan, world, range(*part)) for world, part in zip(worlds, parts, strict=True)]
        for leg in four:
            check_in_step(leg)
        check_order(
            four, shared(order, [world for world, part in zip(worlds, parts, strict=True) if len(range(*part))][-1])
        )


@pytest.mark.parametrize("batch", [BATCH, PixelBudget(128 * 128 * 9, multiple_of=2)], ids=["batch size", "budget"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_decorrelated_ranks_take_turns_and_use_the_same(layout: Layout, batch: int | PixelBudget) -> None:
    for world, drop_last in itertools.product(WORLDS, (False, True)):
        options: dict[str, Any] = {"batch_size": batch, "shuffle": True, "drop_last": drop_last, "world_size": world}
        plan = BlockPlan(layout, RandomMultiScale((96, 128)), decorrelate=True, **options)
        leg = handed(plan, world)
        assert len(leg[0]) == len(plan)
        assert leg == handed(plan, world)  # any step again, from any block
        unit = batch if isinstance(batch, int) else 2 * world
        order = expected(plan)
        check_turns(leg, shared(order, world))
        assert sum(map(len, order)) == len(layout) - (len(layout) % unit if drop_last else 0)
        if isinstance(batch, int):
            assert {len(ids) for rank in leg for _, _, ids, _ in rank[:-1]} == {batch // world}
        if layout.mixture is None:
            same = BlockPlan(layout, RandomMultiScale((96, 128)), **options)
            check_turns(leg, shared(expected(same), world))  # the epoch's samples do not depend on it
        if world > 1 and isinstance(batch, int):
            leg[1][0] = leg[0][0]  # a rank that takes another's turn
            with pytest.raises(AssertionError, match="samples are lost"):
                check_turns(leg, shared(order, world))


@pytest.mark.parametrize("shuffle", [False, True])
def test_decorrelated_ranks_are_of_as_many_buckets_as_can_be(shuffle: bool) -> None:
    layout = LAYOUTS["one block"]
    for world in (2, 3, 4, 8):
        plan = BlockPlan(layout, Constant(128), batch_size=BATCH, shuffle=shuffle, world_size=world, decorrelate=True)
        leg = handed(plan, world)
        whole = [tuple(shape) for shape in plan.block(0).shapes.tolist()]
        share = {shape: count / len(whole) for shape, count in Counter(whole).items()}
        met = 0
        for step in range(len(plan) // world * world - world):
            at_once = Counter(tuple(rank[step][3]) for rank in leg)
            assert all(count <= np.ceil(world * share[shape]) + 1 for shape, count in at_once.items())
            met += len(at_once) > 1
        assert met > 0.9 * (len(plan) - 2 * world)
        together = BlockPlan(layout, Constant(128), batch_size=BATCH, shuffle=shuffle, world_size=world)
        assert all(len({tuple(rank[step][3]) for rank in handed(together, world)}) == 1 for step in range(3))


def test_a_decorrelated_plan_serves_one_number_of_ranks() -> None:
    plan = BlockPlan(LAYOUTS["one block"], Constant(128), batch_size=BATCH, world_size=4, decorrelate=True)
    with pytest.raises(
        PlanError, match=r"decorrelated, batches depend .* planned for world size 4; got 2. Plan it with"
    ):
        plan.rank(rf.World(0, 2))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("elastic")
    return [make_shards(folder / "a", 61), make_shards(folder / "b", 17, per_shard=5)]


def make_loader(data: Any, rank: int, world: int, batch: int = 8, **options: Any) -> rf.DataLoader:
    pipeline = rf.Pipeline(resolution=32, buckets=3, stride=16, views=[rf.views.RandomResizedCrop(scale=(0.3, 1.0))])
    options = {"batch_size": batch // world, "shuffle": True, "world": rf.World(rank, world), "seed": 4} | options
    return rf.DataLoader(data, pipeline=pipeline, **options)


def leg_of(
    data: Any, world: int, steps: int | None, state: Any, pixels: dict[int, Any]
) -> tuple[list[list[Step]], Any]:
    """What each rank's loader gives from a saved state on, and the state after it; states travel as JSON."""
    ranks, states = [], []
    for rank in range(world):
        loader = make_loader(data, rank, world)
        if state is not None:
            loader.load_state_dict(json.loads(state))
        done: list[Step] = []
        first = loader.state_dict()["step"]
        for batch in itertools.islice(loader, steps):
            ids = batch.sample_ids.tolist()
            done.append((loader.epoch, first + len(done), ids, list(batch.images.shape[2:])))
            for sample, image in zip(ids, batch.images, strict=True):
                pixels.setdefault(sample, []).append(image.numpy().tobytes())
        ranks.append(done)
        states.append(json.dumps(loader.state_dict()))
    assert len(set(states)) == 1  # any rank's state is every rank's
    return ranks, states[0]


@pytest.mark.parametrize("mixed", [False, True])
def test_loaders_of_4_2_8_and_1_ranks_share_an_epoch(shards: list[str], mixed: bool) -> None:
    data = rf.sources.Mix(shards, weights=[2, 1], epoch_size=70) if mixed else shards[0]
    plan = make_loader(data, 0, 1).plan(0)
    order = [part.tolist() for part in np.split(plan.sample_ids, plan.offsets[1:-1])]
    state, legs, pixels, alone = None, [], {}, {}
    for world, steps in ((4, 3), (2, 1), (8, 2), (1, None)):
        leg, state = leg_of(data, world, steps, state, pixels)
        check_in_step(leg)
        legs.append(leg)
    check_order(legs, order)
    assert Counter(ids for batch in order for ids in batch).total() == (70 if mixed else 61)
    leg_of(data, 1, None, None, alone)
    assert {sample: sorted(views) for sample, views in pixels.items()} == {s: sorted(v) for s, v in alone.items()}


def test_a_decorrelated_loader_resumes_at_every_step_with_as_many_ranks(shards: list[str]) -> None:
    full = [list(make_loader(shards[0], rank, 2, decorrelate=True)) for rank in range(2)]
    used = Counter(sample for rank in full for batch in rank for sample in batch.sample_ids.tolist())
    assert used == Counter(range(61))
    for rank, step in itertools.product(range(2), range(len(full[0]) + 1)):
        loader = make_loader(shards[0], rank, 2, decorrelate=True)
        for _ in itertools.islice(loader, step):
            pass
        again = make_loader(shards[0], rank, 2, decorrelate=True)
        again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rest = [batch.sample_ids.tolist() for batch in again] if step < len(full[0]) else []
        assert rest == [batch.sample_ids.tolist() for batch in full[rank][step:]]
    state = make_loader(shards[0], 0, 2, decorrelate=True).state_dict()
    with pytest.raises(StateError, match=r"config.world_size differs: saved '2', current '4'"):
        make_loader(shards[0], 0, 4, decorrelate=True).load_state_dict(state)
    with pytest.raises(StateError, match=r"config.decorrelate differs: saved 'True', current None"):
        make_loader(shards[0], 0, 2).load_state_dict(state)


def test_states_of_before_are_still_good(shards: list[str]) -> None:
    """Loaders without the two new things say nothing of them in their states."""
    assert {"decorrelate", "mixture", "world_size"}.isdisjoint(make_loader(shards[0], 0, 2).state_dict()["config"])
