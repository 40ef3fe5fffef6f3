"""torchvision's datasets, taken apart, so that their images can be had without the dataset's decoding them."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset

from resflow.errors import ConfigError, SampleError
from resflow.plan.index import Index
from resflow.sources.base import Pixels, Sample, Source
from resflow.sources.dataset_items import as_image
from resflow.sources.dataset_sizes import Measure, Sizes, Skips, asked_sizes, find_sizes
from resflow.sources.datasets import (
    DatasetSource,
    check_subsets,
    dataset_length,
    dataset_pairs,
    hash_of,
    identity_of,
    no_sample,
    placeless_index,
    subset_indices,
)
from resflow.sources.image_files import common_folder, read_files_ahead, stored_image, stored_size
from resflow.sources.selected_samples import joined_sources
from resflow.sources.torchvision_kinds import KINDS, Kind

_LOG = logging.getLogger("resflow")
_THREADS = 8  # that read headers; they wait for the disk more than they work


class _Leaves(NamedTuple):
    """Recognised datasets, and which of them (int32 [N]) at which number (int64 [N]) holds each sample."""

    datasets: list[tuple[Kind, Any]]
    dataset: npt.NDArray[np.int32]
    number: npt.NDArray[np.int64]

    def at(self, sample_id: int) -> tuple[Kind, Any, int]:
        """Kind and dataset of a sample, and its number there."""
        kind, dataset = self.datasets[int(self.dataset[sample_id])]
        return kind, dataset, int(self.number[sample_id])


def dataset_source(
    dataset: Any, *, sizes: Sizes | None = None, skips: Skips | None = None, workers: int = 0, wide: bool = False
) -> Source:
    """A map-style dataset as a source, by the fast path where it is recognised.

    Args:
        dataset: any map-style dataset; Subset and ConcatDataset may hold sources, too.
        sizes: integers [N, 2], height and width of each image; or the path of a file of them, written if missing.
        skips: see `find_sizes`.
        workers: see `find_sizes`.
        wide: see `DatasetSource`.

    Returns:
        `RecognisedSource`, else `DatasetSource`; `SelectedSource` of subsets of sources.

    Raises:
        ConfigError: not a map-style dataset, an item of another form, or sizes that do not fit.
        HeaderError: no size can be read from an image.
        ShardError: an image's file cannot be read.
    """
    check_subsets(dataset)
    joined = joined_sources(dataset, lambda part: dataset_source(part, skips=skips, workers=workers, wide=wide))
    if joined is None:
        found = recognise(dataset, sizes=sizes, skips=skips)
        return found or DatasetSource(dataset, sizes=sizes, skips=skips, workers=workers, wide=wide)
    if sizes is not None:
        raise ConfigError(f"sizes can't be given for a {type(dataset).__name__} of sources, which know them. Drop it.")
    return joined


def recognise(dataset: Any, *, sizes: Sizes | None = None, skips: Skips | None = None) -> RecognisedSource | None:
    """The fast path to a dataset, if there is one: its files are read here and decoded by the engine.

    Args:
        dataset: ImageFolder and DatasetFolder with their own loader, CIFAR10, CIFAR100, CocoDetection, CocoCaptions,
            VOCDetection, VOCSegmentation and OxfordIIITPet of torchvision, without a transform of the image;
            subclasses that leave `__getitem__` alone; Subset and ConcatDataset of all these.
        sizes: as in `dataset_source`.
        skips: as in `dataset_source`.

    Returns:
        A source whose images and targets are those of `dataset[i]`; or None. A dataset that is known but for a
        transform of its own is said so in the log of "resflow" (WARNING).

    Raises:
        ConfigError: an empty dataset, or sizes that do not fit.
        HeaderError: no size can be read from an image.
        ShardError: an image's file cannot be read.
    """
    leaves = _leaves(dataset)
    return None if leaves is None else RecognisedSource(dataset, leaves, sizes, skips)


class RecognisedSource:
    """Samples of datasets whose images are files or pixels at hand; `recognise` makes it.

    Images are those of `dataset[i]`: as PIL opens them, so a JPEG's EXIF orientation is not applied, and the
    coordinates of boxes and masks are those of the pixels. Sizes are those given, else the dataset's
    `get_height_and_width(i)`, else read from the files' headers.

    Args:
        dataset: the whole.
        leaves: the recognised datasets it is made of.
        sizes: as in `dataset_source`.
        skips: as in `dataset_source`.
    """

    def __init__(self, dataset: Any, leaves: _Leaves, sizes: Sizes | None, skips: Skips | None = None) -> None:
        self.dataset = dataset
        self._leaves = leaves
        self._name = type(dataset).__name__
        self._pairs = [dataset_pairs(leaf) for _, leaf in leaves.datasets]
        count = dataset_length(dataset)
        images = [self._image(number) for number in range(count)]
        paths = [image for image in images if isinstance(image, str)]
        self._folder = common_folder(paths) if paths else ""
        names = [path.removeprefix(self._folder) for path in paths]
        identity = hash_of([*identity_of(dataset, names), leaves.dataset.tobytes(), leaves.number.tobytes()])

        def measure(number: int) -> tuple[int, int]:
            image = images[number]
            return stored_size(image) if isinstance(image, str) else (image.shape[0], image.shape[1])

        asked: Measure | None = asked_sizes(dataset)
        found = find_sizes(
            sizes,
            asked or measure,
            count,
            identity=identity,
            name=self._name,
            how="asking its get_height_and_width" if asked else "reading headers",
            threads=1 if asked else _THREADS,
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
        """Folder of the dataset and the image's path in it, or class and number, for messages."""
        image = self._image(sample_id)
        if not isinstance(image, str):
            return self._name, str(sample_id)
        return self._folder.rstrip("/") or "/", image.removeprefix(self._folder)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples.

        Args:
            sample_ids: int64 [B], in [0, N).

        Returns:
            B samples, in the order asked for.

        Raises:
            ShardError: a file cannot be read.
            DecodeError: an image that no engine takes as it is (netpbm, for one) is damaged.
        """
        return [self._sample(position, number) for position, number in enumerate(sample_ids.tolist())]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Ask the system to read the files into its cache; int64 [B], in [0, N)."""
        images = [self._image(number) for number in sample_ids.tolist()]
        read_files_ahead([image for image in images if isinstance(image, str)])

    def close(self) -> None:
        """Nothing is held open."""

    def _image(self, sample_id: int) -> str | Pixels:
        kind, dataset, number = self._leaves.at(sample_id)
        try:
            return kind.image(dataset, number)
        except IndexError as error:
            raise no_sample(type(dataset).__name__, number, error) from error

    def _sample(self, position: int, sample_id: int) -> Sample:
        kind, dataset, number = self._leaves.at(sample_id)
        shard, key = self.name(sample_id)
        image = self._image(sample_id)
        try:
            found = stored_image(image) if isinstance(image, str) else as_image(image, f"{shard}/{key}")
        except SampleError as error:
            raise type(error)(error.message, position=position, key=key, shard=shard) from error
        try:
            target = kind.target(dataset, number)
        except Exception as error:
            error.add_note(f"Raised by the target of {self._name}[{sample_id}].")
            raise
        return Sample(key, shard, found, {}, target, self._pairs[int(self._leaves.dataset[sample_id])])


