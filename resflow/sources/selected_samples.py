"""Several sources as one: one after the other, or samples of them as `Subset` and `ConcatDataset` select them."""

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


class JoinedSource:
    """Sources one after the other.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        parts = [source.index for source in self.sources]
        self._starts = np.cumsum([0, *map(len, parts)])
        shards = np.cumsum([0, *(int(part.shard.max(initial=-1)) + 1 for part in parts)])
        self._index = _placeless(
            np.concatenate([part.shard + np.int32(first) for part, first in zip(parts, shards[:-1], strict=True)]),
            np.concatenate([part.size for part in parts]),
            hash_of([part.fingerprint.encode() for part in parts]),
        )

    @property
    def index(self) -> Index:
        """The samples; bytes lie where each source says."""
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
        for source, slots, numbers in self._parts(sample_ids):
            for slot, sample in zip(slots.tolist(), source.read(numbers), strict=True):
                found[slot] = sample
        return [sample for sample in found if sample is not None]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Tell each source which of its samples are wanted soon; int64 [B]."""
        for source, _, numbers in self._parts(sample_ids):
            source.read_ahead(numbers)

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""
        ((source, _, numbers),) = self._parts(np.array([sample_id]))
        return source.name(int(numbers[0]))

    def source_of(self, sample_id: int) -> int:
        """Number of the source of a sample, such as `batch.sample_ids` has them."""
        return int(np.searchsorted(self._starts, self._rows(np.array([sample_id])), side="right")[0]) - 1

    def close(self) -> None:
        """Close all sources; a later read opens them again."""
        for source in self.sources:
            source.close()

    def _rows(self, sample_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Numbers of samples among those of all sources."""
        return sample_ids

    def _parts(
        self, sample_ids: npt.NDArray[np.int64]
    ) -> list[tuple[Source, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Each source that has some of the samples, their slots among them, and their numbers there."""
        wrong = sample_ids[(sample_ids < 0) | (sample_ids >= len(self))]
        if len(wrong):
            raise ConfigError(f"sample ids must be in [0, {len(self)}); got {int(wrong[0])}")
        rows = self._rows(sample_ids)
        source = np.searchsorted(self._starts, rows, side="right") - 1
        slots = {int(one): np.flatnonzero(source == one) for one in np.unique(source)}
        return [(self.sources[one], own, rows[own] - self._starts[one]) for one, own in slots.items()]


class SelectedSource(JoinedSource):
    """Samples of sources, in any order; `joined_sources` makes it.

    Args:
        sources: where the samples are.
        source: int32 [N], the source of each.
        number: int64 [N], its number there.
    """

    def __init__(self, sources: Sequence[Source], source: npt.NDArray[np.int32], number: npt.NDArray[np.int64]) -> None:
        super().__init__(sources)
        self._selected = self._starts[source] + number
        hashes = [part.index.fingerprint.encode() for part in self.sources]
        fingerprint = hash_of([*hashes, source.tobytes(), number.tobytes()])
        self._index = _placeless(self._index.shard[self._selected], self._index.size[self._selected], fingerprint)

    def __getattr__(self, name: str) -> Any:
        # what a source tells of its classes and keypoints, where there is one source alone
        parts = self.__dict__.get("sources", ())
        if name.startswith("_") or len(parts) != 1:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(parts[0], name)

    def _rows(self, sample_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._selected[sample_ids]


def _placeless(shard: npt.NDArray[np.int32], size: npt.NDArray[np.int32], fingerprint: str) -> Index:
    """An index whose offset and length, which only the sources need, take no memory."""
    count = len(shard)
    return Index(shard, np.broadcast_to(np.int64(0), count), np.broadcast_to(np.int64(1), count), size, fingerprint)


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
