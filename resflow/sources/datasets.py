"""Map-style PyTorch datasets as sources, and `Subset`, `random_split` and `ConcatDataset` of sources."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.sources.base import Sample, Source, TieredSource
from resflow.sources.dataset_items import as_image, image_size, item_names, split_item
from resflow.sources.dataset_sizes import Measure, Sizes, Skips, asked_sizes, find_sizes
from resflow.targets.mirror import KeypointPairs, mirrored_pairs


class DatasetSource:
    """Samples of a map-style dataset, which the dataset itself reads, and decodes if that is its way.

    Its items are (image, target), (image, *targets), an image, or a dict with one of
    `dataset_items.IMAGE_KEYS`. An image is a path, encoded bytes, a PIL image, a uint8 array [H, W] or
    [H, W, 1|3|4], or a uint8 tensor [1|3|4, H, W].

    Sizes come from `sizes`, else the dataset's `get_height_and_width(i)`, else one pass over the dataset, which goes on
    in worker processes where it takes more than two seconds, as the log of "resflow" (WARNING) then says. A dataset
    whose sizes are random should be given `sizes`, or a file of them, so that all ranks and all runs plan alike; what
    counts when a batch is placed is the size of the pixels that the dataset then returns.

    Args:
        dataset: has `__getitem__` and `__len__`; `__getitems__` is used where it is there.
        sizes: integers [N, 2], height and width of each image; or the path of a file of them, written if missing.
        skips: see `find_sizes`.
        workers: see `find_sizes`.

    Raises:
        ConfigError: not a map-style dataset, an item of another form, or sizes that do not fit.
        HeaderError: no size can be read from an encoded image.
        ShardError: an image's file cannot be read.
    """

    def __init__(
        self, dataset: Any, *, sizes: Sizes | None = None, skips: Skips | None = None, workers: int = 0
    ) -> None:
        self.dataset = dataset
        self._name, self._pairs = type(dataset).__name__, dataset_pairs(dataset)
        count = dataset_length(dataset)
        identity = hash_of(described(dataset))
        asked = _asked_sizes(dataset)
        found = find_sizes(
            sizes,
            asked or self._measure,
            count,
            identity=identity,
            name=self._name,
            how="asking its get_height_and_width" if asked else "one pass over the dataset",
            workers=workers,
            skips=skips,
        )
        self._index = placeless_index(found, identity)

    @property
    def index(self) -> Index:
        """The sizes; shard, offset and length have no meaning in a dataset and are 0, 0 and 1."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def name(self, sample_id: int) -> tuple[str, str]:
        """The dataset's class and the sample's number, for messages."""
        return self._name, str(sample_id)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Have the dataset read samples; what it raises comes through, with a note that names the samples.

        Args:
            sample_ids: int64 [B], in [0, N).

        Returns:
            B samples, in the order asked for.

        Raises:
            ConfigError: an item of another form than those accepted.
            ShardError: an image's file cannot be read.
        """
        numbers = sample_ids.tolist()
        samples = []
        for number, item in zip(numbers, self._items(numbers), strict=True):
            where = f"{self._name}[{number}]"
            image, target = split_item(item, where)
            found = as_image(image, where)
            samples.append(Sample(str(number), self._name, found, {}, target, self._pairs, item_names(item)))
        return samples

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Nothing: only the dataset knows where its samples lie."""

    def close(self) -> None:
        """Nothing is held open."""

    def _measure(self, number: int) -> tuple[int, int]:
        where = f"{self._name}[{number}]"
        image, _ = split_item(self._items([number])[0], where)
        return image_size(image, where)

    def _items(self, numbers: list[int]) -> list[Any]:
        together = getattr(self.dataset, "__getitems__", None)
        if not callable(together):
            return [self._item(number) for number in numbers]
        try:
            items = list(together(numbers)) if numbers else []
        except Exception as error:
            error.add_note(f"Raised by {self._name}.__getitems__({numbers}).")
            raise
        if len(items) != len(numbers):
            raise ConfigError(
                f"{self._name}.__getitems__ returned {len(items)} items; expected one for each of {numbers}"
            )
        return items

    def _item(self, number: int) -> Any:
        try:
            return self.dataset[number]
        except Exception as error:
            error.add_note(f"Raised by {self._name}[{number}].")
            raise


