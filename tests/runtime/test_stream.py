from __future__ import annotations

import gc
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from PIL import Image

import resflow as rf
from resflow.errors import ConfigError, DecodeError, HeaderError, PlanError, StateError, TargetError
from resflow.plan import OnlineBucketer, World
from resflow.runtime.run import as_it_is
from resflow.runtime.stream import BucketedStream
from resflow.runtime.stream_run import StreamPass, StreamRun
from resflow.sources.stream import ShardStream
from tests.shards import jpeg, make_shards

COUNT = 61
PIPELINE = rf.Pipeline(
    resolution=rf.schedules.Steps({0: 32, 1: 64}),
    buckets=3,
    stride=8,
    views=[rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.HorizontalFlip()],
)


class Loader(torch.utils.data.DataLoader):
    """A stream's run behind PyTorch's loader, as small as it gets."""

    def __init__(
        self,
        stream: Any,
        pipeline: rf.Pipeline = PIPELINE,
        *,
        batch_size: Any = 4,
        workers: int = 0,
        drop_last: bool = False,
        seed: int = 0,
        world: World = World(),  # noqa: B008
        epoch_size: int | None = None,
        learn: int | None = 12,
        **options: Any,
    ) -> None:
        self.run = StreamRun(
            stream, pipeline, batch_size=batch_size, drop_last=drop_last, seed=seed, world=world, workers=workers,
            threads=1, prefetch=2, epoch_size=epoch_size, learn=learn,
        )  # fmt: skip
        super().__init__(
            self.run.dataset, batch_size=None, num_workers=self.run.workers, collate_fn=as_it_is, **options
        )

    def __iter__(self) -> Any:
        if self.run.begin(worker_init_fn=self.worker_init_fn, multiprocessing_context=self.multiprocessing_context):
            self._iterator = None
        return StreamPass(self.run, iter(super().__iter__()))


class Numbers(torch.utils.data.IterableDataset):
    """(JPEG, number) of many aspect ratios, dealt to workers in uneven parts, in an order of the epoch's own."""

    def __init__(self, count: int = COUNT, *, repeats_itself: bool = True) -> None:
        rng = np.random.default_rng(3)
        sides = np.maximum(4, np.exp(rng.normal(3.4, 0.4, (count, 2)))).astype(int)
        self.items = [(jpeg(int(h), int(w), number), number) for number, (h, w) in enumerate(sides)]
        self.epoch = 0
        self._repeats_itself = repeats_itself

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        items = list(self.items)
        (random.Random(self.epoch) if self._repeats_itself else random.SystemRandom()).shuffle(items)
        info = torch.utils.data.get_worker_info()
        if info is None:
            return iter(items)
        cut = len(items) // 4
        return iter([items[:cut], items[cut:]][info.id] if info.num_workers == 2 else items)


def same(one: rf.Batch, other: rf.Batch) -> None:
    assert one.keys == other.keys
    assert one.resolution == other.resolution
    for name in ("images", "targets", "transform", "valid", "source_size", "sample_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def labels(batches: list[rf.Batch]) -> list[int]:
    return [label for batch in batches for label in batch.targets.tolist()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), COUNT, per_shard=10)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_sample_once_in_batches_of_one_shape(workers: int) -> None:
    under_test = Loader(Numbers(), workers=workers)
    for epoch, resolution in enumerate((32, 64)):
        batches = list(under_test)
        assert Counter(labels(batches)) == Counter(range(COUNT))
        assert {batch.resolution for batch in batches} == {resolution}
        assert sum(len(batch) < 4 for batch in batches) <= max(1, workers)
        shapes = {tuple(map(int, shape)) for shape in under_test.run.buckets.shapes.reshape(-1, 2)}
        assert {tuple(batch.images.shape[2:]) for batch in batches} <= shapes
        ids = [number for batch in batches for number in batch.sample_ids.tolist()]
        assert len(set(ids)) == COUNT
        assert under_test.run.epoch == epoch + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_can_be_resumed_from_and_the_rest_is_identical(workers: int) -> None:
    reference = Loader(Numbers(), workers=workers)
    states, whole = [reference.run.state()], []
    for _epoch in range(2):
        for batch in reference:
            whole.append(batch)
            states.append(json.loads(json.dumps(reference.run.state())))
    resumed = Loader(Numbers(), workers=workers, persistent_workers=workers > 0)
    for position in range(0, len(whole), 1 if workers == 0 else 2):
        resumed.run.restore(states[position])
        assert resumed.run.state() == states[position]
        rest = whole[position:]
        passes = itertools.chain.from_iterable(itertools.repeat(resumed))
        for one, other in itertools.zip_longest(rest, itertools.islice(passes, len(rest))):
            same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_resumes_again(workers: int) -> None:
    whole = list(Loader(Numbers(), workers=workers))
    state, position = Loader(Numbers(), workers=workers).run.state(), 0
    for take in (2, 1, 5, 1):
        resumed = Loader(Numbers(), workers=workers)
        resumed.run.restore(state)
        for batch in itertools.islice(resumed, take):
            same(batch, whole[position])
            position += 1
        state = resumed.run.state()
    assert position == 9
