"""Map-style PyTorch datasets as sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from resflow.errors import ConfigError
from resflow.plan.index import Index
from resflow.sources.base import Sample
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
        wide: whether images keep their channels and numbers (`as_image`): for a pipeline of other `Pixels` than RGB.

    Raises:
        ConfigError: not a map-style dataset, an item of another form, or sizes that do not fit.
        HeaderError: no size can be read from an encoded image.
        ShardError: an image's file cannot be read.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        sizes: Sizes | None = None,
        skips: Skips | None = None,
        workers: int = 0,
        wide: bool = False,
    ) -> None:
        self.dataset, self._wide = dataset, wide
        self._name, self._pairs = type(dataset).__name__, dataset_pairs(dataset)
        count = dataset_length(dataset)
        identity = hash_of(identity_of(dataset))
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
            found = as_image(image, where, wide=self._wide)
            samples.append(Sample(str(number), self._name, found, {}, target, self._pairs, item_names(item)))
        return samples

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Nothing: only the dataset knows where its samples lie."""

    def close(self) -> None:
        """Nothing is held open."""

    def _measure(self, number: int) -> tuple[int, int]:
        where = f"{self._name}[{number}]"
        image, _ = split_item(self._items([number])[0], where)
        return image_size(image, where, wide=self._wide)

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
        except IndexError as error:
            raise no_sample(self._name, number, error) from error
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


def no_sample(name: str, number: int, error: IndexError) -> ConfigError:
    """The error for a sample that a dataset was said to have.

    Args:
        name: of the dataset.
        number: of the sample.
        error: what it raised.
    """
    return ConfigError(
        f"{name}[{number}] raised IndexError: {error}. If the dataset has become shorter, or its __len__ tells more "
        "samples than it has, correct that and make the loader anew; if not, the error is in the dataset's own code."
    )


def identity_of(dataset: Any, paths: Iterable[str] = ()) -> list[bytes]:
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
        parts += [subset_indices(dataset).tobytes(), *identity_of(dataset.dataset)]
    elif kind is ConcatDataset:
        parts += [part for member in dataset.datasets for part in identity_of(member)]
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


def subset_indices(subset: Subset[Any]) -> npt.NDArray[np.int64]:
    """The indices of a subset.

    PyTorch takes True and False for 1 and 0, so that a mask of the dataset would choose its first two samples over
    and over, and NumPy cuts 1.5 to 1; both are refused here.

    Args:
        subset: of a map-style dataset.

    Returns:
        int64 [M].

    Raises:
        ConfigError: indices that are no whole numbers, or no sequence.
    """
    given: Any = subset.indices
    try:
        chosen = np.asarray(given if hasattr(given, "dtype") or isinstance(given, range) else list(given))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Subset.indices must be a sequence of whole numbers: {error}. Give a list of them."
        ) from error
    mask = chosen.dtype.kind == "b" or (isinstance(given, list | tuple) and bool in map(type, given))
    if chosen.ndim == 1 and (not len(chosen) or (chosen.dtype.kind in "iu" and not mask)):
        return chosen.astype(np.int64)
    got, out = f"{chosen.dtype} {list(chosen.shape)}", "Give a list such as [0, 2, 5]"
    if mask:
        got, out = (
            "True and False",
            "Give those of the samples that a mask chooses: Subset(dataset, np.flatnonzero(mask))",
        )
    raise ConfigError(f"Subset.indices must be whole numbers, the numbers of samples; got {got}. {out}.")


def check_subsets(dataset: Any) -> None:
    """Refuse subsets of samples that are not there, or whose indices are no whole numbers.

    Args:
        dataset: any dataset.

    Raises:
        ConfigError: an index outside of the dataset that a subset is of, or one that is no whole number.
    """
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            check_subsets(part)
    if type(dataset) is not Subset:
        return
    check_subsets(dataset.dataset)
    whole: Any = dataset.dataset
    chosen, count = subset_indices(dataset), len(whole)
    wrong = np.flatnonzero((chosen < -count) | (chosen >= count))
    if len(wrong):
        raise ConfigError(
            f"Subset.indices must be in [0, {count}), the samples of the {type(whole).__name__} it is of; got "
            f"{int(chosen[wrong[0]])} at place {int(wrong[0])}, and {len(wrong)} such in all"
        )
