"""The demonstration's data: drawn or taken from a folder, split, written into shards, indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.demo.drawing import CLASSES, drawn_samples
from resflow.errors import ConfigError
from resflow.sources import (
    LabelledImages,
    build_index,
    class_folder_samples,
    index_path,
    labelled_files,
    write_index,
    write_shards,
)

Samples: TypeAlias = Iterable[Mapping[str, object]]
Watch: TypeAlias = Callable[[Samples, int, str], Samples]
"""Given samples, their number and what is done to them, passes them on and may show progress."""

_SHARD_SAMPLES = 500
_HELD_OUT = 0.2  # share of the images of each class


@dataclass(frozen=True, slots=True)
class Split:
    """One part of the data, in shards that have been indexed.

    Args:
        shards: the shards, in order.
        labels: a class number for each image.
    """

    shards: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Data:
    """What the demonstration trains on and is tested on.

    Args:
        train: the part to train on.
        held_out: the part to evaluate on; no image is in both.
        classes: class names; a label is a place in it.
    """

    train: Split
    held_out: Split
    classes: tuple[str, ...]

    @property
    def chance(self) -> float:
        """Held-out accuracy, in [0, 1], of always answering the training part's most frequent class."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        return float(np.mean(np.asarray(self.held_out.labels) == counts.argmax()))

    @property
    def unseen(self) -> int:
        """Held-out images whose class no training image has."""
        return int((~np.isin(self.held_out.labels, self.train.labels)).sum())


def draw_data(folder: Path, images: int, *, seed: int, watch: Watch) -> Data:
    """Draw images; one in five is held out.

    Args:
        folder: where the shards go.
        images: how many, at least 10.
        seed: decides all images.
        watch: see `Watch`.

    Returns:
        The data, indexed.

    Raises:
        ConfigError: too few images, or shards that cannot be written.
    """
    if images < 10:
        raise ConfigError(f"the demo needs at least 10 images to draw; got {images}")
    held_out = max(1, round(_HELD_OUT * images))
    parts = []
    for name, count in (("train", images - held_out), ("held-out", held_out)):
        samples = watch(drawn_samples(count, seed=seed, prefix=name), count, f"drawing {name} images")
        labels = tuple(number % len(CLASSES) for number in range(count))
        parts.append(Split(_write(samples, folder, name), labels))
    return Data(parts[0], parts[1], CLASSES)


def folder_data(
    folder: Path, images: str | Path, label_pattern: str | None, *, most: int, seed: int, watch: Watch
) -> Data:
    """Take images from a folder; of each class about one in five is held out.

    Args:
        folder: where the shards go.
        images: class folders; or, with `label_pattern`, any tree of images.
        label_pattern: regular expression whose first group is the class, searched in each file's name.
        most: more images than these are thinned out at random.
        seed: decides the split.
        watch: see `Watch`.

    Returns:
        The data, indexed.

    Raises:
        ConfigError: no images, no classes or one class, a pattern that is wrong or misses a file.
        HeaderError: a file that is no image.
    """
    found = labelled(images, label_pattern)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(found))[:most])
    labels = np.asarray(found.labels)[chosen]
    if len(np.unique(labels)) < 2:
        raise ConfigError(
            f"{images} has {len(chosen)} image(s) of one class ({found.classes[labels[0]]!r}); expected at least two "
            "classes to tell apart. Add a class folder, or change --label-pattern."
        )
    held_out = hold_out(labels, rng)
    parts = []
    for name, numbers in (("train", chosen[~held_out]), ("held-out", chosen[held_out])):
        part = LabelledImages(
            tuple(found.paths[n] for n in numbers),
            tuple(found.keys[n] for n in numbers),
            tuple(found.labels[n] for n in numbers),
            found.classes,
        )
        shards = _write(watch(part, len(part), f"packing {name} images"), folder, name)
        parts.append(Split(shards, part.labels))
    return Data(parts[0], parts[1], found.classes)


def labelled(images: str | Path, label_pattern: str | None) -> LabelledImages:
    """The images of a folder with their classes.

    Args:
        images: class folders; or, with `label_pattern`, any tree of images.
        label_pattern: regular expression whose first group is the class, searched in each file's name.

    Raises:
        ConfigError: no images, no classes, a pattern that is wrong or misses a file.
    """
    if label_pattern is not None:
        return labelled_files(images, label_pattern)
    root = Path(images)
    if root.is_dir() and not any(entry.is_dir() and entry.name[0] != "." for entry in root.iterdir()):
        raise ConfigError(
            f"{root} has no sub-folders, so its images have no classes; expected one sub-folder a class. Or name the "
            "class by a regular expression on file names, in parentheses: --label-pattern '^([a-z]+)_' takes 'cat' "
            "from cat_01.jpg."
        )
    return class_folder_samples(root)


def hold_out(labels: npt.NDArray[np.integer], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose the held-out images: about a fifth of each class, never a class's only image.

    If no class has two images, a fifth of all images, so that something is held out.

    Args:
        labels: integer [N], N at least 2.
        rng: decides which.

    Returns:
        bool [N].
    """
    mixed = rng.permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), dtype=np.int64)  # of each image in its class, in random order
    rank[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    quota = np.where(counts > 1, np.maximum(1, np.round(_HELD_OUT * counts)), 0)
    held_out = rank < quota[labels]
    if not held_out.any():
        held_out[mixed[: max(1, round(_HELD_OUT * len(labels)))]] = True
    return np.asarray(held_out)


def _write(samples: Samples, folder: Path, name: str) -> tuple[Path, ...]:
    shards: list[str | Path] = [
        *write_shards(samples, folder / f"{name}-%04d.tar", max_samples=_SHARD_SAMPLES, overwrite=True)
    ]
    write_index(build_index(shards), index_path(shards))
    return tuple(map(Path, shards))


def unwatched(samples: Samples, _count: int, _what: str) -> Iterator[Mapping[str, object]]:
    """Pass samples on and show nothing (a `Watch`)."""
    yield from samples
