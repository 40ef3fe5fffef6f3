"""Samplers beside a pipeline of one shape for each resolution."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import resflow as rf
from resflow.errors import ConfigError, StateError
from resflow.plan import Buckets
from resflow.plan.given_order import plan_given
from tests.shards import make_shards

COUNT, BATCH = 22, 4
ORDER = [3, 3, 21, 0, 7, 3, 12, 5, 7, 1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("given"), COUNT, per_shard=8)


def loader(shards: str, sampler: Any = None, **arguments: Any) -> rf.DataLoader[Any]:
    schedule = rf.schedules.Steps({0: 32, 1: 48})
    pipeline = rf.Pipeline(
        resolution=schedule,
        buckets=Buckets.square(32, 48, stride=16),
        stride=16,
        views=[rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.HorizontalFlip()],
    )
    arguments = {"batch_size": BATCH, "seed": 5, "pipeline": pipeline} | arguments
    return rf.DataLoader(shards, sampler=sampler, **arguments)


def order(batches: Any) -> list[int]:
    return [number for batch in batches for number in batch.sample_ids.tolist()]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Own(Sampler[int]):
    """Draws from the generators that its name says."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.generator = np.random.default_rng(1)

    def __len__(self) -> int:
        return 9

    def __iter__(self) -> Iterator[int]:
        for _ in range(9):
            if self.source == "torch":
                yield int(torch.randint(COUNT, ()))
            elif self.source == "random":
                yield random.randrange(COUNT)
            elif self.source == "numpy":
                yield np.random.randint(COUNT)
            else:
                yield int(self.generator.integers(COUNT))


def samplers() -> dict[str, Any]:
    weights = torch.linspace(0.1, 1.0, COUNT)
    return {
        "list": ORDER,
        "tensor": torch.tensor(ORDER),
        "weighted": WeightedRandomSampler(weights, 30, generator=generator()),
        "weighted, global": WeightedRandomSampler(weights.tolist(), 30),
        "subset": SubsetRandomSampler([1, 5, 9, 13, 2, 8, 7], generator=generator()),
        "replacement": RandomSampler(range(COUNT), replacement=True, num_samples=17, generator=generator()),
        "random": RandomSampler(range(COUNT)),
        "sequential": SequentialSampler(range(COUNT)),
        "own torch": Own("torch"),
        "own random": Own("random"),
        "own numpy": Own("numpy"),
        "distributed": DistributedSampler(range(COUNT), num_replicas=2, rank=1, seed=4),
        "batches": BatchSampler(WeightedRandomSampler(weights, 30, generator=generator()), 5, drop_last=False),
    }


NAMES = tuple(samplers())


def loader_of(shards: str, name: str, **arguments: Any) -> rf.DataLoader[Any]:
    sampler = samplers()[name]
    if name == "batches":
        return loader(shards, batch_sampler=sampler, batch_size=1, **arguments)
    return loader(shards, sampler, **arguments)


@pytest.mark.parametrize("name", ["list", "tensor", "weighted", "subset", "replacement", "sequential"])
def test_order_and_repeats_are_the_samplers(shards: str, name: str) -> None:
    own, found = samplers()[name], loader_of(shards, name)
    for epoch in range(3):  # a generator of its own goes on from epoch to epoch
        expected = [int(index) for index in own]
        assert len(found) == -(-len(expected) // BATCH)
        assert order(found) == expected
        assert found.epoch == epoch + 1


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_last_batch(shards: str, drop_last: bool) -> None:
    found = loader(shards, ORDER, drop_last=drop_last)
    assert len(found) == 2 + (not drop_last)
    assert [len(batch) for batch in found] == [4, 4] + [2] * (not drop_last)


def test_a_sampler_without_randomness_of_its_own_follows_seed_and_epoch(shards: str) -> None:
    for name in ("weighted, global", "random", "own torch", "own random", "own numpy"):
        first, other = loader_of(shards, name), loader_of(shards, name, seed=6)
        torch.rand(5)
        random.random()
        again = loader_of(shards, name)
        epochs = [[order(one) for _ in range(2)] for one in (first, other, again)]
        assert epochs[0] == epochs[2]
        assert epochs[0][0] != epochs[0][1]
        assert epochs[0] != epochs[1]


def test_samplers_leave_the_global_generators_alone(shards: str) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    batches = iter(loader_of(shards, "own numpy").plan(0).sample_ids)
    assert len(list(batches)) == 9
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])


