"""Any map-style PyTorch dataset as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.sources.base import Sample
from resflow.sources.items import as_image, image_size, item_names, split_item
from resflow.sources.sizes import Measure, Sizes, Skips, asked_sizes, find_sizes
from resflow.sources.vision import dataset_pairs


class DatasetSource:
    """Samples of a map-style dataset, which the dataset itself reads, and decodes if that is its way.

    Its items are (image, target), (image, *targets), an image, or a dict with one of `items.IMAGE_KEYS`. An image is
    a path, encoded bytes, a PIL image, a uint8 array [H, W] or [H, W, 1|3|4], or a uint8 tensor [1|3|4, H, W].

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
