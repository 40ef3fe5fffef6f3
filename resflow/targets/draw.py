"""Masks of a batch's objects, drawn from what COCO writes straight into the batch's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resflow.errors import TargetError
from resflow.geometry import Geometry
from resflow.targets.masks import Lookup, Mask, decode_mask, span
from resflow.targets.types import Annotation


def draw_masks(
    annotations: Sequence[Annotation], places: npt.NDArray[np.int64], geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw masks of chosen objects where their images lie.

    Only the part of the batch that an object's mask reaches is sampled; the rest stays the zeros it was made of.

    Args:
        annotations: of the B images.
        places: int64 [N], ascending places among the objects of all images, one image after the other.
        geometry: how the B images are placed.

    Returns:
        masks: uint8 [N, H, W], 0 or 1.
        edges: float64 [N, 4], left, top, right, bottom of what is not 0; all 0 if nothing is.

    Raises:
        TargetError: an object has no mask, or a broken one; names the object, and the image's `position`.
    """
    output_size = geometry.output_size
    masks = torch.zeros((len(places), *output_size), dtype=torch.uint8)
    edges = np.zeros((len(places), 4))
    starts = np.cumsum([0, *map(len, annotations)])
    image = np.searchsorted(starts, places, side="right") - 1
    inverse = np.linalg.inv(geometry.matrix)
    lookup, looked = None, -1
    for row, (place, position) in enumerate(zip((places - starts[image]).tolist(), image.tolist(), strict=True)):
        height, width = geometry.source_size[position].tolist()
        if lookup is None or looked != position:
            lookup, looked = Lookup(inverse[position], (height, width), output_size), position
        mask = _decoded(annotations[position], place, (height, width), position)
        if lookup.aligned:
            edges[row] = _draw_aligned(mask, lookup, masks[row].numpy())
        else:
            edges[row] = _draw_turned(mask, lookup, masks[row].numpy())
    return masks, torch.from_numpy(edges)


def _decoded(annotation: Annotation, place: int, size: tuple[int, int], position: int) -> Mask:
    try:
        return decode_mask(None if annotation.masks is None else annotation.masks[place], size)
    except TargetError as error:
        where = f"object {place} of image {annotation.image_id}"
        raise TargetError(f"{where}: {error.message}", position=position) from error


def _draw_aligned(mask: Mask, lookup: Lookup, output: Mask) -> tuple[int, int, int, int]:
    """Draw one mask through rows and columns, and return its edges."""
    left, right = span(lookup.columns, *_extent(mask.any(axis=0)))
    top, bottom = span(lookup.rows, *_extent(mask.any(axis=1)))
    # mask is Fortran-ordered, as pycocotools makes it: columns first, then rows
    shown = mask.T.take(lookup.columns[left:right], axis=0).take(lookup.rows[top:bottom], axis=1).T
    output[top:bottom, left:right] = shown
    return _edges(shown, left, top)


def _draw_turned(mask: Mask, lookup: Lookup, output: Mask) -> tuple[int, int, int, int]:
    """Draw one mask through the place of every pixel, and return its edges."""
    places = lookup.places.numpy()
    np.multiply(np.ascontiguousarray(mask).reshape(-1).take(places, mode="clip"), places >= 0, out=output)
    return _edges(output, 0, 0)


def _edges(shown: npt.NDArray[Any], left: int, top: int) -> tuple[int, int, int, int]:
    (x0, x1), (y0, y1) = _extent(shown.any(axis=0)), _extent(shown.any(axis=1))
    return (left + x0, top + y0, left + x1, top + y1) if x1 and y1 else (0, 0, 0, 0)


def _extent(filled: Any) -> tuple[int, int]:
    """First filled place and the one after the last; (0, 0) if none is."""
    places = np.flatnonzero(filled)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
