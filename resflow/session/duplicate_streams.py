"""Notices streams that do not divide themselves: ranks or worker processes that are given the same samples."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from itertools import combinations

import torch.distributed

from resflow.plan import World
from resflow.session.torch_compat import default_store

_MOST = 64  # checksums that are held of a stream, the least of all
_LEAST = 4  # samples below which nothing is said
_SHARE = 0.9  # of the samples compared, that must be the same


class Overlap:
    """Compares what the streams of a pass give: of each, the samples with the least checksums.

    Worker processes of one rank are compared here; ranks through the store of the process group, without waiting for
    one another, so that of two ranks one notices.

    Args:
        name: of the stream, for the message.
        world: which rank this is.
        workers: streams of this rank.
        number: tells the loader from others; the same on all ranks.
    """

    def __init__(self, name: str, world: World, workers: int, number: int) -> None:
        self._name, self._world, self._number = name, world, number
        self._least: list[list[int]] = [[] for _ in range(workers)]
        self._batches = 0
        self.done = world.size == workers == 1
        """Whether there is nothing more to compare."""

    def take(self, worker: int, marks: Iterable[int]) -> None:
        """Note a batch's samples; streams are compared after 1, 2, 4, ... batches.

        Args:
            worker: whose batch it is.
            marks: a checksum of each sample.
        """
        if self.done:
            return
        self._least[worker] = sorted({*self._least[worker], *marks})[:_MOST]
        self._batches += 1
        if self._batches & (self._batches - 1) == 0:
            self._compare()

    def end(self) -> None:
        """Compare whole passes."""
        if not self.done:
            self._compare()
            self.done = True

    def _compare(self) -> None:
        ways = "torch.utils.data.get_worker_info()"
        for one, other in combinations(range(len(self._least)), 2):
            if _alike(self._least[one], self._least[other]):
                return self._warn(f"worker processes {one} and {other}", len(self._least), ways)
        own = sorted({mark for part in self._least for mark in part})[:_MOST]
        for rank, least in self._others(own):
            if _alike(own, least):
                ways = "torch.distributed.get_rank() and get_world_size()"
                ranks = f"ranks {min(rank, self._world.rank)} and {max(rank, self._world.rank)}"
                return self._warn(ranks, self._world.size, f"{ways}, pass world=World() if each rank is to read all")
        return None

    def _warn(self, who: str, times: int, ways: str) -> None:
        self.done = True
        warnings.warn(
            f"{who} are given the same samples by {self._name}, which does not divide itself: each sample is used "
            f"{times} times per epoch. Have its __iter__ take every n-th sample by {ways}, or use "
            "resflow.sources.ShardStream or a map-style dataset, which are divided for you.",
            stacklevel=2,
        )

    def _others(self, own: list[int]) -> Iterable[tuple[int, list[int]]]:
        """What the neighbouring ranks have published so far."""
        dist, (rank, size) = torch.distributed, (self._world.rank, self._world.size)
        if size == 1 or not dist.is_available() or not dist.is_initialized():
            return
        if (dist.get_rank(), dist.get_world_size()) != (rank, size):
            return
        try:
            if (store := default_store()) is None:
                raise RuntimeError
            store.set(self._key(rank), json.dumps(own))
            for other in {(rank - 1) % size, (rank + 1) % size}:
                if store.check([self._key(other)]):
                    yield other, json.loads(store.get(self._key(other)))
        except (RuntimeError, ValueError, AttributeError):  # a group without a store, or one whose store is gone
            self.done = True

    def _key(self, rank: int) -> str:
        return f"resflow/{self._name}/{self._number}/{rank}"


def _alike(one: list[int], other: list[int]) -> bool:
    """Whether the sets that these are the least members of have most of the smaller in common."""
    reach = min([1 << 32, *(part[-1] for part in (one, other) if len(part) == _MOST)])
    first, second = ({mark for mark in part if mark <= reach} for part in (one, other))
    fewer = min(len(first), len(second))
    return fewer >= _LEAST and len(first & second) >= _SHARE * fewer
