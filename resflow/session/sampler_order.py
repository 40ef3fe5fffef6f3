"""The order that a sampler of the user's gives, beside a pipeline of one shape for each resolution."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from resflow.augment.per_image import seeded_generators
from resflow.errors import ConfigError, StateError
from resflow.plan import Buckets, EpochPlan, RankPlan, Schedule, World
from resflow.plan.given_order import Ids, batch_lengths, check_ids, plan_given

_ORDER = 6  # purpose of random bits
_INSTEAD: dict[type[Any], str] = {
    DistributedSampler: "drop it: the loader gives each rank its part",
    WeightedRandomSampler: "pass sampling=rf.sampling.Weighted(weights)",
    SubsetRandomSampler: "pass torch.utils.data.Subset(dataset, indices) and shuffle=True",
    RandomSampler: "pass shuffle=True",
}


class SamplerOrder:
    """A sampler of indices, or of batches of them.

    A sampler that knows its rank (`num_replicas` and `rank`, as a DistributedSampler has them) gives the order of that
    rank alone. Any other gives the order of all: each rank draws the same one, and takes its part of each batch.

    What a sampler draws from PyTorch's, `random`'s or NumPy's global generators follows from the loader's seed and the
    epoch; a generator of its own goes on from epoch to epoch.

    Args:
        sampler: gives indices; None where `batch_sampler` is given.
        batch_sampler: gives lists of them.
        batch_size: samples of a rank's batch; unused beside a `batch_sampler`.
        drop_last: whether samples that fill no batch are left out; unused beside a `batch_sampler`.
        seed: the loader's.
        count: samples of the dataset.

    Raises:
        ConfigError: a sampler that cannot be iterated over.
    """

    def __init__(
        self, sampler: Any, batch_sampler: Any, *, batch_size: int, drop_last: bool, seed: int, count: int
    ) -> None:
        if type(batch_sampler) is BatchSampler:
            sampler, batch_size, drop_last = batch_sampler.sampler, batch_sampler.batch_size, batch_sampler.drop_last
            batch_sampler = None
        self.batches = batch_sampler is not None
        self._sampler = batch_sampler if self.batches else sampler
        if not hasattr(self._sampler, "__iter__"):
            raise ConfigError(f"sampler must give indices when it is iterated over; got {self._sampler!r}")
        self.batch_size, self.drop_last = batch_size, drop_last
        self._seed, self._count = seed, count
        self.name = type(self._sampler).__name__
        parts = (self._sampler, getattr(self._sampler, "sampler", None))
        self._ranked: Any = next((one for one in parts if hasattr(one, "num_replicas") and hasattr(one, "rank")), None)
        self._told = 0  # the epoch that the sampler was told last
        # By epoch: indices, lengths of batches, states before. Two, since passes may overlap.
        self._drawn: dict[int, tuple[Ids, Ids, list[str]]] = {}

    @property
    def of_rank(self) -> bool:
        """Whether it is the order of one rank alone."""
        return self._ranked is not None

    def asked_epoch(self) -> int | None:
        """The epoch that a script has told the sampler itself (`sampler.set_epoch`) since the loader told it one."""
        epoch = getattr(self._sampler, "epoch", None) if hasattr(self._sampler, "set_epoch") else None
        return epoch if type(epoch) is int and epoch != self._told else None

    def samples(self) -> int:
        """Samples of an epoch, over all ranks; of the one that was drawn last, where there is one.

        Raises:
            TypeError: none was drawn, and the sampler has no length.
        """
        return (len(list(self._drawn.values())[-1][0]) if self._drawn else len(self._sampler)) * (
            self._ranked.num_replicas if self.of_rank else 1
        )

    def length(self, ranks: int) -> int:
        """Batches of an epoch.

        Args:
            ranks: that take part.

        Raises:
            TypeError: the sampler has no length.
        """
        if self.batches:
            return len(self._sampler)
        size = self.batch_size * (1 if self.of_rank else ranks)
        return len(self._sampler) // size if self.drop_last else -(-len(self._sampler) // size)

    def rank(self, plan: EpochPlan, world: World, *, even: bool) -> RankPlan:
        """One rank's part of the plan."""
        return plan.rank(World(0, 1)) if self.of_rank else plan.rank(world, even=even)

    def plan(self, epoch: int, buckets: Buckets, schedule: Schedule, world: World) -> EpochPlan:
        """The batches of an epoch: of this rank, or of all.

        Args:
            epoch: at least 0. One that was not drawn last is drawn now.
            buckets: of one aspect ratio.
            schedule: resolution by progress.
            world: the rank.

        Raises:
            ConfigError: what the sampler gives is no index of the dataset, or not as many as its length says.
        """
        if self.batches and world.size > 1 and not self.of_rank:
            raise ConfigError(
                f"batch_sampler: {self.name} does not know its rank, and there are {world.size}. Give it the "
                "attributes num_replicas and rank, and batches of that rank; or pass a sampler of indices as sampler=."
            )
        ids, lengths = self._epoch(epoch)
        ranks = 1 if self.of_rank else world.size
        if not self.batches:
            lengths = batch_lengths(len(ids), self.batch_size * ranks, drop_last=self.drop_last)
            ids = ids[: int(lengths.sum())]
        shared = self.of_rank and not isinstance(self._ranked, DistributedSampler)  # the same sample on several ranks
        return plan_given(
            ids,
            lengths,
            buckets,
            schedule,
            batch_size=self.batch_size * ranks,
            seed=self._seed,
            epoch=epoch,
            world_size=ranks,
            replicas=self._ranked.num_replicas if self.of_rank else 1,
            replica=self._ranked.rank if shared else 0,
        )

    def state(self, epoch: int) -> dict[str, Any]:
        """What a saved state holds of the order: plain JSON values."""
        drawn = self._drawn.get(epoch)
        if drawn is None:
            return {"generators": self._generators(), "digest": None}
        return {"generators": drawn[2], "digest": None if self.of_rank else _digest(drawn[0])}

    def restore(self, epoch: int, state: object) -> None:
        """Draw the order of an epoch again.

        Raises:
            StateError: the state is damaged, or the sampler gives another order.
        """
        try:
            generators, digest = state["generators"], state["digest"]  # type: ignore[index]
            owners = _owners(self._sampler)
            if len(generators) != len(owners):
                raise ValueError(f"{len(generators)} generators; the sampler has {len(owners)}")
            for owner, held in zip(owners, generators, strict=True):
                owner.set_state(torch.frombuffer(bytearray.fromhex(held), dtype=torch.uint8))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"saved state: sampler cannot be read ({error}). Use an earlier state.") from error
        self._drawn.clear()
        if digest is not None and digest != _digest(self._epoch(epoch)[0]):
            raise StateError(
                f"saved state: the sampler, {self.name}, gives another order than it did. Give it its random numbers "
                "as a torch.Generator in its attribute `generator`, draw them from the epoch (set_epoch), or from the "
                "global generators, which the loader seeds; or start without the state."
            )

    def describe(self) -> str:
        """What a saved state is checked against."""
        known = f", num_replicas={self._ranked.num_replicas}" if self.of_rank else ""
        length = f", {len(self._sampler)}" if hasattr(self._sampler, "__len__") else ""
        return f"{self.name}{length}{known}"

    def _epoch(self, epoch: int) -> tuple[Ids, Ids]:
        """Indices of an epoch, and how many each batch has."""
        if epoch in self._drawn:
            return self._drawn[epoch][:2]
        before = self._generators()
        if callable(tell := getattr(self._sampler, "set_epoch", None)):
            tell(epoch)
            self._told = epoch
        word = np.random.SeedSequence(self._seed, spawn_key=(epoch, _ORDER)).generate_state(1, np.uint64)[0]
        with seeded_generators() as seed:
            seed(int(word >> np.uint64(11)))
            listed = list(self._sampler)
        if hasattr(self._sampler, "__len__") and len(listed) != len(self._sampler):
            raise ConfigError(
                f"{self.name} gave {len(listed)} elements, but its length is {len(self._sampler)}, of which "
                "len(loader) is made. Have __len__ tell how many it gives."
            )
        parts = [list(part) for part in listed] if self.batches else [listed]
        if self.batches and not all(parts):
            raise ConfigError(f"{self.name} gave a batch without indices. Leave it out.")
        ids = check_ids([index for part in parts for index in part], self._count, self.name)
        self._drawn = dict([*self._drawn.items()][-1:])
        self._drawn[epoch] = ids, np.array(list(map(len, parts)), dtype=np.int64), before
        return self._drawn[epoch][:2]

    def _generators(self) -> list[str]:
        return [owner.get_state().numpy().tobytes().hex() for owner in _owners(self._sampler)]


def check_sampler(buckets: Buckets, sampler: Any, *, stride: int) -> None:
    """Refuse a sampler where images of several ratios must come in batches of their own.

    Raises:
        ConfigError: there is more than one bucket; says what to use instead.
    """
    if len(buckets) == 1:
        return
    instead = next((text for kind, text in _INSTEAD.items() if isinstance(sampler, kind)), "")
    sides = ", ".join(map(str, buckets.resolutions.tolist()))
    ways = f"{instead}; or " if instead else ""
    raise ConfigError(
        f"{type(sampler).__name__} decides which samples follow one another, but with {len(buckets)} buckets each "
        f"batch is made of images of one ratio. Instead, {ways}use one shape for each resolution: Pipeline(buckets="
        f"rf.Buckets.square({sides}, stride={stride})), or buckets=1."
    )


def _owners(sampler: Any) -> list[torch.Generator]:
    parts = [sampler, getattr(sampler, "sampler", None)]
    return [one for part in parts if isinstance(one := getattr(part, "generator", None), torch.Generator)]


def _digest(ids: Ids) -> int:
    return zlib.crc32(ids.astype("<i8").tobytes())