def test_repeated_samples_have_views_of_their_own(shards: str) -> None:
    here, there = loader(shards, ORDER), loader(shards, ORDER, num_workers=1)
    windows: dict[int, list[Any]] = {}
    for left, right in zip(here, there, strict=True):
        assert torch.equal(left.images, right.images)
        for number, matrix in zip(left.sample_ids.tolist(), left.transform, strict=True):
            windows.setdefault(number, []).append(tuple(matrix.flatten().tolist()))
    assert {number: len(found) for number, found in windows.items()} == Counter(ORDER)
    assert all(len(set(found)) == len(found) for found in windows.values())


@pytest.mark.parametrize("name", NAMES)
def test_resuming_at_every_step(shards: str, name: str) -> None:
    for epoch in range(2):
        whole = loader_of(shards, name)
        for _ in range(epoch):
            list(whole)
        states, batches = [whole.state_dict()], []
        for batch in whole:
            batches.append(batch)
            states.append(whole.state_dict())
        following = order(whole)
        for step, state in enumerate(states):
            torch.rand(3)
            resumed = loader_of(shards, name)
            resumed.load_state_dict(state)
            rest = list(resumed)
            assert order(rest) == order(batches[step:])
            assert all(torch.equal(left.images, right.images) for left, right in zip(rest, batches[step:], strict=True))
            assert order(resumed) == following


def test_a_sampler_that_does_not_repeat_itself_is_refused(shards: str) -> None:
    first = loader(shards, Own("a generator that cannot be found"))
    next(iter(first))
    state = first.state_dict()
    drawn = Own("a generator that cannot be found")
    list(drawn)
    with pytest.raises(StateError, match="the sampler, Own, gives another order"):
        loader(shards, drawn).load_state_dict(state)
    with pytest.raises(StateError, match=r"config.sampler differs"):
        loader(shards, ORDER).load_state_dict(state)
    with pytest.raises(StateError, match=r"config.sampler differs"):
        loader(shards).load_state_dict(state)
    with pytest.raises(StateError, match="sampler"):
        loader(shards, Own("")).load_state_dict({**state, "sampler": {}})


# Ranks


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
@pytest.mark.parametrize("name", ["list", "weighted", "random", "own numpy"])
def test_a_sampler_that_knows_no_ranks_gives_the_order_of_all(shards: str, name: str) -> None:
    alone = loader_of(shards, name)
    parts = [loader_of(shards, name, batch_size=2, world=rf.World(rank, 2)) for rank in range(2)]
    for _ in range(2):
        whole, ranks = list(alone), [list(part) for part in parts]
        assert [len(part) for part in parts] == [len(whole)] * 2
        for step, batch in enumerate(whole):
            both = [part[step] for part in ranks]
            ids = batch.sample_ids.tolist()
            assert order(both) == (ids * 2 if len(ids) == 1 else ids)  # no rank's batch is empty
            assert torch.equal(torch.cat([part.images for part in both])[: len(ids)], batch.images)


