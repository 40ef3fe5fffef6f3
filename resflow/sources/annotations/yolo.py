"""YOLO text labels: a file an image, a line an object, coordinates as shares of the image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import AnnotatedSource, Files, measured_sizes, numbered_classes
from resflow.sources.annotations.lint import Problem, check_on_error
from resflow.sources.annotations.objects import Found
from resflow.sources.annotations.orientation import Orientations, Upright, is_upright
from resflow.sources.annotations.selection import checked_pairs, open_objects
from resflow.sources.annotations.yolo_files import find_yolo_files, label_lines
from resflow.sources.annotations.yolo_yaml import read_yolo_yaml
from resflow.targets.mirror import KeypointPairs

_MOST = 100_000  # the largest class number that is taken for one
_FORMS = "expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...', shares of the image's width and height"


class Yolo(AnnotatedSource):
    """Images of a folder, with their objects in text files of the same name in another.

    A line is "class cx cy w h" (centre and sides of a box) or "class x1 y1 x2 y2 x3 y3 ..." (a polygon, whose extent is
    the box), in shares of the image's width and height. An image without a file has no objects; files without an image
    are problems where there are images without a file. Labels are the file's class numbers plus `first_label`. A
    sample's image_id is its place among all images, from 0.

    Args:
        images: folder of images, also in sub-folders; a .txt list of image files, one per line, relative to the list or
            to the working directory; or several of these.
        labels: folder of text files, in the same sub-folders, one for each folder of images. None looks where
            ultralytics does: the last folder called images becomes labels, else the text files lie beside the images.
        classes: names in the order of the file's numbers; None takes any number, and a number is its name.
        first_label: what the file's class 0 becomes; 0 is the background in torchvision's detectors.
        keypoints: (K, 2) or (K, 3): after its box each line has x and y, or x, y and visibility, of K keypoints, as
            `kpt_shape` says in ultralytics' YAML. Without visibility a keypoint is visible unless it is at (0, 0).
        keypoint_pairs: which keypoints swap places in a mirrored image: pairs of places, or a permutation of all, such
            as `flip_idx` in ultralytics' YAML; () if none do, None where it is not known.
        upright: whether coordinates are those of the image after EXIF orientation, as OpenCV and ultralytics open it;
            else of the stored pixels, as PIL has them.
        on_error: "raise" refuses a dataset with problems and names them; "drop" leaves out the objects (and the
            images that cannot be read), logs how many, and keeps the report. "clip" does
            the same, but cuts what hangs over the border there.

    Attributes:
        categories: names by label.
        problems: the `LintReport`.

    Raises:
        ConfigError: a folder is missing, an argument has a wrong value, or no image is left.
        TargetError: there are problems, and `on_error` is "raise".
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        labels: str | Path | Sequence[str | Path] | None = None,
        classes: Sequence[str] | None = None,
        *,
        first_label: int = 1,
        keypoints: tuple[int, int] | None = None,
        keypoint_pairs: KeypointPairs | Sequence[int] | None = None,
        upright: Upright = True,
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        if keypoints is not None and (len(keypoints) != 2 or keypoints[0] < 1 or keypoints[1] not in (2, 3)):
            raise ConfigError(f"keypoints must be (K, 2) or (K, 3), the numbers of a line's keypoints; got {keypoints}")
        pairs = None if keypoint_pairs is None else checked_pairs(keypoint_pairs, (), keypoints and keypoints[0])
        there = find_yolo_files(images, labels)
        pages = there.pages
        files = Files(os.fspath(there.root), there.names, is_upright(upright))
        sizes, orientation, problems = measured_sizes(files, there.root.name)
        turned = Orientations(orientation, upright, (), sizes.copy())
        problems += there.problems
        found: list[Found] = []
        for place, page in enumerate(pages):
            height, width = sizes[place].tolist()
            lines = label_lines(page)
            if isinstance(lines, Problem):
                problems.append(lines)
                sizes[place] = 0
                continue
            seen: set[str] = set()
            for number, line in lines.items():
                if line in seen:
                    problems.append(
                        Problem("duplicate", files.names[place], f"{page}:{number}", "this line came before")
                    )
                    continue
                seen.add(line)
                try:
                    item = _object(line, place, number, width, height, keypoints)
                except ValueError as error:
                    what = f"{error}: {line[:60]!r}"
                    problems.append(Problem("unreadable annotation", files.names[place], f"{page}:{number}", what))
                    continue
                found.append(item._replace(label=item.label + first_label))
        if classes is None:
            top = max((item.label for item in found), default=first_label - 1)
            classes = [str(number) for number in range(top - first_label + 1)]
        categories = numbered_classes(classes, first_label)
        kept = open_objects(
            found,
            files,
            sizes,
            np.arange(len(pages)),
            name=there.labels,
            problems=problems,
            categories=categories,
            keypoints=keypoints[0] if keypoints else 0,
            pairs=pairs,
            where=lambda item: f"{pages[item.image]}:{item.line}",
            notes=there.notes,
            turned=turned,
            on_error=on_error,
        )
        super().__init__(
            kept.files,
            kept.sizes,
            kept.objects,
            categories=categories,
            problems=kept.report,
            described=kept.objects.described(),
        )

    @classmethod
    def from_yaml(cls, path: str | Path, split: str = "train", **options: Any) -> Yolo:
        """The source of one split of ultralytics' data.yaml, with its classes and keypoints.

        Args:
            path: the file.
            split: "train", "val" or "test".
            options: further arguments of `Yolo`.

        Raises:
            ConfigError: the file cannot be read, has no such split, or its folders are not there.
            TargetError: there are problems, and `on_error` is "raise".
        """
        found = read_yolo_yaml(path, split)
        known = {"classes": found.classes, "keypoints": found.keypoints, "keypoint_pairs": found.flip_idx}
        return cls(found.images, **(known | options))


def _object(line: str, place: int, number: int, width: int, height: int, keypoints: tuple[int, int] | None) -> Found:
    """One line; ValueError says what is wrong with it."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f"not numbers; {_FORMS}") from None
    if label != label // 1 or label < 0:
        raise ValueError(f"class {label:g} is not a whole number from 0; {_FORMS}")
    if label > _MOST:  # each number up to the largest gets a name
        raise ValueError(f"class {label:g} is beyond {_MOST}")
    points = None
    if keypoints is not None:
        count, each = keypoints
        if len(values) != 4 + count * each:
            raise ValueError(f"{len(values) + 1} numbers; expected class, box and {count} keypoints of {each} numbers")
        points = _keypoints(values[4:], each, width, height)
        values = values[:4]
    if len(values) == 4:
        x, y, w, h = values
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return Found(place, number, int(label), box, keypoints=points)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values) + 1} numbers; {_FORMS}")
    xs, ys = [x * width for x in values[0::2]], [y * height for y in values[1::2]]
    polygon = [edge for corner in zip(xs, ys, strict=True) for edge in corner]
    if not isfinite(sum(polygon)):  # min and max would pass over it
        return Found(place, number, int(label), (nan, nan, nan, nan), mask=[polygon])
    return Found(place, number, int(label), (min(xs), min(ys), max(xs), max(ys)), mask=[polygon])


def _keypoints(values: list[float], each: int, width: int, height: int) -> list[float]:
    points: list[float] = []
    for at in range(0, len(values), each):
        x, y = values[at], values[at + 1]
        seen = values[at + 2] if each == 3 else 2.0 * bool(x or y)
        points += [x * width, y * height, seen]
    return points
