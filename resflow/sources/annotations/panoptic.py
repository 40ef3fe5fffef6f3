"""COCO's panoptic form: PNG files whose colours are segment numbers, and a list of the segments of each image."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from resflow.errors import ConfigError, TargetError
from resflow.sources.annotations.annotated import AnnotatedSource
from resflow.sources.annotations.coco_json import coco_images, is_panoptic, is_path, read_coco
from resflow.sources.annotations.lint import Problem, check_on_error
from resflow.sources.annotations.mask_folder import mask_problem
from resflow.sources.annotations.objects import Found, Objects
from resflow.sources.annotations.orientation import Upright
from resflow.sources.annotations.selection import open_objects
from resflow.sources.folders import existing_folder
from resflow.sources.image_files import read_file
from resflow.targets.flags import read_flag
from resflow.targets.types import Annotation, LabelMap

_COLOURS = (2, 6)  # RGB and RGBA
_WHOLE = 1 << 24  # segment numbers are three bytes
VOID = 255
"""Class of pixels that belong to no segment (number 0)."""


class CocoPanoptic(AnnotatedSource):
    """Images with COCO's panoptic annotations, as a class for each pixel or as objects with masks.

    Samples come in the order of the images' numbers; those without an annotation are problems.

    Args:
        images: folder that the file names in the annotations are relative to.
        annotations: a panoptic JSON file, whose annotations have `segments_info`.
        masks: folder of the PNG files; a pixel's segment is R + 256 G + 65536 B.
        objects: False gives a `LabelMap` of category ids, `VOID` (255) where there is no segment; True an
            `Annotation` with an object and its mask for each segment, things and stuff alike.
        upright: as in `Coco`.
        on_error: as in `Coco`.

    Attributes:
        categories: names by category id.
        things: ids of the categories that are countable.
        problems: the `LintReport`.

    Raises:
        ConfigError: a file that cannot be read or is none of these, a category id from 255 on where label maps are
            wanted, or no image is left.
        TargetError: there are problems, and `on_error` is "raise".
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        masks: str | Path,
        *,
        objects: bool = False,
        upright: Upright = None,
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        folder = existing_folder(masks)
        coco = read_coco(annotations)
        if not is_panoptic(coco):
            raise ConfigError(f"{coco.where} is not a panoptic file: no segments_info. Open it as Coco(...).")
        if not objects and not all(0 <= number < VOID for number in coco.categories):
            raise ConfigError(
                f"{coco.where} has category ids from {min(coco.categories)} to {max(coco.categories)}; expected 0 to "
                f"{VOID - 1} in label maps. Renumber them, or pass objects=True."
            )
        try:
            flags = {number: read_flag(record.get("isthing")) for number, record in coco.categories.items()}
        except ValueError as error:
            raise ConfigError(f"isthing of a category in {coco.where}: {error}. Correct the category.") from error
        self.things = frozenset(number for number, thing in flags.items() if thing)
        files, sizes, turned, numbers, problems = coco_images(coco, images, upright)
        places = {number: place for place, number in enumerate(coco.images)}
        pages: dict[int, str] = {}
        found: list[Found] = []
        for record in coco.annotations:
            number = record.get("image_id")
            place = places.get(number, -1) if type(number) is int else -1
            where = f"{coco.where} annotation of image {number!r}"
            if place < 0 or place in pages:
                kind, what = "unknown image", "not in the list of images"
                if place >= 0:
                    kind, what = "duplicate", "came before"
                problems.append(Problem(kind, "", where, what))
                continue
            try:
                if not is_path(record["file_name"]):
                    raise ValueError(f"file_name {record['file_name']!r} names no file")
                pages[place] = record["file_name"]
                found += [_segment(segment, place) for segment in record["segments_info"]]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                what = f"{error}; expected file_name and segments_info with id, category_id and bbox"
                problems.append(Problem("unreadable annotation", files.names[place], where, what))
                sizes[place] = 0
        for place, (height, width) in enumerate(sizes.tolist()):
            if not height:
                continue
            problem = (
                mask_problem(files.names[place], folder / pages[place], (height, width), _COLOURS)
                if place in pages
                else Problem("missing file", files.names[place], coco.where, "no annotation of this image")
            )
            if problem is not None:
                problems.append(problem)
                sizes[place] = 0
        kept = open_objects(
            found,
            files,
            sizes,
            numbers,
            name=coco.where,
            problems=coco.problems + problems,
            categories=set(coco.categories),
            keypoints=0,
            where=lambda item: f"{coco.where} segment {item.line} of image {numbers[item.image]}",
            on_error=on_error,
            turned=turned,
        )
        names = tuple(pages[place] for place in np.flatnonzero(sizes.min(axis=1, initial=1)).tolist())
        super().__init__(
            kept.files,
            kept.sizes,
            Segments(os.fspath(folder), names, kept.objects, objects),
            categories=coco.names,
            problems=kept.report,
            described=[*kept.objects.described(), bytes([objects]), *(name.encode() for name in names)],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Panoptic masks of N images; called with an image's number it gives its `LabelMap` or `Annotation`.

    Args:
        folder: what all names are relative to.
        names: of the PNG files.
        segments: the segments' boxes and categories; their `line` is the number of the segment.
        objects: whether `Annotation` is wanted. Pixels of segments that were left out are `VOID`.
    """

    folder: str
    names: tuple[str, ...]
    segments: Objects
    objects: bool

    def __call__(self, number: int) -> LabelMap | Annotation:
        """The target of one image.

        Raises:
            TargetError: the PNG cannot be decoded.
            ShardError: it cannot be read.
        """
        path = os.path.join(self.folder, self.names[number])  # noqa: PTH118
        place = _segment_numbers(read_file(path), path)
        own = slice(int(self.segments.start[number]), int(self.segments.start[number + 1]))
        segments, labels = self.segments.line[own], self.segments.labels[own]
        if self.objects:
            masks = tuple((place == segment).astype(np.uint8) for segment in segments.tolist())
            return replace(self.segments(number), masks=masks)
        known, where = np.unique(place, return_inverse=True)
        table = dict(zip(segments.tolist(), labels.tolist(), strict=True))
        classes = np.array([table.get(segment, VOID) for segment in known.tolist()], np.uint8)
        return LabelMap.from_array(classes[where.reshape(place.shape)])


def _segment_numbers(data: bytes, path: str) -> npt.NDArray[np.int32]:
    """The number of each pixel's segment, int32 [H, W]."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            colours = np.asarray(picture.convert("RGB"), np.int32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TargetError(f"the panoptic mask {path} cannot be decoded: {error}. Replace the file") from error
    numbers: npt.NDArray[np.int32] = colours @ np.array([1, 256, 65536], np.int32)
    return numbers


def _segment(record: dict[str, Any], place: int) -> Found:
    left, top, width, height = map(float, record["bbox"])
    number, label = record["id"], record["category_id"]
    if type(label) is not int or not -(1 << 63) <= label < 1 << 63:
        raise ValueError(f"category {label!r} is no number")
    if type(number) is not int or not 0 < number < _WHOLE:
        raise ValueError(f"segment {number!r} is not a whole number of three bytes")
    return Found(
        image=place,
        line=number,
        label=label,
        box=(left, top, left + width, top + height),
        area=float(record["area"]) if "area" in record else None,
        iscrowd=read_flag(record.get("iscrowd")),
    )
