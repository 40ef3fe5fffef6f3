"""From what a dataset's files say of its objects to what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import Files
from resflow.sources.annotations.lint import LintReport, Problem, settle
from resflow.sources.annotations.object_checks import checked_objects
from resflow.sources.annotations.objects import Found, Objects, kept_objects
from resflow.sources.annotations.orientation import Orientations
from resflow.targets.boxes import check_pixels
from resflow.targets.mirror import KeypointPairs, as_pairs, mirrored_pairs

_SHARES = (
    "Multiply them by the image's width and height; or pass Coco(box_format='xywh_norm'), or 'xywh' if they are pixels."
)


class Selection(NamedTuple):
    """What is left of a dataset: files, sizes int32 [N, 2], and objects of N images; and what was wrong."""

    files: Files
    sizes: npt.NDArray[np.int32]
    objects: Objects
    report: LintReport


def open_objects(
    found: Sequence[Found],
    files: Files,
    sizes: npt.NDArray[np.int32],
    image_ids: npt.NDArray[np.int64],
    *,
    name: str,
    problems: Sequence[Problem],
    categories: Collection[int] | None,
    keypoints: int,
    pairs: KeypointPairs | None = None,
    where: Callable[[Found], str],
    on_error: str,
    pixels: bool = False,
    notes: Sequence[str] = (),
    turned: Orientations,
) -> Selection:
    """Check the objects of a dataset and keep the sound ones.

    Args:
        found: all objects.
        files: all images.
        sizes: int32 [N, 2], (0, 0) of images to be left out.
        image_ids: int64 [N].
        name: the dataset's, for messages.
        problems: what is wrong besides.
        categories: as in `checked_objects`, and so are `keypoints` and `where`.
        keypoints: how many an object has.
        pairs: which of them swap places in a mirror.
        where: the place of an object.
        on_error: "raise", "drop" or "clip".
        notes: of the report.
        turned: what EXIF says of the images.
        pixels: whether boxes are known to be pixels; else boxes that look like shares of the image are refused.

    Returns:
        What is kept.

    Raises:
        TargetError: there are problems, and `on_error` is "raise"; or all boxes look like shares of the image.
    """
    if not pixels:
        boxes = np.array([item.box for item in found], np.float64).reshape(-1, 4)
        check_pixels(boxes[np.isfinite(boxes).all(axis=1)], f"all boxes of {name}", _SHARES)
    rest, wrong = checked_objects(
        found, files.names, sizes, categories=categories, keypoints=keypoints, where=where, clip=on_error == "clip"
    )
    report = LintReport(name, (*problems, *wrong), len(files.names), len(found), (*notes, *turned.notes(found, name)))
    settle(report, on_error)
    files, images = measured_files(files, sizes)
    if not images.all():
        place = (np.cumsum(images) - 1).tolist()  # of a kept image among those kept
        rest = [item._replace(image=place[item.image]) for item in rest]
    objects = kept_objects(rest, image_ids[images], sizes[images], keypoints, pairs)
    return Selection(files, sizes[images], objects, report)


def measured_files(files: Files, sizes: npt.NDArray[np.int32]) -> tuple[Files, npt.NDArray[np.bool_]]:
    """The files that have a size, and which they are, bool [N]."""
    images: npt.NDArray[np.bool_] = np.logical_and.reduce(sizes > 0, axis=1)
    names = [name for name, keep in zip(files.names, images.tolist(), strict=True) if keep]
    return files._replace(names=names), images


def checked_pairs(
    given: KeypointPairs | Sequence[int] | None, names: Sequence[str], count: int | None = None
) -> KeypointPairs | None:
    """The pairs of keypoints that a mirror swaps: those given, else those whose names say so.

    Args:
        given: an argument `keypoint_pairs`.
        names: of the keypoints, as far as they are known.
        count: how many keypoints there are; None for as many as names.

    Returns:
        The pairs, () where none swap, None where neither says.

    Raises:
        ConfigError: `given` are no pairs.
    """
    if given is None:
        return mirrored_pairs(names) or None
    try:
        return as_pairs(given, (count or len(names)) or None)
    except ValueError as error:
        raise ConfigError(f"keypoint_pairs: {error}") from error
