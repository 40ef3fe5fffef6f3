"""A loader without a pipeline: PyTorch's, and resumable."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import pickle
from collections.abc import Iterator

import psutil
import pytest
import torch
import torch.utils.data as data

import resflow as rf
from resflow.errors import StateError

SIZE, BATCH = 23, 4


class Numbers(data.Dataset):
    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> int:
        return index


class Stream(data.IterableDataset):
    def __iter__(self) -> Iterator[int]:
        info = data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(first, SIZE, step))


def test_the_signature_begins_with_pytorchs() -> None:
    ours = list(inspect.signature(rf.DataLoader.__init__).parameters.values())
    theirs = list(inspect.signature(data.DataLoader.__init__).parameters.values())
    for mine, torchs in zip(ours, theirs, strict=False):
        assert (mine.name, mine.default, mine.kind) == (torchs.name, torchs.default, torchs.kind)
    assert [p.name for p in ours[len(theirs) :]] == ["pipeline", "seed", "world", "even", "decorrelate", "sizes"]


def test_it_is_generic_pickles_and_shows_pytorchs_surface() -> None:
    class Mine(rf.DataLoader[int]):
        pass

    under_test = Mine(Numbers(), batch_size=BATCH)
    assert [b.tolist() for b in pickle.loads(pickle.dumps(rf.DataLoader(Numbers(), BATCH)))] == [
        b.tolist() for b in under_test
    ]
    assert not hasattr(under_test, "epoch")
    assert not hasattr(under_test, "buckets")
    assert type(iter(under_test)) is type(iter(data.DataLoader(Numbers())))
    under_test.epoch = 3
    assert under_test.epoch == 3


def passes(loader: rf.DataLoader, count: int) -> list[list[int]]:
    return [batch.tolist() for _ in range(count) for batch in loader]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("own_generator", [False, True])
def test_resume_at_every_batch_gives_the_rest_of_the_shuffled_pass(
    workers: int, own_generator: bool, persistent: bool
) -> None:
    def make(seed: int) -> rf.DataLoader:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed) if own_generator else None
        return rf.DataLoader(
            Numbers(), BATCH, shuffle=True, num_workers=workers, generator=generator, persistent_workers=persistent
        )

    reference = make(5)
    whole, states = [], [reference.state_dict()]
    for batch in reference:
        whole.append(batch.tolist())
        states.append(json.loads(json.dumps(reference.state_dict())))
    assert sorted(itertools.chain(*whole)) == list(range(SIZE))
    for position, state in enumerate(states[:-1]):
        resumed = make(99)
        resumed.load_state_dict(state)
        random = torch.get_rng_state()
        batches = iter(resumed)
        rest = [batch.tolist() for batch in itertools.islice(batches, 1)]
        if not own_generator:
            assert torch.equal(torch.get_rng_state(), random)
        second = resumed.state_dict()
        rest += [batch.tolist() for batch in batches]
        assert rest == whole[position:]
        if position < len(whole) - 1:
            again = make(7)
            again.load_state_dict(second)
            assert passes(again, 1) == whole[position + 1 :]
        assert sorted(itertools.chain(*passes(resumed, 1))) == list(range(SIZE))


def test_a_pass_that_ended_is_followed_by_a_whole_one() -> None:
    reference = rf.DataLoader(Numbers(), BATCH)
    passes(reference, 1)
    resumed = rf.DataLoader(Numbers(), BATCH)
    resumed.load_state_dict(reference.state_dict())
    assert sorted(itertools.chain(*passes(resumed, 1))) == list(range(SIZE))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_resumes_too(workers: int) -> None:
    whole = passes(rf.DataLoader(Stream(), BATCH, num_workers=workers), 1)
    for position in range(len(whole)):
        stopped = rf.DataLoader(Stream(), BATCH, num_workers=workers)
        for _ in itertools.islice(stopped, position):
            pass
        resumed = rf.DataLoader(Stream(), BATCH, num_workers=workers)
        resumed.load_state_dict(stopped.state_dict())
        assert passes(resumed, 1) == whole[position:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 5}, "batch_size differs: saved 5, current 4"),
        ({"length": 9}, "length differs: saved 9, current 6"),
        ({"version": 2}, "version differs: saved 2, current 1"),
        ({"batches": "3"}, "batches is missing or of a wrong type; got '3'"),
        ({"random": None}, "random is missing or of a wrong type"),
        ({"random": "zz"}, "random is no state of a generator"),
        ({"random": "00"}, "random is no state of a generator"),
    ],
)
def test_a_state_of_another_loader_is_refused_naming_the_field(change: dict, message: str) -> None:
    loader = rf.DataLoader(Numbers(), BATCH)
    with pytest.raises(StateError, match=message):
        loader.load_state_dict(loader.state_dict() | change)


def test_set_epoch_reaches_the_sampler() -> None:
    sampler = data.DistributedSampler(Numbers(), num_replicas=2, rank=0)
    loader = rf.DataLoader(Numbers(), BATCH, sampler=sampler)
    loader.set_epoch(4)
    assert sampler.epoch == 4
    rf.DataLoader(Numbers(), BATCH).set_epoch(4)


def test_a_pass_broken_off_ends_its_workers_and_is_counted() -> None:
    before = len(psutil.Process().children())
    loader = rf.DataLoader(Numbers(), BATCH, num_workers=2)
    for batch in itertools.islice(loader, 3):
        assert len(batch) == BATCH
    gc.collect()
    assert len(psutil.Process().children()) == before
    assert loader.state_dict()["batches"] == 3
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.state_dict()["batches"] == 0
