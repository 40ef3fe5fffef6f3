"""Images in files with objects or a class for each pixel: what COCO, VOC, YOLO and mask folders have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.checks import whole
from resflow.errors import ConfigError, HeaderError, SampleError, ShardError
from resflow.plan.index import Index
from resflow.sources.annotations.lint import LintReport, Problem
from resflow.sources.base import Pixels, Sample
from resflow.sources.datasets import hash_of, placeless_index
from resflow.sources.image_files import file_header, read_file, read_files_ahead, stored_image, turned_size

_THREADS = 8  # that read headers; they wait for the disk more than they work
_CHUNK = 256  # images a task


class Files(NamedTuple):
    """Image files of a dataset.

    Args:
        folder: what all names are relative to.
        names: of the files.
        upright: whether images are taken as their EXIF orientation turns them; else as they are stored.
    """

    folder: str
    names: Sequence[str]
    upright: bool

    def path(self, number: int) -> str:
        """Path of an image's file."""
        return os.path.join(self.folder, self.names[number])  # noqa: PTH118 (a path object a file costs time)

    def size(self, number: int) -> tuple[tuple[int, int], int]:
        """Height and width of an image and its EXIF orientation, from its header; HeaderError or ShardError without."""
        if not self.upright:
            return turned_size(self.path(number))
        header = file_header(self.path(number))
        return (header.height, header.width), header.orientation

    def image(self, number: int) -> memoryview | Pixels:
        """An image for the engines, which turn it upright where its bytes say so."""
        path = self.path(number)
        return memoryview(read_file(path)) if self.upright else stored_image(path)


def measured_sizes(files: Files, where: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], list[Problem]]:
    """The sizes and orientations of all images by their headers.

    Args:
        files: N images.
        where: the file or folder that lists them, for messages.

    Returns:
        int32 [N, 2], height and width, (0, 0) where they cannot be had; uint8 [N], EXIF orientations, 1 to 8; and a
        problem for each image without a size.
    """
    sizes, orientation = np.zeros((len(files.names), 2), np.int32), np.ones(len(files.names), np.uint8)

    def measure(start: int) -> list[Problem]:
        problems = []
        for number in range(start, min(start + _CHUNK, len(sizes))):
            try:
                sizes[number], orientation[number] = files.size(number)
            except HeaderError as error:
                problems.append(Problem("unreadable image", files.names[number], where, error.message))
            except ShardError as error:
                kind = "unreadable image" if os.path.exists(files.path(number)) else "missing file"  # noqa: PTH110
                problems.append(Problem(kind, files.names[number], where, f"{error.shard}: {error.message}"))
        return problems

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(measure, range(0, len(sizes), _CHUNK))
        return sizes, orientation, [problem for part in parts for problem in part]


def numbered_classes(classes: Sequence[str], first: int) -> dict[int, str]:
    """Names by number.

    Args:
        classes: names in order.
        first: number of the first.

    Raises:
        ConfigError: a str, names that repeat, or a first number below 0.
    """
    if isinstance(classes, str) or len(set(classes)) != len(classes):
        raise ConfigError(f"classes must be a sequence of different names; got {classes!r}")
    if (number := whole(first, 0)) is None:
        raise ConfigError(f"first_label must be a whole number, at least 0; got {first!r}")
    return dict(enumerate(classes, number))


class AnnotatedSource:
    """Samples of image files whose targets are known: `Coco`, `CocoPanoptic`, `Voc`, `Yolo` and `MaskFolder`.

    Objects' coordinates are those of the pixels as they are stored, or of the upright image, as `upright` says: stored
    is what PIL opens and pycocotools and torchvision take; upright is what OpenCV opens.

    Args:
        files: N images, at least one.
        sizes: int32 [N, 2], height and width.
        target: gives the target of an image by its number; it travels to workers.
        categories: names of the classes by number.
        problems: what was found and, if need be, left out.
        described: what the targets are, as bytes to be hashed.

    Raises:
        ConfigError: no image is left.
    """

    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        files: Files,
        sizes: npt.NDArray[np.int32],
        target: Callable[[int], Any],
        *,
        categories: Mapping[int, str],
        problems: LintReport,
        described: Sequence[bytes],
    ) -> None:
        if not files.names:
            raise ConfigError(f"{problems}: no image is left. Check the paths, or correct the annotations.")
        self.files, self._target = files, target
        self.categories: dict[int, str] = {number: categories[number] for number in sorted(categories)}
        self.problems = problems
        names = [name.encode(errors="surrogateescape") for name in files.names]
        known = [f"{number} {name}".encode(errors="surrogatepass") for number, name in self.categories.items()]
        identity = hash_of([type(self).__name__.encode(), bytes([files.upright]), *names, *known, *described])
        self._index = placeless_index(sizes, identity)

    @property
    def index(self) -> Index:
        """The sizes; shard, offset and length have no meaning here and are 0, 0 and 1."""
        return self._index

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(self.categories.values())

    def __len__(self) -> int:
        return len(self._index)

    def name(self, sample_id: int) -> tuple[str, str]:
        """Folder of the images and the image's file in it, for messages."""
        return self.files.folder, self.files.names[sample_id]

    def column(self, name: str) -> Any:
        """What annotations say of each sample, without reading one.

        Args:
            name: "label", int64 [N], of images with a class each; "categories", N arrays of labels, of objects.

        Returns:
            N values; None where the source has no such column.
        """
        labels, start = getattr(self._target, "labels", None), getattr(self._target, "start", None)
        if name == ("label" if start is None else "categories") and labels is not None:
            return labels if start is None else np.split(labels, start[1:-1])
        return None

    def target(self, sample_id: int) -> Any:
        """The target of a sample without its image.

        Raises:
            TargetError: a mask's file is not what it was.
            ShardError: a mask's file cannot be read.
        """
        return self._target(sample_id)

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples.

        Args:
            sample_ids: int64 [B], in [0, N).

        Returns:
            B samples, in the order asked for; their targets are `Annotation` or `LabelMap`, those of `Images` classes.

        Raises:
            ShardError: a file cannot be read.
            DecodeError: an image that no engine takes as it is (netpbm, for one) is damaged.
            TargetError: a mask's file is not what it was.
        """
        return [self._sample(position, number) for position, number in enumerate(sample_ids.tolist())]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Ask the system to read the files into its cache; int64 [B], in [0, N)."""
        read_files_ahead([self.files.path(number) for number in sample_ids.tolist()])

    def close(self) -> None:
        """Nothing is held open."""

    def _sample(self, position: int, sample_id: int) -> Sample:
        shard, key = self.name(sample_id)
        try:
            return Sample(key, shard, self.files.image(sample_id), {}, self._target(sample_id))
        except SampleError as error:
            raise type(error)(error.message, position=position, key=key, shard=shard) from error
