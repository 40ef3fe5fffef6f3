"""What each rank does in the tests of streams: loaders made before the process group, and what they then read."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.utils.data

import resflow as rf
import resflow.decode.turbo  # once, before the ranks are forked
from tests.shards import jpeg

COUNT = 40
PIPELINE = rf.Pipeline(resolution=32, buckets=1, stride=8)


class Held(torch.utils.data.IterableDataset):
    """A stream that holds another under a name of its own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        yield from self.inner


class Own(torch.utils.data.IterableDataset):
    """Pictures; divided among the ranks by those that say so."""

    def __init__(self, *, divided: bool = False, shuffled: bool = False) -> None:
        self.divided, self.shuffled = divided, shuffled

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        order = range(COUNT)
        if self.shuffled:
            order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(rank)).tolist()
        for number in order[rank::size] if self.divided else order:
            yield jpeg(20, 24, number), number


def read(data: Path) -> dict[str, Any]:
    """Keys that this rank reads of streams of several kinds, and what it is warned of."""
    rank, size = (int(os.environ.pop(name)) for name in ("RANK", "WORLD_SIZE"))
    multiprocessing.set_forkserver_preload(["tests.ranks.streams"])  # workers that do not inherit the group
    shards = str(data / "train-{000000..000003}.tar")
    stream = rf.sources.ShardStream
    loaders = {
        "planned": rf.DataLoader(shards, 4, pipeline=PIPELINE),
        "stream": rf.DataLoader(stream(shards), 4, pipeline=PIPELINE),
        "held": rf.DataLoader(Held(stream(shards)), 4, pipeline=PIPELINE),
        "chain": rf.DataLoader(torch.utils.data.ChainDataset([stream(shards)]), 4, pipeline=PIPELINE),
        "workers": rf.DataLoader(stream(shards), 4, num_workers=2, pipeline=PIPELINE),
        "no child": rf.DataLoader(
            stream(shards),
            4,
            num_workers=1,
            multiprocessing_context="forkserver",
            worker_init_fn=_alone,
            pipeline=PIPELINE,
        ),
        "argument": rf.DataLoader(stream(shards), 4, pipeline=PIPELINE, world=rf.World(0, 4)),
        "torch": torch.utils.data.DataLoader(
            stream(shards), None, num_workers=1, collate_fn=_key, multiprocessing_context="forkserver"
        ),
    }
    own = {
        "divided": Own(divided=True),
        "undivided": Own(),
        "undivided, shuffled": Own(shuffled=True),
        "divided, shuffled": Own(divided=True, shuffled=True),
    }
    loaders |= {name: rf.DataLoader(one, 4, pipeline=PIPELINE) for name, one in own.items()}
    meeting = f"file://{data}/meeting-{os.environ['MASTER_PORT']}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    seen, warned = {}, {}
    for name, loader in loaders.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen[name] = [key for batch in loader for key in _keys(batch)]
            torch.distributed.barrier()
        warned[name] = [str(one.message) for one in caught if "the same samples" in str(one.message)]
    torch.distributed.destroy_process_group()
    return {"seen": seen, "warned": warned}


def _alone(_worker: int) -> None:
    assert not torch.distributed.is_initialized()


def _key(sample: Any) -> str:
    return sample.key


def _keys(batch: Any) -> list[Any]:
    if not isinstance(batch, rf.Batch):
        return [batch]
    return list(batch.keys) if len(batch.keys[0]) == 5 else batch.targets.tolist()
