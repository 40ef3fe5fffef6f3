"""Several sources as one: what is read, in which proportions, and from where it goes on."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resflow as rf
from resflow.errors import ConfigError, StateError
from resflow.sources import Mix, ShardSource, Source
from tests.shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("mixed")
    return [make_shards(folder / "a", 61), make_shards(folder / "b", 17, per_shard=5)]


class Pictures(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 40 + number, 50), number, dtype=torch.uint8), 100 + number

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        return 40 + number, 50


def make_loader(data: Any, **options: Any) -> rf.DataLoader:
    views = [rf.views.RandomResizedCrop(scale=(0.3, 1.0))]
    pipeline = rf.Pipeline(resolution=32, buckets=3, stride=16, views=views)
    return rf.DataLoader(data, **({"batch_size": 8, "shuffle": True, "pipeline": pipeline} | options))


def test_samples_are_those_of_their_sources_in_the_order_asked_for(shards: list[str]) -> None:
    mix = Mix([shards[0], ShardSource(shards[1]), Pictures()])
    assert isinstance(mix, Source)
    assert len(mix) == len(mix.index) == 88
    parts = [ShardSource(pattern) for pattern in shards]
    assert mix.index.size[:78].tolist() == [*parts[0].index.size.tolist(), *parts[1].index.size.tolist()]
    assert (np.diff(mix.index.shard) >= 0).all()
    assert mix.index.shard[60] < mix.index.shard[61]  # shards of different sources are different
    ids = np.array([70, 3, 80, 61, 3, 0])
    got = mix.read(ids)
    wanted = [parts[1].read(np.array([9]))[0], *parts[0].read(np.array([3])), None, *parts[1].read(np.array([0]))]
    for sample, other in zip(got, wanted, strict=False):
        assert other is None or (sample.key, sample.shard, bytes(sample.image)) == (
            other.key,
            other.shard,
            bytes(other.image),
        )
    assert got[2].target == 102
    assert [mix.source_of(number) for number in (0, 60, 61, 77, 78, 87)] == [0, 0, 1, 1, 2, 2]
    assert mix.name(61) == parts[1].name(0)
    assert mix.name(80) == ("Pictures", "2")
    mix.read_ahead(ids)
    mix.close()
    assert mix.read(ids[:1])[0].key == got[0].key
    with pytest.raises(ConfigError, match=r"sample ids must be in \[0, 88\); got 88"):
        mix.read(np.array([5, 88]))


def test_the_fingerprint_is_of_the_parts_in_their_order(shards: list[str]) -> None:
    prints = {Mix(parts).index.fingerprint for parts in (shards, shards[::-1], shards[:1])}
    assert len(prints) == 3
    assert Mix(shards, weights=[1, 2]).index.fingerprint == Mix(shards).index.fingerprint


def test_a_copy_in_another_process_is_small_and_the_same(shards: list[str]) -> None:
    mix = Mix(shards, weights=[2, 1], epoch_size=50)
    dumped = pickle.dumps(mix)
    copy = pickle.loads(dumped)
    assert len(dumped) < 2000
    assert copy.mixture == mix.mixture
    assert copy.index.fingerprint == mix.index.fingerprint
    assert [sample.key for sample in copy.read(np.array([3, 70]))] == [s.key for s in mix.read(np.array([3, 70]))]


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_have_the_weights_and_rounds_go_on(shards: list[str], workers: int) -> None:
    mix = Mix(shards, weights=[1, 3], epoch_size=60)
    loader = make_loader(mix, num_workers=workers)
    uses: Counter[int] = Counter()
    assert len(loader) == 8
    for _ in range(3):
        batches = list(loader)
        ids = [number for batch in batches for number in batch.sample_ids.tolist()]
        assert Counter(map(mix.source_of, ids)) == {0: 15, 1: 45}
        assert [len(batch.images) for batch in batches] == [8] * 7 + [4]
        uses.update(ids)
        views = [tuple(matrix.reshape(-1).tolist()) for batch in batches for matrix in batch.transform]
        assert len(set(views)) > 50  # repeated samples are viewed anew
    assert Counter(uses[number] for number in range(61)) == {1: 45, 0: 16}
    assert {uses[number] for number in range(61, 78)} == {135 // 17, 135 // 17 + 1}


def test_without_weights_each_sample_is_used_once(shards: list[str]) -> None:
    loader = make_loader(Mix(shards))
    for _ in range(2):
        assert Counter(n for batch in loader for n in batch.sample_ids.tolist()) == Counter(range(78))


def test_it_resumes_at_every_step_bit_by_bit(shards: list[str]) -> None:
    mix = Mix(shards, weights=[1, 3], epoch_size=60)

    def told(batch: Any) -> tuple[list[int], bytes, list[float]]:
        return batch.sample_ids.tolist(), batch.images.numpy().tobytes(), batch.targets.tolist()

    full = make_loader(mix)
    full.set_epoch(2)
    expected = list(map(told, full))
    for step in range(len(expected)):
        loader = make_loader(Mix(shards, weights=[1, 3], epoch_size=60))
        loader.set_epoch(2)
        for _ in itertools.islice(loader, step):
            pass
        again = make_loader(mix)
        again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        again.set_epoch(2)
        assert list(map(told, again)) == expected[step:]


def test_a_state_of_other_weights_is_refused(shards: list[str]) -> None:
    state = make_loader(Mix(shards, weights=[1, 3])).state_dict()
    with pytest.raises(StateError, match=r"config.mixture differs: saved 'Mixture\(.*weights=\(1, 3\)"):
        make_loader(Mix(shards, weights=[1, 2])).load_state_dict(state)
    with pytest.raises(StateError, match=r"config\.mixture differs"):
        make_loader(Mix(shards, weights=[1, 3], epoch_size=60)).load_state_dict(state)
    with pytest.raises(StateError, match="fingerprint differs"):
        make_loader(Mix(shards[::-1], weights=[1, 3])).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"Mix needs a list of sources; got \[\]"),
        (("a.tar",), "Mix needs a list of sources; got 'a.tar'. Pass Mix"),
        (([Pictures()], [1, 2]), r"got 1 source\(s\), 2 weight\(s\)"),
        (([Pictures(), Pictures()], [1, -2]), "weights must be numbers above 0; got -2"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mix(arguments[0], weights=arguments[1] if len(arguments) > 1 else None)


def test_a_mix_in_a_mix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a Mix cannot hold another Mix\. Name all sources in one"):
        Mix([Mix([Pictures()])])


def test_decorrelate_has_no_meaning_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decorrelate has no meaning without a pipeline; got True"):
        rf.DataLoader(Pictures(), decorrelate=True)

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ConfigError, match="decorrelate has no meaning for a stream"):
        make_loader(Stream(), shuffle=False, decorrelate=True)
