"""Several sources in exact proportions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resflow.errors import ConfigError
from resflow.plan.mixture import Mixture
from resflow.sources.base import Source
from resflow.sources.selected_samples import JoinedSource
from resflow.sources.shards import ShardSource
from resflow.sources.torchvision_datasets import dataset_source


class Mix(JoinedSource):
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
        super().__init__(list(map(_as_source, sources)))
        counts = tuple(len(source.index) for source in self.sources)
        self.mixture = Mixture(
            counts,
            tuple(map(float, counts)) if weights is None else tuple(weights),
            sum(counts) if epoch_size is None else epoch_size,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        mixture = self.mixture  # the index is put together again, from sources that may map theirs
        return _mix, (self.sources, mixture.weights, mixture.epoch_size)


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
