"""What can be wrong with an object: its box, class, area, mask and keypoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.sources.annotations.lint import OVERHANG, Problem
from resflow.sources.annotations.objects import Found
from resflow.sources.annotations.run_lengths import compressed_counts

_FAR = 9  # sides of the image that a polygon may lie away where it is cut at the border


def checked_objects(
    found: Sequence[Found],
    keys: Sequence[str],
    sizes: npt.NDArray[np.int32],
    *,
    categories: Collection[int] | None,
    keypoints: int,
    where: Callable[[Found], str],
    clip: bool = False,
) -> tuple[list[Found], list[Problem]]:
    """What is sound of the objects, and what is wrong with the rest; an object is one problem at most.

    An object with a wrong box or class is left out. Of one with a wrong mask, keypoint list or area that part alone is:
    its mask is then empty, its keypoints are not labelled, its area is its box's.

    Args:
        found: M objects.
        keys: name of each image.
        sizes: int32 [N, 2], height and width of each image; (0, 0) of one that is left out: its objects are unsound,
            and no problems of their own.
        categories: class numbers that there are, None where any is taken.
        keypoints: how many keypoints an object has, 0 where they have none.
        where: the place of an object, for messages.
        clip: whether boxes, polygons and keypoints over the border are sound, being cut there.

    Returns:
        Objects of the images that have a size, and the problems, object by object.
    """
    sound: list[Found] = []
    image = np.array([item.image for item in found], np.int64)
    own = sizes[image].astype(np.float64)  # [M, 2]
    height, width = own[:, 0], own[:, 1]
    boxes = np.array([item.box for item in found], np.float64).reshape(-1, 4)
    finite = np.logical_and.reduce(np.isfinite(boxes), axis=1)
    left, top, right, bottom = np.where(finite[:, None], boxes, 0).T
    outside = np.maximum.reduce((-left, -top, right - width, bottom - height)) > OVERHANG
    empty = (~outside | clip) & (
        (np.minimum(right, width) <= np.maximum(left, 0)) | (np.minimum(bottom, height) <= np.maximum(top, 0))
    )
    kinds = np.select([~finite, outside & ~(empty & clip), empty], [1, 2, 3], 0)
    problems: list[Problem] = []
    for place, item in enumerate(found):
        if not height[place]:
            continue
        size = (int(height[place]), int(width[place]))
        wrong: list[tuple[str, str]] = []
        if categories is not None and item.label not in categories:
            wrong.append(
                ("unknown category", f"category {item.label} is not among the {len(categories)} of the dataset")
            )
        if kinds[place] and not (clip and kinds[place] == 2):
            wrong.append(_wrong_box(int(kinds[place]), boxes[place].tolist(), size))
        kept = None if wrong else item
        parts: list[tuple[str, str]] = []
        if item.area is not None and not (isfinite(item.area) and item.area >= 0):
            parts.append(("not finite", f"area {item.area}; expected a number of at least 0"))
            kept = kept and kept._replace(area=None)
        if item.mask is not None and (found_wrong := _wrong_mask(item.mask, size, clip)):
            parts += found_wrong
            kept = kept and kept._replace(mask={"size": list(size), "counts": [size[0] * size[1]]})  # of no pixel
        if (
            keypoints
            and item.keypoints is not None
            and (found_wrong := _wrong_keypoints(item.keypoints, keypoints, size))
        ):
            parts += found_wrong
            kept = kept and kept._replace(keypoints=None)
            if found_wrong[0][0] == "out of bounds":
                parts = parts[:-1] if clip else parts
                kept = kept and kept._replace(keypoints=_within(item.keypoints, size))
        if kept is not None:
            sound.append(kept)
        if wrong or parts:
            kind, what = (wrong + parts)[0][0], "; ".join(text for _, text in wrong + parts)
            problems.append(Problem(kind, keys[item.image], where(item), what))
    return sound, problems


def _within(points: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Keypoints, those outside of the image not labelled."""
    inside: list[float] = []
    for x, y, seen in zip(points[0::3], points[1::3], points[2::3], strict=True):
        outside = max(-x, -y, x - size[1], y - size[0]) > OVERHANG
        inside += [0.0, 0.0, 0.0] if outside else [x, y, seen]
    return inside


def _wrong_box(kind: int, box: list[float], size: tuple[int, int]) -> tuple[str, str]:
    sides = f"box {[round(edge, 3) for edge in box]} (left, top, right, bottom)"
    if kind == 1:
        return "not finite", f"{sides}; expected numbers"
    if kind == 2:
        return "out of bounds", f"{sides} leaves its image of {size[0]} x {size[1]} (H x W) by more than a pixel"
    return "zero area", f"{sides} has no width or no height"


def _wrong_mask(mask: Any, size: tuple[int, int], clip: bool) -> list[tuple[str, str]]:
    if isinstance(mask, Mapping):
        return _wrong_run_lengths(mask, size)
    if not isinstance(mask, list):
        return [("mask", f"a {type(mask).__name__}; expected polygons or run lengths")]
    for polygon in mask:
        try:
            finite = isfinite(sum(polygon))
        except (TypeError, OverflowError):
            return [("mask", "polygons that are not lists of numbers")]
        if len(polygon) < 6 or len(polygon) % 2:
            return [("mask", f"a polygon of {len(polygon)} coordinates; expected x and y of three points or more")]
        if not finite:
            return [("not finite", "a polygon has NaN or infinite coordinates")]
        over = max(-min(polygon), max(polygon[0::2]) - size[1], max(polygon[1::2]) - size[0])
        if over > (_FAR * max(size) if clip else OVERHANG):
            return [
                ("out of bounds", f"a polygon leaves its image of {size[0]} x {size[1]} (H x W) by {over:g} pixels")
            ]
    return []


def _wrong_run_lengths(mask: Mapping[str, Any], size: tuple[int, int]) -> list[tuple[str, str]]:
    counts, stated = mask.get("counts"), mask.get("size")
    if stated != list(size):
        return [("mask", f"run lengths for an image of {stated}; expected {list(size)}, its height and width")]
    try:
        runs = compressed_counts(counts) if isinstance(counts, str) else [int(count) for count in counts or []]
    except (TypeError, ValueError, OverflowError) as error:
        return [("mask", f"run lengths that cannot be read: {error}")]
    if min(runs, default=-1) < 0 or sum(runs) != size[0] * size[1]:
        return [("mask", f"run lengths that add up to {sum(runs)}; expected {size[0] * size[1]}, the image's pixels")]
    return []


def _wrong_keypoints(points: Sequence[float], count: int, size: tuple[int, int]) -> list[tuple[str, str]]:
    if len(points) != 3 * count:
        return [("keypoints", f"{len(points)} numbers; expected x, y and visibility of {count} keypoints")]
    if not isfinite(sum(points)):
        return [("not finite", "keypoints have NaN or infinite coordinates")]
    if not set(points[2::3]) <= {0, 1, 2}:
        return [("keypoints", f"visibilities {sorted(set(points[2::3]))}; expected 0, 1 or 2")]
    for x, y, seen in zip(points[0::3], points[1::3], points[2::3], strict=True):
        if seen and max(-x, -y, x - size[1], y - size[0]) > OVERHANG:
            return [("out of bounds", f"keypoint ({x:g}, {y:g}) leaves its image of {size[0]} x {size[1]} (H x W)")]
    return []