def _leaves(dataset: Any) -> _Leaves | None:
    if type(dataset) is Subset:
        whole = _leaves(dataset.dataset)
        chosen = subset_indices(dataset)
        return whole and _Leaves(whole.datasets, whole.dataset[chosen], whole.number[chosen])
    if type(dataset) is ConcatDataset:
        return _joined([_leaves(part) for part in dataset.datasets])
    kind = next((kind for kind in KINDS if kind.matches(dataset)), None)
    if kind is None:
        return None
    if not kind.plain(dataset):
        _LOG.warning(
            "%s has a transform (or loader) of its own, so it decodes its images itself, whole and with Pillow, which "
            "is slower, and geometry starts at the pixels it returns. Make it without one, and let Pipeline(views=..., "
            "transforms=..., normalize=...) do the rest: the engine then reads and decodes its files. To keep the "
            "transform, drop the pipeline and pass rf.fuse(dataset), which decodes only what the transform shows.",
            type(dataset).__name__,
        )
        return None
    n = len(dataset)
    return _Leaves(
        [(kind, kind.opened(dataset) if kind.opened else dataset)], np.zeros(n, np.int32), np.arange(n, dtype=np.int64)
    )


def _joined(parts: list[_Leaves | None]) -> _Leaves | None:
    datasets: list[tuple[Kind, Any]] = []
    columns: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]] = []
    for part in parts:
        if part is None:
            return None
        columns.append((part.dataset + np.int32(len(datasets)), part.number))
        datasets += part.datasets
    dataset, number = (np.concatenate(column) for column in zip(*columns, strict=True))
    return _Leaves(datasets, dataset.astype(np.int32), number)
