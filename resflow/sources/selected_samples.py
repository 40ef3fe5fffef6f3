"""`Subset`, `random_split` and `ConcatDataset` of sources, as one source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.sources.base import Sample, Source, TieredSource
from resflow.sources.datasets import hash_of, subset_indices

_LOG = logging.getLogger("resflow")


class SelectedSource:
    """Samples of sources, in any order; `joined_sources` makes it.

    Args:
        sources: where the samples are.
        source: int32 [N], the source of each.
        number: int64 [N], its number there.
    """

    def __init__(self, sources: Sequence[Source], source: npt.NDArray[np.int32], number: npt.NDArray[np.int64]) -> None:
        self.sources, self._source, self._number = tuple(sources), source, number
        shard, size = np.zeros(len(source), np.int32), np.zeros((len(source), 2), np.int32)
        first, hashes = 0, []
        for place, part in enumerate(self.sources):
            own, index = source == place, part.index
            shard[own], size[own] = index.shard[number[own]] + first, index.size[number[own]]
            first += int(index.shard.max(initial=-1)) + 1
            hashes.append(index.fingerprint.encode())
        fingerprint = hash_of([*hashes, source.tobytes(), number.tobytes()])
        count = len(source)
        self._index = Index(shard, np.zeros(count, np.int64), np.ones(count, np.int64), size, fingerprint)

    @property
    def index(self) -> Index:
        """The selected samples; bytes lie where each source says."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def __getattr__(self, name: str) -> Any:
        # what a source tells of its classes and keypoints, where there is one source alone
        parts = self.__dict__.get("sources", ())
        if name.startswith("_") or len(parts) != 1:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(parts[0], name)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples, those of each source together; int64 [B], in [0, N)."""
        found: list[Sample | None] = [None] * len(sample_ids)
        for source, places, numbers in self._parts(sample_ids):
            for place, sample in zip(places.tolist(), source.read(numbers), strict=True):
                found[place] = sample
        return [sample for sample in found if sample is not None]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Tell each source which of its samples are wanted soon; int64 [B]."""
        for source, _, numbers in self._parts(sample_ids):
            source.read_ahead(numbers)

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""
        return self.sources[int(self._source[sample_id])].name(int(self._number[sample_id]))

    def close(self) -> None:
        """Close all sources; a later read opens them again."""
        for source in self.sources:
            source.close()

    def _parts(
        self, sample_ids: npt.NDArray[np.int64]
    ) -> list[tuple[Source, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Each source that has some of the samples, their places among them, and their numbers there."""
        source, number = self._source[sample_ids], self._number[sample_ids]
        places = {int(one): np.flatnonzero(source == one) for one in np.unique(source)}
        return [(self.sources[one], own, number[own]) for one, own in places.items()]


def joined_sources(dataset: Any, open_part: Callable[[Any], Source]) -> SelectedSource | None:
    """Subsets and concatenations that hold sources, as one source.

    Args:
        dataset: any dataset.
        open_part: makes a source of a map-style dataset that is among them.

    Returns:
        The source; None where no part of the dataset is a source.

    Raises:
        ConfigError: a subset is empty.
    """
    if type(dataset) not in (Subset, ConcatDataset):
        return None
    leaves: list[Any] = []
    source, number = _selected(dataset, leaves)
    if not any(isinstance(leaf, Source) for leaf in leaves):
        return None
    if not len(source):
        raise ConfigError(f"{type(dataset).__name__} is empty; expected at least one sample")
    parts = [leaf if isinstance(leaf, Source) else open_part(leaf) for leaf in leaves]
    if any(isinstance(part, TieredSource) and part.open_tiers() is not None for part in parts):
        _LOG.warning(
            "tiers are not read through a %s: images come out of the originals. To read tiers, give the loader the "
            "shards themselves, or Mix([...]) of them.",
            type(dataset).__name__,
        )
    return SelectedSource(parts, source, number)


def _selected(dataset: Any, leaves: list[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Of each sample, which of the leaves holds it, and its number there; new leaves are added to the list."""
    if type(dataset) is Subset:
        source, number = _selected(dataset.dataset, leaves)
        chosen = subset_indices(dataset)
        return source[chosen], number[chosen]
    if type(dataset) is ConcatDataset:
        parts = [_selected(part, leaves) for part in dataset.datasets]
        return np.concatenate([source for source, _ in parts]), np.concatenate([number for _, number in parts])
    leaves.append(dataset)
    count = len(dataset.index) if isinstance(dataset, Source) else len(dataset)
    return np.full(count, len(leaves) - 1, np.int32), np.arange(count, dtype=np.int64)
