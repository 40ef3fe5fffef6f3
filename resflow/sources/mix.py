"""Several sources in exact proportions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.plan.mixture import Mixture
from resflow.sources.base import Sample, Source
from resflow.sources.datasets import hash_of
from resflow.sources.shards import ShardSource
from resflow.sources.torchvision_datasets import dataset_source


class Mix:
    """Several sources as one, each with its weight.

    Buckets are learned over all of them, and batches hold samples of all that have images of the batch's ratio. What is
    exact (see `Mixture`, and docs/ordering.md):

    - An epoch has `epoch_size` samples, of each source its weight's share to within one sample, in every epoch alike.
    - At every step of an epoch, with K buckets, S sources and batches of at most B samples over all ranks, the samples
      used of a source differ from its share of those used in all by less than K B + K (S - 1), however long the epoch.
    - Each source is gone through in rounds, each in an order of its own: no sample is drawn again before all others of
      its source were. Rounds go on from epoch to epoch. Samples that are repeated within an epoch are viewed anew.
    - All of it follows from (sources, weights, epoch_size, seed, epoch): a state holds no more than it always does, and
      is good for any number of ranks and workers.

    Args:
        sources: at least one; sources, shards as `DataLoader` takes them, or map-style datasets.
        weights: of each source, above 0; only their ratios count. None: each by its number of samples, so that each
            sample is used once an epoch.
        epoch_size: samples of an epoch; None: as many as the sources hold together.

    Raises:
        ConfigError: no sources, a weight that is not above 0, or an epoch without a sample of some source.
    """

    def __init__(
        self, sources: Sequence[Any], *, weights: Sequence[float] | None = None, epoch_size: int | None = None
    ) -> None:
        if isinstance(sources, str | Path) or not isinstance(sources, Sequence) or not len(sources):
            raise ConfigError(
                f"Mix needs a list of sources; got {sources!r}. Pass Mix([first, second], weights=[...])."
            )
        self.sources: tuple[Source, ...] = tuple(map(_as_source, sources))
        counts = tuple(len(source.index) for source in self.sources)
        self.mixture = Mixture(
            counts,
            tuple(map(float, counts)) if weights is None else tuple(weights),
            sum(counts) if epoch_size is None else epoch_size,
        )
        self._starts = np.cumsum([0, *counts])
        self._index = _joined([source.index for source in self.sources])

    @property
    def index(self) -> Index:
        """The samples of all sources, one source after the other; bytes lie where each source says."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples, those of each source together.

        Args:
            sample_ids: int64 [B], in [0, N).

        Returns:
            B samples, in the order asked for.

        Raises:
            ConfigError: a number outside the index.
            ResflowError: what the sources raise.
        """
        found: list[Sample | None] = [None] * len(sample_ids)
        for source, places in self._places(sample_ids):
            own = self.sources[source].read(sample_ids[places] - self._starts[source])
            for place, sample in zip(places.tolist(), own, strict=True):
                found[place] = sample
        return [sample for sample in found if sample is not None]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Tell each source which of its samples are wanted soon; int64 [B]."""
        for source, places in self._places(sample_ids):
            self.sources[source].read_ahead(sample_ids[places] - self._starts[source])

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""
        source = self.source_of(sample_id)
        return self.sources[source].name(sample_id - int(self._starts[source]))

    def source_of(self, sample_id: int) -> int:
        """Number of the source of a sample, such as `batch.sample_ids` has them."""
        return int(np.searchsorted(self._starts, sample_id, side="right")) - 1

    def close(self) -> None:
        """Close all sources; a later read opens them again."""
        for source in self.sources:
            source.close()

    def __reduce__(self) -> tuple[Any, ...]:
        mixture = self.mixture  # the index is put together again, from sources that may map theirs
        return _mix, (self.sources, mixture.weights, mixture.epoch_size)

    def _places(self, sample_ids: npt.NDArray[np.int64]) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """Each source that has some of the samples, and where they are among them."""
        wrong = sample_ids[(sample_ids < 0) | (sample_ids >= len(self))]
        if len(wrong):
            raise ConfigError(f"sample ids must be in [0, {len(self)}); got {int(wrong[0])}")
        source = np.searchsorted(self._starts, sample_ids, side="right") - 1
        return [(int(number), np.flatnonzero(source == number)) for number in np.unique(source)]


def _mix(sources: tuple[Source, ...], weights: tuple[float, ...], epoch_size: int) -> Mix:
    return Mix(sources, weights=weights, epoch_size=epoch_size)


def _as_source(part: Any) -> Source:
    if isinstance(part, Mix):
        raise ConfigError("a Mix cannot hold another Mix. Name all sources in one, with the products of the weights.")
    if isinstance(part, Source):
        return part
    if isinstance(part, str | Path):
        return ShardSource(part)
    return dataset_source(part, sizes=None)


def _joined(parts: Sequence[Index]) -> Index:
    """One index over all; offset and length, which only the sources need, take no memory."""
    shards = np.cumsum([0, *(int(part.shard.max(initial=-1)) + 1 for part in parts)])
    count = sum(map(len, parts))
    return Index(
        shard=np.concatenate([part.shard + np.int32(first) for part, first in zip(parts, shards[:-1], strict=True)]),
        offset=np.broadcast_to(np.int64(0), count),
        length=np.broadcast_to(np.int64(1), count),
        size=np.concatenate([part.size for part in parts]),
        fingerprint=hash_of([part.fingerprint.encode() for part in parts]),
    )
