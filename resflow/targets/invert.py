"""What a model found in a batch, taken back to the pixels of the source images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from resflow.errors import TargetError
from resflow.geometry import Geometry
from resflow.targets.draw import Lookup
from resflow.targets.mirror import KeypointPairs
from resflow.targets.move import hulls, move_points, swapped

Ragged: TypeAlias = Sequence[torch.Tensor] | torch.Tensor
"""One tensor for each image, or one over all whose first axis is the image."""

_INVERTED = ("boxes", "masks", "keypoints", "keypoints_scores")


def invert_predictions(
    predictions: Sequence[Mapping[str, Any]], geometry: Geometry, *, clip: bool = True, pairs: KeypointPairs = ()
) -> list[dict[str, Any]]:
    """Take predictions, as torchvision's detectors return them, to the pixels of the source images.

    Args:
        predictions: B dicts; "boxes", "masks", "keypoints" and "keypoints_scores" are inverted, all else is kept.
        geometry: how the batch's images were placed.
        clip: whether boxes are cut at the source image's borders.
        pairs: which keypoints swap places in mirrored images.

    Returns:
        B dicts with the same keys.

    Raises:
        TargetError: not B dicts, or a tensor of another shape than the functions for boxes, masks and keypoints take.
    """
    _check_count("predictions", predictions, geometry)
    given: Sequence[Any] = predictions
    for place, one in enumerate(given):
        if not isinstance(one, Mapping):
            shape = tuple(one.shape) if isinstance(one, torch.Tensor) else ()
            kind = (
                "boxes" if len(shape) == 2 and shape[1] == 4 else "keypoints" if shape[2:] in ((2,), (3,)) else "masks"
            )
            got = f"a tensor {list(shape)}" if isinstance(one, torch.Tensor) else type(one).__name__
            raise TargetError(
                'predictions must be dicts with "boxes", "masks" or "keypoints", one for each image; got '
                f"{got} for image {place}. For tensors, name what they are: batch.invert({kind}=...)."
            )
    inverted = [dict(one) for one in predictions]
    steps: dict[str, Callable[[Any, Geometry], Any]] = {
        "boxes": lambda boxes, where: invert_boxes(boxes, where, clip=clip),
        "masks": invert_masks,
        "keypoints": lambda points, where: invert_keypoints(points, where, pairs=pairs),
        "keypoints_scores": lambda scores, where: _unswapped(scores, where, pairs),
    }
    for name in _INVERTED:
        having = [place for place, one in enumerate(predictions) if name in one]
        if having:
            part = _part(geometry, having)
            for place, value in zip(having, steps[name]([predictions[at][name] for at in having], part), strict=True):
                inverted[place][name] = value
    return inverted


def invert_boxes(boxes: Ragged, geometry: Geometry, *, clip: bool = True) -> Any:
    """Take boxes to the pixels of the source images; of turned images, the upright boxes around the corners.

    Args:
        boxes: B tensors [N, 4], or one [B, N, 4], on any device: left, top, right, bottom in pixel edges of the batch.
        geometry: how the batch's images were placed.
        clip: whether boxes are cut at the source image's borders.

    Returns:
        The same in source pixels: float64 where given, else float32. Computed in float64.

    Raises:
        TargetError: not B tensors, or of another shape.
    """
    _check_shapes("boxes", boxes, geometry, "[N, 4]", lambda shape: len(shape) == 2 and shape[1] == 4)

    def invert(one: torch.Tensor, inverse: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        moved = hulls(one.double(), inverse)
        moved = moved.clamp(min=0).minimum(torch.cat([limit, limit])) if clip else moved
        return moved.to(_floating(one))

    return _each(boxes, geometry, invert)


def invert_keypoints(keypoints: Ragged, geometry: Geometry, *, pairs: KeypointPairs = ()) -> Any:
    """Take keypoints to the pixels of the source images.

    Args:
        keypoints: B tensors [N, K, 2] or [N, K, 3], or one [B, N, K, 2 or 3], on any device: x, y in pixel edges of
            the batch; a third column (visibility or score) is kept. 0, 0, 0 is a point that is not labelled, and stays.
        geometry: how the batch's images were placed.
        pairs: which keypoints swap places in mirrored images (a left eye found in a mirrored image is a right eye).

    Returns:
        The same in source pixels: float64 where given, else float32. Computed in float64.

    Raises:
        TargetError: not B tensors, or of another shape.
    """
    _check_shapes(
        "keypoints", keypoints, geometry, "[N, K, 2 or 3]", lambda shape: len(shape) == 3 and shape[2] in (2, 3)
    )

    def invert(one: torch.Tensor, inverse: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        moved = torch.cat([move_points(one[..., :2].double(), inverse), one[..., 2:].double()], -1)
        if one.shape[-1] == 3:
            moved = torch.where((one == 0).all(-1, keepdim=True), 0, moved)
        mirrored = (torch.linalg.det(inverse[:2, :2]) < 0).expand(len(one))
        return swapped(moved, pairs, mirrored).to(_floating(one))

    return _each(keypoints, geometry, invert)


def invert_masks(masks: Ragged, geometry: Geometry, *, fill: float = 0) -> list[torch.Tensor]:
    """Take masks, label maps or class scores to the pixels of the source images.

    bool and integers: every source pixel takes the batch's pixel in which its centre lies. Floating numbers
    (probabilities, logits): bilinear interpolation between the centres of the batch's pixels, computed in float32.

    Args:
        masks: B tensors [..., H, W] of the batch's shape, or one [B, ..., H, W], on any device: [N, H, W] and
            [N, 1, H, W] of detectors, [H, W] label maps, [C, H, W] scores of segmentation.
        geometry: how the batch's images were placed.
        fill: value of source pixels that the batch does not show.

    Returns:
        B tensors [..., h, w] of the source images' sizes, of the same dtype on the same device.

    Raises:
        TargetError: not B tensors, or not of the batch's shape.
    """
    size = geometry.output_size
    expected = f"[..., {size[0]}, {size[1]}]"
    _check_shapes("masks", masks, geometry, expected, lambda shape: shape[-2:] == size)
    inverted = []
    for one, matrix, (height, width) in zip(masks, geometry.matrix, geometry.source_size.tolist(), strict=True):
        planes = one.reshape(-1, *size)
        if one.is_floating_point():
            moved = _interpolated(planes, torch.from_numpy(matrix), (height, width), fill)
        else:
            moved = Lookup(np.linalg.inv(matrix), size, (height, width)).sample(planes, int(fill))
        inverted.append(moved.reshape(*one.shape[:-2], height, width))
    return inverted


def _interpolated(planes: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int], fill: float) -> torch.Tensor:
    """Planes [N, H, W] of the batch, at the centres of a source's pixels: [N, h, w]."""
    extent = torch.tensor([planes.shape[2], planes.shape[1]], dtype=torch.float64)
    x, y = torch.arange(size[1], dtype=torch.float64) + 0.5, torch.arange(size[0], dtype=torch.float64) + 0.5
    columns, rows = x[:, None] * matrix[:2, 0], y[:, None] * matrix[:2, 1] + matrix[:2, 2]  # [w, 2], [h, 2]
    # grid_sample counts from -1 at the first edge to 1 at the last with align_corners=False
    parts = [(part * 2 / extent).float().to(planes.device) for part in (columns, rows)]
    grid = parts[0][None] + parts[1][:, None] - 1  # [h, w, 2]
    shape = (1, len(planes), *size)
    if not len(planes):
        return planes.new_zeros(shape[1:])
    moved = functional.grid_sample(
        planes[None].float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    outside = (grid.abs() > 1 + 1e-6).any(-1)
    return moved.masked_fill_(outside, fill).to(planes.dtype)


def _each(
    values: Ragged, geometry: Geometry, invert: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Any:
    """Each image's tensor inverted by its matrix; given its (width, height), too."""
    inverse = torch.from_numpy(np.linalg.inv(geometry.matrix))
    sizes = torch.from_numpy(geometry.source_size[:, ::-1].astype(np.float64))
    inverted = [
        invert(one, matrix.to(one.device), limit.to(one.device))
        for one, matrix, limit in zip(values, inverse, sizes, strict=True)
    ]
    if not isinstance(values, torch.Tensor):
        return inverted
    return torch.stack(inverted) if inverted else values.to(_floating(values))


def _unswapped(scores: Sequence[torch.Tensor], geometry: Geometry, pairs: KeypointPairs) -> list[torch.Tensor]:
    mirrored = np.linalg.det(geometry.matrix[:, :2, :2]) < 0
    return [
        swapped(one, pairs, torch.full((len(one),), bool(turned), device=one.device))
        for one, turned in zip(scores, mirrored, strict=True)
    ]


def _part(geometry: Geometry, places: list[int]) -> Geometry:
    return Geometry(geometry.matrix[places], geometry.source_size[places], geometry.output_size)


def _floating(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _check_count(name: str, values: Any, geometry: Geometry) -> None:
    if not isinstance(values, Sequence | torch.Tensor) or len(values) != len(geometry):
        got = f"{len(values)}" if isinstance(values, Sequence | torch.Tensor) else type(values).__name__
        way_out = ' For padded targets give boxes=batch.targets["boxes"].' if isinstance(values, Mapping) else ""
        raise TargetError(f"{name} must be one for each of the batch's {len(geometry)} images; got {got}.{way_out}")


def _check_shapes(
    name: str, values: Ragged, geometry: Geometry, expected: str, fits: Callable[[tuple[int, ...]], bool]
) -> None:
    _check_count(name, values, geometry)
    for place, one in enumerate(values):
        if not isinstance(one, torch.Tensor) or not fits(tuple(one.shape)):
            got = f"{one.dtype} {list(one.shape)}" if isinstance(one, torch.Tensor) else type(one).__name__
            raise TargetError(
                f"{name} of an image must be a tensor {expected}; got {got} for image {place} of the batch"
            )
