"""The forms in which files write an object's mask, brought to the two that COCO defines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LEAST = 6  # numbers of a polygon: fewer enclose nothing


def plain_mask(mask: Any) -> Any:
    """A mask as polygons or run lengths, where it is clear what is meant; else as it is, for the checks to refuse.

    Args:
        mask: polygons, with numbers as text, too; one polygon as a flat list or as a list of points; run lengths, alone
            or in a list; null, {}, [] and [[]], which exporters of boxes write.

    Returns:
        Polygons or run lengths; None where there is no mask. Parts of a polygon with fewer than three points are left
        out beside whole ones.
    """
    if not mask:
        return None
    if not isinstance(mask, list):
        return mask
    if len(mask) == 1 and isinstance(mask[0], Mapping):
        return mask[0]
    if not isinstance(mask[0], list):
        mask = [mask] if len(mask) >= _LEAST else mask
    elif len(mask) * 2 >= _LEAST and all(_is_point(part) for part in mask):
        mask = [mask]
    try:
        parts = [_flat(part) for part in mask if len(part)]
    except (TypeError, ValueError):
        return mask
    whole = [part for part in parts if len(part) >= _LEAST]
    return whole or parts or None


def _flat(part: Any) -> list[Any]:
    if isinstance(part[0], list):
        part = [number for point in part for number in point]
    return [float(number) for number in part] if any(isinstance(number, str) for number in part) else part


def _is_point(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and not isinstance(part[0], list)
