"""Folders of images and of masks: a PNG with a class for each pixel beside each image."""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, HeaderError, ShardError, TargetError
from resflow.sources.annotations.annotated import AnnotatedSource, Files, measured_sizes, numbered_classes
from resflow.sources.annotations.lint import LintReport, Problem, check_on_error, settle
from resflow.sources.annotations.orientation import Orientations, Upright, is_upright
from resflow.sources.annotations.selection import measured_files
from resflow.sources.annotations.text_files import listed_names
from resflow.sources.folders import existing_folder, files_by_stem, image_files
from resflow.sources.image_files import file_header, read_file
from resflow.targets.label_maps import decode_label_map
from resflow.targets.types import LabelMap
from resflow.targets.values import VOID, checked_values, renumbered

GREYS = (0, 3)
"""Colour types in a PNG's header whose values can be classes: greyscale and palette."""

_THREADS = 8


class MaskFolder(AnnotatedSource):
    """Images of a folder, with a class for each pixel in PNG files of the same name in another.

    Args:
        images: folder of images, also in sub-folders.
        masks: folder of PNG files of the images' sizes, greyscale or palette, whose values are the classes; in the same
            sub-folders.
        suffix: what a mask's name has after the image's, such as "_L" for 0001.png and 0001_L.png.
        names: names of the images to take, without extension; or a text file with one a line, such as VOC's
            ImageSets/Segmentation/train.txt; None takes all images.
        classes: names in the order of their numbers from 0, where known.
        values: a mapping says which class a number in the masks means, such as {255: 1} for masks of 0 and 255; numbers
            that are not named stay. A collection lists all numbers that may stand in a mask; then every mask is decoded
            once and looked at. None looks at the masks' headers alone (and the loader at its first batch).
        upright: as in `Coco`; here the masks' own sizes must fit.
        on_error: "raise" refuses a dataset with problems and names them; "drop" leaves out the images that have some,
            logs how many, and keeps the report.

    Attributes:
        categories: names by number, {} where `classes` is None.
        problems: the `LintReport`.

    Raises:
        ConfigError: a folder is missing, an argument has a wrong value, or no image is left.
        TargetError: there are problems, and `on_error` is "raise".
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        *,
        suffix: str = "",
        names: str | Path | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        values: Mapping[int, int] | Collection[int] | None = None,
        upright: Upright = None,
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        categories = numbered_classes(classes, 0) if classes else {}
        table = checked_values(values, "values") if isinstance(values, Mapping) else None
        if table and categories and (unknown := sorted(set(table.values()) - categories.keys() - {VOID})):
            raise ConfigError(f"values has classes {unknown}; expected 0 to {len(categories) - 1}, or {VOID} for none")
        root, folder = existing_folder(images), existing_folder(masks)
        paths = [path.relative_to(root) for path in image_files(root)]
        if names is not None:
            stems = {path.with_suffix("").as_posix(): path for path in paths}
            paths = [stems.get(name, Path(f"{name}.jpg")) for name in _names(names, stems)]
        files = Files(os.fspath(root), [str(path) for path in paths], is_upright(upright))
        sizes, orientation, problems = measured_sizes(files, str(root))
        there = files_by_stem(folder, ".png")
        wanted = [f"{path.with_suffix('').as_posix()}{suffix}" for path in paths]
        found = [str(there[stem].relative_to(folder)) if stem in there else f"{stem}.png" for stem in wanted]
        allowed = None if values is None or table is not None else np.array(sorted(values), np.int64)

        def check(place: int) -> Problem | None:
            key, path, (height, width) = files.names[place], folder / found[place], sizes[place].tolist()
            problem = mask_problem(key, path, (height, width)) if height else None
            if problem is None and height and allowed is not None:
                return _unknown_values(key, path, allowed)
            return problem

        with ThreadPoolExecutor(_THREADS) as pool:
            for place, problem in enumerate(pool.map(check, range(len(paths)))):
                if problem is not None:
                    problems.append(problem)
                    sizes[place] = 0
        turned = Orientations(orientation, upright, (), sizes.copy())
        report = LintReport(str(root), tuple(problems), len(paths), notes=turned.notes((), str(root)))
        settle(report, on_error)
        files, images_kept = measured_files(files, sizes)
        kept = tuple(name for name, keep in zip(found, images_kept.tolist(), strict=True) if keep)
        super().__init__(
            files,
            sizes[images_kept],
            MaskFiles(os.fspath(folder), kept, table, frozenset(categories) or None),
            categories=categories,
            problems=report,
            described=[
                *([repr(table).encode()] if table else []),
                *(name.encode(errors="surrogateescape") for name in kept),
            ],
        )


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Mask files of N images; called with an image's number it gives its `LabelMap`.

    Args:
        folder: what all names are relative to.
        names: of the files.
        table: classes of numbers that mean others than themselves.
        known: the numbers of the classes, None where they are not known.
    """

    folder: str
    names: tuple[str, ...]
    table: Mapping[int, int] | None = None
    known: frozenset[int] | None = None

    def __call__(self, number: int) -> LabelMap:
        """The mask of one image; ShardError where its file cannot be read, TargetError where it cannot be decoded."""
        encoded = read_file(os.path.join(self.folder, self.names[number]))  # noqa: PTH118
        if not self.table:
            return LabelMap(encoded, self.known)
        return LabelMap.from_array(renumbered(decode_label_map(encoded), self.table), self.known)


def mask_problem(key: str, path: Path, size: tuple[int, int], colours: Collection[int] = GREYS) -> Problem | None:
    """What is wrong with a mask's file, by its header.

    Args:
        key: the image's name, for the message.
        path: of the mask.
        size: height and width of its image.
        colours: colour types of PNG that are taken.

    Returns:
        The problem, or None.

    Source:
        PNG (ISO/IEC 15948), 11.2.2: IHDR.
    """
    where = str(path)
    try:
        header = file_header(where)
        if header.format != "png":
            return Problem("mask", key, where, f"a {header.format} file; expected PNG, which keeps values as they are")
        with path.open("rb") as file:
            start = file.read(26)
    except HeaderError as error:
        return Problem("mask", key, where, error.message)
    except ShardError as error:
        there = path.exists()
        what = error.message if there else "no such mask; expected one for each image"
        return Problem("mask" if there else "missing file", key, where, what)
    found = (int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big"))
    if start[25] not in colours:
        what = f"a PNG of colour type {start[25]}; expected one of {sorted(colours)} (0 grey, 2 RGB, 3 palette, 6 RGBA)"
        return Problem("mask", key, where, what)
    if found != size:
        what = f"a mask of {found[0]} x {found[1]} (H x W); expected {size[0]} x {size[1]}, its image's"
        return Problem("size mismatch", key, where, what)
    return None


def _unknown_values(key: str, path: Path, allowed: npt.NDArray[np.int64]) -> Problem | None:
    try:
        unknown = np.setdiff1d(decode_label_map(read_file(str(path))), allowed)
    except TargetError as error:
        return Problem("mask", key, str(path), error.message)
    if not unknown.size:
        return None
    return Problem("unknown category", key, str(path), f"values {unknown[:5].tolist()} are not among those allowed")


def _names(names: str | Path | Sequence[str], known: Container[str]) -> list[str]:
    if not isinstance(names, str | Path):
        return list(names)
    try:
        return listed_names(Path(names), known)
    except ValueError as error:
        raise ConfigError(f"the list of names {names} cannot be read: {error}.") from error
    except OSError as error:
        raise ConfigError(f"the list of names {names} cannot be read: {error.strerror}. Check the path.") from error
