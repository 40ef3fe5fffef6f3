"""Tars of class folders, such as `train/cat/0001.jpg`: the class of a sample is the folder it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.sources.base import Sample
from resflow.sources.index_file import ShardIndex
from resflow.sources.paths import Shards
from resflow.sources.shards import ShardSource
from resflow.sources.tiers import Tiers


class ClassFolderShards:
    """Samples of tars whose members lie in a folder a class; `resflow index` must have indexed them.

    Args:
        shards: a pattern, a path, a sequence of them, or an index, as `ShardSource` takes them.
        classes: names of the classes by their numbers; None: the names of all folders, sorted.

    Raises:
        ConfigError: no shards match, a sample lies in no folder, or its folder is not among `classes`.
        IndexFileError: the index is missing, stale, damaged or of another version.
    """

    def __init__(self, shards: Shards | ShardIndex, classes: Sequence[str] | None = None) -> None:
        self._source = ShardSource(shards)
        keys = pc.replace_substring_regex(self._source.shard_index.keys, r"^(?:\./)+", "")
        folders = pc.dictionary_encode(pc.replace_substring_regex(keys, r"^(?:.*/)?([^/]*)/[^/]*$", r"\1"))
        flat = pc.invert(pc.match_substring(keys, "/"))
        if pc.any(flat).as_py():
            first = pc.index(flat, True).as_py()
            raise ConfigError(
                f"sample {keys[first].as_py()!r} lies in no folder; expected class/name, as in train/cat/0001.jpg. For "
                "shards with a class in a member (.cls), name the shards themselves as the dataset."
            )
        found = folders.dictionary.to_pylist()
        self.classes: tuple[str, ...] = tuple(sorted(found) if classes is None else classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        unknown = [name for name in found if name not in numbers]
        if unknown or len(numbers) != len(self.classes):
            raise ConfigError(
                f"classes must name each folder once; got {list(self.classes)}, which leaves out {sorted(unknown)}"
            )
        table = np.array([numbers[name] for name in found], np.int64)
        self.targets: npt.NDArray[np.int64] = table[folders.indices.cast(pa.int64()).to_numpy()]

    @property
    def index(self) -> Index:
        """Where each sample lies and how large its image is."""
        return self._source.index

    def __len__(self) -> int:
        return len(self._source)

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""
        return self._source.name(sample_id)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples; their targets are the numbers of their classes. See `ShardSource.read`."""
        return self._with_targets(self._source.read(sample_ids), sample_ids)

    def open_tiers(self) -> Tiers | None:
        """See `ShardSource.open_tiers`."""
        return self._source.open_tiers()

    def read_tiers(
        self, sample_ids: npt.NDArray[np.int64], tier: npt.NDArray[np.int64], *, members: bool
    ) -> list[Sample]:
        """See `ShardSource.read_tiers`; members are left out, as the classes are known without."""
        return self._with_targets(self._source.read_tiers(sample_ids, tier, members=False), sample_ids)

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """See `ShardSource.read_ahead`."""
        self._source.read_ahead(sample_ids)

    def close(self) -> None:
        """Close all shards; a later read opens them again."""
        self._source.close()

    def _with_targets(self, samples: list[Sample], sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        targets = self.targets[sample_ids].tolist()
        return [replace(sample, target=target) for sample, target in zip(samples, targets, strict=True)]