def dataset_length(dataset: Any) -> int:
    """The length of a map-style dataset.

    Args:
        dataset: anything.

    Returns:
        At least 1.

    Raises:
        ConfigError: it is iterable, has no `__getitem__` or no length, or is empty.
    """
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise ConfigError(f"{name} is an IterableDataset, a stream; expected a map-style dataset")
    if isinstance(dataset, type) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ConfigError(f"{name} is not a map-style dataset: expected one with __getitem__ and __len__")
    if not len(dataset):
        raise ConfigError(f"{name} is empty; expected at least one sample")
    return len(dataset)


def described(dataset: Any, paths: Iterable[str] = ()) -> list[bytes]:
    """What tells a dataset from others without reading it: classes, lengths, which samples of a subset, paths.

    Args:
        dataset: a map-style dataset.
        paths: of its images, where they are known, relative to its folder.

    Returns:
        Parts to be hashed.
    """
    kind = type(dataset)
    parts = [f"{kind.__module__}.{kind.__qualname__} {len(dataset)}".encode()]
    if kind is Subset:
        parts += [np.asarray(dataset.indices, np.int64).tobytes(), *described(dataset.dataset)]
    elif kind is ConcatDataset:
        parts += [part for member in dataset.datasets for part in described(member)]
    return [*parts, *(path.encode(errors="surrogateescape") for path in paths)]


def dataset_pairs(dataset: Any) -> KeypointPairs | None:
    """Which keypoints of a CocoDetection (or of a subset of one) swap places in a mirror, by the names in its file.

    Args:
        dataset: any.

    Returns:
        The pairs; None where they are not known, as behind a transform of the targets.
    """
    if isinstance(dataset, Subset):
        return dataset_pairs(dataset.dataset)
    categories = getattr(getattr(dataset, "coco", None), "cats", None)
    if not isinstance(categories, Mapping) or getattr(dataset, "target_transform", None) is not None:
        return None
    names = {tuple(map(str, record["keypoints"])) for record in categories.values() if record.get("keypoints")}
    return mirrored_pairs(names.pop()) or None if len(names) == 1 else None


def hash_of(parts: Iterable[bytes]) -> str:
    """sha256 of parts, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def placeless_index(size: npt.NDArray[np.int32], identity: str) -> Index:
    """An index of samples that lie in no shards: shard and offset are 0, length is 1.

    Args:
        size: int32 [N, 2], height and width.
        identity: hash of what the dataset is; the index's fingerprint is a hash of it and of the sizes.
    """
    n = len(size)
    fingerprint = hash_of([identity.encode(), np.ascontiguousarray(size).tobytes()])
    return Index(np.zeros(n, np.int32), np.zeros(n, np.int64), np.ones(n, np.int64), size, fingerprint)


def _asked_sizes(dataset: Any) -> Measure | None:
    """`get_height_and_width` of a dataset, or of the one it is a subset of."""
    if type(dataset) is not Subset or hasattr(dataset, "get_height_and_width"):
        return asked_sizes(dataset)
    inner, indices = _asked_sizes(dataset.dataset), dataset.indices
    return None if inner is None else lambda number: inner(int(indices[number]))


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


def check_subsets(dataset: Any) -> None:
    """Refuse subsets of samples that are not there.

    Args:
        dataset: any dataset.

    Raises:
        ConfigError: an index outside of the dataset that a subset is of.
    """
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            check_subsets(part)
    if type(dataset) is not Subset:
        return
    check_subsets(dataset.dataset)
    whole: Any = dataset.dataset
    chosen, count = np.asarray(dataset.indices, np.int64), len(whole)
    wrong = np.flatnonzero((chosen < -count) | (chosen >= count))
    if len(wrong):
        raise ConfigError(
            f"Subset.indices must be in [0, {count}), the samples of the {type(whole).__name__} it is of; got "
            f"{int(chosen[wrong[0]])} at place {int(wrong[0])}, and {len(wrong)} such in all"
        )


def _selected(dataset: Any, leaves: list[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Of each sample, which of the leaves holds it, and its number there; new leaves are added to the list."""
    if type(dataset) is Subset:
        source, number = _selected(dataset.dataset, leaves)
        chosen = np.asarray(dataset.indices, np.int64)
        return source[chosen], number[chosen]
    if type(dataset) is ConcatDataset:
        parts = [_selected(part, leaves) for part in dataset.datasets]
        return np.concatenate([source for source, _ in parts]), np.concatenate([number for _, number in parts])
    leaves.append(dataset)
    count = len(dataset.index) if isinstance(dataset, Source) else len(dataset)
    return np.full(count, len(leaves) - 1, np.int32), np.arange(count, dtype=np.int64)
