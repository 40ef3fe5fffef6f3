"""A batch between two augmentations, and how its parts follow when the pixels are moved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch

from resflow.geometry import Matrices
from resflow.targets import Instances, Targets
from resflow.targets.move import move_instances, move_label_maps

Moved: TypeAlias = torch.Tensor | Instances | None
"""What may come along: classes int64 [B] or float [B, C], objects, classes of pixels [B, H, W], or nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Augmented:
    """A batch on its way through the augmentations; all tensors are on one device.

    Args:
        images: float32 [B, 3, H, W], intensities in [0, 1].
        targets: int64 [B] or float [B, C] of classes, `Instances`, integers [B, H, W] of classes of pixels, or None.
        transform: float64 [B, 3, 3] on the way, float32 when handed out: source pixels to output pixels.
        valid: int32 [B, 4], left, top, right, bottom: a box around the part of each image that is not padding.
        mixed: whether `transform` tells only part of what the images show: they were mixed with others of the batch, or
            moved by something that no matrix describes.
    """

    images: torch.Tensor
    targets: Moved
    transform: torch.Tensor
    valid: torch.Tensor
    mixed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]


class Mixing(Protocol):
    """A frozen value that mixes the images of a batch with one another."""

    def check(self, *, spatial: bool) -> None:
        """Refuse a kind of targets before any batch is made.

        Raises:
            ConfigError: the mixing has no meaning for such targets.
        """

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """The mixed batch.

        Args:
            state: the batch.
            options: how boxes, masks, keypoints and label maps are treated.
            generator: on the CPU, already seeded; all that is drawn comes from it.

        Raises:
            TargetError: the mixing has no meaning for the batch's targets.
        """


def is_spatial(targets: Moved) -> bool:
    """Whether targets have places in the images: objects, or classes of pixels."""
    return isinstance(targets, Instances) or (targets is not None and targets.ndim == 3)


def moved(state: Augmented, matrix: torch.Tensor, options: Targets) -> Augmented:
    """The batch whose images have been moved, with all else moved along; what leaves the frame is lost.

    Args:
        state: the batch, images after and all else before.
        matrix: float64 [B, 3, 3] on the images' device, pixels before to pixels after, in continuous edges.
        options: how targets are clipped, filtered and filled.
    """
    return replace(
        state,
        targets=moved_targets(state.targets, matrix, state.shape, options),
        transform=matrix @ state.transform.double(),
        valid=moved_valid(state.valid, matrix, state.shape),
    )


def moved_targets(targets: Moved, matrix: torch.Tensor | Matrices, shape: tuple[int, int], options: Targets) -> Moved:
    """Targets moved by matrices [B, 3, 3] within a shape; classes stay as they are."""
    if isinstance(targets, Instances):
        return move_instances(targets, matrix, shape, options)
    if targets is not None and is_spatial(targets):
        return move_label_maps(targets, matrix, shape, options)
    return targets


def moved_valid(valid: torch.Tensor, matrix: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """int32 [B, 4]: the pixels whose centres lie in the box around the moved part, as `Geometry.valid` counts them."""
    box = valid.double()
    corners = torch.stack([box[:, [0, 1]], box[:, [2, 1]], box[:, [0, 3]], box[:, [2, 3]]], 1)  # [B, 4, 2]
    placed = corners @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]
    pixels = torch.cat([placed.amin(1), placed.amax(1)], 1).sub_(0.5).round_(decimals=4).ceil_()
    limit = torch.tensor([shape[1], shape[0]] * 2, device=valid.device, dtype=torch.float64)
    return pixels.clamp_(min=0).minimum(limit).to(torch.int32)


def around(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """int32 [B, 4]: boxes around pairs of boxes; an empty one adds nothing."""

    def empty(box: torch.Tensor) -> torch.Tensor:
        return (box[:, 2:] <= box[:, :2]).any(1, keepdim=True)

    union = torch.cat([torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])], 1)
    return torch.where(empty(boxes), others, torch.where(empty(others), boxes, union))
