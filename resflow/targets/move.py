"""Objects moved by a batch's matrices: first from the sources' pixels into the batch, later within the batch.

One core serves both, and boxes, masks and keypoints alike, so that all three get the same matrix, the same clipping and
the same verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from resflow.errors import TargetError
from resflow.geometry import Geometry, Matrices
from resflow.geometry.affine import is_axis_aligned
from resflow.targets.draw import draw_masks, warp_masks
from resflow.targets.label_maps import move_label_maps, place_label_maps
from resflow.targets.mirror import KeypointPairs, as_pairs
from resflow.targets.options import Targets
from resflow.targets.types import Annotation, Instances, in_pixels

__all__ = ["hulls", "move_instances", "move_label_maps", "move_points", "place_annotations", "place_label_maps"]

_NOISE = 1e-6  # pixels, or share: what rounding may do to a box that is exactly as large as was asked for
_CUT = 0.5  # pixels: a strip narrower than this beyond the frame holds no pixel's centre, so no pixel is lost

Draw = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From the places of objects, int64 [N], to their moved masks [N, H, W] and the edges of these, float64 [N, 4]."""


def place_annotations(annotations: Sequence[Annotation | None], geometry: Geometry, options: Targets) -> Instances:
    """Move the objects of a batch's images to where the images lie.

    A box is cut at its image's borders, becomes the upright box around its four moved corners, and is cut at the
    batch's frame. An object is dropped when less than `min_visible` of its box is left, or when a side of what is left
    is shorter than `min_side` or 0. Where masks are asked for, a box that was cut by the frame or turned becomes the
    box around the visible part of its mask, and an object whose mask shows no pixel is dropped; so boxes agree with
    masks. A box that was neither keeps its exact place. Area is that of the dataset times the matrix's determinant
    and the visible share. A keypoint outside of its image or the frame becomes 0, 0, 0, as COCO writes points that
    are not labelled; in a mirrored image the `keypoint_pairs` swap places.

    Args:
        annotations: of the B images, in their own pixels; None for a place without a sample, which has no objects.
        geometry: how the B images are placed.
        options: what is asked for.

    Returns:
        Instances on the CPU.

    Raises:
        TargetError: masks or keypoints were asked for and an image with objects has none, or they are broken or of
            different kinds; its `position` tells the image.
    """
    sizes = geometry.source_size.tolist()
    given = [Annotation.empty() if one is None else one for one in annotations]
    if len(given) != len(geometry):
        raise TargetError(f"annotations must be one for each image; got {len(given)} for {len(geometry)} images")

    boxed = [in_pixels(one, size) for one, size in zip(given, sizes, strict=True)]

    def draw(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_masks(boxed, places.numpy(), geometry, box_as_mask=options.box_as_mask)

    source = _joined(boxed, options)
    return _moved(source, geometry.matrix, geometry.source_size, geometry.output_size, options, draw)


def move_instances(
    instances: Instances, matrix: torch.Tensor | Matrices, output_size: tuple[int, int], options: Targets
) -> Instances:
    """Move the objects of a batch along with its pixels, by the rules of `place_annotations`.

    Args:
        instances: in pixels of the batch, on any device.
        matrix: [B, 3, 3], pixels of the batch before to pixels after, continuous edges; best float64.
        output_size: height and width of the batch, before and after.
        options: what is asked for.

    Returns:
        Instances on the same device.
    """
    moves = matrix.detach().cpu().double().numpy() if isinstance(matrix, torch.Tensor) else matrix
    sizes = np.tile(np.array(output_size, np.int32), (len(moves), 1))

    def draw(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _warped(instances, places, moves, output_size)

    return _moved(instances, moves, sizes, output_size, options, draw)


def hulls(boxes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """The upright boxes [..., 4] around the moved corners of boxes [..., 4], under matrices [..., 3, 3]."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    centre = move_points(centre[..., None, :], matrix)[..., 0, :]
    half = (matrix[..., :2, :2].abs() @ half[..., None])[..., 0]
    return torch.cat([centre - half, centre + half], -1)


def move_points(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Points [..., P, 2] (x, y) under matrices [..., 3, 3]."""
    return points @ matrix[..., :2, :2].mT + matrix[..., None, :2, 2]


def swapped(points: torch.Tensor, pairs: KeypointPairs | None, mirrored: torch.Tensor) -> torch.Tensor:
    """Keypoints [M, K, ...] with those of each pair exchanged where `mirrored`, bool [M]."""
    if pairs is None:
        return points
    order = list(range(points.shape[1]))
    try:
        pairs = as_pairs(pairs, len(order))
    except ValueError as error:
        raise TargetError(f"keypoint_pairs: {error}") from error
    for one, other in pairs:
        order[one], order[other] = other, one
    shape = (-1,) + (1,) * (points.ndim - 1)
    return torch.where(mirrored.reshape(shape), points[:, order], points)


def _moved(
    objects: Instances,
    matrix: Matrices,
    source_size: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    output_size: tuple[int, int],
    options: Targets,
    draw: Draw,
) -> Instances:
    """The core: objects in source pixels, to objects in output pixels."""
    device, image = objects.boxes.device, objects.image
    by_image = torch.from_numpy(matrix).to(device)
    determinant = torch.linalg.det(by_image[:, :2, :2])[image]
    sides = torch.from_numpy(source_size[:, [1, 0, 1, 0]].astype(np.float64)).to(device)  # [B, 4]: w h w h
    frame = torch.tensor([output_size[1], output_size[0]] * 2, dtype=torch.float64, device=device)
    move, source = by_image[image], sides[image]

    boxes = objects.boxes.double()
    whole = hulls(boxes, move)
    moved = hulls(boxes.clamp(min=0).minimum(source), move)
    boxes = moved.clamp(min=0).minimum(frame)
    share = (_sides(boxes).prod(1) / _sides(whole).prod(1)).nan_to_num(0, posinf=0).clamp(max=1)
    visible = objects.visible * share
    inside, seen, large = _sides(boxes).amin(1) > 0, visible >= options.min_visible - _NOISE, _large(boxes, options)
    keep = seen & large
    reasons = torch.stack([~inside, inside & ~seen, inside & seen & ~large, torch.zeros_like(keep)], 1).long()  # [M, 4]
    masks = None
    if options.masks:
        turned = torch.from_numpy(~is_axis_aligned(matrix)).to(device)[image]
        cut = (moved - boxes).abs().amax(1) >= _CUT
        kept = keep.nonzero()[:, 0]
        masks, edges = draw(kept)
        boxes[kept] = torch.where((turned | cut)[kept, None], edges, boxes[kept])
        shown = (edges[:, 2] > 0) & _large(boxes[kept], options)
        keep[kept] = shown
        reasons[kept, -1] = (~shown).long()
        masks = masks if bool(shown.all()) else masks[shown]
    kept = keep.nonzero()[:, 0]
    before = torch.zeros(len(objects), reasons.shape[1], dtype=torch.int64, device=device)
    before = before if objects.removed is None else objects.removed
    keypoints = None
    if options.keypoints and objects.keypoints is not None:
        points = swapped(objects.keypoints[kept], objects.keypoint_pairs, determinant[kept] < 0)
        keypoints = _moved_keypoints(points, move[kept], source[kept], frame)
    return Instances(
        counts=torch.bincount(image[kept], minlength=len(objects)),
        boxes=boxes[kept].float(),
        labels=objects.labels[kept],
        area=(objects.area * determinant.abs() * share)[kept].float(),
        iscrowd=objects.iscrowd[kept],
        image_id=objects.image_id,
        visible=visible[kept].float(),
        masks=masks,
        keypoints=keypoints,
        keypoint_pairs=objects.keypoint_pairs,
        removed=before.index_add(0, image, reasons),
    )


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)


def _large(boxes: torch.Tensor, options: Targets) -> torch.Tensor:
    shortest = _sides(boxes).amin(1)
    return (shortest > 0) & (shortest >= options.min_side - _NOISE)


def _moved_keypoints(
    keypoints: torch.Tensor, move: torch.Tensor, source: torch.Tensor, frame: torch.Tensor
) -> torch.Tensor:
    """float32 [M, K, 3]; both borders belong to image and frame, so that mirroring loses no point."""
    points, visibility = keypoints[..., :2].double(), keypoints[..., 2:]
    moved = move_points(points, move)
    seen = visibility[..., 0] > 0
    for place, limit in ((points, source[:, None, :2]), (moved, frame[:2])):
        seen &= ((place >= -_NOISE) & (place <= limit + _NOISE)).all(-1)
    moved = moved.clamp(min=0).minimum(frame[:2])
    return torch.where(seen[..., None], torch.cat([moved, visibility], -1), 0).float()


def _warped(
    instances: Instances, places: torch.Tensor, matrix: Matrices, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks at `places`, each moved by its image's matrix, and their edges."""
    masks = instances.masks
    if masks is None:
        raise TargetError("no masks: masks were asked for, and the instances have none. Place them with masks, too.")
    counts = torch.bincount(instances.image[places], minlength=len(instances)).tolist()
    return warp_masks(masks, places, counts, matrix, size)


def _joined(annotations: Sequence[Annotation], options: Targets) -> Instances:
    """The objects of all images in one set of tensors, still each in the pixels of its own image, in float64."""
    empty = Annotation.empty()
    full = [*annotations, empty]  # one at least, for NumPy
    keypoints, pairs = _joined_keypoints(annotations, options) if options.keypoints else (None, None)
    area = torch.from_numpy(np.concatenate([one.area for one in full]))
    return Instances(
        counts=torch.tensor([len(one) for one in annotations], dtype=torch.int64),
        boxes=torch.from_numpy(np.concatenate([one.boxes for one in full])),
        labels=torch.from_numpy(np.concatenate([one.labels for one in full])),
        area=area,
        iscrowd=torch.from_numpy(np.concatenate([one.iscrowd for one in full]).astype(np.int64)),
        image_id=torch.tensor([one.image_id for one in annotations], dtype=torch.int64),
        visible=torch.ones_like(area),
        keypoints=keypoints,
        keypoint_pairs=pairs,
    )


def _joined_keypoints(annotations: Sequence[Annotation], options: Targets) -> tuple[torch.Tensor, KeypointPairs | None]:
    """float64 [M, K, 3] and the pairs: the same K and pairs in all images with objects."""
    joined: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    pairs: KeypointPairs | None = None
    for position, one in enumerate(annotations):
        if not len(one):
            continue
        if one.keypoints is None:
            raise TargetError(
                f"no keypoints: keypoints were asked for; image {one.image_id} has {len(one)} objects without. "
                "Set Targets(keypoints=False) or read the dataset's keypoint annotations.",
                position=position,
            )
        if joined and (one.keypoints.shape[1] != joined[0].shape[1] or one.keypoint_pairs != pairs):
            raise TargetError(
                "keypoints of a batch must be of one kind; got "
                f"{one.keypoints.shape[1]} keypoints with pairs {one.keypoint_pairs} beside "
                f"{joined[0].shape[1]} keypoints with pairs {pairs}. Use one skeleton in a dataset.",
                position=position,
            )
        joined.append(one.keypoints)
        pairs = one.keypoint_pairs
    if not joined:
        points = max((one.keypoints.shape[1] for one in annotations if one.keypoints is not None), default=0)
        return torch.zeros((0, points, 3), dtype=torch.float64), None
    pairs = pairs if options.keypoint_pairs is None else as_pairs(options.keypoint_pairs)
    return torch.from_numpy(np.concatenate(joined)), pairs
