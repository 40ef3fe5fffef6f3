"""A loader without a pipeline: PyTorch's, and resumable."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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
    assert [p.name for p in ours[len(theirs) :]] == [
        "pipeline",
        "seed",
        "world",
        "even",
        "decorrelate",
        "sizes",
        "sampling",
    ]


def test_it_is_generic_pickles_and_shows_pytorchs_surface() -> None:
    class Mine(rf.DataLoader[int]):
        pass

    under_test = Mine(Numbers(), batch_size=BATCH)
    assert [b.tolist() for b in pickle.loads(pickle.dumps(rf.DataLoader(Numbers(), BATCH)))] == [
        b.tolist() for b in under_test
    ]
    assert not hasattr(under_test, "epoch")
    assert not hasattr(under_test, "buckets")
    assert isinstance(iter(under_test), type(iter(data.DataLoader(Numbers()))))
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
        found = torch.get_rng_state()
        batches = iter(resumed)
        rest = [batch.tolist() for batch in itertools.islice(batches, 1)]
        if not own_generator:
            assert torch.equal(torch.get_rng_state(), found)
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
        ({"version": 1}, "version differs: saved 1, current 2"),
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


class Shuffled(data.Sampler):
    """An order drawn by `draw` for each pass."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw())

    def draw(self) -> list[int]:
        return self.rng.permutation(SIZE).tolist()


class ByRandom(Shuffled):
    def draw(self) -> list[int]:
        return random.sample(range(SIZE), SIZE)


class ByNumpy(Shuffled):
    def draw(self) -> list[int]:
        return np.random.permutation(SIZE).tolist()


class ByOwnRandom(Shuffled):
    def draw(self) -> list[int]:
        return self.own.sample(range(SIZE), SIZE)


class ByState(Shuffled):
    """Counts its passes, and says so."""

    passes = 0

    def draw(self) -> list[int]:
        self.passes += 1
        return np.random.default_rng(self.passes).permutation(SIZE).tolist()

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]


class Counting(ByState):
    """Counts its passes, and does not say so."""

    state_dict = load_state_dict = None


class Eager(Shuffled):
    """A batch sampler that draws from PyTorch's own numbers as soon as it is asked for an iterator."""

    def draw(self) -> list[list[int]]:
        return [part.tolist() for part in torch.randperm(SIZE).split(BATCH)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


SAMPLERS: dict[str, Callable[[], dict[str, Any]]] = {
    "RandomSampler": lambda: {"sampler": data.RandomSampler(Numbers(), generator=generator())},
    "replacement": lambda: {
        "sampler": data.RandomSampler(Numbers(), replacement=True, num_samples=SIZE, generator=generator())
    },
    "weighted": lambda: {"sampler": data.WeightedRandomSampler([1.0] * SIZE, SIZE, generator=generator())},
    "subset": lambda: {"sampler": data.SubsetRandomSampler(range(SIZE), generator=generator())},
    "subset, global": lambda: {"sampler": data.SubsetRandomSampler(range(SIZE))},
    "numpy": lambda: {"sampler": Shuffled(rng=np.random.default_rng(5))},
    "numpy, old": lambda: {"sampler": Shuffled(rng=np.random.RandomState(5))},
    "numpy, other": lambda: {"sampler": Shuffled(rng=np.random.Generator(np.random.MT19937(5)))},
    "numpy, global": lambda: {"sampler": ByNumpy()},
    "random": lambda: {"sampler": ByOwnRandom(own=random.Random(5))},
    "random, global": lambda: {"sampler": ByRandom()},
    "state_dict": lambda: {"sampler": ByState()},
    "distributed": lambda: {"sampler": data.DistributedSampler(Numbers(), 1, 0)},
    "batches": lambda: {"batch_sampler": data.BatchSampler(Shuffled(rng=np.random.default_rng(5)), BATCH, False)},
    "batches of random": lambda: {
        "batch_sampler": data.BatchSampler(data.RandomSampler(Numbers(), generator=generator()), BATCH, False)
    },
    "eager": lambda: {"batch_sampler": Eager()},
}


def make_sampled(name: str, workers: int) -> rf.DataLoader:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    options = SAMPLERS[name]() if name in SAMPLERS else {"sampler": Counting()}
    size = {"batch_size": BATCH} if "sampler" in options else {}
    return rf.DataLoader(Numbers(), num_workers=workers, **size, **options)


@pytest.mark.parametrize(("saved", "resumes"), [(0, 0), (0, 2), (2, 0)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_with_random_numbers_of_their_own_resume(name: str, saved: int, resumes: int) -> None:
    reference = make_sampled(name, saved)
    passes(reference, 1)
    batches = iter(reference)
    head = [next(batches).tolist() for _ in range(2)]
    state = json.loads(json.dumps(reference.state_dict()))
    rest, following = [batch.tolist() for batch in batches], passes(reference, 1)
    resumed = make_sampled(name, resumes)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    resumed.load_state_dict(state)
    assert passes(resumed, 1) == rest != head
    own = "global" not in name and name != "eager"
    if own:
        assert passes(resumed, 1) == following
    else:
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        assert after[:2] == before[:2]


def test_a_sampler_whose_order_cannot_be_drawn_again_is_refused() -> None:
    reference = make_sampled("counting", 0)
    passes(reference, 1)
    batches = iter(reference)
    next(batches)
    resumed = make_sampled("counting", 0)
    resumed.load_state_dict(reference.state_dict())
    with pytest.raises(StateError, match=r"sampler did not repeat itself.*first 1 batches.*state_dict"):
        passes(resumed, 1)


def test_a_state_of_other_samplers_is_refused() -> None:
    state = make_sampled("numpy", 0).state_dict()
    with pytest.raises(StateError, match=r"samplers differ: saved \['Shuffled.rng'.*current \['ByState'"):
        make_sampled("state_dict", 0).load_state_dict(state)
    damaged = state | {"samplers": [part | {"state": 3} for part in state["samplers"]]}
    resumed = make_sampled("numpy", 0)
    resumed.load_state_dict(damaged)
    with pytest.raises(StateError, match=r"the state of Shuffled\.rng cannot be restored"):
        iter(resumed)


class Drawn(data.IterableDataset):
    """Numbers in an order from the global generator, unseeded: another in each run."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in random.SystemRandom().sample(range(SIZE), SIZE):
            yield torch.full((3, 8, 8), number)


def test_an_iterable_dataset_that_does_not_repeat_itself_is_refused() -> None:
    stopped = rf.DataLoader(Drawn(), BATCH)
    for _ in itertools.islice(stopped, 3):
        pass
    resumed = rf.DataLoader(Drawn(), BATCH)
    resumed.load_state_dict(stopped.state_dict())
    with pytest.raises(StateError, match=r"iterable dataset did not repeat itself.*first 3 batches"):
        iter(resumed)


def test_batches_in_any_order_are_not_resumed_within_a_pass() -> None:
    stopped = rf.DataLoader(Numbers(), BATCH, num_workers=2, in_order=False)
    next(iter(stopped))
    state = stopped.state_dict()
    with pytest.raises(StateError, match=r"in_order=False.*in_order=True"):
        rf.DataLoader(Numbers(), BATCH).load_state_dict(state)
