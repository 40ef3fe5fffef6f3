"""Image files without annotations: a folder of them, class folders, or a list of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import AnnotatedSource, Files, measured_sizes
from resflow.sources.annotations.lint import LintReport, check_on_error, settle
from resflow.sources.annotations.selection import measured_files
from resflow.sources.base import NO_TARGET
from resflow.sources.folders import LabelledImages, class_folder_samples, image_files, labelled_by_name, unique_keys
from resflow.sources.groups import IMAGE_EXTENSIONS
from resflow.sources.paths import expanded


class Images(AnnotatedSource):
    """Image files, turned upright, with a class each where folders or names tell it.

    Args:
        images: a folder, or paths of files. Where no image lies in the folder itself, its sub-folders are the classes,
            numbered by name from 0, as in torchvision's ImageFolder; else the images have no classes.
        label_pattern: regular expression searched in each file's name; its first group is the class.
        on_error: "raise" refuses images whose header cannot be read; "drop" leaves them out and logs how many.

    Attributes:
        categories: names by class number; {} where the images have no classes.
        problems: the `LintReport`.

    Raises:
        ConfigError: no images, a class folder without images, or an expression that finds no class in a name.
        TargetError: an image cannot be read, and `on_error` is "raise".
    """

    def __init__(
        self, images: str | Path | Sequence[str | Path], label_pattern: str | None = None, *, on_error: str = "raise"
    ) -> None:
        check_on_error(on_error)
        found = labelled_images(images, label_pattern)
        folder = _common_folder(found.paths)
        files = Files(folder, [os.path.relpath(path, folder) for path in found.paths], upright=True)
        sizes, _, problems = measured_sizes(files, folder)
        report = LintReport(folder, tuple(problems), len(files.names))
        settle(report, on_error)
        files, kept = measured_files(files, sizes)
        labels = np.array(found.labels, np.int64)[kept] if found.classes else None
        super().__init__(
            files,
            sizes[kept],
            _Labels(labels),
            categories=dict(enumerate(found.classes)),
            problems=report,
            described=[b"" if labels is None else labels.tobytes()],
        )


def labelled_images(images: str | Path | Sequence[str | Path], label_pattern: str | None = None) -> LabelledImages:
    """Image files with their classes, as far as folders or names tell them.

    Args:
        images: as for `Images`; patterns are expanded.
        label_pattern: as for `Images`.

    Raises:
        ConfigError: as for `Images`.
    """
    parts = [images] if isinstance(images, str | Path) else images
    named = [path for part in parts for path in expanded(part)]
    classed = len(named) == 1 and named[0].is_dir() and not _has_images(named[0]) and label_pattern is None
    if classed and any(path.is_dir() and path.name[0] != "." for path in named[0].iterdir()):
        return class_folder_samples(named[0])
    files = (file for path in named for file in (image_files(path) if path.is_dir() else [path]))
    paths = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 (links stay as they are)
    if not paths:
        where = ", ".join(map(str, named[:3])) or "the list"
        raise ConfigError(
            f"{where} holds neither shards nor images; expected files ending in tar, {', '.join(IMAGE_EXTENSIONS)}."
        )
    root = Path(_common_folder(paths))
    if label_pattern is not None:
        return labelled_by_name(paths, root, label_pattern)
    return LabelledImages(tuple(paths), unique_keys(root, paths), (), ())


def are_images(names: Sequence[str | Path]) -> bool:
    """Whether names are of image files rather than shards, by their endings."""
    endings = {os.path.splitext(name)[1][1:].lower() for name in names}  # noqa: PTH122 (a pattern is no path)
    return bool(endings) and endings <= set(IMAGE_EXTENSIONS)


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(are_images([entry.name]) and entry.name[0] != "." for entry in entries)


def _common_folder(paths: Sequence[Path]) -> str:
    return os.path.commonpath({os.path.abspath(path.parent) for path in paths})  # noqa: PTH100


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """The class of an image by its number, or none."""

    labels: npt.NDArray[np.int64] | None

    def __call__(self, number: int) -> object:
        return NO_TARGET if self.labels is None else int(self.labels[number])