def test_a_sampler_that_knows_its_rank_gives_that_ranks_order(shards: str) -> None:
    def made(rank: int) -> DistributedSampler[Any]:
        return DistributedSampler(range(COUNT), num_replicas=2, rank=rank, seed=4)  # type: ignore[arg-type]

    for rank in range(2):
        own, found = made(rank), loader(shards, made(rank), world=rf.World(rank, 2))
        for epoch in range(3):
            own.set_epoch(epoch)
            assert order(found) == list(own)
            assert len(found) == -(-len(own) // BATCH)
    state = found.state_dict()
    loader(shards, made(0), world=rf.World(0, 2)).load_state_dict(state)  # any rank's state is good for all


def test_an_epoch_that_the_script_tells_its_sampler_holds(shards: str) -> None:
    own = DistributedSampler(range(COUNT), num_replicas=1, rank=0)  # type: ignore[arg-type]
    found = loader(shards, own)
    for epoch in (4, 5, 2):
        own.set_epoch(epoch)
        given = list(own)
        first = next(iter(found))
        assert found.epoch == epoch
        assert order([first]) == given[:BATCH]


def test_ranks_that_are_given_the_same_sample_draw_views_of_their_own(shards: str) -> None:
    class Shared(Sampler[int]):
        def __init__(self, rank: int) -> None:
            self.num_replicas, self.rank = 2, rank

        def __len__(self) -> int:
            return len(ORDER)

        def __iter__(self) -> Iterator[int]:
            return iter(ORDER)

    ranks = [list(loader(shards, Shared(rank), world=rf.World(rank, 2))) for rank in range(2)]
    assert order(ranks[0]) == order(ranks[1]) == ORDER
    drawn = [tuple(matrix.flatten().tolist()) for rank in ranks for batch in rank for matrix in batch.transform]
    assert len(set(drawn)) == 2 * len(ORDER)


def test_batches_of_a_batch_sampler(shards: str) -> None:
    given = [[1, 2, 3], [4], [5, 5, 6, 7]]
    found = loader(shards, batch_sampler=given, batch_size=1)
    assert len(found) == 3
    assert [batch.sample_ids.tolist() for batch in found] == given
    with pytest.raises(ConfigError, match="does not know its rank, and there are 2"):
        list(loader(shards, batch_sampler=given, batch_size=1, world=rf.World(0, 2)))
    with pytest.raises(ConfigError, match="batch_sampler decides batch_size"):
        loader(shards, batch_sampler=given)


def test_the_resolution_follows_the_samples_that_are_given(shards: str) -> None:
    found = loader(shards, ORDER * 2)
    assert [{batch.resolution for batch in found} for _ in range(2)] == [{32}, {48}]


# What is refused


@pytest.mark.parametrize(
    ("sampler", "instead"),
    [
        (WeightedRandomSampler([1.0] * COUNT, 5, replacement=False), r"sampling=rf\.sampling\.Weighted\(weights\)"),
        (SubsetRandomSampler(range(5)), r"Subset\(dataset, indices\) and shuffle=True"),
        (RandomSampler(range(COUNT)), "pass shuffle=True"),
        (DistributedSampler(range(COUNT), 2, 0), "drop it: the loader gives each rank its part"),  # type: ignore[arg-type]
        (ORDER, "each batch is made of images of one ratio"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_several_buckets_refuse_a_sampler_and_say_what_to_use(shards: str, sampler: Any, instead: str) -> None:
    pipeline = rf.Pipeline(resolution=32, buckets=3, stride=8)
    with pytest.raises(ConfigError, match=f"{type(sampler).__name__} .*3 buckets.*{instead}") as caught:
        loader(shards, sampler, pipeline=pipeline)
    assert "Buckets.square(32, stride=8)" in str(caught.value)
    assert len(loader(shards, sampler, pipeline=rf.Pipeline(resolution=32, buckets=1, stride=8))) > 0


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ([0, COUNT], "gave the index 22; the dataset has samples 0 to 21"),
        ([0, -1], "gave the index -1"),
        ([(0, 224), (1, 192)], r"gave \(0, 224\); a pipeline takes samplers of indices"),
        (["a"], "gave 'a'"),
        ([1 << 70], "samplers of indices"),
    ],
)
def test_what_is_no_index_is_refused(shards: str, sampler: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(loader(shards, sampler))


def test_what_cannot_stand_beside_a_sampler(shards: str) -> None:
    for arguments, message in (
        ({"shuffle": True}, "shuffle and a sampler both decide"),
        ({"decorrelate": True}, "decorrelate and a sampler"),
        ({"batch_size": rf.PixelBudget(10_000)}, "PixelBudget and a sampler"),
    ):
        with pytest.raises(ConfigError, match=message):
            loader(shards, ORDER, **arguments)
    with pytest.raises(ConfigError, match="sampler must give indices"):
        loader(shards, 7)

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(ConfigError, match="sampler has no meaning for a stream"):
        rf.DataLoader(Stream(), sampler=ORDER, pipeline=rf.Pipeline(resolution=32))


def test_a_length_that_is_not_kept_is_refused(shards: str) -> None:
    class Wrong(Own):
        def __len__(self) -> int:
            return 12

    with pytest.raises(ConfigError, match="Wrong gave 9 elements, but its length is 12"):
        list(loader(shards, Wrong("torch")))


def test_a_sampler_without_a_length(shards: str) -> None:
    class Unknown:
        def __iter__(self) -> Iterator[int]:
            return iter(ORDER)

    found = loader(shards, Unknown())
    assert order(found) == ORDER
    with pytest.raises(TypeError):
        len(found)


# The plan


def test_repeats_are_counted_and_progress_is_that_of_all_ranks() -> None:
    ids, lengths = np.array(ORDER), np.array([4, 4, 2])
    schedule = rf.schedules.Steps({0: 32, 1: 48})
    buckets = Buckets.square(32, 48, stride=16)

    def plan(**options: Any) -> Any:
        return plan_given(ids, lengths, buckets, schedule, batch_size=4, seed=0, **options)

    assert plan(epoch=0).repeats.tolist() == [0, 1, 0, 0, 0, 2, 0, 0, 1, 0]
    assert plan(epoch=0, replicas=2, replica=1).repeats.tolist() == [1, 3, 1, 1, 1, 5, 1, 1, 3, 1]
    assert [plan(epoch=epoch, replicas=3).resolutions.tolist() for epoch in (0, 1)] == [[32] * 3, [48] * 3]
    empty = plan_given(ids[:0], lengths[:0], buckets, schedule, batch_size=4, seed=0, epoch=0)
    assert len(empty) == 0
