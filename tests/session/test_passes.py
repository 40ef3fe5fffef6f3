"""Passes over one loader that overlap: each is one of its own, and the state is one that can be loaded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.data

import resflow as rf
from resflow.errors import ConfigError
from tests.shards import jpeg, make_shards

COUNT, BATCH = 41, 4
PIPELINE = rf.Pipeline(resolution=32, buckets=1, stride=8)
Make = Callable[[], rf.DataLoader]


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        return index


class Stream(torch.utils.data.IterableDataset):
    """Pictures in an order of the epoch's own, divided among workers."""

    epoch = 0

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        for number in order[first::step]:
            yield jpeg(20, 24, number), number


def ids(batch: Any) -> list[int]:
    return batch.tolist() if isinstance(batch, torch.Tensor) else list(map(int, batch.keys or batch.targets.tolist()))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("passes"), COUNT, per_shard=COUNT)


@pytest.fixture(params=["planned", "sampled", "stream", "plain"])
def data(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(0, False), (2, False), (2, True)], ids=["in process", "workers", "persistent workers"])
def make(request: pytest.FixtureRequest, data: str, shards: str) -> Make:
    workers, persistent = request.param
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": persistent, "batch_size": BATCH}
    if data == "plain":
        return lambda: rf.DataLoader(Numbers(), shuffle=True, generator=torch.Generator().manual_seed(1), **options)
    if data == "stream":
        return lambda: rf.DataLoader(Stream(), pipeline=PIPELINE, collate_fn=_labelled, **options)
    if data == "sampled":
        return lambda: rf.DataLoader(
            shards,
            sampler=torch.utils.data.RandomSampler(range(COUNT), generator=torch.Generator().manual_seed(1)),
            pipeline=PIPELINE,
            **options,
        )
    return lambda: rf.DataLoader(shards, shuffle=True, pipeline=PIPELINE, **options)


def _labelled(batch: rf.Batch) -> torch.Tensor:
    return batch.targets


def whole(seen: list[list[int]]) -> bool:
    return sorted(itertools.chain(*seen)) == list(range(COUNT))


def test_two_passes_at_once_have_every_sample_each(make: Make) -> None:
    loader = make()
    pairs = [(ids(one), ids(other)) for one, other in zip(loader, loader, strict=True)]
    assert whole([one for one, _ in pairs])
    assert whole([other for _, other in pairs])
    assert [one for one, _ in pairs] != [other for _, other in pairs]
    assert whole([ids(batch) for batch in loader])


def test_a_pass_within_a_pass_leaves_it_alone(make: Make) -> None:
    expected = [ids(batch) for batch in make()]
    loader, seen = make(), []
    for step, batch in enumerate(loader):
        seen.append(ids(batch))
        if step == 3:
            assert whole([ids(inner) for inner in loader])
    assert seen == expected


def test_a_look_at_a_batch_within_a_loop_changes_no_state(make: Make) -> None:
    expected = [ids(batch) for batch in make()]
    for stop in (0, 4, len(expected) - 1):
        loader, seen, state = make(), [], {}
        for step, batch in enumerate(loader):
            seen.append(ids(batch))
            if step in (1, stop):
                assert len(ids(next(iter(loader)))) == BATCH
            if step == stop:
                state = json.loads(json.dumps(loader.state_dict()))
        assert seen == expected
        resumed = make()
        resumed.load_state_dict(state)
        rest = [ids(batch) for batch in resumed] if stop + 1 < len(expected) else []
        assert rest == expected[stop + 1 :]


def test_a_pass_that_is_kept_and_forgotten_has_no_say(make: Make) -> None:
    loader = make()
    kept = iter(loader)
    next(kept)
    seen = [ids(batch) for batch in itertools.islice(loader, 5)]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make()
    if "seed" not in state:  # the plain loader's second order
        iter(resumed)
    resumed.load_state_dict(state)
    assert whole(seen + [ids(batch) for batch in resumed])


def test_workers_that_persist_go_on_after_a_look(make: Make) -> None:
    loader = make()
    if not loader.persistent_workers:
        pytest.skip("these workers do not persist")
    pids = set()
    for _epoch in range(3):
        for step, _ in enumerate(loader):
            pids.add(tuple(worker.pid for worker in loader._iterator._workers))
            if step == 2:
                next(iter(loader))
    assert len(pids) == 1


class Nested(torch.utils.data.Dataset):
    """Has a loader in each worker."""

    def __init__(self, data: Any, workers: int) -> None:
        self.data, self.workers = data, workers

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        loader = rf.DataLoader(self.data, BATCH, num_workers=self.workers, pipeline=PIPELINE)
        return torch.tensor(len(list(loader)))


@pytest.mark.parametrize("data", ["planned", "stream"])
def test_a_loader_works_in_another_loaders_worker(data: str, shards: str) -> None:
    outer = torch.utils.data.DataLoader(Nested(shards if data == "planned" else Stream(), 0), None, num_workers=2)
    expected = [11, 11] if data == "planned" else [6, 5]  # the stream divides itself among the outer workers
    assert [int(count) for count in outer] == expected


@pytest.mark.parametrize("data", ["planned", "stream"])
def test_a_daemon_with_workers_is_told_the_way_out(data: str, shards: str) -> None:
    outer = torch.utils.data.DataLoader(Nested(shards if data == "planned" else Stream(), 2), None, num_workers=1)
    with pytest.raises(ConfigError, match=r"num_workers is 2.*daemon.*num_workers=0"):
        list(outer)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("data", ["planned", "stream"])
def test_a_default_device_does_not_reach_what_is_made(data: str, workers: int, shards: str) -> None:
    pipeline = rf.Pipeline(resolution=32, buckets=1, stride=8, normalize=rf.IMAGENET)
    loader = rf.DataLoader(shards if data == "planned" else Stream(), BATCH, num_workers=workers, pipeline=pipeline)
    expected = [batch.images for batch in loader]
    loader.set_epoch(0)
    torch.set_default_device("meta")  # any other than the CPU
    try:
        found = [batch.images for batch in loader]
    finally:
        torch.set_default_device(None)
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_a_generator_beside_a_pipeline_is_said_to_be_ignored(shards: str) -> None:
    with pytest.warns(UserWarning, match=r"generator is ignored.*seed=5 "):
        rf.DataLoader(shards, BATCH, pipeline=PIPELINE, generator=torch.Generator().manual_seed(5))
